"""Manifests: the JSON files that every corpus preparation writes.

train.json, valid.json and test.json hold one entry per utterance: `wav` (below
{data_root}), `start` and `stop` in seconds or null, `length` in seconds, `emo`
(null: unlabelled), `speaker`, `session`, `gender`, `text`, and `sha256` of the
file, so that a changed file changes the manifest. preparation.json beside them
records what they were made from, so that another fold, protocol or corpus never
reuses them.
"""

import json
import os
import pathlib
from collections import Counter

from mlkd_lobes import files
from mlkd_lobes.data import activity, audio
from mlkd_lobes.data.leakage import SPEECH_KEYS, check_copies, refuse_overlaps
from mlkd_lobes.errors import InputError, check_choice, listing
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

SPLITS = ("train", "valid", "test")
UNLABELLED = "unlabelled"
STAMP = audio.OWN_OUTPUT
# Speakers of a split that the log names.
MAX_NAMED = 20


def is_prepared(save_folder, stamp, suffix=".json"):
    """Whether the files of exactly this preparation exist.

    Arguments
    ---------
    save_folder : str or pathlib.Path
        Where they are kept.
    stamp : dict
        What they would be made from.
    suffix : str
        Of the files per split: ".json" for speech, ".csv" for noise.

    Returns
    -------
    bool
        True if nothing needs to be done.
    """
    folder = pathlib.Path(save_folder)
    try:
        found = files.read_json(folder / STAMP)
    except (OSError, ValueError):
        return False
    complete = all((folder / (name + suffix)).is_file() for name in SPLITS)
    # Through JSON, so that tuples and lists compare equal.
    prepared = complete and found == json.loads(json.dumps(stamp))
    if prepared:
        logger.info(f"{folder}: prepared already.")
    return prepared


def file_states(paths):
    """Size and time of files, to notice when one is replaced.

    Arguments
    ---------
    paths : iterable of str or pathlib.Path
        The files; missing ones are noted as such.

    Returns
    -------
    dict
        Path to [size, time of change in ns], or to None.
    """
    states = {}
    for path in map(str, paths):
        state = os.stat(path) if os.path.exists(path) else None
        states[path] = state and [state.st_size, state.st_mtime_ns]
    return states


def measure(entries, data_folder, cut_silence=False):
    """Decodes every utterance; sets its `length` and `sha256`.

    Arguments
    ---------
    entries : dict of str to dict
        Entries by ID, with `wav`, `start` and `stop`.
    data_folder : str
        What {data_root} stands for.
    cut_silence : bool
        Whether `start` and `stop` become the bounds of the speech.

    Raises
    ------
    InputError
        Naming every file that cannot be used, and why.
    """
    # The file's own bytes: decoded samples differ by a bit between machines.
    problems, hashes = [], {}
    for name, entry in entries.items():
        path = wav_path(entry["wav"], data_folder, name)
        times = entry["start"], entry["stop"]
        try:
            if cut_silence:
                times = activity.speech_bounds(path, *times)
                entry["start"], entry["stop"] = times
            wav = audio.read_audio(path, *times)
            if path not in hashes:
                hashes[path] = files.file_sha256(path)[:16]
        except InputError as error:
            problems.append(str(error))
            continue
        entry["length"] = round(len(wav) / audio.SAMPLE_RATE, 4)
        entry["sha256"] = hashes[path]
    if problems:
        raise InputError(listing("unusable audio files", problems))


def wav_path(wav, data_folder, where):
    """The path of the audio file named by a manifest entry.

    Arguments
    ---------
    wav : str
        A path with {data_root} for the corpus' folder; other braces are
        doubled.
    data_folder : str
        That folder.
    where : str
        The entry's name in a message.

    Returns
    -------
    str
        The path.

    Raises
    ------
    InputError
        If something else stands in braces.

    Example
    -------
    >>> wav_path("{data_root}/a.wav", "corpus", "train.json: utterance a")
    'corpus/a.wav'
    """
    try:
        return wav.format(data_root=data_folder)
    except (AttributeError, LookupError, ValueError):
        raise InputError(
            f"{where} has '{wav}' as 'wav', in which only {{data_root}} may "
            "stand in braces; other braces are doubled"
        )


def relative_wav(path):
    """A `wav` value for a path.

    Arguments
    ---------
    path : str
        Below the data folder, or absolute.

    Returns
    -------
    str
        With {data_root} in front of a relative one; braces are doubled.
    """
    escaped = str(path).replace("{", "{{").replace("}", "}}")
    return escaped if os.path.isabs(path) else "{data_root}/" + escaped


def emotion_map(corpus, usual, label_map, labels):
    """The class of every emotion of a corpus.

    Arguments
    ---------
    corpus : str
        Its name.
    usual : dict
        Its emotions to their usual classes; empty: any emotion.
    label_map : dict
        Changes of them: to one of the classes, to null (left out) or to
        "unlabelled".
    labels : sequence of str
        The classes.

    Returns
    -------
    dict
        All emotions to a class, to "unlabelled" or to None (left out).

    Raises
    ------
    InputError
        If the corpus has no such emotion, or a class is unknown.
    """
    for emotion in label_map if usual else ():
        check_choice(f"label_map of {corpus}", emotion, usual, "emotion")
    mapping = {**usual, **label_map}
    for emotion, label in mapping.items():
        if label not in (*labels, UNLABELLED, None):
            raise InputError(
                f"label_map: {emotion} maps to '{label}'; expected one of "
                f"{', '.join(labels)}, {UNLABELLED} or null"
            )
    return mapping


def report_differences(corpus, differences, partial_corpus):
    """Raises if a copy of a corpus is not complete.

    Arguments
    ---------
    corpus : str
        Its name.
    differences : list of str
        From a complete copy; none: nothing happens.
    partial_corpus : bool
        Whether that is a warning only.

    Raises
    ------
    InputError
        With the differences.
    """
    if not differences:
        return
    title = f"{corpus} differs from the published corpus."
    report = "\n".join([title, *differences])
    if not partial_corpus:
        raise InputError(
            report
            + "\nComplete the copy from the corpus' archive, or continue "
            "with --partial_corpus=True; results are then not comparable with "
            "others."
        )
    logger.warning(report)


def check_fold(fold, n_folds):
    """Raises if there is no such fold.

    Arguments
    ---------
    fold : int
        The fold, from 1.
    n_folds : int
        How many there are.

    Raises
    ------
    InputError
        Naming the fold and the range.
    """
    if not isinstance(fold, int) or not 1 <= fold <= n_folds:
        raise InputError(f"fold: {fold} is not between 1 and {n_folds}")


def split_entries(entries, split_of):
    """Splits entries; unlabelled utterances are kept for training only.

    Arguments
    ---------
    entries : dict of str to dict
        Entries by ID.
    split_of : callable
        Takes an entry, gives its split; None: training.

    Returns
    -------
    dict
        train, valid and test, each entries by ID, in the order of IDs.

    Example
    -------
    >>> entries = {n: {"speaker": n, "emo": "neu"} for n in "abcd"}
    >>> part = {"b": "test", "c": "valid"}
    >>> splits = split_entries(entries, lambda e: part.get(e["speaker"]))
    >>> {name: list(split) for name, split in splits.items()}
    {'train': ['a', 'd'], 'valid': ['c'], 'test': ['b']}
    """
    splits = {name: {} for name in SPLITS}
    for name in sorted(entries):
        entry = entries[name]
        split = split_of(entry) or "train"
        if entry["emo"] or split == "train":
            splits[split][name] = entry
    return splits


def write_manifests(save_folder, splits, labels, stamp, refuse_copies=False):
    """Checks the splits and writes them, the stamp last.

    Arguments
    ---------
    save_folder : str or pathlib.Path
        Destination.
    splits : dict of str to dict
        Entries by ID for train, valid and test.
    labels : sequence of str
        The classes; each must occur in training.
    stamp : dict
        What the splits were made from; its "declared" are the overlaps that the
        protocol declares, see `mlkd_lobes.data.protocols.Protocol`.
    refuse_copies : bool
        Whether two speakers of two splits may not share a recording; for
        corpora that users put together.

    Raises
    ------
    InputError
        If a split is empty, a class is missing from training, or splits share
        speakers, sessions, files or recordings they must not.
    """
    entries = {name: list(splits[name].values()) for name in SPLITS}
    for name, rows in entries.items():
        if not any(row["emo"] for row in rows):
            raise InputError(f"the {name} split has no labelled utterance")
    missing = set(labels) - {row["emo"] for row in entries["train"]}
    if missing:
        raise InputError(
            f"no training utterance is labelled {', '.join(sorted(missing))}"
        )
    refuse_overlaps(entries, SPEECH_KEYS, stamp.get("declared", ()))
    check_copies(entries, refuse_copies)
    folder = pathlib.Path(save_folder)
    (folder / STAMP).unlink(missing_ok=True)
    for name in SPLITS:
        files.write_json(folder / f"{name}.json", splits[name])
    files.write_json(folder / STAMP, stamp)
    logger.info("Corpus: " + _describe(entries, labels))


def _describe(entries, labels):
    """Counts per split, for the log."""
    lines = []
    for name, rows in entries.items():
        counts = Counter(row["emo"] or UNLABELLED for row in rows)
        speakers = sorted({row["speaker"] or "unnamed" for row in rows})
        names = ", ".join(speakers[:MAX_NAMED])
        shown = [f"{key} {counts[key]}" for key in [*labels, UNLABELLED]]
        lines.append(
            f"{name} {len(rows)} utterances ({', '.join(shown)}), "
            f"{len(speakers)} speakers ({names}{' …' * (len(speakers) > MAX_NAMED)})"
        )
    return "\n".join(lines)


def read_entries(path):
    """Entries of a manifest by ID, as they are.

    Arguments
    ---------
    path : str or pathlib.Path
        A JSON file of IDs and entries, each with `wav`, a path.

    Returns
    -------
    dict
        Entries by ID, at least one.

    Raises
    ------
    FileNotFoundError
        If it does not exist.
    InputError
        If it is not a manifest, or empty.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such manifest")
    entries = files.read_json(str(path))
    if not isinstance(entries, dict) or not entries:
        raise InputError(f"{path}: has no utterances")
    for name, entry in entries.items():
        where = f"{path}: utterance {name}"
        if not isinstance(entry, dict):
            raise InputError(
                f"{where} is {entry!r}, expected keys and values: wav, length, "
                "emo, …"
            )
        if not isinstance(entry.get("wav"), str):
            raise InputError(f"{where} has {entry.get('wav')!r} as 'wav'")
        for key in ("speaker", "session", "emo"):
            if entry.get(key) is not None:
                # JSON may hold numbers.
                entry[key] = files.composed(str(entry[key]))
    return entries


def describe_split(paths):
    """Describes a split for results.json and the tables of a report.

    Arguments
    ---------
    paths : iterable of str
        The manifests of train, valid and test.

    Returns
    -------
    dict
        "split_sha256", of which utterance is where; of manifests that were
        prepared here also "label_map" and "note".
    """
    paths = list(map(pathlib.Path, paths))
    sha256 = files.text_sha256([sorted(read_entries(path)) for path in paths])
    stamp = paths[0].with_name(STAMP)
    about = files.read_json(stamp, dict) if stamp.is_file() else {}
    stamped = {k: about[k] for k in ("label_map", "note") if about.get(k)}
    return {"split_sha256": sha256, **stamped}
