"""Mixing a noise at exact SNRs, and measuring what came out."""

import math

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
    >>> wav, noise = torch.rand(2, 100) - 0.5
    >>> round(measured_snr(wav, mix(wav, noise, [5.0])[0], 5.0), 3)
    5.0
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


def measured_snr(wav, noisy, snr):
    """The realised SNR of a mixture.

    Arguments
    ---------
    wav : torch.Tensor
        Clean waveform [time].
    noisy : torch.Tensor
        The output of `mix` [time].
    snr : float
        The requested SNR; gives AddNoise's scale of the speech.

    Returns
    -------
    float
        Ratio of powers in dB; infinite without noise.
    """
    share = 1 / (10 ** (snr / 20) + 1)
    speech = (1 - share) * wav
    noise = noisy - speech
    power = noise.dot(noise).item()
    if power == 0:
        return math.inf
    return 10 * math.log10(max(speech.dot(speech).item() / power, 1e-30))
