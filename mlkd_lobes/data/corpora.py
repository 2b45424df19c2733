"""Corpora as shipped: entries of corpora.yml, classes, protocols, folders."""

import pathlib

from ruamel.yaml import YAML

from mlkd_lobes.data.manifests import UNLABELLED
from mlkd_lobes.data.protocols import GROUPS, SPLIT, Protocol, by_speakers
from mlkd_lobes.errors import InputError

# Where each corpus comes from, and how emotion corpora name their files.
SOURCES = YAML(typ="safe").load(pathlib.Path(__file__).with_suffix(".yml"))
CORPORA = {name: entry for name, entry in SOURCES.items() if "names" in entry}
# Emotions to the four classes; all others are unlabelled.
CLASSES = dict(neutral="neu", calm="neu", happy="hap", sad="sad", angry="ang")
OTHER = "other"  # listeners do not agree, or on something else


def protocols_of(corpus):
    """The protocols of a corpus by name.

    Arguments
    ---------
    corpus : str
        "csv", or a key of `CORPORA`.

    Returns
    -------
    dict of str to Protocol
        Its protocols.
    """
    if corpus == "csv":
        return {"groups": GROUPS, "split": SPLIT}
    entry, protocols = CORPORA[corpus], {"groups": GROUPS}
    for name, folds in entry.get("protocols", {}).items():
        protocols[name] = Protocol(by_speakers(folds), (), len(folds))
    if "own_split" in entry:
        protocols["split"] = SPLIT._replace(**entry["own_split"])
    return protocols


def usual_classes(corpus):
    """The class of every emotion of a corpus.

    Arguments
    ---------
    corpus : str
        "csv", which has none, or a key of `CORPORA`.

    Returns
    -------
    dict of str to str
        Emotion to class, or to "unlabelled".

    Example
    -------
    >>> usual_classes("turev")
    {'angry': 'ang', 'calm': 'neu', 'happy': 'hap', 'sad': 'sad', 'other': 'unlabelled'}
    """
    if corpus == "csv":
        return {}
    emotions = *CORPORA[corpus]["emotions"].values(), OTHER
    return {e: CLASSES.get(e, UNLABELLED) for e in emotions}


def find_root(folder, name, expected, enough=all):
    """The folder of a corpus that is recognised by the folders in it.

    Arguments
    ---------
    folder : str or pathlib.Path
        The folder given.
    name : str
        Of the corpus.
    expected : collection of str
        Folders in it.
    enough : callable
        `all`, or `any` where a part of them will do.

    Returns
    -------
    pathlib.Path
        The folder given.

    Raises
    ------
    FileNotFoundError
        If it does not exist.
    InputError
        If it is not the corpus; names a folder below it that may be.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    there = [(folder / part).is_dir() for part in expected]
    if enough(there):
        return folder
    missing = [part for part, found in zip(expected, there) if not found]
    below = sorted([*folder.glob("*/"), *folder.glob("*/*/")])
    found = [p for p in below if enough((p / e).is_dir() for e in expected)]
    raise InputError(
        f"{folder}: is not {name}, which has the folders {', '.join(expected)}; "
        f"missing here: {', '.join(missing)}; such folders are in: "
        f"{', '.join(map(str, found[:1])) or 'none below it'}"
    )
