"""Manifests: what every corpus preparation of this recipe ends in.

train.json, valid.json and test.json hold one entry per utterance: `wav` (below
{data_root}), `start` and `stop` in seconds or null, `length` in seconds, `emo`
(null: unlabelled), `speaker`, `session`, `gender`. Beside them,
preparation.json says from what they were made, so that another fold, protocol
or corpus never meets manifests that are not its own.
"""

import json
import os
import pathlib
from collections import Counter

from mlkd_lobes.audio import AudioError, audio_info, read_audio
from mlkd_lobes.evaluation.leakage import refuse_overlaps
from mlkd_lobes.files import write_json
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

SPLITS = ("train", "valid", "test")
STAMP = "preparation.json"
# Most messages of one kind that an error lists.
MOST_LISTED = 10


class CorpusError(ValueError):
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
    """Decodes every utterance once and sets its `length`.

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
    problems = []
    for entry in entries.values():
        path = audio_path(entry, data_folder)
        try:
            wav = read_audio(path, entry["start"], entry["stop"])
            entry["length"] = round(len(wav) / 16000, 4)
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
    """A `wav` value for a path below the data folder.

    Arguments
    ---------
    path : str
        Relative path.

    Returns
    -------
    str
        With {data_root} in front and braces of the path itself escaped.
    """
    escaped = str(path).replace("{", "{{").replace("}", "}}")
    return "{data_root}/" + escaped


def listing(what, problems):
    """A count and the first of many messages.

    Arguments
    ---------
    what : str
        What they are about.
    problems : sequence of str
        The messages.

    Returns
    -------
    str
        Text of several lines.
    """
    lines = [f"{len(problems)} {what}:"]
    lines += [f"  {problem}" for problem in problems[:MOST_LISTED]]
    if len(problems) > MOST_LISTED:
        lines.append(f"  … and {len(problems) - MOST_LISTED} more")
    return "\n".join(lines)


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
    declared : collection of (str, str)
        Pairs of splits whose overlap the protocol declares.

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
