"""Reading without PyTorch: the same samples as training reads."""

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from helpers import seeded, write_wav

from mlkd_lobes.audio import read_audio
from mlkd_lobes.recordings import (
    AudioError,
    audio_info,
    list_audio,
    read_part,
    resample,
)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("length", [1, 399, 20001])
def test_resampling_is_torchaudios(rate, length):
    wav = torch.randn(length, generator=seeded(rate, length))
    ours = resample(wav.numpy(), rate)
    theirs = torchaudio.transforms.Resample(rate, 16000)(wav)
    assert ours.dtype == np.float32 and ours.shape == theirs.shape
    # Torchaudio computes the phases of its kernels in single precision.
    assert np.abs(ours - theirs.numpy()).max() < 2e-4


def test_the_same_samples_as_training_reads(tmp_path):
    path = tmp_path / "a.flac"
    wav = 0.1 * torch.randn(2, 44100, generator=seeded(2))
    soundfile.write(path, wav.T.numpy(), 44100)
    info = audio_info(path)
    assert info == (44100, 44100, 2, 1.0)
    ours = read_part(path, 0, info.frames)
    assert np.abs(ours - read_audio(path).numpy()).max() < 2e-5
    part = read_part(path, 4410, 8820)
    assert np.abs(part - read_audio(path, 0.1, 0.2).numpy()).max() < 2e-5


def test_what_cannot_be_read_is_named(tmp_path):
    write_wav(tmp_path / "a.wav", torch.zeros(1600))
    with pytest.raises(AudioError, match="a.wav: truncated, ends 400 samples"):
        read_part(tmp_path / "a.wav", 0, 2000)
    wav = np.full(1600, np.nan, np.float32)
    soundfile.write(tmp_path / "b.wav", wav, 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match="b.wav: holds NaN"):
        read_part(tmp_path / "b.wav", 0, 1600)
    (tmp_path / "c.wav").write_text("no audio")
    with pytest.raises(AudioError, match="c.wav: cannot be decoded"):
        read_part(tmp_path / "c.wav", 0, 1600)


@pytest.mark.parametrize("rate", [1, 44101, 500000])
def test_rates_that_nobody_uses_are_refused(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", np.zeros(1600), rate)
    with pytest.raises(AudioError, match=f"a.wav: .* rate of {rate} Hz"):
        audio_info(tmp_path / "a.wav")


def test_headers_that_promise_too_much_are_refused(tmp_path):
    soundfile.write(tmp_path / "a.flac", np.zeros(1600), 16000)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    # The 36 bits of the number of samples end here.
    content[22:26] = (2**31).to_bytes(4, "big")
    (tmp_path / "a.flac").write_bytes(content)
    with pytest.raises(AudioError, match="a.flac: truncated"):
        audio_info(tmp_path / "a.flac")


def test_links_to_folders_are_followed_but_not_for_ever(tmp_path):
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
    # What lies below the folder itself is met without its link.
    (folder / "z").mkdir()
    (folder / "z/three.wav").touch()
    (folder / "latest").symlink_to(folder / "z")
    names = [str(p.relative_to(folder)) for p in list_audio(folder)]
    assert names == [
        "x/again/two.WAV",
        "x/one.wav",
        "y/again/one.wav",
        "y/two.WAV",
        "z/three.wav",
    ]


def test_a_folder_that_may_not_be_read_is_left_out(
    tmp_path, monkeypatch, caplog
):
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "a.wav").touch()
    iterdir = type(tmp_path).iterdir

    def refuse(path):
        if path.name == "lost+found":
            raise PermissionError(13, "Permission denied")
        return iterdir(path)

    monkeypatch.setattr(type(tmp_path), "iterdir", refuse)
    assert list_audio(tmp_path) == [tmp_path / "a.wav"]
    assert "lost+found: left out (Permission denied)" in caplog.text


@pytest.mark.parametrize("size", [0x7FFFF000, 0x80000000, 0xFFFFFFFF])
def test_what_programs_wrote_to_a_pipe_is_whole(tmp_path, size):
    path = tmp_path / "a.wav"
    write_wav(path, 0.1 * torch.randn(8000))
    content = bytearray(path.read_bytes())
    place = content.index(b"data") + 4
    content[place : place + 4] = size.to_bytes(4, "little")
    path.write_bytes(content)
    assert audio_info(path).frames == 8000
    assert len(read_part(path, 0, 8000)) == 8000
