"""Batches and pipelines: the same speech and noise however they are loaded."""

import gc
import itertools
import json
import os
import pathlib
from collections import Counter
from functools import partial

import pytest
import torch
from helpers import LABEL_MAP, LABELS, seeded, write_noise, write_wav
from hypothesis import (
    given,
    strategies as st,
)
from noise_prepare import prepare_noise

from mlkd_lobes.data.audio import read_audio
from mlkd_lobes.data.batches import (
    KeyedSpeedPerturb,
    TrainingBatchSampler,
    add_evaluation_pipeline,
    add_training_pipeline,
    evaluation_batches,
    read_manifest,
    repeat_labelled,
)
from mlkd_lobes.data.prepare import prepare_corpus
from mlkd_lobes.errors import InputError
from mlkd_lobes.noise.add_noise import KeyedAddNoise, conditions
from mlkd_lobes.noise.distortions import apply_grid
from speechbrain.dataio.dataloader import make_dataloader
from speechbrain.dataio.dataset import DynamicItemDataset


@pytest.fixture(scope="module")
def prepared(corpus, noise_corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    prepare_corpus("csv", corpus, folder, LABELS, LABEL_MAP, "groups", 3, 1)
    prepare_noise("folder", noise_corpus, folder, ["rain", "wind"])
    return corpus, folder, {"noise_folder": noise_corpus}


def dataset(prepared, split="train", unlabelled=True):
    corpus, folder, _ = prepared
    return read_manifest(
        folder / f"{split}.json", str(corpus), LABELS, 32, unlabelled
    )


def mixer(prepared, split="train", **options):
    _, folder, noise = prepared
    csv, options["replacements"] = str(folder / f"{split}.csv"), noise
    return KeyedAddNoise(csv, snr_low=-5, snr_high=20, seed=1, **options)


def received(prepared, epoch, workers=0, batch=3, reverse=False):
    data, noise = dataset(prepared), mixer(prepared, clean_share=0.2)
    speed = KeyedSpeedPerturb(16000, [90, 100, 110], seed=1)
    for draw in (noise, speed):
        draw.set_epoch(epoch)
    add_training_pipeline(data, LABELS, speed, noise)
    order = list(range(len(data)))[:: -1 if reverse else 1]
    loader = make_dataloader(
        data, batch_size=batch, num_workers=workers, sampler=order
    )
    found = {}
    for items in loader:
        for i, name in enumerate(items.key):
            n = round(items.sig.lengths[i].item() * items.sig.data.shape[1])
            assert not items.sig.data[i, n:].any()
            found[name] = items.sig.data[i, :n].clone()
    return found


def test_training_speech_is_the_same_for_workers_batches_and_order(prepared):
    reference = received(prepared, epoch=1)
    for options in (
        {"workers": 2},
        {"batch": 7, "reverse": True},
        {"workers": 1, "batch": 2},
    ):
        other = received(prepared, epoch=1, **options)
        assert other.keys() == reference.keys()
        assert all(torch.equal(other[n], reference[n]) for n in reference)
    later = received(prepared, epoch=2, workers=2)
    both = later.keys() & reference.keys()
    changed = [not torch.equal(later[n], reference[n]) for n in both]
    assert sum(changed) > len(changed) / 2 and 0 < len(both) < len(later)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_that_live_on_follow_the_epoch(prepared, start):
    data, noise = dataset(prepared), mixer(prepared, clean_share=0.2)
    speed = KeyedSpeedPerturb(16000, [90, 100, 110], seed=1)
    add_training_pipeline(data, LABELS, speed, noise)
    loader = make_dataloader(
        data,
        batch_size=3,
        num_workers=1,
        persistent_workers=True,
        multiprocessing_context=start,
    )
    for epoch in (1, 2, 3):
        for draw in (noise, speed):
            draw.set_epoch(epoch)
        reference, found = received(prepared, epoch), []
        for items in loader:
            found += items.key
            for i, name in enumerate(items.key):
                own = items.sig.data[i, : len(reference[name])]
                assert torch.equal(own, reference[name])
        assert {*found} == {*reference}


@given(
    lengths=st.lists(st.floats(0.1, 20), min_size=1, max_size=40),
    n_conditions=st.integers(1, 40),
)
def test_evaluated_utterances_are_batched_by_length(lengths, n_conditions):
    data = {str(i): {"length": n} for i, n in enumerate(lengths)}
    batches = evaluation_batches(DynamicItemDataset(data), n_conditions, 60)
    assert sorted(itertools.chain(*batches)) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[i] for i in batch)
        assert len(batch) == 1 or len(batch) * longest * n_conditions <= 60
    # Neighbours would not have fitted into one.
    for batch, following in itertools.pairwise(batches):
        size = (len(batch) + 1) * n_conditions * lengths[following[0]]
        assert size > 60 and lengths[batch[-1]] <= lengths[following[0]]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_nothing_grows_with_the_number_of_epochs(prepared):
    """Neither open files nor, by more than noise, resident pages."""

    def held():
        gc.collect()
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
        return len(os.listdir("/proc/self/fd")), pages * 4096

    for epoch in range(2):
        received(prepared, epoch, workers=1)
    files, before = held()
    for epoch in range(2, 12):
        received(prepared, epoch, workers=1)
    still, after = held()
    # An epoch's speech and noise alone are a megabyte.
    assert still == files and after < before + 5e6


@pytest.mark.parametrize("length", [20000, 60000])
def test_speech_is_the_same_with_any_thread_count(prepared, tmp_path, length):
    wav = 0.2 * torch.randn(length, generator=seeded(1))
    write_wav(tmp_path / "a.wav", wav)
    entry = {"wav": str(tmp_path / "a.wav"), "start": None, "stop": None}
    entry |= {"length": length / 16000, "emo": "neu", "speaker": "s"}
    entry["signal"] = "a"
    noise, heard_with = mixer(prepared, clean_share=0), {}
    noise.set_epoch(1)
    threads = torch.get_num_threads()
    for n in (1, 2):
        torch.set_num_threads(n)
        data = DynamicItemDataset({"a": entry})
        speed = KeyedSpeedPerturb(16000, [90], seed=1)
        add_training_pipeline(data, LABELS, speed, noise)
        heard_with[n] = data[0]
        grid, mix = conditions(["rain"], [0, 9]), partial(apply_grid, noise)
        add_evaluation_pipeline(data, LABELS, grid, mix)
        heard_with[n] |= data[0]
        assert torch.get_num_threads() == n
    torch.set_num_threads(threads)
    for name in ("clean", "sig"):
        assert torch.equal(heard_with[1][name], heard_with[2][name])
    assert torch.equal(heard_with[1]["wavs"][0], heard_with[2]["wavs"][0])


def test_a_clean_signal_is_named_by_utterance_and_speed(prepared):
    data = dataset(prepared)
    speed = KeyedSpeedPerturb(16000, [90, 110])
    add_training_pipeline(data, LABELS, speed)
    speeds = []
    for name, item in zip(data.data_ids, data):
        utterance, percent = item["key"].rsplit("@", 1)
        assert utterance == name
        speeds.append(int(percent))
        length = 16000 * data.data[name]["length"] * 100 / speeds[-1]
        assert len(item["clean"]) == pytest.approx(length, abs=2)
    assert set(speeds) == {90, 110}


def test_evaluation_noise_does_not_depend_on_workers(prepared):
    grids = []
    for workers in (0, 2):
        data, noise = dataset(prepared, "test", False), mixer(prepared, "test")
        grid, mix = conditions(["rain"], [0, 9]), partial(apply_grid, noise)
        add_evaluation_pipeline(data, LABELS, grid, mix)
        loader = make_dataloader(data, batch_size=1, num_workers=workers)
        grids.append({b.id[0]: b.wavs[0][0].clone() for b in loader})
    assert all(torch.equal(grids[0][n], grids[1][n]) for n in grids[0])
    assert next(iter(grids[0].values())).shape[0] == 3


def test_evaluation_reads_every_utterance_once(prepared, monkeypatch):
    opened = Counter()

    def watch(path, *bounds):
        opened[path] += 1
        return read_audio(path, *bounds)

    monkeypatch.setattr("mlkd_lobes.data.batches.read_audio", watch)
    utterances = dataset(prepared, "test", False)
    grid = conditions(["rain", "wind"], [-5, 0, 5, 10, 15, 20])
    noise = mixer(prepared, "test")
    add_evaluation_pipeline(
        utterances, LABELS, grid, partial(apply_grid, noise)
    )
    for item in utterances:
        assert len(item["wavs"][0]) == 13
    paths = [entry["wav"] for entry in utterances.data.values()]
    assert len(paths) > 3 and opened == Counter(paths)


def test_labels_and_clean_speech(prepared):
    data = dataset(prepared)
    add_training_pipeline(data, LABELS, KeyedSpeedPerturb(16000))
    for name, item in zip(data.data_ids, data):
        emotion = data.data[name]["emo"]
        assert item["label"] == (LABELS.index(emotion) if emotion else -1)
        assert torch.equal(item["clean"], item["sig"])


def batches(data, epoch):
    sampler = TrainingBatchSampler(data, 2.5, 3, seed=1)
    sampler.set_epoch(epoch)
    return list(sampler)


def test_unlabelled_speech_leaves_the_labelled_batches_as_they_were(prepared):
    alone, mixed = dataset(prepared, unlabelled=False), dataset(prepared)
    for epoch in (1, 2):
        first = [
            [alone.data_ids[i] for i in batch]
            for batch in batches(alone, epoch)
        ]
        second = [
            [mixed.data_ids[i] for i in batch]
            for batch in batches(mixed, epoch)
        ]
        labelled = [
            [n for n in batch if mixed.data[n]["emo"]] for batch in second
        ]
        assert labelled == first
        assert sum(map(len, second)) > sum(map(len, labelled))


@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 60))
def test_no_batch_exceeds_its_seconds(seed, n_labelled, n_others):
    """Lengths with a long tail, as in conversations: 0.6 to 30 s."""
    draw = torch.rand(n_labelled + n_others, generator=seeded(seed)).tolist()
    lengths = [0.6 + 29.4 * share**4 for share in draw]
    data = {
        f"u{i}": {"length": x, "emo": "neu" if i < n_labelled else None}
        for i, x in enumerate(lengths)
    }
    sampler = TrainingBatchSampler(DynamicItemDataset(data), 32, 5, seed=1)
    received = set()
    for epoch in range(1, 4):
        sampler.set_epoch(epoch)
        for batch in sampler:
            own = [i for i in batch if i < n_labelled]
            assert max(lengths[i] for i in own) * len(own) <= 32.1
            assert max(lengths[i] for i in batch) * len(batch) <= 64.1
            assert len(set(batch)) == len(batch)
            received.update(batch)
    assert received >= set(range(n_labelled))


def test_no_further_signal_comes_twice_in_an_epoch():
    data = {
        f"u{i}": {"length": 1.0, "emo": "neu" if i < 30 else None}
        for i in range(60)
    }
    sampler = TrainingBatchSampler(DynamicItemDataset(data), 5, 3, seed=1)
    received = Counter(i for batch in sampler for i in batch)
    assert {received[i] for i in range(30)} == {1}
    others = [received[i] for i in range(30, 60)]
    assert sum(others) > 20 and max(others) == 1


def test_labelled_speech_again_fills_what_unlabelled_speech_leaves():
    data = {
        f"u{i}": {"length": 1.0, "emo": "neu" if i < 30 else None}
        for i in range(40)
    }
    data = DynamicItemDataset(data)
    repeat_labelled(data, 1.0)
    sampler = TrainingBatchSampler(data, 5, 1, seed=1)
    received = Counter(i for batch in sampler for i in batch)
    assert max(received.values()) == 1
    # 30 labelled, as many further ones: 10 unlabelled, 20 of the 30 copies.
    assert received.keys() >= set(range(40)) and len(received) == 60


def test_few_further_signals_are_spread_over_the_epoch():
    data = {
        f"u{i}": {"length": 1.0, "emo": "neu" if i < 30 else None}
        for i in range(36)
    }
    sampler = TrainingBatchSampler(DynamicItemDataset(data), 5, 1, seed=1)
    per_batch = Counter()
    for epoch in range(40):
        sampler.set_epoch(epoch)
        for place, batch in enumerate(sampler):
            per_batch[place] += sum(i >= 30 for i in batch)
    # Of 240 in all, a sixth in each batch.
    assert sum(per_batch.values()) == 240
    assert 20 < min(per_batch[place] for place in range(6))


def test_unlabelled_utterances_are_used_in_turn(prepared):
    data = dataset(prepared)
    others = {i for i, n in enumerate(data.data_ids) if not data.data[n]["emo"]}
    received = {
        i for epoch in range(5) for b in batches(data, epoch) for i in b
    } & others
    assert received == others


def test_every_utterance_once_an_epoch_in_another_order(prepared):
    data = dataset(prepared, unlabelled=False)
    one, two = batches(data, 1), batches(data, 2)
    for epoch in (one, two):
        assert sorted(i for batch in epoch for i in batch) == list(range(16))
    assert one != two and one == batches(data, 1)
    for batch in one:
        lengths = [data.data[data.data_ids[i]]["length"] for i in batch]
        assert max(lengths) * len(lengths) <= 2.5 + 0.01


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "not valid JSON"),
        ("[" * 10**5, "not valid JSON"),
        ('["a"]', "has no utterances"),
        ('{"u": 1}', "utterance u is 1, expected keys"),
        ({"wav": 3}, "3 as 'wav'"),
        ({"wav": "{root}/x"}, "only .data_root. may"),
        ({"length": "long"}, "'length' is 'long', expected seconds"),
        ({"length": 0}, "has no 'length'"),
        ({"length": float("nan")}, "'length' is nan"),
        ({"start": -1}, "'start' is -1"),
        ({"stop": True}, "'stop' is True"),
        ({"emo": ["neu"]}, "no label"),
        ({"emo": None}, "none of its utterances has a label"),
    ],
)
def test_manifests_of_another_kind_are_refused(tmp_path, content, message):
    path = tmp_path / "train.json"
    if isinstance(content, dict):
        entry = {"wav": "{data_root}/x", "length": 1.0, "emo": "neu"}
        content = json.dumps({"u": {**entry, **content}})
    path.write_text(content)
    with pytest.raises(InputError, match=message) as error:
        read_manifest(path, "", LABELS, 32)
    assert "train.json" in str(error.value)


def test_bad_manifests_are_named(tmp_path):
    path = tmp_path / "train.json"
    with pytest.raises(FileNotFoundError, match="train.json"):
        read_manifest(path, "", LABELS, 32)
    path.write_text("{}")
    with pytest.raises(ValueError, match="has no utterances"):
        read_manifest(path, "", LABELS, 32)
    entry = {"wav": "{data_root}/x", "length": 1.0, "emo": "neu"}
    # What pipelines call their items may be called so in a manifest too.
    others = {"text": "say {this}", "label": "anger", "sig": 1}
    others["length"] = "1.0"
    path.write_text(json.dumps({"u": {**entry, **others}}))
    data = read_manifest(path, "/c", LABELS, 32)
    assert data.data["u"]["wav"] == "/c/x"
    # As in SpeechBrain's samples.
    assert data.data["u"]["length"] == 1.0
    assert "label" not in data.data["u"]
    for key, message in (("wav", "None as 'wav'"), ("length", "no 'length'")):
        path.write_text(json.dumps({"u": {**entry, key: None}}))
        with pytest.raises(ValueError, match=f"utterance u has {message}"):
            read_manifest(path, "", LABELS, 32)
    entry = {"wav": "x", "length": 1.0, "emo": "bored"}
    path.write_text(json.dumps({"u": entry}))
    with pytest.raises(ValueError, match="'bored'.*neu, hap, sad, ang"):
        read_manifest(path, "", LABELS, 32)
    entry = {"wav": "x", "length": 1800.0, "emo": "neu"}
    path.write_text(json.dumps({"u": entry}))
    with pytest.raises(ValueError, match="u lasts 1800.0 s, more than the 32"):
        read_manifest(path, "", LABELS, 32)


def test_changed_noise_is_prepared_again(prepared, tmp_path):
    folder = write_noise(tmp_path / "snow", ["snow"])
    prepare_noise("folder", folder, tmp_path, ["snow"])
    wav, places = torch.randn(9000), {"noise_folder": folder}
    csv = str(tmp_path / "train.csv")
    own = KeyedAddNoise(csv, -5, 20, seed=1, replacements=places)
    assert list(own.types) == ["snow"]
    assert not torch.equal(own.corrupt(wav, "u")[0],
                           mixer(prepared).corrupt(wav, "u")[0])  # fmt: skip


@pytest.mark.parametrize("split", ["train", "test"])
def test_workers_need_not_be_forks(prepared, split):
    """On macOS they are not, nor on Linux from Python 3.14 on."""
    data = dataset(prepared, split, unlabelled=False)
    noise = mixer(prepared, split)
    if split == "train":
        speed = KeyedSpeedPerturb(16000, [90, 110])
        add_training_pipeline(data, LABELS, speed, noise)
    else:
        grid, mix = conditions(["rain"], [0]), partial(apply_grid, noise)
        add_evaluation_pipeline(data, LABELS, grid, mix)
    ways = ({}, {"num_workers": 1, "multiprocessing_context": "spawn"})
    alone, spawned = (
        list(make_dataloader(data, batch_size=1, **way)) for way in ways
    )
    assert len(alone) == len(spawned) > 1
    for one, other in zip(alone, spawned):
        if split == "train":
            assert torch.equal(one.sig.data, other.sig.data)
        else:
            assert torch.equal(one.wavs[0][0], other.wavs[0][0])
