"""Unlabelled speech of a folder: listed, cut, read; nothing of the test in it."""

import csv
import io
import logging
import os
import shutil
import sqlite3
import tarfile
import tracemalloc
from collections import Counter

import numpy as np
import pytest
import soundfile
import torch
from helpers import write_wav
from hypothesis import (
    given,
    strategies as st,
)

from mlkd_lobes.data import audio, unlabelled
from mlkd_lobes.data.batches import TrainingBatchSampler
from mlkd_lobes.data.unlabelled import Crops, cut, prepare_unlabelled
from mlkd_lobes.errors import InputError
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.dataio.sampler import DistributedSamplerWrapper

LENGTHS = [1.0, 1.5, 2.0]


class Quiet:
    """A mixer that adds nothing."""

    def corrupt(self, wav, utterance):
        return wav, 0.0


@pytest.fixture
def speech(tmp_path):
    folder = tmp_path / "speech"
    for i, seconds in enumerate([0.7, 1.6, 7.3]):
        wav = 0.1 * torch.randn(round(16000 * seconds))
        write_wav(folder / f"talker {i}/ä{i}.wav", wav)
    return folder


def crops_of(sources, folder, held_out=()):
    database = unlabelled.database_path(folder, sources, LENGTHS, held_out)
    prepare_unlabelled(database, sources, LENGTHS, list(held_out))
    return Crops(database, Quiet())


def spans(crops):
    """Start and stop of the crops by recording."""
    found = {}
    for i in range(len(crops)):
        name, _, span = crops[i]["key"].rpartition("@")
        found.setdefault(name, []).append(tuple(map(float, span.split("-"))))
    return {name: sorted(own) for name, own in found.items()}


def whole(crops):
    """From the first to the last second that crops take of a recording."""
    return {n: (own[0][0], own[-1][1]) for n, own in spans(crops).items()}


@given(
    st.floats(0, 50),
    st.floats(0.05, 100),
    st.lists(st.floats(0.3, 30), min_size=1, max_size=9),
)
def test_crops_cover_a_recording_and_are_as_long_as_utterances(
    start, seconds, lengths
):
    lengths, stop = sorted(lengths), start + seconds
    found, covered = list(cut("name", start, stop, lengths)), start
    assert found == list(cut("name", start, stop, lengths))
    for begin, end in sorted(found):
        assert start - 1e-3 <= begin <= covered + 1e-3 and end <= stop + 1e-3
        covered = max(covered, end)
    assert covered == pytest.approx(stop, abs=1e-3)
    drawn = {round(end - begin, 3) for begin, end in found}
    near = [min(abs(x - y) for y in [*lengths, seconds]) for x in drawn]
    assert max(near) < 2e-3
    assert max(drawn) <= lengths[-1] + 2e-3


def test_crops_are_parts_of_the_recordings(speech, tmp_path):
    crops = crops_of(str(speech), tmp_path)
    lengths = [len(crops[i]["clean"]) / 16000 for i in range(len(crops))]
    assert lengths == sorted(lengths)
    for seconds in (0.1, 1.0, 1.2, 1.5, 2.0, 99):
        assert crops.count_up_to(seconds) == sum(
            x <= seconds + 1e-4 for x in lengths
        )
    found = spans(crops)
    assert len(found) == 3 and found["0/talker 0/ä0.wav"] == [(0.0, 0.7)]
    for i in range(len(crops)):
        name, _, span = crops[i]["key"].rpartition("@")
        start, stop = map(float, span.split("-"))
        path = speech / name.partition("/")[2]
        expected = audio.read_audio(path, start, stop)
        assert np.array_equal(crops[i]["clean"].numpy(), expected)
        assert crops[i]["label"] == -1


def test_preparation_decodes_nothing(speech, tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("decoded")

    monkeypatch.setattr(soundfile.SoundFile, "read", refuse)
    assert len(crops_of(str(speech), tmp_path)) > 4


def test_tables_and_several_sources(speech, tmp_path):
    """A table in the folder names parts."""
    table = speech / "manifest.csv"
    table.write_text("path,speaker,start,end\ntalker 2/ä2.wav,s2,1.0,2.5\n")
    second = speech / "second.csv"
    second.write_text("path,start,end\ntalker 1/ä1.wav,0.5,1.5\n")
    both = {"0/talker 2/ä2.wav": (1.0, 2.5), "1/talker 1/ä1.wav": (0.5, 1.5)}
    assert whole(crops_of([str(speech), str(second)], tmp_path)) == both
    del both["1/talker 1/ä1.wav"]
    assert whole(crops_of(str(table), tmp_path)) == both
    # Spaces and a last comma are no part of names and values.
    table.write_text("path, speaker ,start,\ntalker 2/ä2.wav, s2 ,6.3,\n")
    found = crops_of(str(table), tmp_path)
    assert whole(found) == {"0/talker 2/ä2.wav": (6.3, 7.3)}
    known = [{"wav": str(speech / "talker 0/ä0.wav"), "speaker": "s2"}]
    with pytest.raises(InputError, match="no speech in"):
        crops_of(str(table), tmp_path, known)
    other = tmp_path / "other.csv"
    other.write_text("file\nx.wav\n")
    with pytest.raises(InputError, match="other.csv: column path is missing"):
        crops_of(str(other), tmp_path)


def write_shard(path, folder, **others):
    """Samples of a file and its description, as WebDataset has them."""
    with tarfile.open(path, "w") as tar:
        for file in sorted(folder.rglob("*.wav")):
            tar.add(file, f"{file.stem}.wav")
            text = b'{"speaker": "x"}'
            # As tar on a Mac adds it.
            hidden = tarfile.TarInfo(f"._{file.stem}.wav")
            tar.addfile(hidden)
            info = tarfile.TarInfo(f"{file.stem}.json")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))
        for name, source in others.items():
            tar.add(source, name.replace("_", "."))


def test_shards_give_the_crops_of_their_files(speech, tmp_path, caplog):
    shards = tmp_path / "shards"
    shards.mkdir()
    mp3 = tmp_path / "long.mp3"
    wav = np.sin(np.arange(48000) / 20).astype(np.float32) / 3
    soundfile.write(mp3, wav, 16000, format="MP3")
    write_shard(shards / "speech-000000.tar", speech, long_mp3=mp3)
    crops = crops_of(str(shards), tmp_path)
    assert "._" not in caplog.text
    assert {n.rpartition("/")[2] for n in spans(crops)} == {
        "ä0.wav", "ä1.wav", "ä2.wav", "long.mp3"
    }  # fmt: skip
    for i in range(len(crops)):
        name, _, span = crops[i]["key"].rpartition("@")
        name = name.rpartition("/")[2]
        path = mp3 if name == "long.mp3" else next(speech.rglob(name))
        expected = audio.read_audio(path, *map(float, span.split("-")))
        assert np.array_equal(crops[i]["clean"].numpy(), expected)
    assert len(crops_of(str(shards / "speech-000000.tar"), tmp_path)) == len(
        crops
    )


@pytest.mark.parametrize("damage", ["cut", "compressed", "text"])
def test_damaged_shards_are_named(speech, tmp_path, damage):
    shard = tmp_path / "a.tar"
    write_shard(shard, speech)
    content = shard.read_bytes()
    if damage == "compressed":
        with tarfile.open(shard, "w:gz") as tar:
            tar.add(speech, "x")
    else:
        cuts = {"cut": content[: len(content) // 2], "text": b"text" * 200}
        shard.write_bytes(cuts[damage])
    with pytest.raises(InputError, match=r"a\.tar: is not a complete tar"):
        crops_of(str(shard), tmp_path)


def test_held_out_files_and_speakers_are_left_out(speech, tmp_path, caplog):
    """A file of the test under another name, too; a speaker where named."""
    copy = tmp_path / "copy.wav"
    shutil.copy(speech / "talker 2/ä2.wav", copy)
    held_out = [{"wav": str(copy), "speaker": "s9"}]
    with caplog.at_level(logging.WARNING):
        found = spans(crops_of(str(speech), tmp_path, held_out))
    assert sorted(found) == ["0/talker 0/ä0.wav", "0/talker 1/ä1.wav"]
    assert "1 left out: of validation, test or their noise" in caplog.text
    rows = [[f"talker {i}/ä{i}.wav", f"s{i}"] for i in range(3)]
    with open(speech / "manifest.csv", "w", newline="") as file:
        csv.writer(file).writerows([["path", "speaker"], *rows])
    held_out[0]["speaker"] = "s1"
    found = spans(crops_of(str(speech), tmp_path, held_out))
    assert sorted(found) == ["0/talker 0/ä0.wav"]
    shard = tmp_path / "a.tar"
    write_shard(shard, speech)
    assert len(spans(crops_of(str(shard), tmp_path, held_out))) == 2
    held_out = [
        {"wav": str(path), "speaker": None} for path in speech.rglob("*.wav")
    ]
    with pytest.raises(InputError, match="unlabelled_folder: no speech in"):
        crops_of(str(speech), tmp_path, held_out)
    assert not [*tmp_path.glob("*partial*")]


def test_unreadable_files_are_named_and_left_out(speech, tmp_path, caplog):
    (speech / "bad.wav").write_text("text")
    (speech / "empty.flac").touch()
    with caplog.at_level(logging.WARNING):
        crops = crops_of(str(speech), tmp_path)
    assert len(spans(crops)) == 3
    assert "bad.wav: not readable as audio" in caplog.text
    assert "empty.flac: the file is empty" in caplog.text
    with pytest.raises(InputError, match="nowhere is neither a folder nor"):
        crops_of(str(tmp_path / "nowhere"), tmp_path)


def test_a_list_is_made_once_and_known_by_its_speech(speech, tmp_path):
    first = crops_of(str(speech), tmp_path)
    time = first.database.stat().st_mtime_ns
    assert crops_of(str(speech), tmp_path).database.stat().st_mtime_ns == time
    moved = speech.rename(tmp_path / "moved")
    second = crops_of(str(moved), tmp_path)
    names = [unlabelled.fingerprint(c.database) for c in (first, second)]
    assert names[0] == names[1] and first.database != second.database
    write_wav(moved / "more.wav", torch.zeros(20000))
    (moved / "talker 0/ä0.wav").unlink()
    third = crops_of(str(moved), tmp_path)
    assert third.database != second.database
    assert unlabelled.fingerprint(third.database) != names[0]
    assert not any("ä0.wav" in second[i]["key"] for i in range(len(second)))


def test_a_damaged_recording_is_replaced_in_training(speech, tmp_path, caplog):
    damaged = np.full(32000, np.nan)
    soundfile.write(speech / "z.wav", damaged, 16000, subtype="FLOAT")
    crops = crops_of(str(speech), tmp_path)
    with caplog.at_level(logging.WARNING):
        keys = [crops[i]["key"] for i in range(len(crops))]
    assert not any("z.wav" in key for key in keys)
    assert "z.wav: holds NaN" in caplog.text
    assert keys == [crops[i]["key"] for i in range(len(crops))]
    # The shortest one is replaced by the next longer one.
    write_wav(speech / "short.wav", torch.full((3000,), 0.1))
    shutil.copy(speech / "short.wav", speech / "shorter.flac")
    crops = crops_of(str(speech), tmp_path)
    (speech / "short.wav").write_bytes(b"text")
    (speech / "shorter.flac").write_bytes(b"text")
    # No longer than it, so that its batch is not.
    assert crops[0]["key"].startswith("0/talker 0/ä0.wav")
    assert len(crops[0]["clean"]) == 3000


def test_many_damaged_recordings_are_an_error(speech, tmp_path, monkeypatch):
    """Recordings are counted, each once, however many crops it has."""
    crops = crops_of(str(speech), tmp_path)
    names = [crops[i]["key"].split("@")[0] for i in range(len(crops))]
    tried = []

    def fail(name, *row):
        tried.append(name)
        raise InputError(f"{name}: damaged")

    monkeypatch.setattr(crops, "_item", fail)
    with pytest.raises(InputError, match="unlabelled_folder: damaged: "):
        crops[len(crops) - 1]
    assert sorted(tried) == sorted({*names}) and len(tried) < len(names)
    tried.clear()
    monkeypatch.setattr(unlabelled, "MAX_DAMAGED", 2)
    with pytest.raises(InputError, match="unlabelled_folder: damaged: "):
        crops[len(crops) - 1]
    assert len(tried) == 2


def test_a_name_that_is_not_utf8_is_no_obstacle(speech, tmp_path):
    name = os.fsencode(speech) + b"/caf\xe9.wav"
    with open(name, "wb") as file:
        file.write(b"RIFF")
    assert len(crops_of(str(speech), tmp_path)) > 4


def test_a_full_disk_is_named(speech, tmp_path, monkeypatch):
    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(unlabelled, "_fill", full)
    with pytest.raises(InputError, match=r"\.db: cannot be written .*full"):
        crops_of(str(speech), tmp_path)
    assert not [*tmp_path.glob("*.db*")]


def peak_of(n, folder, monkeypatch):
    """Bytes of Python's memory at the peak of listing n recordings."""
    info = audio.AudioInfo(16000 * 12, 16000, 12.0)
    monkeypatch.setattr(audio, "audio_info", lambda path: info)
    table = folder / f"{n}.csv"
    with open(table, "w") as file:
        file.write("path\n")
        file.writelines(f"{n}/{i:0150}.flac\n" for i in range(n))
    (folder / str(n)).mkdir()
    path = folder / "one.flac"
    path.touch()
    monkeypatch.setattr(
        unlabelled, "_recordings",
        lambda source, found=unlabelled._recordings: (
            (name, path, row) for name, _, row in found(source)
        ),
    )  # fmt: skip
    tracemalloc.start()
    crops_of(str(table), folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_a_long_list_needs_no_more_memory(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        few = peak_of(3000, tmp_path, patch)
    with monkeypatch.context() as patch:
        many = peak_of(12000, tmp_path, patch)
    assert many < 1.3 * few


class Lengths:
    """Crops that are lengths alone."""

    def __init__(self, lengths):
        self.lengths = sorted(lengths)

    def __len__(self):
        return len(self.lengths)

    def count_up_to(self, seconds):
        return sum(length <= seconds for length in self.lengths)


@given(
    st.integers(0, 10**6),
    st.integers(1, 50),
    st.integers(0, 20),
    st.integers(1, 200),
    st.sampled_from([0.25, 0.5, 1.0, 2.5]),
)
def test_no_crop_comes_twice_in_an_epoch(seed, n, n_own, n_crops, ratio):
    draw = np.random.default_rng(seed)
    lengths = np.round(0.6 + 29 * draw.random(n + n_own) ** 4, 3)
    data = {
        f"u{i}": {"length": x, "emo": "neu" if i < n else None}
        for i, x in enumerate(lengths.tolist())
    }
    crops = Lengths(draw.choice(lengths[:n], n_crops).tolist())
    options = 32, 5, seed, ratio, crops
    sampler = TrainingBatchSampler(DynamicItemDataset(data), *options)
    every = [*lengths, *crops.lengths]
    orders = []
    for epoch in (1, 2):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        counts = Counter(i for batch in batches for i in batch)
        assert max(counts.values()) == 1 and {*range(n)} <= {*counts}
        assert len(counts) <= n + ratio * n
        for batch in batches:
            own = [i for i in batch if i < n]
            assert len(batch) - len(own) <= np.ceil(ratio * len(own))
            longest = max(every[i] for i in batch)
            assert longest * len(batch) <= (1 + ratio) * 32.1
        orders.append(batches)
        sampler.set_epoch(epoch)
        assert list(sampler) == batches


def test_ones_own_are_all_used_beside_those_of_others():
    data = {f"u{i}": {"length": 1.0, "emo": "neu"} for i in range(20)}
    data.update({f"o{i}": {"length": 1.0, "emo": None} for i in range(5)})
    options = DynamicItemDataset(data), 4, 1, 1, 1.0, Lengths([1.0] * 50)
    flat = [i for batch in TrainingBatchSampler(*options) for i in batch]
    further = [i for i in flat if i >= 20]
    assert len(further) == len({*further}) == 20
    assert {*further} >= {*range(20, 25)}


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_no_two_processes_get_the_same_crop(processes):
    """Though the number of batches is no multiple of theirs."""
    data = {f"u{i}": {"length": 0.9, "emo": "neu"} for i in range(14)}
    crops = Lengths([0.9] * 99)
    received = []
    for rank in range(processes):
        options = DynamicItemDataset(data), 1, 1, 1, 1.0, crops, processes
        sampler = TrainingBatchSampler(*options)
        wrapper = DistributedSamplerWrapper(
            sampler, num_replicas=processes, rank=rank
        )
        wrapper.set_epoch(2)
        batches = list(wrapper)
        assert len(batches) == len(sampler) / processes
        received += [i for batch in batches for i in batch]
    assert max(Counter(i for i in received if i >= 14).values()) == 1
    assert {*received} >= {*range(14)}


def test_further_signals_reach_the_ratio():
    data = {f"u{i}": {"length": 1.0 + i / 100, "emo": "neu"} for i in range(60)}
    crops = Lengths(np.linspace(1.0, 1.59, 900).tolist())
    for ratio in (0.5, 1.0, 2.0):
        options = DynamicItemDataset(data), 12, 4, 1, ratio, crops
        n = sum(map(len, TrainingBatchSampler(*options))) - 60
        assert n == pytest.approx(60 * ratio, rel=0.15)


def test_a_row_without_all_fields_is_refused(speech, tmp_path):
    table = tmp_path / "short.csv"
    table.write_text("path,speaker\na.wav\n")
    with pytest.raises(InputError, match="line 2: expected 2 fields"):
        crops_of(str(table), tmp_path)
