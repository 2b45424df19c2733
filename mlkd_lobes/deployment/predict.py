"""Emotions of recordings: files, folders or a CSV in, a table out.

Recordings are read window by window and classified in batches, so memory does not
grow with their length or number. One that cannot be read is named and left out.
"""

from __future__ import annotations

import json
import math
import pathlib
from collections import namedtuple

from mlkd_lobes.data import audio
from mlkd_lobes.errors import InputError
from mlkd_lobes.files import csv_writer, read_csv, spelled

Part = namedtuple("Part", ["path", "start", "stop"])
Part.__doc__ = """A part of a recording, in seconds; stop None: its end."""

Prediction = namedtuple("Prediction", ["part", "probabilities"])
Prediction.__doc__ = """A part of a recording, and a probability per label."""


def find_parts(inputs) -> list[Part]:
    """The recordings named by a user, in order.

    inputs: files, folders (searched through), or CSV files with a column `path`
    (relative to the CSV's folder) and optionally `start` and `end` in seconds.
    """
    parts = []
    for name in inputs:
        path = pathlib.Path(name)
        if path.suffix.lower() == ".csv" and not path.is_dir():
            found = list(_listed(path))
        else:
            paths = audio.list_audio(path) if path.is_dir() else [path]
            found = [Part(p, 0.0, None) for p in paths]
        if not found:
            raise FileNotFoundError(f"{name}: no audio there")
        parts += found
    return parts


def _listed(path):
    """The parts that a CSV lists."""
    for row in read_csv(path, ["path"]):
        where = f"{path}, {row['path']}"
        start = audio.to_seconds(row.get("start") or 0, f"{where}: start")
        stop = audio.to_seconds(row.get("end"), f"{where}: end")
        yield Part(path.parent / spelled(path.parent, row["path"]), start, stop)


def windows(part: Part, longest: float):
    """Yields equal windows of a part, none longer than a limit in seconds, and
    their waveforms [time] at 16 kHz."""
    first, last, info = audio.frame_bounds(*part)
    rate = info.sample_rate
    count = math.ceil((last - first) / rate / longest)
    edges = [first + (last - first) * i // count for i in range(count + 1)]
    for start, stop in zip(edges, edges[1:]):
        wav = audio.read_frames(part.path, start, stop - start)
        yield Part(part.path, start / rate, stop / rate), wav


def predict(model, parts, window=15.0, batch_length=60.0, report=print):
    """Yields a Prediction per window, in the order of the parts.

    window: longest window in seconds; batch_length: seconds of audio per batch,
    padding included; report: called for every recording that cannot be read.
    """
    limit, batch, longest = batch_length * audio.SAMPLE_RATE, [], 0
    for part, wav in _readable(parts, window, report):
        longest = max(longest, len(wav))
        if batch and longest * (len(batch) + 1) > limit:
            yield from _classify(model, batch)
            batch, longest = [], len(wav)
        batch.append((part, wav))
    if batch:
        yield from _classify(model, batch)


def _readable(parts, window, report):
    for part in parts:
        try:
            yield from windows(part, window)
        except InputError as error:
            report(str(error))


def _classify(model, batch):
    parts, wavs = zip(*batch)
    yield from map(Prediction, parts, model(wavs))


def write_predictions(predictions, labels, file, lines=False) -> None:
    """Writes predictions as they come, as CSV or JSON lines."""
    names = ["path", "start", "end", "emotion"]
    names += [f"p_{label}" for label in labels]
    write_row = csv_writer(file)
    if not lines:
        write_row(names)
    for part, probabilities in predictions:
        row = [str(part.path), round(part.start, 3), round(part.stop, 3)]
        row.append(labels[probabilities.argmax()])
        row += [round(float(p), 6) for p in probabilities]
        if lines:
            file.write(json.dumps(dict(zip(names, row))) + "\n")
        else:
            write_row(row)
