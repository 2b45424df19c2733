"""Reads manifests: utterances by name, each an entry that says where it is."""

import json
import os

from mlkd_lobes.errors import InputError


def read_manifest_entries(path):
    """The utterances of a manifest, as they stand there.

    Arguments
    ---------
    path : str or pathlib.Path
        A JSON file of names and entries; `wav` of each is a path.

    Returns
    -------
    dict
        Entries by name, at least one.

    Raises
    ------
    FileNotFoundError
        If it does not exist.
    mlkd_lobes.errors.InputError
        If it is no manifest, or empty.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such manifest")
    try:
        with open(path, encoding="utf-8") as file:
            entries = json.load(file)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is no JSON manifest ({error})")
    if not isinstance(entries, dict) or not entries:
        raise InputError(f"{path}: has no utterances")
    for name, entry in entries.items():
        _check_shape(entry, f"{path}: utterance {name}")
    return entries


def _check_shape(entry, where):
    if not isinstance(entry, dict):
        raise InputError(
            f"{where} is {entry!r}, expected keys and values: wav, length, "
            "emo, …"
        )
    wav = entry.get("wav")
    if wav is None:
        raise InputError(f"{where} has no 'wav'")
    if not isinstance(wav, str):
        raise InputError(f"{where} has {wav!r} as 'wav', no file")
