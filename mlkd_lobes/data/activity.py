"""Where a recording is audible: speech between silence, events in noise clips.

Judged by the level of windows of 50 ms, relative to the loudest one.
"""

import functools

import numpy as np

from mlkd_lobes.data.audio import audio_info, frame_bounds, read_frames

WINDOW = 0.05
# Seconds that are kept before and after speech.
SPEECH_MARGIN = 0.05
# Audible: within 40 dB of the recording's loudest 50 ms, above -80 dBFS.
AUDIBLE_RANGE_DB = 40
AUDIBLE_FLOOR = 1e-4
SHORTEST_SEGMENT = 0.2
# Gaps that are closed: in clips of events, and in long recordings, whose pauses
# belong to them.
LONGEST_GAP, LONGEST_PAUSE, LONG_RECORDING = 0.25, 2.0, 30.0


def speech_bounds(path, start=None, stop=None):
    """Where speech begins and ends in a file with silence around it.

    From the first to the last 50 ms whose level is within `AUDIBLE_RANGE_DB` of the
    loudest ones, and `SPEECH_MARGIN` more at both ends. Pauses in between are kept.

    Arguments
    ---------
    path : str or pathlib.Path
        The file; decoded at once.
    start : float, optional
        Where to begin, in seconds; default: the file's beginning.
    stop : float, optional
        Where to end, in seconds; default: the file's end.

    Returns
    -------
    start : float
        In seconds.
    stop : float
        In seconds.

    Raises
    ------
    InputError
        If the file cannot be read.

    Example
    -------
    >>> import soundfile
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> wav = np.zeros(32000)
    >>> wav[8000:16000] = np.sin(np.arange(8000))
    >>> soundfile.write(path, wav, 16000)
    >>> speech_bounds(path)
    (0.45, 1.05)
    """
    first, last, info = frame_bounds(path, start, stop)
    rate = info.sample_rate
    wav = read_frames(path, first, last - first, rate)
    window, margin = max(1, round(WINDOW * rate)), round(SPEECH_MARGIN * rate)
    levels = _levels(wav - wav.mean(), window)
    loud = levels > levels.max() / 10 ** (AUDIBLE_RANGE_DB / 20)
    speech = np.flatnonzero(loud) if loud.any() else [0, len(levels)]
    begin = max(first, first + int(speech[0]) * window - margin)
    end = min(last, first + (int(speech[-1]) + 1) * window + margin)
    return round(begin / rate, 3), round(end / rate, 3)


def _levels(wav, window):
    """RMS of windows; the last one is padded with zeros."""
    padded = np.pad(wav, (0, -len(wav) % window))
    return np.sqrt(np.square(padded).reshape(-1, window).mean(1))


@functools.lru_cache(maxsize=None)
def audible_segments(path):
    """The parts of a recording that hold noise.

    Arguments
    ---------
    path : str or pathlib.Path
        The recording; read in blocks, whatever its length, once per process.

    Returns
    -------
    list of (int, int)
        Start and stop in frames of the file; empty if it is silent.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    info = audio_info(path)
    window = max(1, round(WINDOW * info.sample_rate))
    block, levels = 1200 * window, []
    for start in range(0, info.frames, block):
        n = min(block, info.frames - start)
        wav = read_frames(path, start, n, info.sample_rate)
        levels.append(_levels(wav, window))
    levels = np.concatenate(levels)
    threshold = levels.max() / 10 ** (AUDIBLE_RANGE_DB / 20)
    audible = levels > max(threshold, AUDIBLE_FLOOR)
    return _runs(audible, window, info)


def _runs(audible, window, info):
    """Runs of audible windows, short gaps closed, short runs left out."""
    long = info.duration > LONG_RECORDING
    runs, gap = [], LONGEST_PAUSE if long else LONGEST_GAP
    for i in np.flatnonzero(audible).tolist():
        if runs and (i - runs[-1][1]) * WINDOW <= gap:
            runs[-1][1] = i + 1
        else:
            runs.append([i, i + 1])
    shortest = min(SHORTEST_SEGMENT, info.duration / 2) * info.sample_rate
    bounds = [(a * window, min(b * window, info.frames)) for a, b in runs]
    return [(a, b) for a, b in bounds if b - a >= shortest]
