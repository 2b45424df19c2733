"""Emotions of recordings: files, folders or a CSV in, a table out.

Recordings are read window by window and classified in batches, so memory does not
grow with their length or number. One that cannot be read is named and left out.
"""

from __future__ import annotations

import itertools
import json
import math
import pathlib
from collections import namedtuple

from mlkd_lobes.data import audio
from mlkd_lobes.errors import InputError
from mlkd_lobes.files import read_csv, spelled, write_row


class Part(namedtuple("Part", ["path", "start", "stop"])):
    """A part of a recording, in seconds; stop None: its end."""


class Prediction(namedtuple("Prediction", ["part", "probabilities", "speech"])):
    """A part of a recording, a probability per label, and the
    share of it that is speech, None if that was not measured."""


# Longest windows in seconds, side by side and overlapping.
WINDOW, SLIDING_WINDOW = 15.0, 4.0
# Of a window; below it is taken for one without speech.
MIN_SPEECH = 0.1


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


def windows(part: Part, longest: float, hop: float | None = None):
    """Yields the windows of a part and their waveforms [time] at 16 kHz.

    Equal windows, none longer than a limit in seconds; or, every `hop` seconds, a
    window of the last `longest` ones.
    """
    first, last, info = audio.frame_bounds(*part)
    rate = info.sample_rate
    if hop:
        bounds = sliding(last - first, round(longest * rate), hop * rate)
    else:
        bounds = audio.equal_parts(0, last - first, longest * rate)
    for start, stop in bounds:
        wav = audio.read_frames(part.path, first + start, stop - start)
        times = ((first + edge) / rate for edge in (start, stop))
        yield Part(part.path, *times), wav


def sliding(n: int, longest: int, hop: float):
    """Start and stop of the windows that end at every hop, and at the end.

    >>> list(sliding(10, 4, 3))
    [(0, 3), (2, 6), (5, 9), (6, 10)]
    """
    ends = (round(hop * i) for i in range(1, math.ceil(n / hop)))
    for stop in itertools.chain((end for end in ends if end < n), [n]):
        yield max(0, stop - longest), stop


def predict(
    model,
    parts,
    window=None,
    batch_length=60.0,
    report=print,
    hop=None,
    speech=None,
):
    """Yields a Prediction per window, in the order of the parts.

    window: longest window in seconds, 15 or, with a hop, 4; batch_length: seconds of
    audio per batch, padding included; report: called for every recording that cannot be read; hop:
    seconds between sliding windows; speech: a function from `load_vad`.
    """
    if window is None:
        window = SLIDING_WINDOW if hop else WINDOW
    found = _readable(parts, window, hop, report)
    yield from classify(model, found, batch_length, speech)


def classify(model, found, batch_length=0.0, speech=None):
    """Yields a Prediction per part and waveform, in batches of `batch_length` seconds."""
    limit, batch, longest = batch_length * audio.SAMPLE_RATE, [], 0
    for part, wav in found:
        longest = max(longest, len(wav))
        if batch and longest * (len(batch) + 1) > limit:
            yield from _classify(model, batch, speech)
            batch, longest = [], len(wav)
        batch.append((part, wav))
        # At once, where no other one would fit: a stream waits for its row.
        if longest * (len(batch) + 1) > limit:
            yield from _classify(model, batch, speech)
            batch, longest = [], 0
    if batch:
        yield from _classify(model, batch, speech)


def _readable(parts, window, hop, report):
    for part in parts:
        try:
            yield from windows(part, window, hop)
        except InputError as error:
            report(str(error))


def _classify(model, batch, speech):
    parts, wavs = zip(*batch)
    shares = [speech(wav) if speech else None for wav in wavs]
    yield from map(Prediction, parts, model(wavs), shares)


def load_vad():
    """A function that gives the share of speech of a waveform [time] at 16 kHz."""
    import torch

    threads = torch.get_num_threads()
    from silero_vad import get_speech_timestamps, load_silero_vad

    # Importing silero_vad limits PyTorch to one thread.
    torch.set_num_threads(threads)
    model = load_silero_vad()

    def share(wav):
        """Of the samples in speech, by Silero's detector."""
        found = get_speech_timestamps(torch.from_numpy(wav), model)
        return sum(part["end"] - part["start"] for part in found) / len(wav)

    return share


def emotion_of(prediction, labels, min_confidence=0.0) -> str | None:
    """The label of a window; None without speech, or if it is too uncertain."""
    probabilities, speech = prediction.probabilities, prediction.speech
    silent = speech is not None and speech < MIN_SPEECH
    if silent or probabilities.max() < min_confidence:
        return None
    return labels[probabilities.argmax()]


def write_predictions(
    predictions, labels, file, lines=False, min_confidence=0.0, vad=False
) -> None:
    """Writes predictions as they come, as CSV or JSON lines."""
    names = ["path", "start", "end", "emotion"]
    names += [f"p_{label}" for label in labels] + ["speech"] * vad
    if not lines:
        write_row(file, names)
    for prediction in predictions:
        part, probabilities, speech = prediction
        row = [str(part.path), round(part.start, 3), round(part.stop, 3)]
        row.append(emotion_of(prediction, labels, min_confidence))
        row += [round(float(p), 6) for p in probabilities]
        row += [round(speech, 3)] if vad else []
        if lines:
            file.write(json.dumps(dict(zip(names, row))) + "\n")
        else:
            write_row(file, row)
        # A stream's reader waits for it.
        file.flush()
