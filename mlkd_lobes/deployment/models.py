"""Opened models: waveforms in, probabilities out, with torch or onnxruntime.

Every model has `labels`; called with a list of waveforms [time] at 16 kHz, it
returns probabilities [waveforms, labels]. Only the torch model imports PyTorch.
"""

from __future__ import annotations

import json
import pathlib

import numpy as np

from mlkd_lobes.deployment import BACKENDS, find_model
from mlkd_lobes.errors import InputError
from mlkd_lobes.files import read_json, refuse_lfs_pointer


def pad(wavs) -> tuple[np.ndarray, np.ndarray]:
    """Waveforms of several lengths as one float32 array, and their lengths.

    >>> waveforms, lengths = pad([np.ones(3), np.ones(1)])
    >>> waveforms.tolist(), lengths.tolist()
    ([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]], [3, 1])
    """
    lengths = np.array([len(wav) for wav in wavs], np.int64)
    waveforms = np.zeros((len(wavs), lengths.max()), np.float32)
    for row, wav in zip(waveforms, wavs):
        row[: len(wav)] = wav
    return waveforms, lengths


def move(module, device):
    """A module on a device."""
    try:
        return module.to(device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device}: {error}")


def open_classifier(folder):
    """A Hugging Face audio classifier as ours, whatever its labels."""
    from mlkd_lobes.models.classifier import load_classifier
    from mlkd_lobes.models.encoder import SSLEncoder

    encoder = SSLEncoder(str(folder), str(folder))
    names = encoder.config.id2label
    labels = [names[i] for i in range(len(names))]
    return load_classifier(folder, lambda source: encoder, labels)


def calibrate(model, temperature):
    """Divides the logits of a classifier of ours by a temperature."""
    for parameter in model.head.classifier.parameters():
        parameter.data /= temperature


class TorchModel:
    """A classifier run by PyTorch, independent of padding."""

    def __init__(self, model, device="cpu"):
        import torch

        self.torch, self.device = torch, device
        self.model = move(model.eval(), device)
        self.labels, self.module = self.model.labels, self.model

    @classmethod
    def open(cls, folder, device="cpu") -> TorchModel:
        """Opens a Hugging Face `*ForSequenceClassification` folder."""
        return cls(open_classifier(folder), device)

    def __call__(self, wavs) -> np.ndarray:
        waveforms, lengths = map(self.torch.from_numpy, pad(wavs))
        relative = (lengths / waveforms.shape[1]).to(self.device)
        with self.torch.no_grad():
            logits = self.model(waveforms.to(self.device), relative).logits
        return logits.float().softmax(-1).cpu().numpy()


def open_session(path, device="cpu", threads=None):
    """An onnxruntime session.

    device: "cpu", or "cuda" or "cuda:1" with the GPU build of onnxruntime.
    """
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
    providers = [(name, {"device_id": index} if index else {})]
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=providers
        )
    # onnxruntime's errors have no common class.
    except Exception as error:
        refuse_lfs_pointer(path)
        text = " ".join(str(error).split())[:300]
        raise InputError(f"{path}: cannot be opened as ONNX ({text})")
    # If a GPU fails to start, onnxruntime silently falls back.
    if name not in session.get_providers():
        raise InputError(f"device {device}: onnxruntime cannot use it")
    return session


class OnnxModel:
    """An exported ONNX file, run by onnxruntime; its metadata holds the labels."""

    def __init__(self, path, device="cpu", threads=None):
        self.session, self.module = open_session(path, device, threads), None
        stored = self.session.get_modelmeta().custom_metadata_map
        if "labels" not in stored:
            raise InputError(
                f"{path}: its metadata has no labels; expected a file written "
                "by `python -m mlkd_lobes export`"
            )
        self.labels = json.loads(stored["labels"])

    def __call__(self, wavs) -> np.ndarray:
        waveforms, lengths = pad(wavs)
        inputs = {"waveforms": waveforms, "lengths": lengths}
        return self.session.run(["probabilities"], inputs)[0]


def open_model(source, backend=None, device="cpu") -> TorchModel | OnnxModel:
    """Opens an export, a run's folder, a Hugging Face folder or an ONNX file.

    backend: torch, onnx or int8. A tested run's model is calibrated, as its export is.
    """
    path, backend = find_model(source, backend)
    opener = TorchModel.open if backend == "torch" else OnnxModel
    tested = pathlib.Path(source, "results.json")
    try:
        opened = opener(path, device)
        if path.parent == tested.parent and tested.is_file():
            found = read_json(tested, dict)
            calibrate(opened.module, found.get("temperature") or 1.0)
        return opened
    except ImportError as error:
        raise InputError(
            f"backend {backend}: {error.name or error} is not installed; the "
            f"backends are {', '.join(BACKENDS)}"
        )
