"""Noise corpora: types, splits by recording, audible segments, babble."""

import json
import shutil

import numpy as np
import pytest
import torch
from helpers import (
    SPLITS,
    beside,
    prepare_types as prepare,
    recordings,
    seeded,
    write_demand,
    write_musan,
    write_noise,
    write_wav,
)

from mlkd_lobes.data.activity import audible_segments
from mlkd_lobes.data.audio import read_audio
from mlkd_lobes.errors import InputError
from mlkd_lobes.files import write_csv
from mlkd_lobes.noise import corpora
from mlkd_lobes.noise.corpora import DEMAND, read_esc, read_folder
from speechbrain.augment.time_domain import AddNoise


def test_splits_share_no_noise_recording(noise_corpus, tmp_path):
    splits = prepare(noise_corpus, tmp_path)
    for kind in ("rain", "wind"):
        parts = [recordings(splits[s], kind) for s in SPLITS]
        assert [len(part) for part in parts] == [3, 1, 1]
        assert len(set.union(*parts)) == 5


def test_split_is_the_same_wherever_the_corpus_lies(noise_corpus, tmp_path):
    moved = write_noise(tmp_path / "elsewhere")
    one = prepare(noise_corpus, tmp_path / "one")
    two = prepare(moved, tmp_path / "two")
    for split in SPLITS:
        names = [
            {p.rsplit("/", 1)[1] for p in recordings(s[split], "rain")}
            for s in (one, two)
        ]
        assert names[0] == names[1]


def test_stock_add_noise_reads_the_csv(noise_corpus, tmp_path):
    prepare(noise_corpus, tmp_path)
    places = {"noise_folder": str(noise_corpus), "csv_folder": str(tmp_path)}
    csv = str(tmp_path / "train.csv")
    stock = AddNoise(csv, csv_keys=["wav"], replacements=places)
    noisy = stock(torch.randn(2, 4000), torch.ones(2))
    assert torch.isfinite(noisy).all()


def test_few_recordings_are_unseen(tmp_path):
    folder = write_noise(tmp_path / "n")
    write_noise(folder, ["snow"], files=2)
    splits = prepare(folder, tmp_path / "out", ["rain", "snow"])
    assert "snow" not in splits["train"] and "snow" not in splits["test"]
    assert len(recordings(splits["test"], "unseen-snow")) == 2


def test_unseen_folders_are_for_the_test_alone(noise_corpus, tmp_path):
    rooms = write_noise(tmp_path / "rooms", ["a", "b"], files=1)
    splits = prepare(
        noise_corpus, tmp_path / "out", unseen_noise={"rooms": str(rooms)}
    )
    assert len(recordings(splits["test"], "unseen-rooms")) == 2
    assert list(splits["train"]) == list(splits["valid"]) == ["rain", "wind"]


def test_a_recording_in_two_splits_is_refused(noise_corpus, tmp_path):
    path = sorted((noise_corpus / "rain").iterdir())[0]
    rows = [[str(path), "rain", split] for split in SPLITS]
    write_csv(tmp_path / "manifest.csv", ["path", "noise_type", "split"], rows)
    with pytest.raises(InputError, match="train and test share 1 noise"):
        prepare(tmp_path, beside(tmp_path), ["rain"], "csv")


def test_csv_corpus_keeps_groups_together(noise_corpus, tmp_path):
    files = sorted((noise_corpus / "rain").iterdir())
    rows = [
        [str(p), "rain", f"g{i // 2}"]
        for i, p in enumerate([*files, *files[:1]])
    ]
    rows = rows[:5]
    header = ["path", "noise_type", "group"]
    write_csv(tmp_path / "manifest.csv", header, rows)
    splits = prepare(tmp_path, beside(tmp_path), ["rain"], "csv")
    found = [len(recordings(splits[s], "rain")) for s in SPLITS]
    assert sorted(found) == [1, 2, 2]
    pairs = [{str(p) for p in files[:2]}, {str(p) for p in files[2:4]}]
    for pair in pairs:
        assert any(pair == recordings(splits[s], "rain") for s in SPLITS)
    rows[0][2] = "nowhere"
    write_csv(tmp_path / "manifest.csv", ["path", "noise_type", "split"], rows)
    with pytest.raises(InputError, match="no split 'nowhere'"):
        prepare(tmp_path, beside(tmp_path), ["rain"], "csv")


@pytest.mark.parametrize(
    "layout", ["esc50", "archive", "linked", "prefix", "folder"]
)
def test_esc_clips_of_one_source_share_a_split(tmp_path, layout):
    rows = []
    for fold in range(1, 6):
        for take in "AB":
            name = f"{fold}-{1000 + fold}-{take}"
            place = {
                "esc50": f"audio/{name}-10.wav",
                "archive": f"audio/{name}-10.wav",
                "linked": f"audio/{name}-10.flac",
                "prefix": f"audio/sea_waves_{name}.wav",
                "folder": f"003 - Sea waves/{name}.wav",
            }[layout]
            write_wav(tmp_path / place, 0.1 * torch.randn(8000))
            rows.append([f"{name}-10.wav", "sea_waves"])
    if layout in ("esc50", "archive", "linked"):
        header = ["filename", "category"]
        write_csv(tmp_path / "meta/esc50.csv", header, rows)
    if layout == "archive":  # as GitHub packs it
        for name in ("meta", "audio"):
            (tmp_path / "ESC-50-HEAD").mkdir(exist_ok=True)
            (tmp_path / name).rename(tmp_path / "ESC-50-HEAD" / name)
    if layout == "linked":
        (tmp_path.with_name("disk")).mkdir()
        for name in ("meta", "audio"):
            moved = (tmp_path / name).rename(tmp_path.with_name("disk") / name)
            (tmp_path / name).symlink_to(moved)
    assert {r.kind for r in read_esc(tmp_path)} == {"sea_waves"}
    splits = prepare(tmp_path, beside(tmp_path), ["sea_waves"], "esc")
    for split, folds in zip(SPLITS, ("123", "4", "5")):
        paths = recordings(splits[split], "sea_waves")
        assert len(paths) == 2 * len(folds)
        names = [path.rsplit("/", 1)[1].split("waves_")[-1] for path in paths]
        assert {name[0] for name in names} == set(folds)


def test_strange_names_in_esc_are_listed(noise_corpus, tmp_path):
    with pytest.raises(InputError, match="(?s)10 files.*rain_0.wav"):
        prepare(noise_corpus, tmp_path, ["rain"], "esc")


def test_silence_is_left_out(tmp_path):
    burst = 0.3 * torch.randn(8000, generator=seeded("burst"))
    gap = torch.zeros(16000)
    write_wav(tmp_path / "a.wav", torch.cat([gap, burst, gap, burst, gap]))
    found = audible_segments(tmp_path / "a.wav")
    assert [(a / 16000, b / 16000) for a, b in found] == [
        (1.0, 1.5),
        (2.5, 3.0),
    ]
    write_wav(tmp_path / "quiet.wav", 1e-6 * burst)
    assert audible_segments(tmp_path / "quiet.wav") == []


def test_long_recordings_are_read_in_blocks(tmp_path):
    wave = torch.zeros(16000 * 130)
    wave[16000 * 59 : 16000 * 61] = 0.2 * torch.randn(32000)
    write_wav(tmp_path / "a.wav", wave)
    assert audible_segments(tmp_path / "a.wav") == [(16000 * 59, 16000 * 61)]


def test_silent_noise_type_is_refused_before_training(tmp_path):
    folder = write_noise(tmp_path / "n", ["rain"])
    for n in range(4):
        write_wav(folder / f"hush/hush_{n}.wav", torch.zeros(8000))
    with pytest.raises(InputError, match="noise type hush: no audible"):
        prepare(folder, tmp_path / "out", ["rain", "hush"])


def test_broken_noise_is_named(tmp_path):
    folder = write_noise(tmp_path / "n")
    (folder / "rain/rain_0.wav").write_bytes(b"")
    (folder / "wind/wind_3.wav").write_bytes(b"nothing")
    with pytest.raises(InputError) as error:
        prepare(folder, tmp_path / "out")
    assert "2 unusable noise files" in str(error.value)
    assert "rain_0.wav" in str(error.value)
    assert json.loads((tmp_path / "out/preparation.json").read_text()) == {}


def test_unknown_corpus_and_types_are_listed(noise_corpus, tmp_path):
    with pytest.raises(InputError, match="musan, demand, esc, folder, csv"):
        prepare(noise_corpus, tmp_path, corpus="noisex")
    with pytest.raises(
        InputError, match="'snow'.*; expected a list of types.*rain, wind"
    ):
        prepare(noise_corpus, tmp_path, ["snow"])
    with pytest.raises(
        InputError, match=r"\[\]; expected a list of types.*rain, wind"
    ):
        prepare(noise_corpus, tmp_path, None)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        prepare(tmp_path / "nowhere", tmp_path)


def test_prepared_noise_is_kept_until_something_changes(tmp_path):
    folder, out = write_noise(tmp_path / "n"), tmp_path / "out"
    prepare(folder, out)
    stamp = (out / "train.csv").stat().st_mtime_ns
    prepare(folder, out)
    assert (out / "train.csv").stat().st_mtime_ns == stamp
    prepare(folder, out, ["rain"])
    assert list(prepare(folder, out, ["rain"])["train"]) == ["rain"]
    write_noise(folder, ["rain"], files=6)
    splits = prepare(folder, out, ["rain"])
    assert sum(len(recordings(splits[s], "rain")) for s in SPLITS) == 6


def test_splits_that_a_corpus_gives_are_kept(noise_corpus, tmp_path):
    files = sorted((noise_corpus / "rain").iterdir())
    header = ["path", "noise_type", "split"]
    rows = [[str(path), "rain", ""] for path in files]
    rows[0][2] = "test"
    write_csv(tmp_path / "manifest.csv", header, rows)
    splits = prepare(tmp_path, beside(tmp_path), ["rain"], "csv")
    assert str(files[0]) in recordings(splits["test"], "rain")
    assert len(recordings(splits["train"], "rain")) == 2
    rows = [*rows[:3], *([str(p), "wind", "test"] for p in files[3:])]
    write_csv(tmp_path / "manifest.csv", header, rows)
    with pytest.raises(InputError, match="type rain: .* but not .*; assign"):
        prepare(tmp_path, beside(tmp_path), ["rain"], "csv")
    rows[1][2], rows[2][2] = "valid", "train"
    write_csv(tmp_path / "manifest.csv", header, rows)
    splits = prepare(tmp_path, beside(tmp_path), ["rain", "wind"], "csv")
    assert len(recordings(splits["test"], "unseen-wind")) == 2


def test_failed_preparation_is_repeated(noise_corpus, tmp_path, few):
    out, speech = tmp_path / "out", tmp_path / "speech"
    for talker in range(4):
        write_wav(speech / f"{talker}.wav", 0.1 * torch.randn(8000))
    options = {"babble_folder": str(speech)}
    prepare(noise_corpus, out, ["rain", "babble"], **options)
    [babble] = out.glob("babble/*/train_00.flac")
    before = babble.read_bytes()
    broken = write_noise(tmp_path / "broken")
    (broken / "rain/rain_0.wav").write_bytes(b"nothing")
    other = {"babble_folder": str(noise_corpus / "wind")}
    with pytest.raises(InputError, match="rain_0.wav"):
        prepare(broken, out, ["rain", "babble"], **other)
    assert json.loads((out / "preparation.json").read_text()) == {}
    prepare(noise_corpus, out, ["rain", "babble"], **options)
    assert babble.read_bytes() == before
    babble.unlink()
    prepare(noise_corpus, out, ["rain", "babble"], **options)
    assert babble.read_bytes() == before


def test_unseen_noise_without_audio_is_refused(noise_corpus, tmp_path):
    (tmp_path / "empty").mkdir()
    unseen = {"rooms": str(tmp_path / "empty")}
    with pytest.raises(InputError, match="unseen_noise: rooms: no audio"):
        prepare(noise_corpus, tmp_path / "out", unseen_noise=unseen)


def test_linked_folders_are_types_like_others(noise_corpus, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    for kind in ("rain", "wind"):
        (linked / kind).symlink_to(noise_corpus / kind)
    splits = prepare(linked, tmp_path / "out")
    assert [len(recordings(splits[s], "rain")) for s in SPLITS] == [3, 1, 1]


def test_musan_layout_is_read(tmp_path):
    musan = write_musan(tmp_path / "musan")
    (musan / "noise/free-sound/._noise-free-sound-0000.wav").write_text("x")
    splits = prepare(musan, tmp_path / "out", None, "musan")
    kinds = ["babble", "music", "noise", "speech", "white"]
    for split, n in zip(SPLITS, (3, 1, 1)):
        assert list(splits[split]) == kinds
        for kind in ("music", "noise", "speech"):
            paths = recordings(splits[split], kind)
            assert len(paths) == n
            assert all(f"/musan/{kind}/" in path for path in paths)
    again = prepare(musan, tmp_path / "two", ["noise", "white"], "musan")
    assert list(again["train"]) == ["noise", "white"]
    (tmp_path / "another/noise").mkdir(parents=True)
    with pytest.raises(InputError, match=r"such folders are in: .*/musan"):
        prepare(tmp_path, beside(tmp_path), None, "musan")
    shutil.rmtree(musan / "speech")
    with pytest.raises(InputError, match="missing here: speech; .* none"):
        prepare(musan, tmp_path / "three", None, "musan")


def test_music_of_one_artist_stays_together(tmp_path, monkeypatch):
    printed = []
    monkeypatch.setattr(corpora.logger, "warning", printed.append)
    musan = write_musan(tmp_path / "musan", files=12)
    artists = ["Ann", "Bob", "Ann", "Cy", "Bob", "Ann", "Di", "Di", "Cy", "Ed"]
    lines = [
        f"music-fma-{n:04d} folk,country {'NY'[n % 2]} {artist}"
        for n, artist in enumerate(artists)
    ]
    # The artists of the last two are not named.
    (musan / "music/fma/ANNOTATIONS").write_text("\n".join([*lines, "x"]))
    splits = prepare(musan, tmp_path / "out", ["music"], "musan")
    received = [
        {artists[int(p[-8:-4])] for p in paths if int(p[-8:-4]) < 10}
        for paths in (recordings(splits[s], "music") for s in SPLITS)
    ]
    assert sum(map(len, received)) == len(set.union(*received)) == 5
    assert sum(len(recordings(splits[s], "music")) for s in SPLITS) == 12
    assert any(
        "music: 12 recordings, MUSAN has 660" in text for text in printed
    )


def test_musan_babble_uses_talkers_of_its_split(tmp_path):
    """Each speech file is a tone: the babble of a split holds its tones."""
    musan = write_musan(tmp_path / "musan", files=10)
    time = torch.arange(16000 * 30) / 16000
    for n in range(10):
        name = f"speech/librivox/speech-librivox-{n:04d}.wav"
        tone = 0.1 * torch.sin(6.2832 * 200 * (n + 1) * time)
        write_wav(musan / name, tone)
    splits = prepare(musan, tmp_path / "out", ["babble", "speech"], "musan")
    for split in SPLITS:
        own = {int(path[-8:-4]) for path in recordings(splits[split], "speech")}
        received = set()
        for path in recordings(splits[split], "babble"):
            wav = read_audio(path)
            spectrum = np.abs(np.fft.rfft(wav[:16000]))
            received |= {n for n in range(10) if spectrum[200 * (n + 1)] > 100}
        assert received == own


@pytest.mark.parametrize("rate", [16000, 48000])
@pytest.mark.parametrize("archives", [False, True])
def test_demand_layout_is_read(tmp_path, rate, archives):
    demand = write_demand(tmp_path / "demand", rate, archives=archives)
    splits = prepare(demand, tmp_path / "out", None, "demand")
    usual = ["domestic", "office", "public", "street", "transport"]
    assert list(splits["test"]) == sorted(
        "unseen-street" if rate == 16000 and kind == "street" else kind
        for kind in usual
    )
    for kind in splits["train"]:
        places = [
            {path.split("/")[-2] for path in recordings(splits[split], kind)}
            for split in SPLITS
        ]
        assert [len(names) for names in places] == [1, 1, 1]
        assert set.union(*places) == set(DEMAND[kind])
        for split in SPLITS:
            assert len(recordings(splits[split], kind)) == 3
    segments = [s for p in splits["train"]["office"].values() for s in p]
    assert {s.rate for s in segments} == {rate}
    every = prepare(demand, tmp_path / "out", [*usual, "nature"], "demand")
    assert len(recordings(every["train"], "nature")) == 3


def test_what_is_not_demand_is_named(noise_corpus, tmp_path):
    with pytest.raises(InputError, match="(?s)10 files.*rain_0.*DKITCHEN"):
        prepare(noise_corpus, tmp_path, None, "demand")


def test_types_in_file_names(tmp_path):
    names = ["babble", "f16", "factory1", "factory2", "m109", "volvo"]
    names += ["AirConditioner_1", "AirConditioner_12", "Typing_3"]
    for name in names:
        write_wav(tmp_path / "n" / f"{name}.wav", 0.1 * torch.randn(8000))
    kinds = [recording.kind for recording in read_folder(tmp_path / "n")]
    assert sorted(kinds) == sorted(
        ["babble", "f16", "factory", "factory", "m109", "volvo"]
        + ["AirConditioner", "AirConditioner", "Typing"]
    )
    # NOISEX-92 has a recording or two per type: nothing could be split.
    with pytest.raises(InputError, match="Give this corpus as unseen_noise"):
        prepare(tmp_path / "n", tmp_path / "out", ["factory", "babble"])
    splits = prepare(tmp_path, beside(tmp_path), ["n"])
    assert [len(recordings(splits[s], "n")) for s in SPLITS] == [5, 2, 2]


def test_pauses_belong_to_long_recordings(tmp_path):
    """Speech: an utterance is mixed with a stretch of it, not under loops."""
    voice = 0.3 * torch.randn(16000, generator=seeded("voice"))
    spoken = torch.cat([voice, torch.zeros(16000)])
    write_wav(tmp_path / "long.wav", spoken.repeat(20))
    write_wav(tmp_path / "clip.wav", spoken.repeat(3))
    assert len(audible_segments(tmp_path / "long.wav")) == 1
    assert len(audible_segments(tmp_path / "clip.wav")) == 3
