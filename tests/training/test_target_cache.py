"""Cached targets are the computed ones, and belong to one teacher."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from train import MLKDBrain

import mlkd_lobes.training.target_cache as targets
from mlkd_lobes.errors import InputError
from mlkd_lobes.models.classifier import (
    EmotionClassifier,
    FrozenTeacher,
    state_sha256,
)
from mlkd_lobes.training.target_cache import TargetCache


def entry(n_frames, width=4):
    return torch.rand(1, n_frames, width), torch.rand(2)


def never(places):
    raise AssertionError("what is there is not computed again")


def test_cached_targets_are_the_computed_ones(make_encoder, tmp_path):
    classifier = EmotionClassifier(make_encoder(), ["a", "b"])
    teacher = FrozenTeacher(classifier, [2, 4])
    cache = TargetCache(tmp_path, state_sha256(classifier), [2, 4])
    wavs = [torch.randn(n) for n in (9000, 3600, 6300)]
    printed = [teacher([wav])[0] for wav in wavs]
    ids = ["a/b", "c d", "ü"]

    def compute(places):
        return [printed[i] for i in places]

    written, read = cache.get(ids, compute), cache.get(ids, never)
    for a, b in zip(written, read):
        assert torch.equal(a, b)
    for i, (features, logits) in enumerate(printed):
        n = features.shape[1]
        assert torch.equal(read[0][:, i, :n], features.half())
        assert not read[0][:, i, n:].any()
        assert torch.equal(read[1][i], logits.half())


def test_targets_computed_together_are_those_computed_alone(make_encoder):
    teacher = FrozenTeacher(
        EmotionClassifier(make_encoder(), ["a", "b"]), [1, 4]
    )
    wavs = [torch.randn(n) for n in (9000, 3600, 6300)]
    for wav, (features, logits) in zip(wavs, teacher(wavs)):
        ((own_features, own_logits),) = teacher([wav])
        assert features.shape == own_features.shape
        assert torch.allclose(features, own_features, atol=1e-4)
        assert torch.allclose(logits, own_logits, atol=1e-4)


def test_on_a_gpu_missing_targets_are_computed_together(make_encoder, tmp_path):
    teacher = FrozenTeacher(
        EmotionClassifier(make_encoder(), ["a", "b", "c", "d"]), [1, 4]
    )
    samples = torch.tensor([9000, 7000, 5000])
    signals = pad_sequence([torch.randn(n) for n in samples], batch_first=True)
    batch = SimpleNamespace(
        clean=(signals, samples / samples.max()), key=["a", "b", "c"]
    )
    sizes = []
    teacher.register_forward_hook(
        lambda _, args, out: sizes.append(len(args[0]))
    )

    def targets(device_type):
        cache = TargetCache(tmp_path / device_type, "teacher", [1, 4])
        cache.get(["b"], lambda _: [(torch.zeros(2, 21, 24), torch.zeros(4))])
        brain = SimpleNamespace(
            device_type=device_type,
            device="cpu",
            modules=SimpleNamespace(teacher=teacher),
            hparams=SimpleNamespace(cache=cache),
        )
        return MLKDBrain.teacher_targets(brain, batch)

    for alone, together in zip(targets("cpu"), targets("cuda")):
        assert torch.allclose(alone, together, atol=1e-3)
    assert sizes == [1, 1, 2]


def test_only_what_is_missing_is_computed(tmp_path):
    cache = TargetCache(tmp_path, "teacher", [1])
    printed, requested = [entry(5), entry(9), entry(7)], []

    def compute(places):
        requested.append(places)
        return [printed[i] for i in places]

    first = cache.get(["a"], compute)
    both = cache.get(["a", "b", "c"], compute)
    assert requested == [[0], [1, 2]]
    assert torch.equal(both[0][:, 0, :5], first[0][:, 0])
    again, _ = cache.get(["c", "a"], never)
    assert again.shape == (1, 2, 7, 4)
    assert torch.equal(again[:, 0], printed[2][0].half())
    assert torch.equal(again[:, 1, :5], printed[0][0].half())


def test_a_signal_that_comes_twice_is_computed_once(tmp_path):
    cache, computed = TargetCache(tmp_path, "teacher", [1], 1.0), []

    def compute(places):
        computed.extend(places)
        return [entry(9) for _ in places]

    features, logits = cache.get(["a", "b", "a"], compute)
    assert computed == [0, 1] and features.shape == (1, 3, 9, 4)
    assert torch.equal(features[:, 0], features[:, 2])
    assert torch.equal(logits[0], logits[2])
    stored = [path.stat().st_size for path in tmp_path.rglob("*.safetensors")]
    assert len(stored) == 2 and cache.room == 1e9 - sum(stored)


def test_changed_teacher_does_not_use_an_old_cache(make_encoder, tmp_path):
    classifier = EmotionClassifier(make_encoder(), ["a", "b"])
    old = TargetCache(tmp_path, state_sha256(classifier), [4])
    old.get(["a"], lambda _: [entry(5)])
    with torch.no_grad():
        classifier.head.classifier.bias[0] += 1e-6
    others = [(state_sha256(classifier), [4]), ("other", [4])]
    # Nor do other levels.
    with torch.no_grad():
        classifier.head.classifier.bias[0] -= 1e-6
    others.append((state_sha256(classifier), [3]))
    for other in others:
        with pytest.raises(AssertionError):
            TargetCache(tmp_path, *other).get(["a"], never)
    old.get(["a"], never)


def test_half_written_entries_do_not_exist(tmp_path, monkeypatch):
    cache = TargetCache(tmp_path, "teacher", [1])

    def breaks(entry, path):
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(targets, "save_file", breaks)
    with pytest.raises(OSError):
        cache.get(["a"], lambda _: [entry(5)])
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_damaged_cache_entry_is_recomputed(tmp_path):
    cache, printed = TargetCache(tmp_path, "4f", [1]), entry(9, 16)
    first = cache.get(["a"], lambda _: [printed])
    (path,) = tmp_path.rglob("*.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:50])
    again = cache.get(["a"], lambda _: [printed])
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert path.read_bytes() == whole


def test_targets_beyond_half_precision_are_refused(tmp_path):
    cache = TargetCache(tmp_path, "teacher", [3, 7])
    features, logits = torch.rand(2, 5, 4), torch.rand(2)
    features[1, 2, 3] = 1e5
    with pytest.raises(InputError, match="hidden states of level 7 are not"):
        cache.get(["a"], lambda _: [(features, logits)])
    assert not list(tmp_path.rglob("*.safetensors"))
