"""A model for programs: recordings or samples in, probabilities out."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from mlkd_lobes.data.audio import (
    HIGHEST_RATE,
    LARGEST_SAMPLE,
    LOWEST_RATE,
    SAMPLE_RATE,
    equal_parts,
    resample,
)
from mlkd_lobes.deployment import predict as tools
from mlkd_lobes.errors import InputError


class EmotionModel:
    """A model from `load_model`; `labels` are its emotions, in order."""

    def __init__(self, model):
        self.model, self.labels = model, list(model.labels)

    def classify(
        self, audio, sample_rate: int = SAMPLE_RATE, window=tools.WINDOW
    ) -> dict[str, float]:
        """The probability of every emotion in a recording or in samples.

        audio: a path; or an array [time] or [time, channels] in floats within
        ±1, at `sample_rate` in Hz. Longer than `window` seconds: the mean over
        windows of equal length. Raises InputError for audio that cannot be used.
        """
        if isinstance(audio, np.ndarray):
            found = self._windows(audio, sample_rate, window)
        else:
            parts = tools.find_parts([audio])
            found = (w for part in parts for w in tools.windows(part, window))
        predictions = list(tools.classify(self.model, found, 4 * window))
        mean = np.mean([p.probabilities for p in predictions], axis=0)
        return dict(zip(self.labels, mean.tolist()))

    def predict(self, recordings, **options) -> Iterator[tools.Prediction]:
        """A Prediction per window of recordings, as the command predict has them.

        recordings: files, folders or CSV lists; options: window, hop,
        batch_length in seconds, and report, called for what cannot be read.
        """
        if isinstance(recordings, (str, os.PathLike)):
            recordings = [recordings]
        parts = tools.find_parts(recordings)
        yield from tools.predict(self.model, parts, **options)

    @staticmethod
    def _windows(samples, sample_rate, window):
        """Yields equally long windows of samples, each as (None, waveform)."""
        shape = samples.shape
        if len(shape) not in (1, 2) or not 0 < shape[-1] <= shape[0]:
            raise InputError(
                f"audio: expected samples [time] or [time, channels], not an array "
                f"of shape {samples.shape}"
            )
        if not np.issubdtype(samples.dtype, np.floating):
            raise InputError(
                f"audio: expected floats within ±1, not {samples.dtype}"
            )
        # Not `>`, which is false for NaN.
        if not np.abs(samples).max() <= LARGEST_SAMPLE:
            raise InputError("audio: NaN, infinite or absurd samples")
        mono = samples.reshape(len(samples), -1).mean(1, dtype=np.float32)
        if not LOWEST_RATE <= sample_rate <= HIGHEST_RATE:
            raise InputError(f"sample_rate: {sample_rate} Hz is out of range")
        wav = resample(mono, sample_rate, SAMPLE_RATE)
        if not len(wav):
            raise InputError(f"audio: no sample at {SAMPLE_RATE} Hz")
        parts = equal_parts(0, len(wav), window * SAMPLE_RATE)
        yield from ((None, wav[start:stop]) for start, stop in parts)
