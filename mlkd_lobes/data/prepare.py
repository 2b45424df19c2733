"""Manifests of a corpus by its name, or of one with a manifest.csv."""

import os
import pathlib
from collections import Counter

from mlkd_lobes.data import audio, corpora, corpus_reader, csv_corpus, manifests
from mlkd_lobes.data.manifests import UNLABELLED
from mlkd_lobes.errors import InputError, listing
from mlkd_lobes.files import composed, text_sha256


def prepare_corpus(
    corpus,
    data_folder,
    save_folder,
    labels,
    label_map,
    protocol,
    n_folds,
    fold,
    columns={},
    select={},
    crowd_votes=False,
    cut_silence=None,
    partial_corpus=False,
):
    """Writes train.json, valid.json and test.json of a fold.

    Arguments
    ---------
    corpus : str
        "csv", or a key of `mlkd_lobes.data.corpora.CORPORA`.
    data_folder : str
        The corpus; of a csv corpus the folder with manifest.csv.
    save_folder : str
        Where the manifests go.
    labels : list of str
        The classes.
    label_map : dict
        The corpus' emotions to one of the classes, to null (left out) or to
        "unlabelled": every one of a csv corpus, changes of the usual classes
        for others.
    protocol : str
        One of `mlkd_lobes.data.corpora.protocols_of`.
    n_folds : int
        Number of groups, of the protocol groups.
    fold : int
        Which fold, from 1.
    columns : dict
        csv: columns of manifest.csv to this recipe's.
    select : dict
        Others: fields of file names to the values that are used.
    crowd_votes : bool
        Others: whether labels are those that most listeners gave.
    cut_silence : bool, optional
        Whether silence at both ends of utterances is cut; by default as the
        corpus needs it.
    partial_corpus : bool
        Others: continues with a warning where the copy is incomplete.

    Raises
    ------
    InputError
        If the corpus is not as described.
    """
    rule = corpora.protocols_of(corpus)[protocol]
    usual = corpora.usual_classes(corpus)
    label_map = manifests.emotion_map(corpus, usual, label_map, labels)
    if corpus in corpora.CORPORA:
        needed = "split" if protocol == "split" else "speaker"
        choice = select, crowd_votes, partial_corpus, needed
        rows = corpus_reader.read_corpus(corpus, data_folder, *choice)
        if cut_silence is None:
            cut_silence = corpora.CORPORA[corpus].get("cut_silence", False)
    else:
        manifest = pathlib.Path(data_folder) / "manifest.csv"
        rows = csv_corpus.read_manifest_csv(manifest, columns)
    n_folds = rule.n_folds or n_folds
    manifests.check_fold(fold, n_folds)
    stamp = {
        "corpus": corpus,
        "rows": text_sha256([{**row, "where": None} for row in rows]),
        "audio": manifests.file_states(
            pathlib.Path(data_folder, row["path"]) for row in rows
        ),
        "settings": [labels, protocol, n_folds, fold, cut_silence],
        "label_map": label_map,
        "note": rule.note,
        "declared": rule.declared,
    }
    if manifests.is_prepared(save_folder, stamp):
        return
    splits = rule.split(_label(rows, label_map), fold, n_folds)
    used = {k: e for split in splits.values() for k, e in split.items()}
    for entry in used.values():
        del entry["split"]  # shown by the files
    manifests.measure(used, data_folder, cut_silence)
    manifests.write_manifests(
        save_folder, splits, labels, stamp, refuse_copies=True
    )


def _label(rows, label_map):
    """Entries by ID, with emotions mapped and those mapped to null left out."""
    # YAML reads an emotion called 1 as a number.
    label_map = {composed(str(e)): label for e, label in label_map.items()}
    unknown = Counter(
        r["emotion"] for r in rows if r["emotion"] not in label_map
    )
    if unknown:
        counts = [f"{name!r}: {n} rows" for name, n in unknown.items()]
        raise InputError(
            "manifest.csv: "
            + listing("emotions that label_map does not list", counts)
            + f"\nlabel_map lists: {', '.join(label_map)}"
        )
    entries = {}
    for row in rows:
        label, where = label_map[row["emotion"]], row["where"]
        if label is None:
            continue
        entry = _entry(row, label, where)
        name = row.get("id") or _identity(entry, row["path"], entries)
        if name in entries:
            raise InputError(
                f"{where}: {name} is an utterance of an earlier line; path "
                "without suffix, start and end must differ"
            )
        entries[name] = entry
    return entries


def _entry(row, label, where):
    # Corpora by name may leave speakers unnamed.
    if not row["path"] or row["speaker"] == "":
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
    other = taken.get(short, entry)
    same = (other["start"] or 0.0, other["stop"] or 0.0) == (start, stop)
    return short if same else f"{name}@{start}-{stop}"
