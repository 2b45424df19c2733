"""Audio from standard input, window by window, as it comes."""

from __future__ import annotations

import contextlib

import numpy as np
import soundfile
import soxr

from mlkd_lobes.data.audio import (
    HIGHEST_RATE,
    LARGEST_SAMPLE,
    LOWEST_RATE,
    SAMPLE_RATE,
)
from mlkd_lobes.deployment.predict import Part
from mlkd_lobes.errors import InputError

NAME = "-"


def read_stream(window: float, hop: float, raw_rate=None, descriptor=0):
    """Yields, every `hop` seconds, the last `window` seconds as Part and waveform.

    raw_rate: of samples without a header (16 bits, little-endian, one channel), in
    Hz; else WAV or AU. In memory is no more than a window. A reader that is too
    slow makes the writer wait: nothing is dropped here.
    """
    with _open(descriptor, raw_rate) as sound:
        rate, seconds, kept = sound.samplerate, 0.0, np.zeros(0, np.float32)
        if not LOWEST_RATE <= rate <= HIGHEST_RATE:
            raise InputError(f"{NAME}: a sampling rate of {rate} Hz")
        resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1)
        n = max(1, round(hop * rate))
        last = False
        while not last:
            block = sound.read(n, dtype="float32", always_2d=True).mean(1)
            last = len(block) < n
            seconds += len(block) / rate
            # Not `>`, which is false for NaN.
            if len(block) and not np.abs(block).max() <= LARGEST_SAMPLE:
                raise InputError(f"{NAME}: NaN, infinite or absurd samples")
            new = resampler.resample_chunk(block, last=last)
            kept = np.concatenate([kept, new])[-round(window * SAMPLE_RATE) :]
            if len(block):
                yield Part(NAME, max(0.0, seconds - window), seconds), kept
    if not seconds:
        raise InputError(f"{NAME}: no samples")


@contextlib.contextmanager
def _open(descriptor, raw_rate):
    options = {"closefd": False}
    if raw_rate:
        options.update(samplerate=raw_rate, channels=1, endian="LITTLE")
        options.update(format="RAW", subtype="PCM_16")
    try:
        sound = soundfile.SoundFile(descriptor, **options)
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"{NAME}: standard input is no WAV ({error}); of samples without a "
            "header give the rate: --raw=16000"
        )
    with sound:
        yield sound
