"""What can be heard of a noise recording: silence is no noise."""

import pathlib

import torch

from mlkd_lobes.audio import read_frames
from mlkd_lobes.errors import InputError
from mlkd_lobes.recordings import audio_info

# Audible: within 40 dB of the recording's loudest 50 ms, above -80 dBFS.
WINDOW = 0.05
AUDIBLE_RANGE_DB = 40
AUDIBLE_FLOOR = 1e-4
SHORTEST_SEGMENT = 0.2
# Closed gaps: of clips of events, and of long recordings, whose pauses are a
# part of them.
LONGEST_GAP, LONGEST_PAUSE, LONG_RECORDING = 0.25, 2.0, 30.0


def audible_segments(path):
    """The parts of a recording that hold noise.

    Arguments
    ---------
    path : str or pathlib.Path
        The recording; read in blocks, whatever its length.

    Returns
    -------
    list of (int, int)
        Start and stop in frames of the file; empty if it is silent.

    Raises
    ------
    AudioError
        If it cannot be read.
    """
    info = audio_info(path)
    window = max(1, round(WINDOW * info.sample_rate))
    block, levels = 1200 * window, []
    for start in range(0, info.frames, block):
        n = min(block, info.frames - start)
        wav = read_frames(path, start, n, info.sample_rate)
        padded = torch.nn.functional.pad(wav, (0, -len(wav) % window))
        levels.append(padded.view(-1, window).square().mean(1).sqrt())
    levels = torch.cat(levels)
    threshold = levels.max() / 10 ** (AUDIBLE_RANGE_DB / 20)
    audible = levels > max(threshold.item(), AUDIBLE_FLOOR)
    return _runs(audible.tolist(), window, info)


def _runs(audible, window, info):
    """Runs of audible windows, short gaps closed, short runs left out."""
    long = info.duration > LONG_RECORDING
    runs, gap = [], LONGEST_PAUSE if long else LONGEST_GAP
    for i, loud in enumerate(audible):
        if not loud:
            continue
        if runs and (i - runs[-1][1]) * WINDOW <= gap:
            runs[-1][1] = i + 1
        else:
            runs.append([i, i + 1])
    shortest = min(SHORTEST_SEGMENT, info.duration / 2) * info.sample_rate
    bounds = [(a * window, min(b * window, info.frames)) for a, b in runs]
    return [(a, b) for a, b in bounds if b - a >= shortest]


def leave_silence_out(noise, prepared):
    """Of a noise CSV that the user brought, only what is heard is drawn.

    Arguments
    ---------
    noise : mlkd_lobes.noise.KeyedAddNoise
        Its types are changed in place.
    prepared : str or pathlib.Path
        Where CSVs of our own lie; those hold nothing silent.
    """
    csv = pathlib.Path(noise.csv_file)
    if csv.resolve().parent != pathlib.Path(prepared).resolve():
        noise.types = audible_noise(noise.csv_file, noise.types)


def audible_noise(csv, types):
    """What can be heard of a noise CSV that the user brought.

    Arguments
    ---------
    csv : str
        Its name, for the message.
    types : dict
        Its content, from `mlkd_lobes.noise.read_noise_csv`.

    Returns
    -------
    dict
        The same types and recordings, their segments without silence; a draw
        that met nothing else would end a training within an epoch.

    Raises
    ------
    mlkd_lobes.errors.InputError
        Naming a recording that is silent or cannot be read.
    """
    return {
        kind: {
            path: _heard(csv, path, segments)
            for path, segments in recordings.items()
        }
        for kind, recordings in types.items()
    }


def _heard(csv, path, segments):
    """The audible parts of some segments of a recording."""
    audible, heard = audible_segments(path), []
    for segment in segments:
        length = segment.stop - segment.start
        shortest = min(SHORTEST_SEGMENT * segment.rate, length / 2)
        parts = [
            (max(start, segment.start), min(stop, segment.stop))
            for start, stop in audible
        ]
        parts = [(a, b) for a, b in parts if b - a >= shortest]
        if not parts:
            raise InputError(
                f"{csv}: {path} is silent from frame {segment.start} to "
                f"{segment.stop}; leave that out"
            )
        heard += [segment._replace(start=a, stop=b) for a, b in parts]
    return heard
