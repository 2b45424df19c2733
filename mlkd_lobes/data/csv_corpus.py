"""Any corpus with a CSV file: manifests from manifest.csv.

Columns: path, speaker, emotion and optionally session, gender, start, end
(seconds), text (the words spoken) and split. Protocol "groups": folds are groups
of sessions where the column exists, else of speakers; one group is the test, the
next one validation, the rest training. Protocol "split": one fold, the column
split decides.
"""

import os
import pathlib
from collections import Counter

from mlkd_lobes.data import audio, manifests
from mlkd_lobes.data.manifests import SPLITS, UNLABELLED, Protocol
from mlkd_lobes.errors import InputError, listing
from mlkd_lobes.files import composed, file_sha256, read_csv, spelled
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
    InputError
        If the corpus is not as described.
    """
    manifest = pathlib.Path(data_folder) / "manifest.csv"
    rows = _read_rows(manifest, columns)
    stamp = {
        "corpus": "csv",
        "manifest_sha256": file_sha256(manifest),
        "audio": manifests.file_states(
            manifest.parent / row["path"] for row in rows
        ),
        "settings": [labels, label_map, protocol, columns, n_folds, fold],
        "declared": PROTOCOLS[protocol].declared,
    }
    if manifests.is_prepared(save_folder, stamp):
        logger.info(f"Corpus: {save_folder} is prepared already.")
        return
    entries = _label(rows, labels, label_map, manifest)
    n_folds = PROTOCOLS[protocol].n_folds or n_folds
    manifests.check_fold(fold, n_folds)
    splits = PROTOCOLS[protocol].split(entries, fold, n_folds)
    used = {k: e for split in splits.values() for k, e in split.items()}
    for entry in used.values():
        del entry["split"]  # shown by the files
    manifests.measure(used, data_folder)
    manifests.write_manifests(
        save_folder, splits, labels, stamp, refuse_copies=True
    )


def _by_groups(entries, fold, n_folds):
    """One group of sessions or speakers is tested, the next one validates."""
    has_sessions = any(entry["session"] for entry in entries.values())
    unit = "session" if has_sessions else "speaker"
    folds = assign_folds(entries, unit, n_folds)
    return manifests.split_entries(
        entries, lambda e: folds[e[unit]], fold, fold % n_folds + 1
    )


def _by_column(entries, *_):
    """Splits by the column split; there is one fold."""
    counts = Counter(entry["split"] or "empty" for entry in entries.values())
    others = [f"{k}: {n} rows" for k, n in counts.items() if k not in SPLITS]
    if others:
        raise InputError(
            "manifest.csv: protocol split expects a column split (columns may "
            "rename yours) of the values train, valid and test; "
            + listing("other values", others)
        )
    return manifests.split_entries(
        entries, lambda e: e["split"], "test", "valid"
    )


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
            raise InputError(
                f"columns: no column '{name}'; the known ones are: "
                f"{', '.join(known)}"
            )
    rows = read_csv(manifest, required=list(columns))
    if not rows:
        raise InputError(f"{manifest}: has no rows")
    renamed = Counter(columns.get(name, name) for name in rows[0])
    twice = [name for name, n in renamed.items() if n > 1]
    if twice:
        raise InputError(
            f"columns: {manifest} would have several columns {', '.join(twice)}"
        )
    rows = [{columns.get(k, k): v for k, v in row.items()} for row in rows]
    missing = [name for name in REQUIRED if name not in rows[0]]
    if missing:
        raise InputError(
            f"{manifest}: column {', '.join(missing)} is missing; it has: "
            f"{', '.join(rows[0])} (rename with the key columns)"
        )
    for row in rows:
        row["path"] = spelled(manifest.parent, row["path"])
        for name in {"speaker", "session", "emotion"} & {*row}:
            row[name] = composed(row[name])
    return rows


def _label(rows, labels, label_map, manifest):
    """Entries by ID, with emotions mapped and those mapped to null left out."""
    manifests.check_label_map(label_map, labels)
    # YAML reads an emotion called 1 as a number.
    label_map = {
        composed(str(emotion)): label for emotion, label in label_map.items()
    }
    unknown = Counter(
        r["emotion"] for r in rows if r["emotion"] not in label_map
    )
    if unknown:
        counts = [f"{name!r}: {n} rows" for name, n in unknown.items()]
        raise InputError(
            f"{manifest}: "
            + listing("emotions that label_map does not list", counts)
            + f"\nlabel_map lists: {', '.join(label_map)}"
        )
    entries = {}
    for number, row in enumerate(rows, start=2):
        label = label_map[row["emotion"]]
        if label is None:
            continue
        entry = _entry(row, label, f"{manifest}, line {number}")
        name = _identity(entry, row["path"], entries)
        if name in entries:
            raise InputError(
                f"{manifest}, line {number}: {name} is an utterance of an "
                "earlier line; path without suffix, start and end must differ"
            )
        entries[name] = entry
    return entries


def _entry(row, label, where):
    if not row["path"] or not row["speaker"]:
        raise InputError(f"{where}: path and speaker must not be empty")
    return {
        "wav": manifests.relative_wav(row["path"]),
        "start": audio.to_seconds(row.get("start"), f"{where}: start"),
        "stop": audio.to_seconds(row.get("end"), f"{where}: end"),
        "length": None,
        "emo": None if label == UNLABELLED else label,
        "speaker": row["speaker"],
        "session": row.get("session") or None,
        "gender": row.get("gender") or None,
        "text": row.get("text") or None,
        "split": row.get("split") or None,
    }


def _identity(entry, path, taken):
    """An ID: the path without suffix, with the times where they are given."""
    name = composed(str(pathlib.PurePosixPath(os.path.splitext(path)[0])))
    if entry["start"] is None and entry["stop"] is None:
        return name
    start, stop = entry["start"] or 0.0, entry["stop"] or 0.0
    short = f"{name}@{start:.2f}-{stop:.2f}"
    return f"{name}@{start}-{stop}" if short in taken else short


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
    >>> people = [("a", "f"), ("b", "f"), ("c", "f"), ("d", "m"), ("e", "m"),
    ...           ("f", "m")]
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
            f"{unit}s, {len(units)}"
        )
    return {name: i % n_folds + 1 for i, name in enumerate(units)}
