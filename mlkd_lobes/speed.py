"""Speed perturbation whose every draw is a function of what it is for.

Speech at another speed is speech of another voice: a few speakers become more.
A teacher says of it what it says of speech it does not know by heart.
"""

import math

from mlkd_lobes.errors import InputError
from mlkd_lobes.files import stable_seed
from mlkd_lobes.recordings import MOST_FILTERS
from speechbrain.augment.time_domain import SpeedPerturb

# Beyond these, in percent, emotions are no longer what they were.
LOWEST, HIGHEST = 50, 200


class KeyedSpeedPerturb(SpeedPerturb):
    """SpeechBrain's `SpeedPerturb` with draws keyed by seed, epoch, utterance.

    Arguments
    ---------
    orig_freq : int
        Sampling rate in Hz.
    speeds : sequence of float
        Speeds in percent, each as likely as the others; [100]: none but the
        recording's own.
    seed : int
        Part of every draw's key.

    Example
    -------
    >>> import torch
    >>> perturb = KeyedSpeedPerturb(16000, speeds=[80])
    >>> faster, speed = perturb(torch.rand(8000), "utterance")
    >>> faster.shape, speed
    (torch.Size([10000]), 80)
    """

    def __init__(self, orig_freq, speeds=(100,), seed=0):
        if not isinstance(speeds, (list, tuple)) or not speeds:
            raise InputError(f"speeds: {speeds!r} is no list of percentages")
        for speed in speeds:
            number = isinstance(speed, (int, float)) and speed is not True
            if not number or not LOWEST <= speed <= HIGHEST:
                raise InputError(
                    f"speeds: {speed!r} is no percentage from {LOWEST} to "
                    f"{HIGHEST}"
                )
            # Whole ones are exact ratios with small filters.
            other = round(orig_freq * 100 / speed)
            filters = orig_freq * other / math.gcd(orig_freq, other) ** 2
            if speed != round(speed) and filters > MOST_FILTERS:
                raise InputError(
                    f"speeds: {speed!r} would need filters of "
                    f"{filters * 4 / 2**20:.0f} MiB; take a whole percentage"
                )
        super().__init__(orig_freq, list(speeds))
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch):
        """Makes the draws those of an epoch; call it before loaders start.

        Arguments
        ---------
        epoch : int
            The epoch that begins.
        """
        self.epoch = epoch

    def forward(self, wav, utterance):
        """An utterance at the speed of the current epoch.

        Arguments
        ---------
        wav : torch.Tensor
            Waveform [time].
        utterance : str
            Its ID.

        Returns
        -------
        wav : torch.Tensor
            Waveform [time * 100 / speed].
        speed : float
            The speed in percent.
        """
        key = stable_seed("speed", self.seed, self.epoch, utterance)
        chosen = key % len(self.speeds)
        speed = self.speeds[chosen]
        if speed == 100:
            return wav, speed
        return self.resamplers[chosen](wav[None])[0], speed
