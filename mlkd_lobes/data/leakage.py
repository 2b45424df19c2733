"""Overlaps between splits: speakers, sessions, files, noise recordings.

A result means nothing if the test's speakers, sessions or noise recordings were
trained on. A protocol may share them if it declares so, as a corpus' own split that
is not by speaker does; every table then states it.
"""

import functools
import hashlib
import itertools
import os
from collections import defaultdict, namedtuple

from mlkd_lobes.data import shards
from mlkd_lobes.errors import InputError, listing
from mlkd_lobes.files import composed, sampled_sha256
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

# What splits must not share; for noise see `noise_sources`.
SPEECH_KEYS = ("speaker", "session", "wav")
NOISE_KEY = "noise recording of the same content"


class Overlap(namedtuple("Overlap", ["key", "splits", "shared"])):
    """What two splits share: a key, their names, the values."""


def find_overlaps(splits, keys):
    """Values that splits have in common.

    Arguments
    ---------
    splits : dict of str to iterable of dict
        Entries per split, in the order train, valid, test.
    keys : sequence of str
        What to compare, e.g. "speaker"; entries without it are ignored.

    Returns
    -------
    list of Overlap
        One per key and pair of splits with common values.

    Example
    -------
    >>> splits = {"train": [{"speaker": "a"}], "test": [{"speaker": "a"}]}
    >>> find_overlaps(splits, ["speaker"])
    [Overlap(key='speaker', splits=('train', 'test'), shared=['a'])]
    """
    overlaps = []
    for key in keys:
        values = {
            name: {e[key] for e in entries if e.get(key) is not None}
            for name, entries in splits.items()
        }
        for pair in itertools.combinations(splits, 2):
            shared = values[pair[0]] & values[pair[1]]
            if shared:
                overlaps.append(Overlap(key, pair, sorted(shared)))
    return overlaps


def is_declared(overlap, declared):
    """Whether a protocol allows an overlap.

    Arguments
    ---------
    overlap : Overlap
        From `find_overlaps`.
    declared : collection of (str, str, str)
        Key and pair of splits that may share values.

    Returns
    -------
    bool
        Whether it is allowed.
    """
    return (overlap.key, *overlap.splits) in set(map(tuple, declared))


def refuse_overlaps(splits, keys, declared=()):
    """Raises where splits share what they must not.

    Arguments
    ---------
    splits : dict of str to iterable of dict
        Entries per split.
    keys : sequence of str
        What to compare.
    declared : collection of (str, str, str), or None
        Key and pair of splits that the protocol allows to share values; None
        for manifests of the user's own, where an overlap is a warning.

    Raises
    ------
    InputError
        Naming the shared values and the splits.
    """
    found = find_overlaps(splits, keys)
    found = [o for o in found if not is_declared(o, declared or ())]
    if found and declared is None:
        logger.warning("Leakage: " + describe_overlaps(found))
    elif found:
        raise InputError(describe_overlaps(found))


def noise_sources(splits):
    """Recordings per split, by content, to compare splits.

    Arguments
    ---------
    splits : dict of str to dict
        Split to types, from `mlkd_lobes.noise.add_noise.read_noise_csv`.

    Returns
    -------
    dict of str to list of dict
        Entries with `NOISE_KEY`; a content is named by the first path of it.
    """
    first, found = {}, {split: [] for split in splits}
    for split, types in splits.items():
        for path in itertools.chain(*types.values()):
            content = first.setdefault(sampled_sha256(path), path)
            found[split].append({NOISE_KEY: content})
    return found


class HeldOut:
    """Recordings and speakers that other speech must not hold.

    Arguments
    ---------
    entries : list of dict
        With `wav`, a path, and `speaker`, which may be None.
    """

    def __init__(self, entries):
        self.speakers = {e["speaker"] for e in entries} - {None, ""}
        self.sizes = defaultdict(set)
        for path in {e["wav"] for e in entries}:
            self.sizes[os.path.getsize(path)].add(path)
        self.content = functools.lru_cache(maxsize=None)(_content)

    def has(self, path, size, speaker):
        """Whether a recording, of whatever name, or its speaker is among them.

        Arguments
        ---------
        path : str, pathlib.Path or mlkd_lobes.data.shards.Member
            The recording.
        size : int
            Its size in bytes.
        speaker : str
            Its speaker, "" if unknown.

        Returns
        -------
        bool
            Only recordings of equal size are read.
        """
        if composed(speaker) in self.speakers:
            return True
        if size not in self.sizes:
            return False
        return _content(path) in map(self.content, self.sizes[size])


def _content(path):
    with shards.open_file(path) as (file, _):
        return hashlib.sha256(file.read()).digest()


def check_copies(splits, refuse):
    """Warns of identical recordings under different names.

    Arguments
    ---------
    splits : dict of str to list of dict
        Entries per split: `wav`, its `sha256`, and `speaker`.
    refuse : bool
        Whether a copy from another speaker in another split is an error.

    Raises
    ------
    InputError
        Naming the files.
    """
    places = defaultdict(dict)
    for split, entries in splits.items():
        for entry in entries:
            # Parts of one file are no copies.
            place = split, entry["speaker"], entry["wav"]
            places[entry["sha256"]].setdefault(entry["wav"], place)
    copies = {"warn": [], "refuse": []}
    for found in (p.values() for p in places.values() if len(p) > 1):
        several = [len(set(column)) > 1 for column in zip(*found)]
        named = [f"{wav} ({split}, {who})" for split, who, wav in found]
        # The last ones are of other splits.
        text = " = ".join(
            named if len(named) < 5 else [*named[:2], "…", named[-1]]
        )
        spoiled = refuse and all(several[:2])
        copies["refuse" if spoiled else "warn"].append(text)
    if copies["refuse"]:
        title = "recordings are identical, but of two speakers in two splits"
        raise InputError(listing(title, copies["refuse"]))
    if copies["warn"]:
        title = "recordings come more than once under other names"
        logger.warning(listing(title, copies["warn"]))


def describe_overlaps(overlaps):
    """One line per overlap.

    Arguments
    ---------
    overlaps : sequence of Overlap
        From `find_overlaps`.

    Returns
    -------
    str
        Lines of text.
    """
    return "\n".join(
        f"{o.splits[0]} and {o.splits[1]} share {len(o.shared)} {o.key}(s): "
        + ", ".join(map(str, o.shared[:5]))
        + (" …" if len(o.shared) > 5 else "")
        for o in overlaps
    )
