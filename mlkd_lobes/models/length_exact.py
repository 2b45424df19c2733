"""Normalisations of wav2vec 2.0 with statistics over the true length only, and its
positional convolution for GPUs.
"""

import types

import torch
import torch.nn.functional as F

from speechbrain.dataio.dataio import length_to_mask


def normalize_waveforms(wavs, n_samples, eps=1e-7):
    """Zero mean and unit variance over each utterance's true samples.

    The formula of Hugging Face's `Wav2Vec2FeatureExtractor`,
    (x - mean) / sqrt(variance + 1e-7); the padding becomes 0 again.

    Arguments
    ---------
    wavs : torch.Tensor
        Waveforms [batch, time].
    n_samples : torch.Tensor
        True samples [batch].
    eps : float
        Added to the variance.

    Returns
    -------
    torch.Tensor
        Waveforms [batch, time].
    """
    mask = length_to_mask(n_samples, wavs.shape[1], dtype=wavs.dtype)
    count = n_samples[:, None].to(wavs.dtype)
    mean = (wavs * mask).sum(1, keepdim=True) / count
    centred = (wavs - mean) * mask
    variance = centred.square().sum(1, keepdim=True) / count
    return centred / torch.sqrt(variance + eps)


def normalized_convolution(signal, n_frames, conv, norm):
    """The first convolution of "group" models and its norm over true frames.

    A convolution is linear in the k samples of its window: mean and variance of
    its output over time are w m and w C w', with the mean m and the covariance C
    of those samples. So the norm is known before the convolution and becomes
    part of its weights; no statistics of the output, the model's largest
    tensor, are computed.

    Arguments
    ---------
    signal : torch.Tensor
        Waveforms [batch, time].
    n_frames : torch.Tensor
        True frames [batch].
    conv : torch.nn.Conv1d
        With one input channel. The norm removes its bias.
    norm : torch.nn.GroupNorm
        One group per channel, as in every "group" model.

    Returns
    -------
    torch.Tensor
        Features [batch, channels, frames].
    """
    with torch.autocast(signal.device.type, enabled=False):
        frames, covariance = centred_frames(
            signal, n_frames, conv.kernel_size[0], conv.stride[0]
        )
        kernel = conv.weight[:, 0].to(covariance.dtype)
        variance = ((kernel @ covariance) * kernel).sum(-1, keepdim=True)
        scale = norm.weight[:, None] * torch.rsqrt(variance + norm.eps)
        shift = norm.bias[:, None].expand_as(scale)
        # The shift is the weight of an additional sample that is always 1.
        weight = torch.cat([kernel * scale, shift], -1).to(signal.dtype)
        frames = F.pad(frames, (0, 0, 0, 1), value=1.0)
    return weight @ frames


def centred_frames(signal, n_frames, size, stride):
    """The samples of each frame of a convolution, minus their mean.

    Arguments
    ---------
    signal : torch.Tensor
        Waveforms [batch, time].
    n_frames : torch.Tensor
        True frames [batch].
    size : int
        Samples per frame.
    stride : int
        Samples from a frame to the next.

    Returns
    -------
    frames : torch.Tensor
        [batch, size, frames], 0 behind the true ones.
    covariance : torch.Tensor
        [batch, size, size], in double precision where the device has it:
        filters that pass little of the signal need the digits.
    """
    picks = torch.eye(size, dtype=signal.dtype, device=signal.device)
    frames = F.conv1d(signal[:, None], picks[:, None], stride=stride)
    exact = torch.float32 if signal.device.type == "mps" else torch.float64
    mask = length_to_mask(n_frames, frames.shape[2], dtype=exact)[:, None]
    count = n_frames[:, None, None].to(exact)
    mean = (frames * mask).sum(2, keepdim=True) / count
    centred = (frames - mean) * mask
    covariance = centred @ centred.transpose(1, 2) / count
    return centred.to(signal.dtype), covariance


def use_fft_on_gpu(conv):
    """Computes a convolution by FFT whenever its signal is on a GPU.

    For the positional convolution, of 128 frames in 16 groups, cuDNN's kernels for
    bfloat16 are slow, and some of those for float32 need gigabytes (version 9, on an
    H200).

    Arguments
    ---------
    conv : torch.nn.Conv1d
        The convolution; changed in place, its weights stay where they are.
    """

    def forward(self, signal):
        """The convolution of [batch, channels, time]."""
        if signal.is_cuda:
            return fft_convolution(signal, self)
        return type(self).forward(self, signal)

    # A bound method: a deep copy of the module gets its own.
    conv.forward = types.MethodType(forward, conv)


def fft_convolution(signal, conv):
    """A convolution by FFT, in float32 under autocast too.

    Arguments
    ---------
    signal : torch.Tensor
        [batch, channels, time].
    conv : torch.nn.Conv1d
        With zero padding, a stride and a dilation of 1.

    Returns
    -------
    torch.Tensor
        As the convolution's, in the precision of the signal.
    """
    (pad,), weight = conv.padding, conv.weight.float()
    n_samples = signal.shape[2] + 2 * pad
    # Few sizes, since each needs a plan.
    size = -(-n_samples // 256) * 256
    with torch.autocast(signal.device.type, enabled=False):
        padded = F.pad(signal.float(), (pad, size - n_samples + pad))
        spectra = torch.fft.rfft(padded).unflatten(1, (conv.groups, -1))
        filters = torch.fft.rfft(weight, n=size).conj()
        filters = filters.unflatten(0, (conv.groups, -1))
        # [frequencies, groups, batch, channels], a matrix product each.
        product = spectra.permute(3, 1, 0, 2) @ filters.permute(3, 0, 2, 1)
        product = product.permute(2, 1, 3, 0).flatten(1, 2)
        n_out = n_samples - weight.shape[2] + 1
        convolved = torch.fft.irfft(product, n=size)[..., :n_out]
        return (convolved + conv.bias[:, None]).to(signal.dtype)
