"""Corpora by name: the entries of corpora.yaml, their classes and protocols."""

import pathlib

from ruamel.yaml import YAML

from mlkd_lobes.data.manifests import UNLABELLED
from mlkd_lobes.data.protocols import GROUPS, SPLIT, Protocol, by_speakers

# Where each corpus comes from, and how emotion corpora name their files.
SOURCES = YAML(typ="safe").load(pathlib.Path(__file__).with_suffix(".yaml"))
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
    entry = CORPORA[corpus]
    own = SPLIT._replace(
        declared=entry.get("declares", ()), note=entry.get("note", "")
    )
    published = {
        name: own
        if folds == "own"
        else Protocol(by_speakers(folds), (), len(folds))
        for name, folds in entry.get("protocols", {}).items()
    }
    return {"groups": GROUPS, **published}


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
