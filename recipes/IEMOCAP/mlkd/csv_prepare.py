"""Any corpus with a CSV: manifests for this recipe.

The folder holds a manifest.csv with the columns path, speaker, emotion and
optionally session, gender, start, end (seconds), text (what is said) and split.
Folds are groups of sessions where the column exists, else of speakers; the test
is one group, validation the next, training the rest. The protocol split has one
fold instead, in which every row is where the column split puts it.
"""

import math
import pathlib
from collections import Counter

from manifests import (
    SPLITS,
    UNLABELLED,
    CorpusError,
    Protocol,
    check_label_map,
    file_states,
    is_prepared,
    listing,
    measure,
    relative_wav,
    split_entries,
    write_manifests,
)
from settings import check_choices

from mlkd_lobes.files import file_sha256, read_csv
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

REQUIRED = ("path", "speaker", "emotion")
OPTIONAL = ("session", "gender", "start", "end", "text", "split")


def prepare_csv(
    data_folder,
    save_folder,
    labels,
    label_map,
    protocol,
    columns,
    n_folds,
    fold,
):
    """Writes train.json, valid.json and test.json of a fold.

    Arguments
    ---------
    data_folder : str
        Folder with manifest.csv.
    save_folder : str
        Where the manifests go.
    labels : list of str
        The classes.
    label_map : dict
        The corpus' emotions to one of the classes, to null (left out) or to
        "unlabelled". Every emotion must be in it.
    protocol : str
        One of `PROTOCOLS`.
    columns : dict
        Columns of manifest.csv to the names above.
    n_folds : int
        Number of groups; unused by the protocol split.
    fold : int
        Which group is the test, from 1; 1 for the protocol split.

    Raises
    ------
    CorpusError
        If the corpus is not as described.
    """
    check_choices("protocol", protocol, PROTOCOLS)
    manifest = pathlib.Path(data_folder) / "manifest.csv"
    rows = _read_rows(manifest, columns)
    stamp = {
        "corpus": "csv",
        "manifest_sha256": file_sha256(manifest),
        "audio": file_states(manifest.parent / row["path"] for row in rows),
        "settings": [labels, label_map, protocol, columns, n_folds, fold],
        "declared": PROTOCOLS[protocol].declared,
    }
    if is_prepared(save_folder, stamp):
        logger.info(f"Corpus: {save_folder} is prepared already.")
        return
    kept = _label(rows, labels, label_map, manifest)
    n_folds = PROTOCOLS[protocol].n_folds or n_folds
    if not isinstance(fold, int) or not 1 <= fold <= n_folds:
        raise CorpusError(f"fold: {fold} is not between 1 and {n_folds}")
    splits = PROTOCOLS[protocol].split(kept, fold, n_folds)
    for entry in kept.values():
        del entry["split"]  # the files say it
    measure(
        {k: v for rows in splits.values() for k, v in rows.items()}, data_folder
    )
    write_manifests(save_folder, splits, labels, stamp)


def _by_groups(entries, fold, n_folds):
    """One group of sessions or speakers is tested, the next one validates."""
    has_sessions = any(entry["session"] for entry in entries.values())
    unit = "session" if has_sessions else "speaker"
    folds = deal(entries, unit, n_folds)
    return split_entries(
        entries, lambda e: folds[e[unit]], fold, fold % n_folds + 1
    )


def _by_column(entries, *_):
    """Every entry is where its row says, in the one fold there is."""
    others = Counter(
        entry["split"]
        for entry in entries.values()
        if entry["split"] not in SPLITS
    )
    if others:
        counts = [f"{name or 'empty'}: {n} rows" for name, n in others.items()]
        raise CorpusError(
            "manifest.csv: protocol split expects a column split (columns may "
            "rename yours) of the values train, valid and test; "
            + listing("other values", counts)
        )
    return split_entries(entries, lambda e: e["split"], "test", "valid")


# Their splits share no session, speaker or file.
PROTOCOLS = {
    "groups": Protocol(_by_groups, (), None),
    "split": Protocol(_by_column, (), 1),
}


def _read_rows(manifest, columns):
    """Rows of manifest.csv under this recipe's column names."""
    known = REQUIRED + OPTIONAL
    for name in columns.values():
        if name not in known:
            raise CorpusError(
                f"columns: no column '{name}'; the known ones are: "
                f"{', '.join(known)}"
            )
    twice = [name for name, n in Counter(columns.values()).items() if n > 1]
    if twice:
        raise CorpusError(
            f"columns: several become {', '.join(twice)}; one can"
        )
    rows = read_csv(manifest, required=list(columns))
    if not rows:
        raise CorpusError(f"{manifest}: has no rows")
    for old, new in columns.items():
        if new in rows[0] and new not in columns:
            raise CorpusError(
                f"columns: {old} becomes {new}, but {manifest} has a column "
                f"{new} already; rename that one or delete it"
            )
    rows = [{columns.get(k, k): v for k, v in row.items()} for row in rows]
    missing = [name for name in REQUIRED if name not in rows[0]]
    if missing:
        raise CorpusError(
            f"{manifest}: column {', '.join(missing)} is missing; it has: "
            f"{', '.join(rows[0])} (rename with the key columns)"
        )
    return rows


def _label(rows, labels, label_map, manifest):
    """Entries by ID, with emotions mapped and dropped ones left out."""
    check_label_map(label_map, labels)
    # YAML reads an emotion called 1 as a number.
    label_map = {str(emotion): label for emotion, label in label_map.items()}
    unknown = Counter(
        r["emotion"] for r in rows if r["emotion"] not in label_map
    )
    if unknown:
        counts = [f"{name!r}: {n} rows" for name, n in unknown.items()]
        raise CorpusError(
            f"{manifest}: "
            + listing("emotions that label_map does not list", counts)
            + f"\nlabel_map lists: {', '.join(map(str, label_map))}"
        )
    entries, lines = {}, {}
    for number, row in enumerate(rows, start=2):
        label = label_map[row["emotion"]]
        if label is None:
            continue
        entry = _entry(row, label, f"{manifest}, line {number}")
        name = _identity(entry, row["path"], entries)
        if name in entries:
            raise CorpusError(
                f"{manifest}, line {number}: {row['path']} is utterance "
                f"{name}, as line {lines[name]} is; utterances are told apart "
                "by path without suffix, start and end"
            )
        entries[name], lines[name] = entry, number
    return entries


def _entry(row, label, where):
    if not row["path"] or not row["speaker"]:
        raise CorpusError(f"{where}: path and speaker must not be empty")
    if not pathlib.PurePosixPath(row["path"]).name:
        raise CorpusError(f"{where}: path {row['path']!r} is no file")
    return {
        "wav": relative_wav(row["path"]),
        "start": _seconds(row.get("start"), "start", where),
        "stop": _seconds(row.get("end"), "end", where),
        "length": None,
        "emo": None if label == UNLABELLED else label,
        "speaker": row["speaker"],
        "session": row.get("session") or None,
        "gender": row.get("gender") or None,
        "text": row.get("text") or None,
        "split": row.get("split") or None,
    }


def _seconds(text, column, where):
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise CorpusError(f"{where}: {column} is {text!r}, expected seconds")
    return seconds


def _identity(entry, path, taken):
    """An ID: the path without suffix, with the times where they are given."""
    name = str(pathlib.PurePosixPath(path).with_suffix(""))
    if entry["start"] is None and entry["stop"] is None:
        return name
    start, stop = entry["start"] or 0.0, entry["stop"] or 0.0
    short = f"{name}@{start:.2f}-{stop:.2f}"
    return f"{name}@{start}-{stop}" if short in taken else short


def deal(entries, unit, n_folds):
    """Deals sessions or speakers to folds, genders evenly where known.

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
    CorpusError
        If there are fewer units than folds.

    Example
    -------
    >>> people = [("a", "f"), ("b", "f"), ("c", "f"), ("d", "m"), ("e", "m"),
    ...           ("f", "m")]
    >>> entries = {s: {"speaker": s, "gender": g} for s, g in people}
    >>> deal(entries, "speaker", 3)
    {'a': 1, 'b': 2, 'c': 3, 'd': 1, 'e': 2, 'f': 3}
    """
    nameless = [name for name, e in entries.items() if not e[unit]]
    if nameless:
        raise CorpusError(listing(f"utterances without {unit}", nameless))
    # A session has people of both genders: only speakers are sorted by it.
    genders = {
        e[unit]: (unit == "speaker" and e["gender"]) or ""
        for e in entries.values()
    }
    units = sorted(genders, key=lambda name: (genders[name], name))
    if not 3 <= n_folds <= len(units):
        raise CorpusError(
            f"n_folds: {n_folds} is not between 3 and the number of "
            f"{unit}s, {len(units)}"
        )
    return {name: i % n_folds + 1 for i, name in enumerate(units)}
