"""Protocols: how the utterances of a corpus become train, valid and test.

`groups` rotates groups of speakers or sessions, `split` is the corpus' own split,
others are published splits by speaker.
"""

from collections import Counter, namedtuple

from mlkd_lobes.data.manifests import SPLITS, split_entries
from mlkd_lobes.errors import InputError, listing


class Protocol(
    namedtuple("Protocol", "split declared n_folds note", defaults=[""])
):
    """How a corpus is split, and which overlaps that declares.

    `split` makes train, valid and test from entries, a fold and a number of folds;
    `declared` lists (key, split, split) that may share values, e.g. ("speaker",
    "train", "valid"); `n_folds` is None where a setting decides; `note` is shown with
    every table.
    """


def by_groups(entries, fold, n_folds):
    """One group of sessions or speakers is tested, the next one validates.

    Arguments
    ---------
    entries : dict of str to dict
        Entries by ID.
    fold : int
        Which group is the test, from 1.
    n_folds : int
        Number of groups.

    Returns
    -------
    dict
        train, valid and test, each entries by ID.
    """
    has_sessions = any(entry["session"] for entry in entries.values())
    unit = "session" if has_sessions else "speaker"
    folds = assign_folds(entries, unit, n_folds)
    part = {fold: "test", fold % n_folds + 1: "valid"}
    return split_entries(entries, lambda e: part.get(folds[e[unit]]))


def by_column(entries, *_):
    """Splits as `split` of every entry says; there is one fold.

    Arguments
    ---------
    entries : dict of str to dict
        Entries by ID.
    *_ : int
        Fold and number of folds, unused.

    Returns
    -------
    dict
        train, valid and test, each entries by ID.

    Raises
    ------
    InputError
        If an entry has another split, or none.
    """
    counts = Counter(entry["split"] or "empty" for entry in entries.values())
    others = [f"{k}: {n} rows" for k, n in counts.items() if k not in SPLITS]
    if others:
        raise InputError(
            "manifest.csv: protocol split expects a column split (columns may "
            "rename yours) of the values train, valid and test; "
            + listing("other values", others)
        )
    return split_entries(entries, lambda e: e["split"])


def by_speakers(folds):
    """A published split by speaker.

    Arguments
    ---------
    folds : list of str, or of [str, str]
        Per fold the speakers of the test, and those of validation, separated by
        blanks; without the latter the test speakers of the next fold validate.

    Returns
    -------
    callable
        The `split` of a `Protocol`.

    Example
    -------
    >>> entries = {n: {"speaker": n, "emo": "neu"} for n in "abcd"}
    >>> splits = by_speakers(["a", "b"])(entries, 2)
    >>> {name: list(split) for name, split in splits.items()}
    {'train': ['c', 'd'], 'valid': ['a'], 'test': ['b']}
    """
    tested = [fold if isinstance(fold, str) else fold[0] for fold in folds]

    def split(entries, fold, n_folds=None):
        """Train, valid and test of a fold."""
        chosen, rest = folds[fold - 1], tested[fold % len(folds)]
        valid = rest if isinstance(chosen, str) else chosen[1]
        part = dict.fromkeys(valid.split(), "valid")
        part.update(dict.fromkeys(tested[fold - 1].split(), "test"))
        return split_entries(entries, lambda e: part.get(e["speaker"]))

    return split


def assign_folds(entries, unit, n_folds):
    """Assigns sessions or speakers to folds, genders evenly where known.

    Arguments
    ---------
    entries : dict of str to dict
        Entries by ID.
    unit : str
        "session" or "speaker".
    n_folds : int
        Number of folds.

    Returns
    -------
    dict
        Unit to fold, from 1.

    Raises
    ------
    InputError
        If there are fewer units than folds.

    Example
    -------
    >>> people = [
    ...     ("a", "f"),
    ...     ("b", "f"),
    ...     ("c", "f"),
    ...     ("d", "m"),
    ...     ("e", "m"),
    ...     ("f", "m"),
    ... ]
    >>> entries = {s: {"speaker": s, "gender": g} for s, g in people}
    >>> assign_folds(entries, "speaker", 3)
    {'a': 1, 'b': 2, 'c': 3, 'd': 1, 'e': 2, 'f': 3}
    """
    nameless = [name for name, e in entries.items() if not e[unit]]
    if nameless:
        raise InputError(listing(f"utterances without {unit}", nameless))
    # A session has people of both genders: only speakers are sorted by it.
    genders = {
        e[unit]: (unit == "speaker" and e["gender"]) or ""
        for e in entries.values()
    }
    units = sorted(genders, key=lambda name: (genders[name], name))
    if not 3 <= n_folds <= len(units):
        raise InputError(
            f"n_folds: {n_folds} is not between 3 and the number of "
            f"{unit}s, {len(units)}; training, validation and test need one "
            "each, so a corpus of two has no folds"
        )
    return {name: i % n_folds + 1 for i, name in enumerate(units)}


# Their splits share no session, speaker or file.
GROUPS = Protocol(by_groups, (), None)
SPLIT = Protocol(by_column, (), 1)
