"""Mixing a noise at exact SNRs."""

import torch

from speechbrain.processing import signal_processing


def mix(wav, noise, snrs):
    """Adds a noise to a waveform at given SNRs, as SpeechBrain's AddNoise does.

    Bit-identical on one thread, as in workers; a test compares them. AddNoise
    would copy speech and noise for every SNR and measure each copy.

    Arguments
    ---------
    wav : torch.Tensor
        Waveform [time].
    noise : torch.Tensor
        Noise [time].
    snrs : sequence of float
        SNRs in dB, computed from the RMS of the full length.

    Returns
    -------
    torch.Tensor
        Waveforms [SNRs, time]. Speech and noise are scaled to a convex sum: at
        0 dB the speech is halved and the noise equally loud.

    Example
    -------
    >>> mix(torch.tensor([4.0, 4.0]), torch.tensor([1.0, -1.0]), [0.0])
    tensor([[4., 0.]])
    """
    levels = torch.tensor(snrs, dtype=wav.dtype)[:, None]
    shares = 1 / (signal_processing.dB_to_amplitude(levels) + 1)
    n_samples = torch.tensor([[len(wav)]])
    loud, level = (
        signal_processing.compute_amplitude(x[None], n_samples, "rms")
        for x in (wav, noise)
    )
    mixed = noise * (shares * loud / (level + 1e-14))
    return mixed.add_(wav * (1 - shares))
