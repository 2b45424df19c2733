"""Length-exactness, levels, and students of their teachers."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch
from helpers import tiny_config
from transformers import AutoModel, Wav2Vec2FeatureExtractor

from mlkd_lobes.errors import InputError
from mlkd_lobes.models import length_exact
from mlkd_lobes.models.encoder import SSLEncoder
from mlkd_lobes.models.length_exact import (
    fft_convolution,
    normalize_waveforms,
    normalized_convolution,
)

KINDS = [
    ("wav2vec2", "group"),
    ("wav2vec2", "layer"),
    ("hubert", "group"),
    ("hubert", "layer"),
    ("wavlm", "group"),
    ("wavlm", "layer"),
]
LENGTHS = [16000, 9123, 4001, 399, 12345]


def padded(wavs):
    batch = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    lengths = torch.tensor([len(w) / batch.shape[1] for w in wavs])
    return batch, lengths


def utterances(level=1.0):
    generator = torch.Generator().manual_seed(1)
    noise = [torch.randn(n, generator=generator) for n in LENGTHS]
    return [level * (wav + 0.3) for wav in noise]


@pytest.mark.parametrize("kind,norm", KINDS)
@pytest.mark.parametrize("level_db", [0, -60])
def test_features_do_not_depend_on_padding(make_encoder, kind, norm, level_db):
    encoder = make_encoder(kind, norm)
    wavs = utterances(10 ** (level_db / 20))
    levels = (0, 1, 2, 4)
    with torch.no_grad():
        together = encoder(*padded(wavs), levels)
        for i, wav in enumerate(wavs):
            alone = encoder(wav[None], None, levels)
            n = alone.n_frames.item()
            assert n == together.n_frames[i] == alone.last_hidden.shape[1]
            for a, b in zip(
                (alone.last_hidden, *alone.levels),
                (together.last_hidden, *together.levels),
            ):
                assert (a[0] - b[i, :n]).abs().max() <= 1e-4


def test_garbage_in_the_padding_changes_nothing(make_encoder):
    encoder = make_encoder()
    batch, lengths = padded(utterances())
    spoiled = batch.clone()
    for i, n in enumerate(LENGTHS):
        spoiled[i, n:] = 7.0
    with torch.no_grad():
        clean, dirty = encoder(batch, lengths), encoder(spoiled, lengths)
    n = clean.n_frames[1]
    difference = clean.last_hidden[1, :n] - dirty.last_hidden[1, :n]
    assert difference.abs().max() <= 1e-4


def test_alone_equals_plain_hugging_face(make_encoder, encoder_folder):
    for kind, norm in KINDS:
        folder = encoder_folder(kind, norm)
        plain = AutoModel.from_pretrained(folder).eval()
        wav = utterances()[1]
        extractor = Wav2Vec2FeatureExtractor.from_pretrained(folder)
        inputs = extractor(
            wav.numpy(), sampling_rate=16000, return_tensors="pt"
        )
        with torch.no_grad():
            expected = plain(inputs.input_values, output_hidden_states=True)
            found = make_encoder(kind, norm)(wav[None], None, (0, 1, 3))
        for level, hidden in zip((0, 1, 3), found.levels):
            difference = hidden - expected.hidden_states[level]
            assert difference.abs().max() <= 1e-4
        difference = found.last_hidden - expected.last_hidden_state
        assert difference.abs().max() <= 1e-4


def test_normalization_is_the_feature_extractors():
    wavs = utterances(1e-3)
    batch, lengths = padded(wavs)
    n_samples = (lengths * batch.shape[1]).round().long()
    found = normalize_waveforms(batch, n_samples)
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True)
    expected = extractor(
        [w.numpy() for w in wavs], sampling_rate=16000
    ).input_values
    for i, wav in enumerate(expected):
        assert (found[i, : len(wav)] - torch.tensor(wav)).abs().max() < 1e-4
        assert not found[i, len(wav) :].any()


def faint_filter(generator):
    """A first layer whose filters let little of a low tone through."""
    conv = torch.nn.Conv1d(1, 6, 10, stride=5, bias=True)
    norm = torch.nn.GroupNorm(6, 6)
    with torch.no_grad():
        difference = torch.randn(6, 10, generator=generator).diff(n=3)
        conv.weight[:, 0] = 0
        conv.weight[:, 0, :7] = difference - difference.mean(1, keepdim=True)
        norm.weight.copy_(torch.randn(6, generator=generator))
        norm.bias.copy_(torch.randn(6, generator=generator))
    return conv, norm


def test_statistics_of_the_first_convolution_are_exact():
    generator = torch.Generator().manual_seed(1)
    conv, norm = faint_filter(generator)
    time = torch.arange(16000) / 16000
    low = torch.sin(2 * torch.pi * 60 * time) + 3
    noise = torch.randn(16000, generator=generator)
    signal = torch.stack([low + 1e-4 * noise, noise])
    n_samples = torch.tensor([16000, 9000])
    n_frames = (n_samples - 10) // 5 + 1
    found = normalized_convolution(signal, n_frames, conv, norm)
    assert found.dtype == torch.float32
    for i, n in enumerate(n_samples):
        alone = signal[i : i + 1, None, :n].double()
        expected = norm.double()(conv.double()(alone))[0]
        conv.float(), norm.float()
        error = found[i, :, : n_frames[i]] - expected
        assert error.abs().max() < 1e-4 * expected.abs().max()
    with torch.autocast("cpu", torch.bfloat16):
        rough = normalized_convolution(signal, n_frames, conv, norm)
    assert rough.dtype == torch.bfloat16
    expected = found[1, :, : n_frames[1]]
    error = rough[1, :, : n_frames[1]] - expected
    assert error.abs().max() < 0.02 * expected.abs().max()


def test_a_trained_first_layer_gets_its_gradient():
    generator = torch.Generator().manual_seed(1)
    conv, norm = faint_filter(generator)
    signal = torch.randn(1, 4000, generator=generator)
    target = torch.randn(1, 6, 799, generator=generator)
    parameters = [conv.weight, norm.weight, norm.bias]
    plain = norm(conv(signal[:, None]))
    expected = torch.autograd.grad((plain * target).sum(), parameters)
    ours = normalized_convolution(signal, torch.tensor([799]), conv, norm)
    found = torch.autograd.grad((ours * target).sum(), parameters)
    for a, b in zip(expected, found):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-3 * a.abs().max())


@pytest.mark.parametrize(
    ("kernel", "groups", "n_samples"),
    [(128, 16, 200), (128, 16, 9), (7, 2, 800)],
)
def test_convolution_by_fft_is_the_convolution(kernel, groups, n_samples):
    conv = torch.nn.Conv1d(32, 48, kernel, padding=kernel // 2, groups=groups)
    conv = torch.nn.utils.parametrizations.weight_norm(conv, dim=2)
    signal = torch.randn(3, 32, n_samples, requires_grad=True)
    leaves = [signal, *conv.parameters()]
    expected, found = conv(signal), fft_convolution(signal, conv)
    assert torch.allclose(found, expected, atol=1e-5)
    weights = torch.randn_like(expected)
    gradients = [
        torch.autograd.grad((out * weights).sum(), leaves)
        for out in (expected, found)
    ]
    for own, other in zip(*gradients):
        assert torch.allclose(other, own, rtol=1e-3, atol=1e-3)


def test_a_gpu_uses_the_convolution_by_fft(make_encoder, monkeypatch):
    encoder = make_encoder().eval()
    copied, wavs = copy.deepcopy(encoder), torch.randn(2, 9000)
    expected = encoder(wavs).last_hidden
    with torch.no_grad():
        encoder.model.encoder.pos_conv_embed.conv.bias += 1.0
    used = []

    def convolve(signal, conv):
        used.append(conv)
        return fft_convolution(signal, conv)

    monkeypatch.setattr(length_exact, "fft_convolution", convolve)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    found = copied(wavs).last_hidden
    assert used == [copied.model.encoder.pos_conv_embed.conv]
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_silence_offset_and_clipping_stay_finite(make_encoder, norm):
    strange = torch.stack(
        [
            torch.zeros(8000),
            torch.full((8000,), 0.9),
            (9 * torch.randn(8000)).clamp(-1, 1),
            torch.eye(1, 8000)[0],
        ]
    )
    out = make_encoder(norm=norm)(strange)
    assert torch.isfinite(out.last_hidden).all()


def test_one_frame_for_the_shortest_audio(make_encoder):
    encoder = make_encoder()
    assert encoder.receptive_field == 400
    assert encoder(torch.randn(1, 3)).n_frames.tolist() == [1]


def test_levels_do_not_shift_with_layerdrop(encoder_folder, tmp_path):
    folder = encoder_folder(layerdrop=0.9, hidden_dropout=0.0,
                            attention_dropout=0.0, feat_proj_dropout=0.0,
                            activation_dropout=0.0)  # fmt: skip
    encoder = SSLEncoder(folder, str(tmp_path))
    wav = torch.randn(1, 8000)
    levels = tuple(range(5))
    with torch.no_grad():
        training, evaluating = encoder.train()(wav, None, levels), None
        evaluating = encoder.eval()(wav, None, levels)
    assert len({id(level) for level in training.levels}) == 5
    for a, b in zip(training.levels, evaluating.levels):
        assert torch.allclose(a, b, atol=1e-6)


def test_last_level_of_layer_norm_models_is_behind_the_final_norm(make_encoder):
    encoder = make_encoder(norm="layer")
    with torch.no_grad():
        out = encoder(torch.randn(1, 8000), None, (4,))
    assert torch.equal(out.levels[0], out.last_hidden)
    # The final LayerNorm has weight 1 and bias 0 here.
    assert out.last_hidden.mean(-1).abs().max() < 1e-4


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_student_is_the_first_layers_of_its_teacher(make_encoder, norm):
    teacher, student = (
        make_encoder(norm=norm),
        make_encoder(norm=norm, n_layers=2),
    )
    own, first = student.model.state_dict(), teacher.model.state_dict()
    assert len(own) < len(first)
    assert all(torch.equal(own[name], first[name]) for name in own)
    with torch.no_grad():
        wav = torch.randn(1, 8000)
        if norm == "group":
            expected = teacher(wav, None, (2,)).levels[0]
            assert torch.allclose(student(wav).last_hidden, expected, atol=1e-6)


def test_base_student_has_as_many_parameters_as_documented():
    config = tiny_config().__class__(num_hidden_layers=2)
    with torch.device("meta"):
        student = AutoModel.from_config(config)
    parameters = sum(p.numel() for p in student.parameters())
    assert round(parameters / 1e6, 2) == 23.49


def test_wrong_sources_are_named(tmp_path, encoder_folder):
    with pytest.raises(InputError, match="nowhere: cannot be opened"):
        SSLEncoder(str(tmp_path / "nowhere"), str(tmp_path))
    with pytest.raises(InputError, match="cannot be opened"):
        SSLEncoder(str(tmp_path), str(tmp_path))
    with pytest.raises(ValueError, match="between 1 and the teacher's 4"):
        SSLEncoder(encoder_folder(), str(tmp_path), n_layers=5)


@pytest.mark.parametrize("kind", ["bert", "nobody_knows"])
def test_other_architectures_are_refused(tmp_path, kind):
    (tmp_path / "config.json").write_text(f'{{"model_type": "{kind}"}}')
    with pytest.raises(InputError, match=kind):
        SSLEncoder(str(tmp_path), str(tmp_path))


def test_missing_weights_are_refused(tmp_path, encoder_folder):
    """A configuration with more layers than the weights beside it."""
    shutil.copytree(encoder_folder(), tmp_path / "deeper")
    config = tmp_path / "deeper/config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps({**content, "num_hidden_layers": 5}))
    with pytest.raises(InputError, match="weights for encoder.layers.4"):
        SSLEncoder(str(tmp_path / "deeper"), str(tmp_path))


def test_frozen_front_end_gets_no_gradient(encoder_folder, tmp_path):
    for frozen in (True, False):
        encoder = SSLEncoder(
            encoder_folder(),
            str(tmp_path),
            freeze_feature_extractor=frozen,
        )
        encoder(torch.randn(2, 4000)).last_hidden.sum().backward()
        weight = encoder.model.feature_extractor.conv_layers[0].conv.weight
        assert (weight.grad is None) == frozen


def test_dropout_defaults_to_that_of_the_source(encoder_folder, tmp_path):
    folder = encoder_folder(hidden_dropout=0.25, attention_dropout=0.0)
    own = SSLEncoder(folder, str(tmp_path))
    assert own.config.hidden_dropout == 0.25
    dropped = SSLEncoder(folder, str(tmp_path), dropout=0.5)
    layer = dropped.model.encoder.layers[0]
    assert layer.dropout.p == layer.attention.dropout == 0.5
    assert layer.feed_forward.intermediate_dropout.p == 0.5
    assert dropped.model.feature_projection.dropout.p == 0.5
    wav = torch.randn(2, 8000)
    dropped.train()
    first, other = (dropped(wav).last_hidden for _ in range(2))
    assert not torch.equal(first, other)
    dropped.eval(), own.eval()
    assert torch.equal(dropped(wav).last_hidden, own(wav).last_hidden)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sources_in_half_precision_are_trained_in_single(
    encoder_folder, tmp_path, dtype
):
    folder = encoder_folder()
    model = AutoModel.from_pretrained(folder)
    model.to(dtype).save_pretrained(tmp_path / "half")
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(folder)
    extractor.save_pretrained(tmp_path / "half")
    encoder = SSLEncoder(str(tmp_path / "half"), str(tmp_path))
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    assert encoder(torch.randn(1, 4000)).last_hidden.dtype == torch.float32


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert", "wavlm"])
def test_spans_are_masked_in_training_alone(encoder_folder, kind):
    """Half of the frames, at places of NumPy's generator; short batches whole."""
    folder = encoder_folder(kind, "group")
    masking = SSLEncoder(folder, folder, mask_share=0.5, dropout=0.0)
    plain = SSLEncoder(folder, folder, dropout=0.0)
    masking.model.config.mask_time_length = 10
    wav, lengths = torch.randn(2, 32000), torch.tensor([1.0, 0.6])

    def encode(encoder, seed=0, wav=wav):
        np.random.seed(seed)
        with torch.no_grad():
            return encoder(wav, lengths, levels=[0]).levels[0]

    whole = encode(plain.train())
    first, again = encode(masking.train()), encode(masking)
    assert torch.equal(first, again)
    assert not torch.equal(first, encode(masking, seed=1))
    assert not torch.allclose(first, whole)
    # A tenth of 59 frames is a span of ten, or none; positions spread it.
    masking.model.config.mask_time_prob = 0.1
    changed = [(encode(masking, i) != whole).any(-1)[1, :59] for i in range(40)]
    shares = torch.stack(changed).float().mean(1)
    assert 0 < shares.mean() < 0.3 and shares.min() == 0
    masking.model.config.mask_time_prob = 0.5
    assert torch.equal(encode(masking.eval()), encode(plain.eval()))
    short = wav[:, :1600]
    masking.train()
    assert torch.equal(encode(masking, wav=short), encode(plain, wav=short))
    assert not any(
        p.requires_grad
        for n, p in masking.named_parameters()
        if "masked_spec" in n
    )
