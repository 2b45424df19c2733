"""Whether exported models say what the trained one says.

The reference is the trained model on single utterances. Every other way to open
it must agree with it; INT8, which cannot, must at least classify as well.
"""

import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

from mlkd_lobes.deployment import HUGGINGFACE, INT8, ONNX, SPEECHBRAIN
from mlkd_lobes.deployment.backends import OnnxBackend, TorchBackend
from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.metrics import emotion_metrics
from speechbrain.inference.interfaces import foreign_class

# Largest difference of a probability, and largest loss of INT8 in UA.
LIMIT, INT8_LIMIT = 1e-4, 0.005
SINGLE, PADDED = "single files", "padded batch"


class PlainHuggingFace:
    """A folder opened by transformers alone, as a user without us would.

    Arguments
    ---------
    folder : str or pathlib.Path
        A `*ForSequenceClassification` model.
    """

    def __init__(self, folder):
        self.extract = AutoFeatureExtractor.from_pretrained(folder)
        self.model = AutoModelForAudioClassification.from_pretrained(folder)
        self.model.eval()

    def __call__(self, wavs):
        inputs = self.extract(
            [np.asarray(wav) for wav in wavs],
            sampling_rate=self.extract.sampling_rate,
            padding=True,
            return_tensors="pt",
        )
        with torch.inference_mode():
            return self.model(**inputs).logits.softmax(-1).numpy()


class PlainSpeechBrain:
    """A folder opened by SpeechBrain's `foreign_class`.

    Arguments
    ---------
    folder : str or pathlib.Path
        Holds hyperparams.yaml and interface.py.
    """

    def __init__(self, folder):
        self.recognizer = foreign_class(
            source=str(folder),
            pymodule_file="interface.py",
            classname="EmotionRecognizer",
            run_opts={"device": "cpu"},
        )

    def __call__(self, wavs):
        answers = [
            self.recognizer.classify_batch(torch.from_numpy(wav))[0]
            for wav in wavs
        ]
        return torch.cat(answers).numpy()


def one_by_one(model, wavs):
    """Probabilities of utterances judged alone.

    Arguments
    ---------
    model : callable
        Takes a list of waveforms.
    wavs : sequence of numpy.ndarray
        Waveforms [time].

    Returns
    -------
    numpy.ndarray
        [utterances, labels].
    """
    return np.concatenate([model([wav]) for wav in wavs])


def in_batches(model, wavs, size=3):
    """Probabilities of utterances judged in padded batches.

    Arguments
    ---------
    model : callable
        Takes a list of waveforms.
    wavs : sequence of numpy.ndarray
        Waveforms [time].
    size : int
        Utterances per batch.

    Returns
    -------
    numpy.ndarray
        [utterances, labels].
    """
    batches = [wavs[i : i + size] for i in range(0, len(wavs), size)]
    return np.concatenate([model(batch) for batch in batches])


def measure_parity(folder, trained, wavs):
    """Largest difference of a probability, for every way to open an export.

    Arguments
    ---------
    folder : pathlib.Path
        The export.
    trained : mlkd_lobes.classifier.EmotionClassifier
        What was exported.
    wavs : sequence of numpy.ndarray
        Waveforms [time] of several lengths.

    Returns
    -------
    dict
        The limit, the number of waveforms, and per way "single files" and
        "padded batch" (SpeechBrain judges one by one in any case). What plain
        Hugging Face code loses in a padded batch is measured, not limited.

    Raises
    ------
    mlkd_lobes.errors.InputError
        If a difference is beyond the limit.
    """
    models = {
        "torch": TorchBackend.open(folder / HUGGINGFACE),
        "huggingface": PlainHuggingFace(folder / HUGGINGFACE),
        "speechbrain": PlainSpeechBrain(folder / SPEECHBRAIN),
        "onnx": OnnxBackend(folder / ONNX),
    }
    reference = one_by_one(TorchBackend(trained), wavs)

    def difference(found):
        """Largest distance from what the trained model says."""
        return float(np.abs(found - reference).max())

    measured = {
        name: {
            SINGLE: difference(one_by_one(model, wavs)),
            PADDED: difference(in_batches(model, wavs)),
        }
        for name, model in models.items()
    }
    for name, found in measured.items():
        for how, value in found.items():
            free = (name, how) == ("huggingface", PADDED)
            if not free and not value <= LIMIT:
                raise InputError(
                    f"{name}, {how}: probabilities differ by {value:.2g} from "
                    f"the trained model's, more than {LIMIT:g}; nothing was "
                    "exported"
                )
    return {"limit": LIMIT, "files": len(wavs), "largest_difference": measured}


def measure_int8(folder, speech):
    """How INT8 does on test speech beside float32.

    Arguments
    ---------
    folder : pathlib.Path
        The export.
    speech : mlkd_lobes.deployment.speech.RunSpeech
        Labelled utterances, clean and in noise.

    Returns
    -------
    dict
        For clean and noisy speech the `agreement` with float32, the UA of
        both, and the `loss_allowed`: the limit, or what one answer is worth.

    Raises
    ------
    mlkd_lobes.errors.InputError
        If INT8 loses more UA than the limit, on clean or on noisy speech.
    """
    models = {
        "float32": OnnxBackend(folder / ONNX),
        "int8": OnnxBackend(folder / INT8),
    }
    said, truth = {name: [] for name in models}, []
    for heard in speech.test():
        truth.append(speech.labels[heard.label])
        for name, model in models.items():
            # One by one: of long utterances all conditions need gigabytes.
            said[name].append(one_by_one(model, heard.wavs).argmax(-1))
    said = {name: np.array(answers) for name, answers in said.items()}
    rarest = min(map(truth.count, set(truth)))
    summary = {"utterances": len(truth)}
    parts = {"clean": slice(0, 1), "noisy": slice(1, None)}
    for part, columns in parts.items():
        same = said["int8"][:, columns] == said["float32"][:, columns]
        # Less than one answer cannot be lost.
        one = 1 / (len(set(truth)) * rarest * same.shape[1])
        summary[part] = {
            "agreement": float(same.mean()),
            "loss_allowed": max(INT8_LIMIT, one),
        }
        for name, answers in said.items():
            scores = [
                emotion_metrics(
                    truth, [speech.labels[i] for i in column], speech.labels
                )["UA"]
                for column in answers[:, columns].T
            ]
            summary[part][f"UA_{name}"] = float(np.mean(scores))
    check_int8(summary)
    return summary


def check_int8(summary):
    """Refuses an INT8 model that lost too much.

    Arguments
    ---------
    summary : dict
        From `measure_int8`.

    Raises
    ------
    mlkd_lobes.errors.InputError
        Naming what was lost.
    """
    for part in ("clean", "noisy"):
        found = summary[part]
        lost = found["UA_float32"] - found["UA_int8"]
        if lost > found["loss_allowed"] + 1e-9:
            raise InputError(
                f"INT8 loses {100 * lost:.2f} points of UA on {part} test "
                f"speech, more than {100 * found['loss_allowed']:.2f}; nothing "
                "was exported. --without_int8 leaves it out."
            )
