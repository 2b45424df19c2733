"""Self-supervised encoders whose features do not depend on the padding.

In a padded batch, Hugging Face's wav2vec 2.0 mixes padding into the features in
three places. Here each works on the true length alone:

1. the waveform's normalisation (mean and variance over the true samples, with
   the feature extractor's formula);
2. the first convolution's GroupNorm of "base" models (statistics over the true
   frames);
3. self-attention (masked, for every model).

So the features of an utterance in a batch equal its features alone, up to
floating-point error. Parameter names stay Hugging Face's.
"""

import contextlib
import logging
import os
from collections import namedtuple

import torch
import torch.nn.functional as F

from mlkd_lobes.errors import InputError, check_choice
from mlkd_lobes.files import refuse_lfs_pointer, sampled_sha256, text_sha256
from mlkd_lobes.models.length_exact import (
    normalize_waveforms,
    normalized_convolution,
    use_fft_on_gpu,
)
from mlkd_lobes.models.slim import narrowed
from speechbrain.dataio.dataio import length_to_mask
from speechbrain.integrations.huggingface.wav2vec2 import Wav2Vec2

# What `transformers` calls the three families that share one layout.
MODEL_TYPES = ("wav2vec2", "hubert", "wavlm")
SAMPLE_RATE = 16000
# What configurations call the dropouts of the transformer and its input.
DROPOUTS = ("hidden_dropout", "attention_dropout", "activation_dropout")
DROPOUTS += ("feat_proj_dropout",)


class Encoded(namedtuple("Encoded", ["last_hidden", "levels", "n_frames"])):
    """Encoder outputs of a batch.

    `last_hidden` [batch, frames, width]; `levels`, a tuple of such tensors, one per
    requested level; `n_frames` [batch], the true frames of each utterance.
    """


def check_depth(n_layers, of_teacher):
    """Raises if a student has more layers than its teacher.

    Arguments
    ---------
    n_layers : int
        Transformer layers of the student.
    of_teacher : int
        Those of the teacher; the student keeps the first ones.

    Raises
    ------
    InputError
        If there are none, or more than the teacher has.
    """
    if not 1 <= n_layers <= of_teacher:
        raise InputError(
            f"student_layers: {n_layers} is not between 1 and the teacher's "
            f"{of_teacher} layers"
        )


@contextlib.contextmanager
def opening(source):
    """Turns any error of opening a model into one line.

    Unused weights are not reported: a student has fewer layers than its teacher,
    an encoder no head. Missing ones are an error, see `refuse_missing`.

    Arguments
    ---------
    source : str
        Hub name or folder.

    Raises
    ------
    InputError
        If the block fails: no network, a damaged file, another kind of model.
    """
    reports = logging.getLogger("transformers.modeling_utils")
    level = reports.level
    reports.setLevel(logging.ERROR)
    try:
        yield
    except InputError:
        raise
    # Damaged files raise errors of half a dozen libraries.
    except Exception as error:
        if os.path.isdir(source):
            for file in filter(os.DirEntry.is_file, os.scandir(source)):
                refuse_lfs_pointer(file.path)
        text = " ".join(str(error).split())[:300]
        raise InputError(f"{source}: cannot be opened ({text})")
    finally:
        reports.setLevel(level)


def refuse_missing(source, report, problem):
    """Raises if weights are missing that a model cannot do without.

    SpecAugment's embedding and adapters are not needed.

    Arguments
    ---------
    source : str
        Hub name or folder.
    report : dict
        Of `from_pretrained`, with `output_loading_info`.
    problem : str
        What missing weights mean.

    Raises
    ------
    InputError
        Naming some of them.
    """
    missing = [
        name
        for name in report["missing_keys"]
        if "masked_spec_embed" not in name and "adapter." not in name
    ]
    if missing:
        raise InputError(
            f"{source}: {problem}; it has no weights for "
            f"{', '.join(sorted(missing)[:4])}"
        )


class SSLEncoder(Wav2Vec2):
    """SpeechBrain's `Wav2Vec2`, length-exact, with levels by layer number.

    Arguments
    ---------
    source : str
        Hub name or folder of a wav2vec 2.0, HuBERT or WavLM model.
    save_path : str
        Where a download is kept.
    n_layers : int, optional
        Keep only the first transformer layers (a student of its teacher).
    freeze_feature_extractor : bool
        Whether the convolutional front end stays as it is.
    dropout : float, optional
        Of all parts of the transformer, instead of those of the source's
        configuration.
    mask_share : float
        Share of the frames that spans of the source's `mask_time_length` cover in
        training, overlaps counted twice (SpecAugment); drawn by NumPy's
        global generator.
    channels : float or list of float
        Share of the front end's filters kept, of all convolutions or one each.

    Example
    -------
    >>> from transformers import Wav2Vec2Config, Wav2Vec2Model
    >>> from transformers import Wav2Vec2FeatureExtractor
    >>> folder = str(getfixture("tmp_path"))
    >>> config = Wav2Vec2Config(
    ...     hidden_size=16,
    ...     num_hidden_layers=3,
    ...     num_attention_heads=2,
    ...     intermediate_size=32,
    ...     conv_dim=[8] * 7,
    ...     num_conv_pos_embeddings=8,
    ...     num_conv_pos_embedding_groups=2,
    ... )
    >>> Wav2Vec2Model(config).save_pretrained(folder)
    >>> _ = Wav2Vec2FeatureExtractor().save_pretrained(folder)
    >>> encoder = SSLEncoder(folder, folder)
    >>> out = encoder(torch.rand(2, 16000), torch.tensor([1.0, 0.5]), (1, 3))
    >>> out.last_hidden.shape, out.n_frames.tolist(), len(out.levels)
    (torch.Size([2, 49, 16]), [49, 24], 2)
    """

    def __init__(
        self,
        source,
        save_path,
        n_layers=None,
        freeze_feature_extractor=True,
        dropout=None,
        mask_share=0.0,
        channels=1.0,
    ):
        # `override_config` needs them, and is called by the base class.
        self.keep_layers, self.dropout, self.source = n_layers, dropout, source
        self.mask_share = mask_share
        with opening(source):
            super().__init__(
                source=source,
                save_path=save_path,
                freeze_feature_extractor=freeze_feature_extractor,
                apply_spec_augment=mask_share > 0,
                # Also where the source is stored in half precision.
                dtype=torch.float32,
            )
        if channels != 1.0:
            self.model = narrowed(self.model, channels)
            self.config = self.model.config
        use_fft_on_gpu(self.model.encoder.pos_conv_embed.conv)
        rate = getattr(self.feature_extractor, "sampling_rate", SAMPLE_RATE)
        if rate != SAMPLE_RATE:
            raise InputError(
                f"{source}: expects speech at {rate} Hz instead of "
                f"{SAMPLE_RATE} Hz"
            )
        # It does not get a gradient in every batch, which DDP refuses.
        if hasattr(self.model, "masked_spec_embed"):
            self.model.masked_spec_embed.requires_grad_(False)

    def _from_pretrained(self, source, *places, **options):
        """Loads the source; raises if it lacks weights."""
        options["output_loading_info"] = True
        super()._from_pretrained(source, *places, **options)
        if isinstance(self.model, tuple):  # not of SpeechBrain's checkpoints
            self.model, report = self.model
            refuse_missing(source, report, "its weights are another model's")

    @property
    def n_layers(self):
        """Number of transformer layers."""
        return self.config.num_hidden_layers

    @property
    def width(self):
        """Dimension of the hidden states."""
        return self.config.hidden_size

    @property
    def receptive_field(self):
        """Samples that a frame depends on (400 for all known models)."""
        field = 1
        shape = zip(self.config.conv_kernel, self.config.conv_stride)
        for kernel, stride in reversed(list(shape)):
            field = (field - 1) * stride + kernel
        return field

    def override_config(self, config):
        """Shrinks the model and switches off what shifts levels.

        Arguments
        ---------
        config : transformers.PretrainedConfig
            The source's configuration.

        Returns
        -------
        transformers.PretrainedConfig
            The one to build.
        """
        known = self.source, config.model_type, MODEL_TYPES, "model type"
        check_choice(*known)
        if getattr(config, "conv_pos_batch_norm", False):
            raise InputError(
                f"{self.source}: a positional convolution with batch norm (HuBERT's "
                "conv_pos_batch_norm) depends on padding and is not supported"
            )
        # Hidden states are counted by layer: none may be skipped at random.
        config.layerdrop = 0.0
        # An adapter follows the last layer; it is neither a level nor a head.
        config.add_adapter = False
        if self.dropout is not None:
            for name in DROPOUTS:
                setattr(config, name, self.dropout)
        if self.mask_share:
            config.mask_time_prob = self.mask_share
            config.mask_feature_prob = 0.0
            # Otherwise short utterances would be masked more.
            config.mask_time_min_masks = 0
        if self.keep_layers is not None:
            check_depth(self.keep_layers, config.num_hidden_layers)
            config.num_hidden_layers = self.keep_layers
        return config

    def forward(self, wav, wav_lens=None, levels=()):
        """Encodes a batch of waveforms.

        Arguments
        ---------
        wav : torch.Tensor
            Waveforms [batch, time] at 16 kHz. Shorter than one frame's
            receptive field (25 ms): padded with zeros.
        wav_lens : torch.Tensor, optional
            True lengths [batch] relative to the longest, SpeechBrain's way.
        levels : sequence of int
            Levels whose hidden states to return beside the last ones.

        Returns
        -------
        Encoded
            `last_hidden`, `levels`, `n_frames`.
        """
        if wav_lens is None:
            wav_lens = torch.ones(len(wav), device=wav.device)
        n_samples = torch.round(wav_lens * wav.shape[1]).long()
        if self.normalize_wav:
            wav = normalize_waveforms(wav, n_samples)
        else:
            wav = wav * length_to_mask(n_samples, wav.shape[1], dtype=wav.dtype)
        missing = self.receptive_field - wav.shape[1]
        wav = F.pad(wav, (0, max(0, missing)))
        n_samples = n_samples.clamp(min=self.receptive_field)
        n_frames = self.model._get_feat_extract_output_lengths(n_samples)
        hidden = self._project(self.convolve(wav, n_samples))
        mask = length_to_mask(n_frames, hidden.shape[1]).bool()
        return self._transform(hidden, mask, n_frames, tuple(levels))

    def convolve(self, wav, n_samples):
        """The convolutional front end.

        Arguments
        ---------
        wav : torch.Tensor
            Waveforms [batch, time], at least `receptive_field` samples.
        n_samples : torch.Tensor
            True samples [batch].

        Returns
        -------
        torch.Tensor
            Features [batch, frames, channels].
        """
        trainable = not self.freeze_feature_extractor
        with torch.set_grad_enabled(trainable and torch.is_grad_enabled()):
            hidden = self.first_layer(wav, n_samples)
            for layer in self.model.feature_extractor.conv_layers[1:]:
                hidden = layer(hidden)
        return hidden.transpose(1, 2)

    def first_layer(self, wav, n_samples):
        """The first convolution, its norm and activation.

        Arguments
        ---------
        wav : torch.Tensor
            Waveforms [batch, time].
        n_samples : torch.Tensor
            True samples [batch], which a group norm is computed from.

        Returns
        -------
        torch.Tensor
            Features [batch, channels, frames].
        """
        layer = self.model.feature_extractor.conv_layers[0]
        if self.config.feat_extract_norm != "group":
            return layer(wav[:, None])
        conv, norm = layer.conv, layer.layer_norm
        n_frames = (n_samples - conv.kernel_size[0]) // conv.stride[0] + 1
        hidden = normalized_convolution(wav, n_frames, conv, norm)
        return layer.activation(hidden)

    def _project(self, features):
        projected = self.model.feature_projection(features)
        # HuBERT returns the projection alone, the others a pair.
        return projected[0] if isinstance(projected, tuple) else projected

    def _transform(self, hidden, mask, n_frames, levels):
        """Transformer: the levels are what enters its layers, and its output."""
        # Too short to hold a span, a batch stays as it is.
        if self.training and hidden.shape[1] >= self.config.mask_time_length:
            hidden = self.model._mask_hidden_states(hidden, attention_mask=mask)
        caught = {}
        hooks = [self._hook(i, caught) for i in levels if i < self.n_layers]
        try:
            out = self.model.encoder(hidden, attention_mask=mask)
        finally:
            for hook in hooks:
                hook.remove()
        last = out.last_hidden_state
        # Layer-norm models have a final LayerNorm; the last level is its output.
        caught[self.n_layers] = last
        return Encoded(last, tuple(caught[level] for level in levels), n_frames)

    def _hook(self, level, caught):
        """Stores the input of a layer, which is the level before it."""

        def catch(module, args):
            """Stores what the layer gets."""
            caught[level] = args[0]

        layer = self.model.encoder.layers[level]
        return layer.register_forward_pre_hook(catch)


def source_fingerprint(source):
    """Identifies the source of an encoder, independent of its path.

    Arguments
    ---------
    source : str
        Hub name or folder.

    Returns
    -------
    str
        The hub name, or a hash of the folder's configuration and weights.
    """
    if not os.path.isdir(source):
        return source
    names = sorted(os.listdir(source))
    names = [n for n in names if n.endswith((".json", ".safetensors", ".bin"))]
    return text_sha256(
        [[name, sampled_sha256(os.path.join(source, name))] for name in names]
    )
