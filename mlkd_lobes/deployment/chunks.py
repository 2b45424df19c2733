"""The convolutional front end in chunks of 20 ms, each divided by its largest value.

The result is the same, but it can be computed in INT8. With one fixed scale, 8 bits
leave little of quiet frames, and what is lost is amplified by the layer norm behind the
front end. Models with a layer norm after every convolution need it less.
"""

import functools
import math

import torch
from torch import nn
from torch.nn import functional as F


def use_chunks(encoder):
    """Changes an SSLEncoder so that its front end works in chunks."""
    for layer in encoder.model.feature_extractor.conv_layers[1:]:
        layer.conv = _ScaledConvolution(layer.conv)
    encoder.convolve = functools.partial(_convolve, encoder)


class _ScaledConvolution(nn.Module):
    """A convolution of chunks [batch, channels, chunks, time]."""

    def __init__(self, conv):
        super().__init__()
        self.strides = 1, *conv.stride
        # How far the last window of a chunk reaches into the next one, at most
        # to its end.
        self.overlap = max(0, conv.kernel_size[0] - conv.stride[0])
        self.weight = nn.Parameter(conv.weight[:, :, None])
        self.bias = conv.bias

    def forward(self, chunks):
        """Convolves every chunk and the beginning of the next one."""
        if self.overlap:
            # In this order little is copied; zeros follow the last chunk.
            after = F.pad(chunks[..., : self.overlap][:, :, 1:], (0, 0, 0, 1))
            chunks = torch.cat([chunks, after], 3)
        # In this order onnxruntime reads neighbours in memory.
        peak = chunks.abs().amax(3, keepdim=True).amax(1, keepdim=True)
        peak = peak.clamp(min=1e-6)  # of silence
        out = peak * F.conv2d(chunks / peak, self.weight, None, self.strides)
        return out if self.bias is None else out + self.bias[:, None, None]


def _convolve(encoder, wav, n_samples):
    """`SSLEncoder.convolve` with `_ScaledConvolution`s.

    All of it works on chunks: onnxruntime would transpose what is reshaped in between.
    """
    first, *others = encoder.model.feature_extractor.conv_layers
    (kernel,), (stride,) = first.conv.kernel_size, first.conv.stride
    step, field = math.prod(encoder.config.conv_stride), encoder.receptive_field
    n_frames = (wav.shape[1] - field) // step + 1
    # Room for all samples: the norm of the first layer needs them.
    n_chunks = n_frames + 1 + field // step
    wav = F.pad(wav, (0, n_chunks * step - stride + kernel - wav.shape[1]))
    hidden = encoder.first_layer(wav, n_samples)
    chunks = hidden.unflatten(2, (n_chunks, step // stride))
    for layer in others:
        chunks = layer.conv(chunks)
        if hasattr(layer, "layer_norm"):
            chunks = layer.layer_norm(chunks.movedim(1, -1)).movedim(-1, 1)
        chunks = layer.activation(chunks)
    return chunks.squeeze(3).transpose(1, 2).narrow(1, 0, n_frames)
