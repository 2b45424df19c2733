"""The classifier is Hugging Face's own, and a frozen teacher stays frozen."""

import copy

import pytest
import torch
from transformers import (
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    pipeline,
)

from mlkd_lobes.errors import InputError
from mlkd_lobes.models.classifier import (
    EmotionClassifier,
    FrozenTeacher,
    classify,
    load_classifier,
    state_sha256,
)
from mlkd_lobes.models.encoder import SSLEncoder

LABELS = ["neu", "hap", "sad", "ang"]


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert", "wavlm"])
def test_saved_model_opens_without_this_package(make_encoder, kind, tmp_path):
    model = EmotionClassifier(make_encoder(kind), LABELS).eval()
    model.save_pretrained(tmp_path / "model")
    native = AutoModelForAudioClassification.from_pretrained(tmp_path / "model")
    assert [native.config.id2label[i] for i in range(4)] == LABELS
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "model")
    wav = torch.randn(7000)
    inputs = extractor(wav.numpy(), sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        expected = native(inputs.input_values).logits
        found = model(wav[None]).logits
    assert torch.allclose(found, expected, atol=1e-5)


def test_saved_and_loaded_is_the_same(make_encoder, tmp_path):
    model = EmotionClassifier(make_encoder(), LABELS)
    model.save_pretrained(tmp_path / "model")

    def factory(source, n_layers=None):
        return SSLEncoder(source, str(tmp_path), n_layers)

    loaded = load_classifier(tmp_path / "model", factory, LABELS)
    assert state_sha256(loaded) == state_sha256(model)
    student = load_classifier(
        tmp_path / "model", lambda source: factory(source, 2), LABELS
    )
    assert student.encoder.n_layers == 2
    assert state_sha256(student.head) == state_sha256(model.head)
    with pytest.raises(ValueError, match="its labels are"):
        load_classifier(tmp_path / "model", factory, LABELS[::-1])


@pytest.mark.parametrize(
    "changes",
    [
        {"problem_type": "regression"},
        {"problem_type": "multi_label_classification"},
        {"return_dict": False},
    ],
)
def test_a_source_that_was_fine_tuned_otherwise(
    make_encoder, tmp_path, changes
):
    """`transformers` applies the function that the problem type asks for."""
    model = EmotionClassifier(make_encoder(**changes), LABELS).eval()
    model.save_pretrained(tmp_path)
    wav = torch.randn(7000)
    with torch.no_grad():
        expected = model(wav[None]).logits.softmax(-1)[0].tolist()
    answer = pipeline("audio-classification", str(tmp_path))(wav.numpy())
    found = {entry["label"]: entry["score"] for entry in answer}
    assert [found[n] for n in LABELS] == pytest.approx(expected, abs=1e-4)


def test_outputs_that_are_no_classes_are_refused(make_encoder, tmp_path):
    model = EmotionClassifier(make_encoder(), LABELS)
    native = model.native()
    native.config.problem_type = "multi_label_classification"
    native.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="its problem_type is multi_label"):
        load_classifier(tmp_path, lambda source: model.encoder, LABELS)


def test_weighted_layer_sum_is_refused(make_encoder, tmp_path):
    model = EmotionClassifier(make_encoder(), LABELS)
    native = model.native()
    native.config.use_weighted_layer_sum = True
    rebuilt = AutoModelForAudioClassification.from_config(native.config)
    rebuilt.save_pretrained(tmp_path)
    model.encoder.feature_extractor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="weighted sum of layers"):
        load_classifier(tmp_path, lambda source: model.encoder, LABELS)


def test_logits_do_not_depend_on_padding(make_encoder):
    model = EmotionClassifier(make_encoder(), LABELS).eval()
    wavs = torch.randn(2, 9000)
    with torch.no_grad():
        together = model(wavs, torch.tensor([0.5, 1.0])).logits
        alone = model(wavs[:1, :4500]).logits
    assert torch.allclose(together[:1], alone, atol=1e-4)


def test_teacher_ignores_train_and_gives_repeatable_targets(make_encoder):
    encoder = make_encoder(hidden_dropout=0.5, attention_dropout=0.5)
    teacher = FrozenTeacher(EmotionClassifier(encoder, LABELS), [1, 4])
    modules = torch.nn.ModuleDict({"teacher": teacher}).train()
    assert not any(module.training for module in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    wavs = torch.randn(2, 8000).unbind()
    first, second = modules["teacher"](wavs), teacher(wavs)
    for (features, logits), (again, _) in zip(first, second):
        assert torch.equal(features, again)
        assert features.shape == (2, 24, 24) and logits.shape == (4,)
        assert not features.requires_grad


def test_teachers_in_half_precision_are_opened_in_single(
    make_encoder, tmp_path
):
    model = EmotionClassifier(make_encoder(), LABELS)
    model.save_pretrained(tmp_path)
    native = AutoModelForAudioClassification.from_pretrained(tmp_path)
    native.to(torch.bfloat16).save_pretrained(tmp_path)
    loaded = load_classifier(
        tmp_path, lambda source: SSLEncoder(source, source), LABELS
    )
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert {p.dtype for p in loaded.native().parameters()} == {torch.float32}
    assert state_sha256(loaded) != state_sha256(model)


def test_an_adapter_of_the_source_is_left_out(make_encoder, tmp_path):
    """It has no place in the head: training would end without a model."""
    encoder = make_encoder(add_adapter=True, num_adapter_layers=1)
    model = EmotionClassifier(encoder, LABELS)
    assert encoder.model.adapter is None
    model.save_pretrained(tmp_path / "model")
    native = AutoModelForAudioClassification.from_pretrained(tmp_path / "model")
    assert native.config.add_adapter is False


def test_logits_do_not_depend_on_how_waveforms_are_batched(make_encoder):
    model = EmotionClassifier(make_encoder(), LABELS).eval()
    generator = torch.Generator().manual_seed(1)
    lengths = (16000, 5000, 24000, 300, 16000)
    wavs = [torch.randn(n, generator=generator) for n in lengths]
    with torch.no_grad():
        alone = torch.cat([model(wav[None]).logits for wav in wavs])
        for longest in (0.5, 3.1, 60):
            found = classify(model, wavs, longest)
            assert (found - alone).abs().max() < 1e-5


def test_weights_of_any_kind_have_a_hash():
    plain = torch.nn.Sequential(torch.nn.Linear(2, 3))
    half = copy.deepcopy(plain).bfloat16()
    quantised = torch.ao.quantization.quantize_dynamic(
        copy.deepcopy(plain), {torch.nn.Linear}
    )
    found = [state_sha256(m) for m in (plain, half, quantised)]
    assert len({*found}) == 3
