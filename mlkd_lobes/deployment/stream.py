"""Audio from standard input, window by window, as it comes."""

from __future__ import annotations

import itertools
import queue
import threading

import numpy as np
import soundfile

from mlkd_lobes.data.audio import (
    HIGHEST_RATE,
    LARGEST_SAMPLE,
    LOWEST_RATE,
    SAMPLE_RATE,
    resample,
)
from mlkd_lobes.deployment.predict import Part
from mlkd_lobes.errors import InputError

NAME = "-"


def read_stream(window: float, hop: float, raw_rate=None, descriptor=0):
    """Yields, every `hop` seconds, the last `window` seconds as Part and waveform.

    raw_rate: of samples without a header (16 bits, little-endian, one channel), in
    Hz; else WAV or AU. In memory are a window and two hops. A reader that is too
    slow makes the writer wait: nothing is dropped here.
    """
    blocks = queue.Queue(maxsize=1)
    arguments = descriptor, raw_rate, hop, blocks
    # In a thread of its own, since Ctrl-C would wait until a read ends.
    threading.Thread(target=_read, args=arguments, daemon=True).start()
    kept, n_samples = np.zeros(0, np.float32), 0
    while (item := blocks.get()) is not None:
        if isinstance(item, Exception):
            raise item
        rate, block = item
        # Not `>`, which is false for NaN.
        if not np.abs(block).max() <= LARGEST_SAMPLE:
            raise InputError(f"{NAME}: NaN, infinite or absurd samples")
        kept = np.concatenate([kept, block])[-round(window * rate) :]
        n_samples += len(block)
        stop = n_samples / rate
        part = Part(NAME, stop - len(kept) / rate, stop)
        yield part, resample(kept, rate, SAMPLE_RATE)
    if not n_samples:
        raise InputError(f"{NAME}: no samples")


def _read(descriptor, raw_rate, hop, blocks):
    """Puts rate and samples of every hop into a queue, at the end None."""
    try:
        with _open(descriptor, raw_rate) as sound:
            rate = sound.samplerate
            if sound.format in ("MP3", "RF64"):  # read wrongly from a pipe
                raise InputError(f"{NAME}: expected WAV, not {sound.format}")
            if not LOWEST_RATE <= rate <= HIGHEST_RATE:
                raise InputError(f"{NAME}: a sampling rate of {rate} Hz")
            # As for files, hops are rounded one by one, so that none adds up.
            ends = (round(hop * rate * i) for i in itertools.count(1))
            start, options = 0, {"dtype": "float32", "always_2d": True}
            for end in ends:
                block = sound.read(max(1, end - start), **options)
                if not len(block):
                    break
                start += len(block)
                blocks.put((rate, block.mean(1)))
        blocks.put(None)
    except (InputError, RuntimeError, OSError) as error:
        blocks.put(error)


def _open(descriptor, raw_rate):
    options = {"closefd": False}
    if raw_rate:
        options.update(samplerate=raw_rate, channels=1, endian="LITTLE")
        options.update(format="RAW", subtype="PCM_16")
    try:
        return soundfile.SoundFile(descriptor, **options)
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"{NAME}: standard input is no WAV ({error}); of samples without a "
            "header give the rate: --raw=16000"
        )
