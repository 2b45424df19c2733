"""Compares exported models with the trained one.

The reference is the trained model on single utterances. Every other way to open
it must agree; INT8, which cannot, must classify as well.
"""

from __future__ import annotations

import numpy as np

from mlkd_lobes.deployment import HUGGINGFACE, INT8, ONNX, SPEECHBRAIN
from mlkd_lobes.deployment.models import OnnxModel, TorchModel
from mlkd_lobes.deployment.outside import HubModel, SpeechBrainModel
from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.calibration import soften
from mlkd_lobes.evaluation.metrics import emotion_metrics

# Largest difference of a probability, and largest loss of INT8 in UA.
LIMIT, INT8_LIMIT = 1e-4, 0.005
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


def measure_int8(folder, speech) -> dict:
    """Agreement and UA of INT8 and float32 on clean and noisy test speech.

    speech: a RunSpeech. Raises if INT8 loses more UA than the limit, or than one
    utterance is worth.
    """
    models = {
        "float32": OnnxModel(folder / ONNX),
        "int8": OnnxModel(folder / INT8),
    }
    predicted, truth = {name: [] for name in models}, []
    for utterance in speech.test():
        truth.append(speech.labels[utterance.label])
        for name, model in models.items():
            # One by one: all conditions of a long utterance need gigabytes.
            probabilities = in_batches(model, utterance.wavs[0])
            predicted[name].append(probabilities.argmax(-1))
    labels = np.array(speech.labels)
    predicted = {n: labels[np.array(found)] for n, found in predicted.items()}
    rarest = min(map(truth.count, set(truth)))
    summary = {"utterances": len(truth)}
    for part, columns in (("clean", slice(0, 1)), ("noisy", slice(1, None))):
        found = {name: p[:, columns] for name, p in predicted.items()}
        same = found["int8"] == found["float32"]
        # The smallest possible loss is that of one utterance.
        smallest = 1 / (len(set(truth)) * rarest * same.shape[1])
        summary[part] = {
            "agreement": float(same.mean()),
            "loss_allowed": max(INT8_LIMIT, smallest),
        }
        for name, p in found.items():
            scores = [emotion_metrics(truth, c, labels)["UA"] for c in p.T]
            summary[part][f"UA_{name}"] = float(np.mean(scores))
        check_int8(part, summary[part])
    return summary


def check_int8(part: str, found: dict) -> None:
    """Raises if INT8 lost more UA than allowed on a part of the test speech."""
    lost = found["UA_float32"] - found["UA_int8"]
    if lost > found["loss_allowed"] + 1e-9:
        raise InputError(
            f"INT8 loses {100 * lost:.2f} points of UA on {part} test speech, "
            f"more than {100 * found['loss_allowed']:.2f}; nothing was exported. "
            "--without_int8 leaves it out."
        )
