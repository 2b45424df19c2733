"""From a finished run to a model that opens elsewhere, and its predictions."""

import pathlib

from mlkd_lobes.errors import InputError

# What an exported folder holds, each usable without the others.
HUGGINGFACE, SPEECHBRAIN = "huggingface", "speechbrain"
ONNX, INT8 = "onnx/model.onnx", "onnx/model_int8.onnx"
SUMMARY, CARD = "export.json", "README.md"

BACKENDS = {"torch": HUGGINGFACE, "onnx": ONNX, "int8": INT8}


def find_model(source, backend=None):
    """Which file or folder a model is, and what runs it.

    Arguments
    ---------
    source : str or pathlib.Path
        An exported folder, a run's folder, a Hugging Face folder, or an ONNX
        file.
    backend : str, optional
        One of `BACKENDS`; by default torch for folders.

    Returns
    -------
    path : pathlib.Path
        The Hugging Face folder or the ONNX file.
    backend : str
        What opens it.

    Raises
    ------
    FileNotFoundError
        If there is no such model.
    mlkd_lobes.errors.InputError
        If the backend is unknown or does not open that file.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.onnx"
    >>> path.touch()
    >>> find_model(path)[1]
    'onnx'
    """
    source = pathlib.Path(source)
    if backend not in (None, *BACKENDS):
        raise InputError(
            f"backend: '{backend}' is none of {', '.join(BACKENDS)}"
        )
    if source.suffix == ".onnx" and source.is_file():
        if backend == "torch":
            raise InputError(f"{source}: is an ONNX file; torch opens folders")
        return source, backend or "onnx"
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
        "exported folder, a run's folder, a Hugging Face folder or an ONNX file"
    )
