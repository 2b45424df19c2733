"""Opened models: waveforms in, probabilities out, whatever runs them.

Every backend has `labels`, and called with a list of waveforms [time] at 16 kHz
returns probabilities [waveforms, labels]. PyTorch is imported only by the
backend that needs it.
"""

import json

import numpy as np

from mlkd_lobes.deployment import BACKENDS, find_model
from mlkd_lobes.errors import InputError

DEVICES = ("cpu", "cuda", "mps")


def pad(wavs):
    """Waveforms of several lengths as one array.

    Arguments
    ---------
    wavs : sequence of numpy.ndarray
        Waveforms [time].

    Returns
    -------
    waveforms : numpy.ndarray
        [batch, time] in float32, zero behind the end of each.
    lengths : numpy.ndarray
        Samples of each [batch].

    Example
    -------
    >>> waveforms, lengths = pad([np.ones(3), np.ones(1)])
    >>> waveforms.tolist(), lengths.tolist()
    ([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]], [3, 1])
    """
    lengths = np.array([len(wav) for wav in wavs], np.int64)
    waveforms = np.zeros((len(wavs), lengths.max()), np.float32)
    for row, wav in zip(waveforms, wavs):
        row[: len(wav)] = wav
    return waveforms, lengths


class TorchBackend:
    """A classifier, run length-exactly by `mlkd_lobes`.

    Arguments
    ---------
    model : mlkd_lobes.classifier.EmotionClassifier
        The classifier.
    device : str
        Where it runs.
    """

    def __init__(self, model, device="cpu"):
        import torch

        self.torch, self.device = torch, device
        try:
            self.model = model.eval().to(device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"device {device}: {error}")
        self.labels = self.model.labels

    @classmethod
    def open(cls, folder, device="cpu"):
        """Opens a Hugging Face folder.

        Arguments
        ---------
        folder : str or pathlib.Path
            A `*ForSequenceClassification` model.
        device : str
            Where it runs.

        Returns
        -------
        TorchBackend
            Its model.
        """
        from mlkd_lobes.classifier import open_classifier

        try:
            model = open_classifier(folder)
        except (ImportError, InputError):
            raise
        # Damaged files end in errors of half a dozen libraries.
        except Exception as error:
            raise InputError(
                f"{folder}: cannot be opened as a Hugging Face audio "
                f"classifier ({_line(error)})"
            )
        return cls(model, device)

    def __call__(self, wavs):
        waveforms, lengths = map(self.torch.from_numpy, pad(wavs))
        with self.torch.inference_mode():
            relative = lengths / waveforms.shape[1]
            logits = self.model(
                waveforms.to(self.device), relative.to(self.device)
            ).logits
        return logits.float().softmax(-1).cpu().numpy()


class OnnxBackend:
    """An exported ONNX file, run by onnxruntime.

    Arguments
    ---------
    path : str or pathlib.Path
        The file; its metadata holds the labels.
    device : str
        "cpu", or "cuda" or "cuda:1" (need the GPU build of onnxruntime).
    threads : int, optional
        Of the CPU; default: onnxruntime's choice.
    """

    def __init__(self, path, device="cpu", threads=None):
        import onnxruntime

        kind, _, index = device.partition(":")
        name = f"{kind.upper()}ExecutionProvider"
        known = onnxruntime.get_available_providers()
        if name not in known:
            raise InputError(
                f"device {device}: this onnxruntime only has {', '.join(known)}"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        place = {"device_id": index} if index else {}
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), options, providers=[(name, place)]
            )
        # onnxruntime has a dozen kinds of error without a common one.
        except Exception as error:
            raise InputError(
                f"{path}: cannot be opened as ONNX ({_line(error)})"
            )
        # Where a GPU fails to start, onnxruntime goes on without a word.
        if name not in self.session.get_providers():
            raise InputError(f"device {device}: onnxruntime cannot use it")
        stored = self.session.get_modelmeta().custom_metadata_map
        if "labels" not in stored:
            raise InputError(
                f"{path}: its metadata names no labels; expected a file that "
                "`python -m mlkd_lobes export` wrote"
            )
        self.labels = json.loads(stored["labels"])

    def __call__(self, wavs):
        waveforms, lengths = pad(wavs)
        inputs = {"waveforms": waveforms, "lengths": lengths}
        return self.session.run(["probabilities"], inputs)[0]


def _line(error):
    """What an error says, in one line of bearable length."""
    return " ".join(str(error).split())[:300]


def open_model(source, backend=None, device="cpu"):
    """Opens a model for prediction.

    Arguments
    ---------
    source : str or pathlib.Path
        As `mlkd_lobes.deployment.find_model` takes.
    backend : str, optional
        torch, onnx or int8.
    device : str
        Where it runs.

    Returns
    -------
    TorchBackend or OnnxBackend
        Has `labels`, takes a list of waveforms.

    Raises
    ------
    mlkd_lobes.errors.InputError
        If what the backend needs is not installed, the device is none, or
        the model's files are damaged.
    """
    if device.partition(":")[0] not in DEVICES:
        raise InputError(
            f"device {device}: the known ones are {', '.join(DEVICES)}"
        )
    path, backend = find_model(source, backend)
    opener = TorchBackend.open if backend == "torch" else OnnxBackend
    try:
        return opener(path, device)
    except ImportError as error:
        others = ", ".join(name for name in BACKENDS if name != backend)
        raise InputError(
            f"backend {backend}: {error.name or error} is not installed; there is also "
            f"--backend={others}"
        )
