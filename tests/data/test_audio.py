"""Audio files are found, probed and read, or named with the reason."""

import logging
import os

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from helpers import seeded, write_wav

from mlkd_lobes.data.activity import audible_segments
from mlkd_lobes.data.audio import (
    audio_info,
    list_audio,
    read_audio,
    read_frames,
    resample,
)
from mlkd_lobes.errors import InputError


def tone(rate, seconds=1.0):
    time = np.arange(int(rate * seconds)) / rate
    return (0.4 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)


def frequency(wav):
    spectrum = np.abs(np.fft.rfft(wav[:16000]))
    return spectrum.argmax() * 16000 / len(wav[:16000])


@pytest.mark.parametrize(
    "rate", [4000, 8000, 16000, 22050, 24414, 44100, 48000]
)
@pytest.mark.parametrize("channels", [1, 2])
def test_rates_and_channels(tmp_path, rate, channels):
    wav = tone(rate)[:, None].repeat(channels, 1)
    soundfile.write(tmp_path / "a.wav", wav, rate)
    found = read_audio(tmp_path / "a.wav")
    assert found.shape == (16000,) and found.dtype == np.float32
    assert frequency(found) == pytest.approx(440, abs=1)
    assert np.abs(found[4000:12000]).max() == pytest.approx(0.4, abs=0.02)


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 48000, 96000])
def test_resampling_agrees_with_torchaudio_below_the_band_edge(rate):
    time = np.arange(rate) / rate
    wav = sum(np.sin(2 * np.pi * f * time) for f in (200, 1100, 2500)) / 4
    ours = resample(wav.astype(np.float32), rate, 16000)
    transform = torchaudio.transforms.Resample(rate, 16000)
    theirs = transform(torch.from_numpy(wav).float()).numpy()
    assert len(ours) == len(theirs)
    middle = slice(1000, -1000)
    assert np.abs(ours[middle] - theirs[middle]).max() < 0.01


def test_channels_are_averaged(tmp_path):
    left = tone(16000)
    wav = np.stack([left, np.zeros_like(left)], 1)
    soundfile.write(tmp_path / "a.wav", wav, 16000, subtype="FLOAT")
    assert np.allclose(read_audio(tmp_path / "a.wav"), left / 2)


@pytest.mark.parametrize(
    "name,subtype",
    [
        ("a.wav", "PCM_U8"),
        ("a.wav", "PCM_24"),
        ("a.wav", "PCM_32"),
        ("a.wav", "FLOAT"),
        ("a.wav", "DOUBLE"),
        ("a.flac", "PCM_S8"),
        ("a.flac", "PCM_16"),
        ("a.ogg", "VORBIS"),
        ("a.mp3", "MPEG_LAYER_III"),
    ],
)
def test_formats(tmp_path, name, subtype):
    path = tmp_path / name
    soundfile.write(path, tone(16000), 16000, subtype=subtype)
    found = read_audio(path)
    assert frequency(found) == pytest.approx(440, abs=1)
    assert np.abs(found).max() == pytest.approx(0.4, abs=0.05)


def test_parts_by_time(tmp_path):
    wav = torch.cat([torch.full((8000,), 0.1), torch.full((8000,), 0.2)])
    write_wav(tmp_path / "a.wav", wav)
    part = read_audio(tmp_path / "a.wav", 0.5, 0.75)
    assert len(part) == 4000 and np.allclose(part, 0.2, atol=1e-3)
    # An end 10 ms behind the file's is rounding, more is a mistake.
    assert len(read_audio(tmp_path / "a.wav", 0.5, 1.01)) == 8000
    for start, stop in ((0.5, 1.5), (0.5, 0.5), (2.0, None), (-1.0, None)):
        with pytest.raises(InputError, match="a.wav"):
            read_audio(tmp_path / "a.wav", start, stop)


def test_parts_by_frame(tmp_path):
    path = tmp_path / "a.flac"
    wav = 0.1 * torch.randn(2, 16000, generator=seeded(2))
    soundfile.write(path, wav.T.numpy(), 16000)
    assert audio_info(path) == (16000, 16000, 1.0)
    everything = read_audio(path)
    assert np.array_equal(read_frames(path, 0, -1), everything)
    assert np.array_equal(read_frames(path, 100, 50), everything[100:150])


def test_unusable_files_are_named(tmp_path):
    good = tmp_path / "good.wav"
    soundfile.write(good, tone(16000), 16000)
    flac = tmp_path / "complete.flac"
    soundfile.write(flac, tone(16000), 16000)
    files = {
        "missing.wav": None,
        "empty.wav": b"",
        "header.wav": good.read_bytes()[:44],
        "cut.wav": good.read_bytes()[:20000],
        "text.wav": b"this is not audio at all" * 9,
        "cut.flac": flac.read_bytes()[: flac.stat().st_size // 2],
    }
    for name, content in files.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        for read in (read_audio, lambda p: read_frames(p, 0, 16000)):
            with pytest.raises(InputError, match=name):
                read(tmp_path / name)


def test_a_single_sample_of_a_higher_rate_is_too_short(tmp_path):
    soundfile.write(tmp_path / "one.wav", tone(1), 48000)
    with pytest.raises(InputError, match="one.wav: too short"):
        read_audio(tmp_path / "one.wav")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_samples_are_refused(tmp_path, value):
    wav = tone(16000)
    wav[100] = value
    soundfile.write(tmp_path / "a.wav", wav, 16000, subtype="FLOAT")
    with pytest.raises(InputError, match="a.wav: holds NaN"):
        read_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("rate", [1, 3999, 384001])
def test_rates_out_of_range_are_refused(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", np.zeros(1600), rate)
    with pytest.raises(InputError, match=f"a.wav: .* rate of {rate} Hz"):
        audio_info(tmp_path / "a.wav")


def test_a_flac_shorter_than_its_header_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.flac", np.zeros(1600), 16000)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    # The 36 bits of the number of samples end here.
    content[22:26] = (2**31).to_bytes(4, "big")
    (tmp_path / "a.flac").write_bytes(content)
    with pytest.raises(InputError, match="a.flac: truncated"):
        audio_info(tmp_path / "a.flac")


@pytest.mark.parametrize("size", [0x7FFFF000, 0x80000000, 0xFFFFFFFF])
def test_a_wav_written_to_a_pipe_is_read(tmp_path, size):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(16000, 0.5), 16000)
    content = bytearray(path.read_bytes())
    place = content.index(b"data") + 4
    content[place : place + 4] = size.to_bytes(4, "little")
    path.write_bytes(content)
    assert audio_info(path).frames == 8000
    assert len(read_frames(path, 0, 8000)) == 8000


def test_listing_leaves_hidden_files_out(tmp_path):
    hidden = "._a.wav", ".git/annex/k.wav", "b/.Trash-1000/c.wav"
    for name in ("b/x.wav", "a.FLAC", "notes.txt", *hidden):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = [p.relative_to(tmp_path).as_posix() for p in list_audio(tmp_path)]
    assert found == ["a.FLAC", "b/x.wav"]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        list_audio(tmp_path / "nowhere")


def test_linked_folders_are_listed_once(tmp_path):
    for name in ("b/one.wav", "c/two.WAV", "c/._two.wav", "c/notes.txt"):
        path = tmp_path / "real" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "x").symlink_to(tmp_path / "real/b")
    (folder / "y").symlink_to(tmp_path / "real/c")
    # Each leads to the other and back up.
    (tmp_path / "real/b/again").symlink_to(tmp_path / "real/c")
    (tmp_path / "real/c/again").symlink_to(tmp_path / "real/b")
    (tmp_path / "real/c/up").symlink_to(folder)
    # A folder below the first one is found without its link.
    (folder / "z").mkdir()
    (folder / "z/three.wav").touch()
    (folder / "latest").symlink_to(folder / "z")
    names = [str(p.relative_to(folder)) for p in list_audio(folder)]
    assert names == ["x/one.wav", "y/two.WAV", "z/three.wav"]


def test_a_broken_link_is_left_out_with_a_warning(tmp_path, caplog):
    (tmp_path / "a.wav").touch()
    (tmp_path / "b.wav").symlink_to(tmp_path / "gone")
    with caplog.at_level(logging.WARNING):
        assert list_audio(tmp_path) == [tmp_path / "a.wav"]
    assert "b.wav: left out (a broken link, or no file)" in caplog.text


def test_an_unreadable_folder_is_left_out(tmp_path, monkeypatch, caplog):
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "a.wav").touch()
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("lost+found"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert list_audio(tmp_path) == [tmp_path / "a.wav"]
    assert "lost+found: left out (Permission denied)" in caplog.text


def test_audible_segments_of_events_and_of_silence(tmp_path):
    wav = np.zeros(48000, np.float32)
    wav[8000:16000] = tone(16000, 0.5)
    wav[40000:41000] = tone(16000, 0.0625)  # too short
    soundfile.write(tmp_path / "a.wav", wav, 16000)
    ((start, stop),) = audible_segments(tmp_path / "a.wav")
    assert abs(start - 8000) <= 800 and abs(stop - 16000) <= 800
    soundfile.write(tmp_path / "b.wav", np.zeros(16000), 16000)
    assert audible_segments(tmp_path / "b.wav") == []


def test_a_name_that_no_file_can_have():
    with pytest.raises(
        InputError, match=r"'a.x00.wav': no file has a zero byte"
    ):
        audio_info("a\0.wav")
