"""Cached targets are the computed ones, and belong to one teacher."""

import torch

from mlkd_lobes.classifier import EmotionClassifier, FrozenTeacher, state_sha256
from mlkd_lobes.targets import TargetCache


def test_cached_targets_are_the_computed_ones(make_encoder, tmp_path):
    classifier = EmotionClassifier(make_encoder(), ["a", "b"])
    teacher = FrozenTeacher(classifier, [2, 4])
    cache = TargetCache(tmp_path, state_sha256(classifier), [2, 4])
    wavs, lengths = torch.randn(3, 9000), torch.tensor([1.0, 0.4, 0.7])
    features, logits, n_frames = teacher(wavs, lengths)
    ids = ["a/b", "c d", "ü"]
    assert cache.get(ids) is None
    written = cache.put(ids, features, logits, n_frames)
    read = cache.get(ids)
    for a, b in zip(written, read):
        assert torch.equal(a, b)
    for i, n in enumerate(n_frames):
        exact = features[:, i, :n]
        assert torch.equal(read[0][:, i, :n], exact.half())
        assert not read[0][:, i, n:].any()
    assert torch.equal(read[1], logits.half())
    # Computed alone, not in that batch: equal up to half precision.
    for i, name in enumerate(ids):
        wav = wavs[i : i + 1, : round(9000 * lengths[i].item())]
        alone, own, n = teacher(wav, torch.ones(1))
        cached = cache.get([name])
        torch.testing.assert_close(
            cached[0].float(), alone[:, :, : n[0]], atol=5e-3, rtol=2e-3
        )
        torch.testing.assert_close(cached[1].float(), own, atol=5e-3, rtol=2e-3)


def test_what_is_cached_stays_as_it_is(tmp_path):
    cache = TargetCache(tmp_path, "teacher", [1])
    entry = torch.rand(1, 1, 5, 4), torch.rand(1, 2), torch.tensor([5])
    first = cache.put(["a"], *entry)
    entry = torch.rand(1, 2, 5, 4), torch.rand(2, 2), torch.tensor([5, 5])
    again = cache.put(["a", "b"], *entry)
    assert torch.equal(again[0][:, 0], first[0][:, 0])
    assert torch.equal(again[1][1], entry[1][1].half())


def test_batches_are_put_together_anew(tmp_path):
    cache = TargetCache(tmp_path, "teacher", [1])
    features = torch.rand(1, 3, 9, 4)
    frames = torch.tensor([9, 5, 7])
    cache.put(["a", "b", "c"], features, torch.rand(3, 2), frames)
    again, _ = cache.get(["c", "b"])
    assert again.shape == (1, 2, 7, 4)
    assert torch.equal(again[:, 0], features[:, 2, :7].half())
    assert torch.equal(again[:, 1, :5], features[:, 1, :5].half())


def test_a_changed_teacher_never_meets_an_old_cache(make_encoder, tmp_path):
    classifier = EmotionClassifier(make_encoder(), ["a", "b"])
    features, logits = torch.rand(1, 1, 5, 4), torch.rand(1, 2)
    old = TargetCache(tmp_path, state_sha256(classifier), [4])
    old.put(["a"], features, logits, torch.tensor([5]))
    with torch.no_grad():
        classifier.head.classifier.bias[0] += 1e-6
    changed = TargetCache(tmp_path, state_sha256(classifier), [4])
    assert changed.get(["a"]) is None
    assert TargetCache(tmp_path, "other", [4]).get(["a"]) is None
    assert old.get(["a"]) is not None


def test_other_levels_are_another_cache(tmp_path):
    cache = TargetCache(tmp_path, "teacher", [4])
    cache.put(
        ["a"], torch.rand(1, 1, 5, 4), torch.rand(1, 2), torch.tensor([5])
    )
    assert TargetCache(tmp_path, "teacher", [3]).get(["a"]) is None


def test_half_written_entries_do_not_exist(tmp_path, monkeypatch):
    import mlkd_lobes.targets as targets

    cache = TargetCache(tmp_path, "teacher", [1])

    def breaks(entry, path):
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(targets, "save_file", breaks)
    entry = torch.rand(1, 1, 5, 4), torch.rand(1, 2), torch.tensor([5])
    try:
        cache.put(["a"], *entry)
    except OSError:
        pass
    assert cache.get(["a"]) is None
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_a_damaged_entry_is_made_anew(tmp_path):
    cache = TargetCache(tmp_path, "4f", [1])
    features, logits = torch.rand(1, 1, 9, 16), torch.rand(1, 4)
    first = cache.put(["a"], features, logits, torch.tensor([9]))
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:50])
    assert cache.get(["a"]) is None
    again = cache.put(["a"], features, logits, torch.tensor([9]))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
