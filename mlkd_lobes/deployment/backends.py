"""Opened models: waveforms in, probabilities out, whatever runs them.

Every backend has `labels`, and called with a list of waveforms [time] at 16 kHz
returns probabilities [waveforms, labels]. PyTorch is imported only by the
backend that needs it.
"""

import json

import numpy as np

from mlkd_lobes.deployment import BACKENDS, find_model
from mlkd_lobes.errors import InputError


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
    """A Hugging Face folder, run length-exactly by `mlkd_lobes`.

    Arguments
    ---------
    folder : str or pathlib.Path
        A `*ForSequenceClassification` model.
    device : str
        Where it runs.
    """

    def __init__(self, folder, device="cpu"):
        import torch

        from mlkd_lobes.classifier import open_classifier

        self.torch, self.device = torch, device
        try:
            self.model = open_classifier(folder).eval().to(device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"device {device}: {error}")
        self.labels = self.model.labels

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
        "cpu" or "cuda" (needs the GPU build of onnxruntime).
    threads : int, optional
        Of the CPU; default: onnxruntime's choice.
    """

    def __init__(self, path, device="cpu", threads=None):
        import onnxruntime

        name = f"{device.split(':')[0].upper()}ExecutionProvider"
        known = onnxruntime.get_available_providers()
        if name not in known:
            raise InputError(
                f"device {device}: this onnxruntime only has {', '.join(known)}"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        self.session = onnxruntime.InferenceSession(
            str(path), options, providers=[name]
        )
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
        If what the backend needs is not installed.
    """
    path, backend = find_model(source, backend)
    opener = TorchBackend if backend == "torch" else OnnxBackend
    try:
        return opener(path, device)
    except ImportError as error:
        others = ", ".join(name for name in BACKENDS if name != backend)
        raise InputError(
            f"backend {backend}: {error.name} is not installed; there is also "
            f"--backend={others}"
        )
