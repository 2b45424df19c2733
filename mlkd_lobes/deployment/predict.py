"""Emotions of recordings: files, folders, globs or a CSV in, a table out.

Recordings are read window by window and answered batch by batch, so memory does
not grow with their length or number. One that cannot be read is named and left
out; the others are answered.
"""

import csv
import glob
import json
import math
import pathlib
import sys
from collections import namedtuple

from mlkd_lobes.errors import InputError
from mlkd_lobes.files import read_csv
from mlkd_lobes.recordings import (
    SAMPLE_RATE,
    AudioError,
    audio_info,
    list_audio,
    read_part,
)

# A time may lie so far behind the end: tables round.
TOLERANCE_SECONDS = 0.02

Part = namedtuple("Part", ["path", "start", "stop"])
Part.__doc__ = (
    """What of a recording is to be judged: seconds, None: its end."""
)

Prediction = namedtuple("Prediction", ["part", "probabilities"])
Prediction.__doc__ = """A part of a recording and a probability per label."""


def find_parts(inputs):
    """What a user asks about.

    Arguments
    ---------
    inputs : sequence of str
        Files, folders (searched through), glob patterns, or CSV files with a
        column `path` (relative to the CSV's folder) and optionally `start` and
        `end` in seconds.

    Returns
    -------
    list of Part
        In the order given.

    Raises
    ------
    FileNotFoundError
        If a pattern or folder matches nothing.
    mlkd_lobes.errors.InputError
        If a CSV is malformed.
    """
    parts = []
    for name in inputs:
        path = pathlib.Path(name)
        if path.is_dir():
            found = [Part(p, 0.0, None) for p in list_audio(path)]
        elif path.suffix.lower() == ".csv":
            found = list(_listed(path))
        elif path.exists() or not glob.has_magic(name):
            found = [Part(path, 0.0, None)]
        else:
            names = sorted(glob.glob(name, recursive=True))
            paths = [p for p in map(pathlib.Path, names) if not p.is_dir()]
            found = [Part(p, 0.0, None) for p in paths]
        if not found:
            raise FileNotFoundError(f"{name}: no audio there")
        parts += found
    return parts


def _listed(path):
    """The parts that a CSV lists."""
    for row in read_csv(path, ["path"]):
        try:
            start = float(row.get("start") or 0)
            stop = float(row["end"]) if row.get("end") else None
        except ValueError:
            start = stop = math.nan
        if not all(map(math.isfinite, (start, stop or 0))):
            raise InputError(
                f"{path}, {row['path']}: start {row.get('start')!r} and end "
                f"{row.get('end')!r} are no seconds"
            )
        yield Part(path.parent / row["path"], start, stop)


def windows(part, longest):
    """Equal windows of a part, none longer than a limit.

    Arguments
    ---------
    part : Part
        Of a recording.
    longest : float
        Seconds.

    Yields
    ------
    part : Part
        With `stop` in seconds.
    wav : numpy.ndarray
        Waveform [time] at 16 kHz.

    Raises
    ------
    mlkd_lobes.recordings.AudioError
        If the recording cannot be read there.
    """
    info = audio_info(part.path)
    rate = info.sample_rate
    first = round(part.start * rate)
    last = info.frames if part.stop is None else round(part.stop * rate)
    if last <= info.frames + TOLERANCE_SECONDS * rate:
        last = min(last, info.frames)
    if not 0 <= first < last <= info.frames:
        raise AudioError(
            f"{part.path}: start {part.start} and end {part.stop} bound no "
            f"part of its {info.duration:.3f} s"
        )
    count = math.ceil((last - first) / rate / longest)
    for i in range(count):
        start = first + (last - first) * i // count
        stop = first + (last - first) * (i + 1) // count
        wav = read_part(part.path, start, stop)
        yield Part(part.path, start / rate, stop / rate), wav


def predict(model, parts, window=15.0, batch_length=60.0, report=print):
    """Probabilities of every part, window by window.

    Arguments
    ---------
    model : callable
        From `mlkd_lobes.deployment.backends.open_model`.
    parts : iterable of Part
        What is asked about.
    window : float
        Longest stretch judged at once, in seconds.
    batch_length : float
        Seconds of audio per batch, padding included.
    report : callable
        Told of every recording that cannot be read.

    Yields
    ------
    Prediction
        In the order of the parts.
    """
    limit, batch, longest = batch_length * SAMPLE_RATE, [], 0
    for part, wav in _readable(parts, window, report):
        longest = max(longest, len(wav))
        if batch and longest * (len(batch) + 1) > limit:
            yield from _answer(model, batch)
            batch, longest = [], len(wav)
        batch.append((part, wav))
    if batch:
        yield from _answer(model, batch)


def _readable(parts, window, report):
    for part in parts:
        try:
            yield from windows(part, window)
        except AudioError as error:
            report(str(error))


def _answer(model, batch):
    found, wavs = zip(*batch)
    yield from map(Prediction, found, model(wavs))


def write_predictions(predictions, labels, file, lines=False):
    """Writes predictions as they come.

    Arguments
    ---------
    predictions : iterable of Prediction
        From `predict`.
    labels : sequence of str
        The emotions.
    file : text file
        Where to.
    lines : bool
        JSON lines instead of CSV.
    """
    names = ["path", "start", "end", "emotion"]
    names += [f"p_{label}" for label in labels]
    writer = csv.writer(file, lineterminator="\n")
    if not lines:
        writer.writerow(names)
    for part, probabilities in predictions:
        row = [str(part.path), round(part.start, 3), round(part.stop, 3)]
        row.append(labels[probabilities.argmax()])
        row += [round(float(p), 6) for p in probabilities]
        if lines:
            file.write(json.dumps(dict(zip(names, row))) + "\n")
        else:
            writer.writerow(row)


def show_progress(parts, stream=sys.stderr):
    """Counts recordings on a terminal while they are gone through.

    Arguments
    ---------
    parts : list of Part
        What is gone through.
    stream : text file
        The terminal; anything else gets no count.

    Yields
    ------
    Part
        Each of them.
    """
    shown = stream.isatty()
    for i, part in enumerate(parts, 1):
        if shown:
            stream.write(f"\r{i} of {len(parts)} recordings")
            stream.flush()
        yield part
    if shown:
        stream.write("\n")
