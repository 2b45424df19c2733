"""Babble and white noise: of whom and of what they are made."""

import shutil
import types

import inputs
import numpy as np
import pytest
import torch
from helpers import (
    SPLITS,
    beside,
    prepare_types as prepare,
    recordings,
    seeded,
    write_corpus,
    write_noise,
    write_wav,
)

from mlkd_lobes.data.audio import read_audio
from mlkd_lobes.errors import InputError
from mlkd_lobes.files import write_csv
from mlkd_lobes.noise import generated
from mlkd_lobes.noise.add_noise import noise_fingerprint, read_noise_csv
from mlkd_lobes.noise.generated import read_talkers


def test_babble_has_talkers_of_its_own_split(noise_corpus, tmp_path):
    speech = write_corpus(tmp_path / "speech")
    kinds = ["rain", "babble", "white"]
    splits = prepare(
        noise_corpus, tmp_path / "out", kinds, babble_folder=str(speech)
    )
    counts = [len(recordings(splits[s], "babble")) for s in SPLITS]
    assert counts == [30, 10, 10]
    assert len(recordings(splits["train"], "white")) == 30
    noise = splits["train"]["babble"]
    segments = [s for parts in noise.values() for s in parts]
    assert sum(s.stop - s.start for s in segments) > 30 * 19 * 16000
    again = tmp_path / "again"
    prepare(noise_corpus, again, kinds, babble_folder=str(speech))
    for kind in ("babble", "white"):
        names = [f"{kind}/*/valid_03.flac"]
        [first], [second] = (
            [path.read_bytes() for name in names for path in out.glob(name)]
            for out in (tmp_path / "out", again)
        )
        assert first == second


def test_speakers_of_the_corpus_are_refused_for_babble(noise_corpus, tmp_path):
    speech = write_corpus(tmp_path / "speech")
    options = {"babble_folder": str(speech)}
    with pytest.raises(InputError, match="talker s1 is also a speaker"):
        prepare(
            noise_corpus,
            tmp_path,
            ["babble"],
            corpus_speakers={"s1"},
            **options,
        )
    file = str(speech / "audio/s2_0.wav")
    with pytest.raises(InputError, match="talker s2 is also a speaker"):
        prepare(
            noise_corpus, tmp_path, ["babble"], corpus_files={file}, **options
        )
    with pytest.raises(InputError, match="needs a folder with speech"):
        prepare(noise_corpus, tmp_path, ["babble"])
    two = write_noise(tmp_path / "two", ["talk"], files=2)
    with pytest.raises(InputError, match="1 talker.s.; at least 3"):
        prepare(noise_corpus, tmp_path, ["babble"], babble_folder=str(two))


def test_copies_of_the_corpus_are_refused_for_babble(noise_corpus, tmp_path):
    speech = write_corpus(tmp_path / "speech")
    copy = tmp_path / "renamed.wav"
    shutil.copy(speech / "audio/s2_0.wav", copy)
    options = {"babble_folder": str(speech), "corpus_files": {str(copy)}}
    with pytest.raises(InputError, match="talker s2 is also a speaker"):
        prepare(noise_corpus, tmp_path, ["babble"], **options)


def test_unseen_noise_is_in_no_babble(noise_corpus, tmp_path):
    speech = write_noise(tmp_path / "speech", ["talk"], files=12)
    options = {"babble_folder": str(speech / "talk")}
    options["unseen_noise"] = {"talk": str(speech)}
    with pytest.raises(InputError, match=r"share \d+ file\(s\)"):
        prepare(noise_corpus, tmp_path / "out", ["rain", "babble"], **options)


def test_other_audio_of_the_same_name_is_other_noise(
    noise_corpus, tmp_path, few
):
    prints = []
    for name in ("one", "two"):
        speech = tmp_path / name
        for talker in range(4):
            wav = torch.randn(8000, generator=seeded(name, talker))
            write_wav(speech / f"{talker}.wav", 0.1 * wav)
        out = tmp_path / "out" / name
        splits = prepare(
            noise_corpus, out, ["babble"], babble_folder=str(speech)
        )
        prints.append({noise_fingerprint(splits[s]) for s in SPLITS})
    assert not prints[0] & prints[1]


def test_a_folder_of_a_talker_is_one_talker(tmp_path):
    for talker in range(5):
        for take in range(3):
            wav = torch.full((800,), 0.1 + talker / 100)
            write_wav(tmp_path / f"{talker}/a/{take}.wav", wav)
    splits = read_talkers(str(tmp_path), (), ())
    assert sorted(t for s in SPLITS for t in splits[s]) == list("01234")
    assert all(len(paths) == 3 for s in SPLITS for paths in splits[s].values())


def test_generated_noise_is_identified_by_its_sources(noise_corpus, tmp_path):
    """Its samples may differ by a bit between machines, its hash does not."""
    prepare(noise_corpus, tmp_path, ["rain", "white"])
    csv, places = str(tmp_path / "train.csv"), {"noise_folder": noise_corpus}
    before = noise_fingerprint(read_noise_csv(csv, places))
    [path] = tmp_path.glob("white/*/train_00.flac")
    write_wav(path, read_audio(path) + 1e-4)
    assert noise_fingerprint(read_noise_csv(csv, places)) == before
    text = (tmp_path / "train.csv").read_text()
    (tmp_path / "train.csv").write_text(text.replace(" origin:", " origin:0"))
    assert noise_fingerprint(read_noise_csv(csv, places)) != before


def test_other_babble_is_written_beside_the_old(noise_corpus, tmp_path, few):
    received = []
    for seed in (1, 2, 1):
        speech = tmp_path / str(seed)
        for talker in range(4):
            wav = torch.randn(8000, generator=seeded(seed, talker))
            write_wav(speech / f"{talker}.wav", 0.1 * wav)
        splits = prepare(
            noise_corpus, tmp_path, ["babble"], babble_folder=str(speech)
        )
        [first, *_] = splits["train"]["babble"]
        received.append((first, read_audio(first)))
    (path, before), (other, another), _ = received
    assert path != other and not np.array_equal(before, another)
    assert np.array_equal(read_audio(path), before)


def test_generated_noise_of_another_version_is_regenerated(
    noise_corpus, tmp_path, monkeypatch
):
    before = prepare(noise_corpus, tmp_path, ["rain", "white"])
    monkeypatch.setattr(generated, "VERSION", 99)
    after = prepare(noise_corpus, tmp_path, ["rain", "white"])
    assert noise_fingerprint(after["train"]) != noise_fingerprint(
        before["train"]
    )
    assert not {*before["train"]["white"]} & {*after["train"]["white"]}


def test_file_of_two_talkers_is_refused_for_babble(noise_corpus, tmp_path):
    """Its talkers would be in training and in the test."""
    rows = []
    for n in range(4):
        write_wav(tmp_path / f"{n // 2}.wav", 0.1 * torch.randn(8000))
        rows.append([f"{n // 2}.wav", f"s{n}"])
    write_csv(tmp_path / "manifest.csv", ["path", "speaker"], rows)
    out, options = beside(tmp_path), {"babble_folder": str(tmp_path)}
    with pytest.raises(InputError, match="shares a file with another talker"):
        prepare(noise_corpus, out, ["babble"], **options)


def test_silent_talkers_are_named(noise_corpus, tmp_path):
    for talker in range(3):
        write_wav(tmp_path / f"{talker}.wav", torch.zeros(8000 + talker))
    out, options = beside(tmp_path), {"babble_folder": str(tmp_path)}
    with pytest.raises(InputError, match=r"babble: .*wav: silent in"):
        prepare(noise_corpus, out, ["babble"], **options)


def test_talkers_may_pause(noise_corpus, tmp_path):
    """As on a telephone line of their own, while the other one is active."""
    for talker in range(3):
        wav = torch.zeros(70 * 16000)
        wav[: 30 * 16000] = 0.1 * torch.randn(30 * 16000)
        write_wav(tmp_path / f"speech/{talker}.wav", wav)
    splits = prepare(
        noise_corpus,
        tmp_path / "out",
        ["babble"],
        babble_folder=str(tmp_path / "speech"),
    )
    assert len(recordings(splits["train"], "babble")) == 30


def test_babble_needs_talkers_in_every_split(tmp_path):
    rows = []
    for n, split in enumerate(["train", "train", "test"]):
        write_wav(tmp_path / f"{n}.wav", 0.1 * torch.randn(8000))
        rows.append([f"{n}.wav", "speech", split])
    header = ["path", "noise_type", "split"]
    write_csv(tmp_path / "manifest.csv", header, rows)
    with pytest.raises(InputError, match="none is left for valid"):
        prepare(tmp_path, beside(tmp_path), ["babble"], "csv")


def test_voices_of_held_out_babble_are_held_out(tmp_path):
    """MUSAN's own speech is babble of the test, and could be unlabelled speech."""
    noise = write_noise(tmp_path / "noise", ["rain", "speech"], files=12)
    prepare(noise, tmp_path / "out/noise", ["rain", "babble"])
    csv_file = tmp_path / "out/noise/test.csv"
    unused = types.SimpleNamespace(types={}, csv_file=csv_file)
    unused.replacements = {"noise_folder": str(noise)}
    hparams = {
        "output_folder": str(tmp_path / "out"),
        "babble_folder": None,
        "valid_noise": unused,
        "test_noise": unused,
    }
    found = [entry["wav"] for entry in inputs.held_out_noise(hparams)]
    assert 2 <= len(found) < 12 and len({*found}) == len(found)
    assert all(f"{noise}/speech/speech_" in path for path in found)
    unused.replacements = {"noise_folder": None, "unseen_noise": {}}
    with pytest.raises(InputError, match="none of the folders given: $"):
        inputs.held_out_noise({**hparams, "seed": 1})
