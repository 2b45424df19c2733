"""Unlabelled speech of a folder, masking and the comparison, by the real command."""

import json
import shutil

import pytest
import torch
import train
from helpers import write_wav
from test_kill import kill_when

from mlkd_lobes.errors import InputError
from mlkd_lobes.training.target_cache import TargetCache


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speech")
    torch.manual_seed(0)
    for i in range(6):
        wav = 0.1 * torch.randn(16000 * (1 + i // 2))
        write_wav(folder / f"{i % 2}/{i}.wav", wav)
    return folder


@pytest.fixture
def with_teacher(finished, experiment):
    teacher = finished.arguments["output_folder"] / "teacher/model"
    experiment.arguments["teacher_folder"] = teacher
    return experiment


def stage(experiment, system):
    path = experiment.arguments["output_folder"] / system / "stage.json"
    return json.loads(path.read_text())


@pytest.fixture
def batches(monkeypatch):
    """The batches of training, as the Brain receives them."""
    received, forward = [], train.EmotionBrain.on_fit_batch_start

    def watch(self, batch, should_step):
        received.append(batch)
        forward(self, batch, should_step)

    monkeypatch.setattr(train.EmotionBrain, "on_fit_batch_start", watch)
    return received


def test_crops_of_a_folder_are_distilled(with_teacher, speech, batches):
    """Of its own speakers, of other people, and both."""
    options = {"unlabelled_folder": speech, "student_epochs": 1}
    counts = {}
    for chosen in (False, "corpus", "folder", True):
        out = with_teacher.folder / str(chosen)
        with_teacher.train(
            "mlkd",
            unlabelled=chosen,
            train_only=True,
            output_folder=out,
            **options,
        )
        keys = [key for batch in batches for key in batch.key]
        labels = torch.cat([batch.label for batch in batches])
        crops = [key for key in keys if key.startswith("0/")]
        counts[chosen] = (len(crops), int((labels == -1).sum()))
        assert len(set(keys)) == len(keys)
        batches.clear()
    assert counts[False] == (0, 0) and counts["corpus"][0] == 0
    assert counts["folder"][0] == counts["folder"][1] > 4
    assert 0 < counts["corpus"][1] < counts[True][1]
    assert counts[True][0] > 0


def test_crops_are_clean_where_training_speech_is(
    with_teacher, speech, batches
):
    systems = {"clean_kd": {"speech": "clean", "unlabelled": "folder"}}
    with_teacher.train(
        "clean_kd",
        systems=systems,
        unlabelled_folder=speech,
        student_epochs=1,
        train_only=True,
    )
    assert any(key.startswith("0/") for b in batches for key in b.key)
    for batch in batches:
        assert torch.equal(batch.sig[0], batch.clean[0])
        assert batch.snr.isinf().all()


def test_a_folder_is_needed_and_the_teacher_does_not_use_it(
    with_teacher, speech
):
    with pytest.raises(InputError, match="needs an unlabelled_folder"):
        with_teacher.train("mlkd", unlabelled="folder")
    out = with_teacher.arguments["output_folder"]
    options = {"unlabelled": "folder", "unlabelled_folder": speech}
    with_teacher.prepare(**options)
    assert not [*out.glob("*.db")]


def test_a_test_needs_no_unlabelled_speech(with_teacher, speech, tmp_path):
    """Nor does another precision of the test ask for another training."""
    copy = shutil.copytree(speech, tmp_path / "copy")
    options = {"unlabelled": "folder", "student_epochs": 1}
    with_teacher.run("mlkd", unlabelled_folder=copy, **options)
    shutil.rmtree(copy)
    results = with_teacher.run(
        "mlkd",
        "--test_only",
        "--eval_precision=bf16",
        unlabelled_folder=copy,
        **options,
    )
    assert results["temperature"]
    assert results["settings"]["eval_precision"] == "bf16"


def test_a_folder_that_is_not_used_is_a_warning(with_teacher, speech):
    options = {"unlabelled_folder": speech, "prepare_only": True}
    for system in ("mlkd_semi", "mlkd"):
        with_teacher.train(system, **options)
        log = with_teacher.arguments["output_folder"] / system / "log.txt"
        assert f"{system} does not use unlabelled_folder" in log.read_text()


def test_signals_alone_are_moved_to_the_device():
    """SNRs and lengths are double precision, which MPS does not have."""
    collate = train.loader_options({"num_workers": 0, "seed": 0})["collate_fn"]
    item = {"sig": torch.zeros(9), "snr": 2.0, "length": 0.5, "label": 1}
    batch = collate([item, item]).to("meta")
    assert batch.sig.data.is_meta and batch.label.is_meta
    assert batch.snr.dtype == torch.float64
    assert not batch.snr.is_meta and not batch.length.is_meta


def test_recordings_of_the_test_noise_are_left_out(with_teacher, batches):
    noise = with_teacher.arguments["noise_folder"]
    options = {"unlabelled": "folder", "unlabelled_folder": noise}
    with_teacher.train("mlkd", student_epochs=3, train_only=True, **options)
    out = with_teacher.arguments["output_folder"] / "noise"
    names = {
        s: (out / f"{s}.csv").read_text() for s in ("train", "valid", "test")
    }
    keys = [key for batch in batches for key in batch.key]
    used = {key.split("@")[0][2:] for key in keys if key.startswith("0/")}
    assert used and all(name in names["train"] for name in used)
    assert not any(name in names["valid"] + names["test"] for name in used)


def test_other_speech_is_another_training(with_teacher, speech):
    options = {"unlabelled": "folder", "student_epochs": 1, "train_only": True}
    with_teacher.train("mlkd", unlabelled_folder=speech, **options)
    other = with_teacher.folder / "other"
    write_wav(other / "a.wav", torch.randn(30000))
    with pytest.raises(InputError, match="unlabelled_speech"):
        with_teacher.train("mlkd", unlabelled_folder=other, **options)


def test_killed_with_crops_and_masks_it_ends_the_same(with_teacher, speech):
    changes = {
        "unlabelled": True,
        "unlabelled_folder": speech,
        "unlabelled_ratio": 0.5,
        "mask_share": 0.3,
        # Some targets are stored, others are computed in every epoch.
        "cache_limit": 0.0001,
        "student_epochs": 4,
    }
    whole, torn = with_teacher.folder / "whole", with_teacher.folder / "torn"
    with_teacher.run("mlkd", output_folder=whole, **changes)
    kill_when(with_teacher, "mlkd/save/CKPT*", torn, **changes)
    changes["cache_limit"] = 50
    with_teacher.run("mlkd", output_folder=torn, **changes)
    for name in ("model/model.safetensors", "predictions.csv.gz"):
        expected = (whole / "mlkd" / name).read_bytes()
        assert (torn / "mlkd" / name).read_bytes() == expected


def test_as_many_labelled_signals_again_in_other_noise(with_teacher, batches):
    changes = {"repeat_labelled": True, "student_epochs": 1}
    with_teacher.train(
        "student_noisy",
        train_only=True,
        clean_share=0.0,
        **changes,
    )
    signals = {}
    for batch in batches:
        sig, clean = batch.sig[0], batch.clean[0]
        for key, wav, label in zip(batch.key, sig - clean, batch.label):
            name = key.partition("@")[0]  # as in the cache
            signals.setdefault(name, []).append((wav, int(label)))
    assert len(signals) == 16 and {len(own) for own in signals.values()} == {2}
    for (one, label), (other, again) in signals.values():
        assert label == again >= 0
        n = min(len(one), len(other), 4000)
        assert not torch.allclose(one[:n], other[:n], atol=1e-3)


def test_the_cache_has_a_limit(tmp_path):
    def compute(places):
        return [
            (torch.full((1, 50, 40), float(i)), torch.zeros(2)) for i in places
        ]

    def used():
        return sum(p.stat().st_size for p in tmp_path.rglob("*.safetensors"))

    names, limit = list("abcdef"), 10**4
    cache = TargetCache(tmp_path, "teacher", [1], limit / 1e9)
    first = cache.get(names, compute)
    assert 8000 < used() <= limit
    computed = []
    again = cache.get(names, lambda i: computed.extend(i) or compute(i))
    assert computed == [2, 3, 4, 5]
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    # What is there counts.
    cache = TargetCache(tmp_path, "teacher", [1], limit / 1e9)
    before = used()
    cache.get(["g"], compute)
    assert used() == before
