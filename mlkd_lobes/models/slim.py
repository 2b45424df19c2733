"""A narrower convolutional front end, made of the filters of a wider one."""

import copy

from mlkd_lobes.errors import InputError

LAYER = "feature_extractor.conv_layers.{}."
PROJECTION = "feature_projection."


def shares_of(config, channels):
    """The share of the filters kept, per convolution.

    Arguments
    ---------
    config : transformers.PretrainedConfig
        Of the encoder.
    channels : float or list of float
        One share, or one per convolution.

    Returns
    -------
    list of float
        As many as convolutions.

    Raises
    ------
    InputError
        If a list has another length.
    """
    n_layers = len(config.conv_dim)
    shares = channels if isinstance(channels, list) else [channels] * n_layers
    if len(shares) != n_layers:
        raise InputError(
            f"student_cnn: {len(shares)} shares for {n_layers} convolutions"
        )
    return shares


def narrowed(model, channels):
    """A model that keeps the most important filters of its front end.

    A filter counts as much as its norm, or the scale of the normalisation that
    follows it, times the norm of the weights that read its output: magnitude
    pruning (Li et al., arXiv 1608.08710) with both sides taken into account.
    Features change; the model is meant to be trained.

    Arguments
    ---------
    model : transformers.PreTrainedModel
        A wav2vec 2.0, HuBERT or WavLM model.
    channels : float or list of float
        Share of the filters kept, of all convolutions or one each.

    Returns
    -------
    transformers.PreTrainedModel
        Another model; the same one if it was narrowed alike before.

    Raises
    ------
    InputError
        If there is not one share per convolution.

    Example
    -------
    >>> import torch
    >>> from transformers import Wav2Vec2Config, Wav2Vec2Model
    >>> config = Wav2Vec2Config(
    ...     hidden_size=16,
    ...     num_hidden_layers=1,
    ...     num_attention_heads=2,
    ...     intermediate_size=32,
    ...     conv_dim=[8] * 7,
    ...     num_conv_pos_embeddings=8,
    ...     num_conv_pos_embedding_groups=2,
    ... )
    >>> model = narrowed(Wav2Vec2Model(config), 0.5)
    >>> model.config.conv_dim, model(torch.rand(1, 16000))[0].shape
    ([4, 4, 4, 4, 4, 4, 4], torch.Size([1, 49, 16]))
    """
    config = copy.deepcopy(model.config)
    n_layers, shares = len(config.conv_dim), shares_of(config, channels)
    # Such a model is opened again when it is tested.
    if getattr(config, "kept_channels", None) == shares:
        return model
    config.kept_channels, weights = shares, dict(model.state_dict())
    sizes = [max(1, round(s * n)) for s, n in zip(shares, config.conv_dim)]
    for i, size in enumerate(sizes):
        own, reader = LAYER.format(i), LAYER.format(i + 1) + "conv.weight"
        if i + 1 == n_layers:
            reader = f"{PROJECTION}projection.weight"
        scale = weights.get(f"{own}layer_norm.weight")
        if scale is None:
            scale = weights[f"{own}conv.weight"].flatten(1).norm(dim=1)
        read = weights[reader].transpose(0, 1).flatten(1).norm(dim=1)
        if i + 1 == n_layers:
            read = read * weights.get(f"{PROJECTION}layer_norm.weight", 1)
        kept = (scale * read).abs().topk(size).indices.sort().values
        norms = [own] if i + 1 < n_layers else [own, f"{PROJECTION}layer_norm"]
        for name in weights:
            if name.startswith(tuple(norms)):
                weights[name] = weights[name][kept]
        weights[reader] = weights[reader][:, kept]
    config.conv_dim = sizes
    model = type(model)(config)
    model.load_state_dict(weights)
    return model
