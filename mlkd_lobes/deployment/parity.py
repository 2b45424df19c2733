"""Compares exported models with the trained one.

The reference is the trained model on single utterances. Every other way to open
it must agree; INT8, which cannot, must classify as well.
"""

from __future__ import annotations

import numpy as np

from mlkd_lobes.deployment import HUGGINGFACE, ONNX, SPEECHBRAIN
from mlkd_lobes.deployment.models import OnnxModel, TorchModel
from mlkd_lobes.deployment.outside import HubModel, SpeechBrainModel
from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.calibration import soften

# Largest difference of a probability; largest loss of INT8 in UA, or, on a small test,
# in predictions of the rarest class.
LIMIT, INT8_LIMIT, FEW_LABELS = 1e-4, 0.01, 2
PARTS = ("clean", "noisy", "untrimmed")
SINGLE, PADDED = "single files", "padded batch"
INTERFACE = "interface.py:EmotionRecognizer"


def in_batches(model, wavs, size: int = 1) -> np.ndarray:
    """Probabilities [utterances, labels] in padded batches of a size."""
    batches = [wavs[i : i + size] for i in range(0, len(wavs), size)]
    return np.concatenate([model(batch) for batch in batches])


def measure_parity(folder, trained, temperature, wavs) -> dict:
    """Largest difference of a probability, for every way to open an export, from
    the trained model's at a temperature.

    Raises beyond the limit, except for plain Hugging Face code in padded batches,
    which is only measured.
    """
    models = {
        "torch": TorchModel.open(folder / HUGGINGFACE),
        "huggingface": HubModel(str(folder / HUGGINGFACE)),
        "speechbrain": SpeechBrainModel(f"{folder / SPEECHBRAIN}@{INTERFACE}"),
        "onnx": OnnxModel(folder / ONNX),
    }
    reference, measured = in_batches(TorchModel(trained), wavs), {}
    reference = soften(reference, temperature)
    for name, model in models.items():
        measured[name] = {}
        for way, size in ((SINGLE, 1), (PADDED, 3)):
            found = in_batches(model, wavs, size)
            value = float(np.abs(found - reference).max())
            measured[name][way] = value
            free = (name, way) == ("huggingface", PADDED)
            if not free and not value <= LIMIT:
                raise InputError(
                    f"{name}, {way}: probabilities differ by {value:.2g} from "
                    f"the trained model's, more than {LIMIT:g}; nothing was "
                    "exported"
                )
    return {"limit": LIMIT, "files": len(wavs), "largest_difference": measured}


def predict_test(path, speech) -> dict:
    """Indices of the labels that an ONNX model predicts for test speech.

    speech: a RunSpeech. Returns arrays [utterances, conditions] of clean, noisy and
    untrimmed speech, and the true ones.
    """
    model, found = OnnxModel(path), {part: [] for part in (*PARTS, "true")}
    for utterance in speech.test():
        clean, *noisy = utterance.wavs[0]
        variants = [clean], noisy, [with_silence(clean)]
        for part, wavs in zip(PARTS, variants):
            # One by one: all conditions of a long utterance need gigabytes.
            found[part].append(in_batches(model, wavs).argmax(-1))
        found["true"].append(utterance.label)
    return {part: np.array(labels) for part, labels in found.items()}


def with_silence(wav) -> np.ndarray:
    """An untrimmed version of an utterance: before it silence of half its length,
    after it as much noise of one 16-bit step."""
    before = np.zeros(len(wav) // 2, np.float32)
    after = np.random.default_rng(0).integers(-1, 2, len(before)) / 2**15
    return np.concatenate([before, wav, after.astype(np.float32)])


def compare_int8(float32, int8) -> dict:
    """Agreement and UA of INT8 and float32; both from `predict_test`."""
    true = float32["true"]
    _, classes, counts = np.unique(
        true, return_inverse=True, return_counts=True
    )
    weights = 1 / (len(counts) * counts[classes])  # of an utterance in UA
    summary = {"utterances": len(true)}
    for part in PARTS:
        graphs = float32[part], int8[part]
        before, after = ((g == true[:, None]).mean(1) for g in graphs)
        label = weights.max() / graphs[0].shape[1]  # of the rarest class
        summary[part] = {
            "agreement": float((graphs[0] == graphs[1]).mean()),
            "loss_allowed": float(max(INT8_LIMIT, FEW_LABELS * label)),
            "UA_float32": float(weights @ before),
            "UA_int8": float(weights @ after),
        }
    return summary


def int8_failure(summary) -> str | None:
    """An error message if INT8 lost too much UA on any speech, else None."""
    for part in PARTS:
        found = summary[part]
        lost = found["UA_float32"] - found["UA_int8"]
        if lost > found["loss_allowed"] + 1e-9:
            return (
                f"INT8 loses {100 * lost:.2f} points of UA on {part} test "
                f"speech, more than {100 * found['loss_allowed']:.2f}"
            )
