"""From a finished run to a model that opens elsewhere, and its predictions."""

from __future__ import annotations

import os
import pathlib
from typing import TYPE_CHECKING

from mlkd_lobes.errors import InputError

if TYPE_CHECKING:
    from mlkd_lobes.deployment.api import EmotionModel

# Before onnxruntime is imported: it sends usage data, from version 1.29 on.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# The content of an export, each part usable without the others.
HUGGINGFACE, SPEECHBRAIN = "huggingface", "speechbrain"
ONNX, INT8 = "onnx/model.onnx", "onnx/model_int8.onnx"
SUMMARY, CARD = "export.json", "README.md"

BACKENDS = {"torch": HUGGINGFACE, "onnx": ONNX, "int8": INT8}


def find_model(source, backend=None) -> tuple[pathlib.Path, str]:
    """The Hugging Face folder or ONNX file of a model, and its backend.

    source: an export, a run's folder, a Hugging Face folder, or an ONNX file;
    backend: one of `BACKENDS`; by default torch for folders.

    >>> path = getfixture("tmp_path") / "a.onnx"
    >>> path.touch()
    >>> find_model(path)[1]
    'onnx'
    """
    source = pathlib.Path(source)
    if source.suffix == ".onnx" and source.is_file():
        if backend not in (None, "onnx"):
            raise InputError(
                f"{source}: is an ONNX file; {backend} opens folders"
            )
        return source, "onnx"
    backend = backend or "torch"
    places = [source / BACKENDS[backend]]
    if backend == "torch":
        places += [source / "model", source]
        places = [p for p in places if (p / "config.json").is_file()]
    for place in places:
        if place.exists():
            return place, backend
    raise FileNotFoundError(
        f"{source}: holds no model for the backend '{backend}'; expected an "
        "export, a run's folder, a Hugging Face folder or an ONNX file"
    )


def load_model(source, backend=None, device="cpu") -> EmotionModel:
    """Opens an export, a run's folder, a Hugging Face folder or an ONNX file.

    backend: torch, onnx or int8, by default torch for folders; device: "cpu", or
    e.g. "cuda:0".
    """
    from mlkd_lobes.deployment.api import EmotionModel
    from mlkd_lobes.deployment.models import open_model

    return EmotionModel(open_model(source, backend, device))
