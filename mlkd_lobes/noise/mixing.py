"""Mixing a noise at exact SNRs, and measuring what came out."""

import math

import torch

from speechbrain.augment.time_domain import AddNoise


def mix(wav, noise, snrs):
    """Adds a noise to a waveform at given SNRs, by AddNoise itself.

    Arguments
    ---------
    wav : torch.Tensor
        Waveform [time].
    noise : torch.Tensor
        Noise [time].
    snrs : sequence of float
        SNRs in dB (RMS over the whole length).

    Returns
    -------
    torch.Tensor
        Waveforms [SNRs, time]. AddNoise scales speech and noise to a convex
        sum: at 0 dB both are halved.

    Example
    -------
    >>> wav, noise = torch.rand(2, 100) - 0.5
    >>> round(measured_snr(wav, mix(wav, noise, [5.0])[0], 5.0), 3)
    5.0
    """
    levels = torch.tensor(snrs, dtype=wav.dtype)[:, None]
    adder = AddNoise(
        snr_low=levels,
        snr_high=levels,
        noise_funct=lambda wavs: noise.expand_as(wavs).clone(),
    )
    return adder(wav.expand(len(snrs), -1), torch.ones(len(snrs)))


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
    speech = (1 - share) * wav.double()
    noise = noisy.double() - speech
    power = noise.square().sum().item()
    if power == 0:
        return math.inf
    return 10 * math.log10(max(speech.square().sum().item() / power, 1e-30))
