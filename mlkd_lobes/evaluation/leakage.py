"""Nothing heard in training may be met again in a test.

A number means nothing if the test's speakers, sessions or noise recordings were
trained on. A protocol may share speakers between training and validation, and
must say so; between training and test nobody may.
"""

import itertools
from collections import namedtuple

from mlkd_lobes.errors import InputError

Overlap = namedtuple("Overlap", ["key", "splits", "shared"])
Overlap.__doc__ = """What two splits share: a key, their names, the values."""


class LeakageError(InputError):
    """Splits that share what they must not."""


def find_overlaps(splits, keys):
    """What splits have in common.

    Arguments
    ---------
    splits : dict of str to iterable of dict
        Entries per split, in the order train, valid, test.
    keys : sequence of str
        What to compare, e.g. "speaker"; entries without it are passed over.

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


def refuse_overlaps(splits, keys, declared=()):
    """Stops where splits share what they must not.

    Arguments
    ---------
    splits : dict of str to iterable of dict
        Entries per split.
    keys : sequence of str
        What to compare.
    declared : collection of (str, str, str)
        Key and pair of splits that the protocol lets share; never train and
        test.

    Raises
    ------
    LeakageError
        Naming what is shared by whom.
    """
    found = [
        overlap
        for overlap in find_overlaps(splits, keys)
        if (overlap.key, *overlap.splits) not in set(map(tuple, declared))
        or overlap.splits == ("train", "test")
    ]
    if found:
        raise LeakageError(describe_overlaps(found))


def describe_overlaps(overlaps):
    """One sentence per overlap.

    Arguments
    ---------
    overlaps : sequence of Overlap
        What was found.

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
