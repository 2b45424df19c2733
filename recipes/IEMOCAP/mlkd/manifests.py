"""Manifests: what every corpus preparation of this recipe ends in.

train.json, valid.json and test.json hold one entry per utterance: `wav` (below
{data_root}), `start` and `stop` in seconds or null, `length` in seconds, `emo`
(null: unlabelled), `speaker`, `session`, `gender`, `text`, and `sha256` of the file, so that a
changed file changes the manifest. Beside them, preparation.json says from what they were made, so that another fold, protocol
or corpus never meets manifests that are not its own.
"""

import json
import os
import pathlib
from collections import Counter, namedtuple

from mlkd_lobes.audio import read_audio
from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.leakage import refuse_overlaps
from mlkd_lobes.files import file_sha256, write_json
from mlkd_lobes.recordings import AudioError, audio_info
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

SPLITS = ("train", "valid", "test")
UNLABELLED = "unlabelled"
STAMP = "preparation.json"
# Most messages of one kind that an error lists.
MOST_LISTED = 10


Protocol = namedtuple("Protocol", ["split", "declared", "n_folds"])
Protocol.__doc__ = """How a corpus is split, and which overlaps that declares.

`split` makes train, valid and test of entries and a fold; `declared` lists (key,
split, split) that may share values, e.g. ("speaker", "train", "valid");
`n_folds` is None where a setting says it.
"""


class CorpusError(InputError):
    """A corpus that is not as expected; the message says what differs."""


def is_prepared(save_folder, stamp, suffix=".json"):
    """Whether the files of exactly this preparation are there.

    Arguments
    ---------
    save_folder : str or pathlib.Path
        Where they are kept.
    stamp : dict
        From what they would be made.
    suffix : str
        Of the files per split: ".json" for speech, ".csv" for noise.

    Returns
    -------
    bool
        True if nothing needs to be done.
    """
    folder = pathlib.Path(save_folder)
    try:
        found = json.loads((folder / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    complete = all((folder / (name + suffix)).is_file() for name in SPLITS)
    # Through JSON, so that tuples and lists compare equal.
    return complete and found == json.loads(json.dumps(stamp))


def file_states(paths):
    """Size and time of files, to notice when one is exchanged.

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


def measure(entries, data_folder):
    """Decodes every utterance once; sets its `length` and `sha256`.

    Arguments
    ---------
    entries : dict of str to dict
        Entries by ID, with `wav`, `start` and `stop`.
    data_folder : str
        What {data_root} stands for.

    Raises
    ------
    CorpusError
        Naming every file that cannot be used, and why.
    """
    # The file's own bytes: decoded samples differ by a bit between machines.
    problems, hashes = [], {}
    for entry in entries.values():
        path = audio_path(entry, data_folder)
        try:
            wav = read_audio(path, entry["start"], entry["stop"])
            entry["length"] = round(len(wav) / 16000, 4)
            if path not in hashes:
                hashes[path] = file_sha256(path)[:16]
            entry["sha256"] = hashes[path]
        except AudioError as error:
            problems.append(str(error))
            continue
        if not wav.any():
            logger.warning(f"{path}: nothing but silence")
        if audio_info(path).sample_rate < 16000:
            logger.warning(f"{path}: below 16 kHz, half of the band is empty")
    if problems:
        raise CorpusError(listing("unusable audio files", problems))


def audio_path(entry, data_folder):
    """Path of an entry's audio file.

    Arguments
    ---------
    entry : dict
        With `wav`.
    data_folder : str
        What {data_root} stands for.

    Returns
    -------
    str
        The path.
    """
    return entry["wav"].format_map({"data_root": str(data_folder)})


def relative_wav(path):
    """A `wav` value for a path.

    Arguments
    ---------
    path : str
        Below the data folder, or absolute.

    Returns
    -------
    str
        With {data_root} in front of a relative one; braces are escaped.
    """
    escaped = str(path).replace("{", "{{").replace("}", "}}")
    return escaped if os.path.isabs(path) else "{data_root}/" + escaped


def listing(what, problems, most=MOST_LISTED):
    """A count and the first of many messages.

    Arguments
    ---------
    what : str
        What they are about.
    problems : sequence of str
        The messages.
    most : int
        How many are shown.

    Returns
    -------
    str
        Text of several lines.
    """
    lines = [f"{len(problems)} {what}:"]
    lines += [f"  {problem}" for problem in problems[:most]]
    if len(problems) > most:
        lines.append(f"  … and {len(problems) - most} more")
    return "\n".join(lines)


def check_label_map(label_map, labels):
    """Refuses a mapping to what is no class.

    Arguments
    ---------
    label_map : dict
        The corpus' emotions to one of the classes, to null (left out) or to
        "unlabelled".
    labels : sequence of str
        The classes.

    Raises
    ------
    CorpusError
        Naming emotion and label.
    """
    for emotion, label in label_map.items():
        if label not in (*labels, UNLABELLED, None):
            raise CorpusError(
                f"label_map: {emotion} maps to '{label}'; expected one of "
                f"{', '.join(labels)}, {UNLABELLED} or null"
            )


def split_entries(entries, group, test, valid=None):
    """Splits by group; unlabelled utterances stay in training alone.

    Arguments
    ---------
    entries : dict of str to dict
        Entries by ID.
    group : callable
        Takes an entry, gives its group.
    test : object
        The group that is tested.
    valid : object
        The group that validates; None: nobody yet.

    Returns
    -------
    dict
        train, valid and test, each entries by ID, in the order of IDs.

    Example
    -------
    >>> entries = {n: {"speaker": n, "emo": "neu"} for n in "abcd"}
    >>> splits = split_entries(entries, lambda e: e["speaker"], "b", "c")
    >>> {name: list(split) for name, split in splits.items()}
    {'train': ['a', 'd'], 'valid': ['c'], 'test': ['b']}
    """
    splits = {name: {} for name in SPLITS}
    for name in sorted(entries):
        entry = entries[name]
        role = {test: "test", valid: "valid"}.get(group(entry), "train")
        if entry["emo"] or role == "train":
            splits[role][name] = entry
    return splits


def write_manifests(save_folder, splits, labels, stamp, declared=()):
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
        From what the splits were made.
    declared : collection of (str, str, str)
        Overlaps that the protocol declares, see `Protocol`.

    Raises
    ------
    CorpusError
        If a split is empty or a class is missing from training.
    mlkd_lobes.evaluation.leakage.LeakageError
        If splits share speakers, sessions or files they must not.
    """
    entries = {name: list(splits[name].values()) for name in SPLITS}
    for name, rows in entries.items():
        if not any(row["emo"] for row in rows):
            raise CorpusError(f"the {name} split has no labelled utterance")
    missing = set(labels) - {row["emo"] for row in entries["train"]}
    if missing:
        raise CorpusError(
            f"no training utterance is labelled {', '.join(sorted(missing))}"
        )
    refuse_overlaps(entries, ["speaker", "session", "wav"], declared)
    folder = pathlib.Path(save_folder)
    (folder / STAMP).unlink(missing_ok=True)
    for name in SPLITS:
        write_json(folder / f"{name}.json", splits[name])
    write_json(folder / STAMP, stamp)
    logger.info("Corpus: " + describe(entries, labels))


def describe(entries, labels):
    """Counts per split, for the log.

    Arguments
    ---------
    entries : dict of str to list of dict
        Entries per split.
    labels : sequence of str
        The classes.

    Returns
    -------
    str
        One line per split.
    """
    lines = []
    for name, rows in entries.items():
        counts = Counter(row["emo"] or "unlabelled" for row in rows)
        speakers = sorted({row["speaker"] for row in rows})
        shown = [f"{key} {counts[key]}" for key in [*labels, "unlabelled"]]
        lines.append(
            f"{name} {len(rows)} utterances ({', '.join(shown)}), "
            f"speakers {', '.join(speakers)}"
        )
    return "\n".join(lines)
