"""Models from elsewhere behind the call of our own: waveforms in, probabilities out.

Each has `labels`, the classes as the model names them, and `module`, its PyTorch
module or None; called with waveforms [time] at 16 kHz, it returns probabilities
[waveforms, labels].
"""

from __future__ import annotations

import importlib
import logging
import pathlib
import re

import numpy as np
import torch
from transformers import AutoFeatureExtractor

from mlkd_lobes.data.audio import SAMPLE_RATE, resample
from mlkd_lobes.deployment import HUGGINGFACE, models
from mlkd_lobes.errors import InputError, listing
from mlkd_lobes.models.classifier import open_native
from mlkd_lobes.models.encoder import opening
from speechbrain.inference.interfaces import foreign_class

logger = logging.getLogger(__name__)

# SpeechBrain's own emotion models; others are given as SOURCE@FILE:CLASS.
INTERFACE = "custom_interface.py:CustomEncoderWav2vec2Classifier"
# Folders may have an @ in their names, too.
CLASS_AFTER = r"(.*?)(?:@([^@]+\.py:\w+))?"


def as_probabilities(scores) -> np.ndarray:
    """Rows that sum to one; others are taken for logits or log-probabilities.

    >>> as_probabilities(np.array([[0.25, 0.75], [3.0, 3.0]])).tolist()
    [[0.25, 0.75], [0.5, 0.5]]
    """
    scores = np.array(scores, dtype=float)
    off = (scores < 0).any(1) | (np.abs(scores.sum(1) - 1) > 1e-3)
    powers = np.exp(scores[off] - scores[off].max(1, keepdims=True))
    scores[off] = powers / powers.sum(1, keepdims=True)
    return scores


class HubModel:
    """A Hugging Face audio classifier, called as transformers' pipeline does."""

    def __init__(self, source, device="cpu"):
        self.extract = AutoFeatureExtractor.from_pretrained(
            source, trust_remote_code=False
        )
        self.module = models.move(open_native(source).eval(), device)
        config = self.module.config
        self.labels = [config.id2label[i] for i in range(config.num_labels)]
        self.several = config.problem_type == "multi_label_classification"
        if config.problem_type == "regression":
            raise InputError(f"{source}: is a regression model, no classifier")

    def __call__(self, wavs) -> np.ndarray:
        rate = self.extract.sampling_rate
        wavs = [resample(np.asarray(w), SAMPLE_RATE, rate) for w in wavs]
        options = {"padding": True} if len({*map(len, wavs)}) > 1 else {}
        inputs = self.extract(
            wavs, sampling_rate=rate, return_tensors="pt", **options
        )
        with torch.no_grad():
            logits = self.module(**inputs.to(self.module.device)).logits
        scores = logits.sigmoid() if self.several else logits.softmax(-1)
        return scores.cpu().numpy()


class SpeechBrainModel:
    """A model behind SpeechBrain's `foreign_class`, which runs its code."""

    def __init__(self, source, device="cpu"):
        source, interface = re.fullmatch(CLASS_AFTER, source).groups(INTERFACE)
        file, _, name = interface.partition(":")
        logger.warning(f"{source}: runs the code of {file} that it contains")
        self.interface = foreign_class(
            source=source,
            pymodule_file=file,
            classname=name,
            run_opts={"device": device},
        )
        self.module, hparams = self.interface.mods, self.interface.hparams
        encoder = getattr(hparams, "label_encoder", None)
        labels = encoder.ind2lab if encoder else dict(enumerate(hparams.labels))
        self.labels = [str(labels[i]) for i in sorted(labels)]

    def __call__(self, wavs) -> np.ndarray:
        classify = self.interface.classify_batch
        with torch.no_grad():
            found = [classify(torch.from_numpy(wav)[None])[0] for wav in wavs]
        return as_probabilities([f.flatten().cpu().numpy() for f in found])


class PythonModel:
    """A function of a waveform [time] and its rate; returns label to probability."""

    module = None

    def __init__(self, name, device="cpu"):
        place, _, function = name.rpartition(".")
        self.function = getattr(importlib.import_module(place), function)
        self.labels = [*self.function(np.zeros(SAMPLE_RATE, "f"), SAMPLE_RATE)]

    def __call__(self, wavs) -> np.ndarray:
        found = [self.function(wav, SAMPLE_RATE) for wav in wavs]
        rows = [[p.get(name, -1) for name in self.labels] for p in found]
        if (np.array(rows) < 0).any():
            raise InputError("python: expected a probability of every label")
        return np.array(rows, float)


class ForeignOnnx:
    """An ONNX graph of any origin: waveforms [batch, time] at 16 kHz to scores."""

    module = None

    def __init__(self, path, device="cpu"):
        self.session = models.open_session(path, device)
        self.input = self.session.get_inputs()[0].name
        trial = self([np.zeros(SAMPLE_RATE, "f")])
        self.labels = [str(i) for i in range(trial.shape[1])]

    def __call__(self, wavs) -> np.ndarray:
        # One by one, as some graphs want it; what other outputs mean is unknown.
        run = self.session.run
        found = [run(None, {self.input: wav[None]})[0] for wav in wavs]
        return as_probabilities([scores.flatten() for scores in found])


class Relabelled:
    """A model whose classes are mapped to other labels.

    Classes that map to the same label are added; those that map to none are left
    out, the others renormalised.
    """

    def __init__(self, model, labels, mapping=None):
        own = [str(label) for label in model.labels]
        mapping = mapping or {label: label for label in own if label in labels}
        mapping = {str(k): v for k, v in mapping.items() if v is not None}
        wrong = [f"no class {k}" for k in mapping if k not in own]
        wrong += [f"no label {v}" for v in mapping.values() if v not in labels]
        missing = [label for label in labels if label not in mapping.values()]
        wrong += [f"no class maps to {label}" for label in missing]
        if wrong:
            raise InputError(
                listing("entries of model_labels are wrong or missing", wrong)
                + f"\nClasses of the model: {', '.join(own)}; labels of the run: "
                f"{', '.join(labels)}"
            )
        self.model, self.labels, self.mapping = model, list(labels), mapping
        self.left_out = [label for label in own if label not in mapping]
        pairs = [[mapping.get(o) == label for label in labels] for o in own]
        self.matrix = np.array(pairs, float)

    def __call__(self, wavs) -> np.ndarray:
        sums = self.model(wavs) @ self.matrix
        if self.left_out and (sums.sum(1) == 0).any():
            raise InputError(
                f"model_labels: leaves out {', '.join(self.left_out)}, which got "
                "all of the probability for an utterance; map it as well"
            )
        return sums / np.maximum(sums.sum(1, keepdims=True), 1e-12)


RUNNING_CODE = {"speechbrain:": SpeechBrainModel, "python:": PythonModel}


def open_any(source: str, device="cpu"):
    """Opens a run or export of ours, an ONNX file, a Hugging Face folder or hub
    name, "speechbrain:SOURCE" or "python:module.function"."""
    with opening(source):
        for prefix, opener in RUNNING_CODE.items():
            if source.startswith(prefix):
                return opener(source[len(prefix) :], device)
        path = pathlib.Path(source)
        if path.is_file():
            try:
                return models.OnnxModel(path, device)
            except InputError:  # not ours, or not ONNX
                return ForeignOnnx(path, device)
        if (path / HUGGINGFACE).is_dir() or (path / "model").is_dir():
            return models.open_model(path, device=device)
        return HubModel(source, device)
