"""What a single audio file sounds like, and what is wrong with it."""

import hashlib
import math
from collections import namedtuple

from mlkd_lobes.audio import read_audio
from mlkd_lobes.recordings import audio_info

# Below this RMS (-80 dBFS) a file is silent, at this peak a sample is clipped.
SILENT, CLIPPED = 1e-4, 0.999
MOST_CLIPPED, MOST_OFFSET = 0.01, 0.05
SHORT, LONG = 0.5, 30.0
# So many at a time are in memory.
BLOCK_SECONDS = 60.0

Finding = namedtuple("Finding", ["level", "where", "text"])
Finding.__doc__ = """ "error" or "warning", the file or split, what it is."""


def examine_audio(path, start=None, stop=None):
    """What a file sounds like.

    Arguments
    ---------
    path : str
        The file.
    start : float, optional
        Beginning in seconds.
    stop : float, optional
        End in seconds.

    Returns
    -------
    dict
        seconds, sample_rate, channels, level (RMS in dBFS), clipped (share of
        samples), offset, audio (hash of the samples).

    Raises
    ------
    AudioError
        If it cannot be read.
    """
    info, samples = audio_info(path), hashlib.sha256()
    n, power, clipped, total = 0, 0.0, 0, 0.0
    for wav in _blocks(path, start, stop, info):
        samples.update(wav.numpy().tobytes())
        n += len(wav)
        power += wav.double().square().sum().item()
        clipped += (wav.abs() >= CLIPPED).sum().item()
        total += wav.double().sum().item()
    return {
        "seconds": n / 16000,
        "sample_rate": info.sample_rate,
        "channels": info.channels,
        "level": 20 * math.log10(max(math.sqrt(power / n), 1e-9)),
        "clipped": clipped / n,
        "offset": abs(total / n),
        "audio": samples.hexdigest(),
    }


def _blocks(path, start, stop, info):
    """A recording piece by piece: some last for hours."""
    edges = [start or 0.0]
    last = info.duration if stop is None else min(stop, info.duration)
    # From nowhere, as any other wrong time, it is refused as a whole.
    while edges[0] >= 0 and last - edges[-1] > 2 * BLOCK_SECONDS:
        edges.append(edges[-1] + BLOCK_SECONDS)
    for begin, end in zip(edges, [*edges[1:], stop]):
        yield read_audio(path, begin, end)


def audio_findings(name, facts, silent=SILENT):
    """What is wrong with a file that can be read.

    Arguments
    ---------
    name : str
        What to call it.
    facts : dict
        From `examine_audio`.
    silent : float
        The RMS below which it is silence.

    Returns
    -------
    list of Finding
        None for a good one.

    Example
    -------
    >>> facts = {"seconds": 2.0, "sample_rate": 16000, "level": -120.0,
    ...          "clipped": 0.0, "offset": 0.0}
    >>> [(f.level, f.text) for f in audio_findings("a.wav", facts)]
    [('error', 'nothing but silence (-120 dBFS)')]
    """
    found = []
    if facts["level"] < 20 * math.log10(silent):
        text = f"nothing but silence ({facts['level']:.0f} dBFS)"
        found.append(Finding("error", name, text))
    for wrong, text in (
        (facts["sample_rate"] < 16000, f"only {facts['sample_rate']} Hz"),
        (facts["clipped"] > MOST_CLIPPED, f"{facts['clipped']:.0%} clipped"),
        (facts["offset"] > MOST_OFFSET, f"offset {facts['offset']:.2f}"),
        (facts["seconds"] < SHORT, f"only {facts['seconds']:.2f} s"),
        (facts["seconds"] > LONG, f"as long as {facts['seconds']:.0f} s"),
    ):
        if wrong:
            found.append(Finding("warning", name, text))
    return found
