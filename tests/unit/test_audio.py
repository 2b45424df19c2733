"""Audio of any kind is read right, or named with the reason."""

import pytest
import soundfile
import torch
from helpers import write_wav

from mlkd_lobes.audio import read_audio
from mlkd_lobes.recordings import AudioError, list_audio


def tone(rate, seconds=1.0):
    time = torch.arange(int(rate * seconds)) / rate
    return 0.4 * torch.sin(6.283185 * 440 * time)


def frequency(wav):
    spectrum = torch.fft.rfft(wav[:16000]).abs()
    return spectrum.argmax().item() * 16000 / len(wav[:16000])


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_rates_and_channels(tmp_path, rate, channels):
    wav = tone(rate)[:, None].repeat(1, channels).numpy()
    soundfile.write(tmp_path / "a.wav", wav, rate)
    found = read_audio(tmp_path / "a.wav")
    assert found.shape == (16000,)
    assert frequency(found) == pytest.approx(440, abs=1)
    assert found[4000:12000].abs().max().item() == pytest.approx(0.4, abs=0.02)


def test_channels_are_mixed(tmp_path):
    left = tone(16000)
    wav = torch.stack([left, torch.zeros_like(left)], 1).numpy()
    soundfile.write(tmp_path / "a.wav", wav, 16000, subtype="FLOAT")
    assert torch.allclose(read_audio(tmp_path / "a.wav"), left / 2)


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
    soundfile.write(path, tone(16000).numpy(), 16000, subtype=subtype)
    found = read_audio(path)
    assert frequency(found) == pytest.approx(440, abs=1)
    assert found.abs().max().item() == pytest.approx(0.4, abs=0.05)


def test_parts_by_time(tmp_path):
    wav = torch.cat([torch.full((8000,), 0.1), torch.full((8000,), 0.2)])
    write_wav(tmp_path / "a.wav", wav)
    part = read_audio(tmp_path / "a.wav", 0.5, 0.75)
    assert len(part) == 4000 and torch.allclose(
        part, torch.tensor(0.2), atol=1e-3
    )
    # A label of 10 ms behind the end is rounding, more is a mistake.
    assert len(read_audio(tmp_path / "a.wav", 0.5, 1.01)) == 8000
    for start, stop in ((0.5, 1.5), (0.5, 0.5), (2.0, None), (-1.0, None)):
        with pytest.raises(AudioError, match="a.wav"):
            read_audio(tmp_path / "a.wav", start, stop)


def test_unusable_files_are_named(tmp_path):
    good = tmp_path / "good.wav"
    write_wav(good, tone(16000))
    flac = tmp_path / "whole.flac"
    soundfile.write(flac, tone(16000).numpy(), 16000)
    files = {
        "missing.wav": None,
        "empty.wav": b"",
        "header.wav": good.read_bytes()[:44],
        "cut.wav": good.read_bytes()[:20000],
        "text.wav": b"this is no audio at all" * 9,
        "cut.flac": flac.read_bytes()[: flac.stat().st_size // 2],
    }
    for name, content in files.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(AudioError, match=name):
            read_audio(tmp_path / name)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_samples_are_refused(tmp_path, value):
    wav = tone(16000)
    wav[100] = value
    soundfile.write(tmp_path / "a.wav", wav.numpy(), 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match="a.wav: holds NaN"):
        read_audio(tmp_path / "a.wav")


def test_listing_leaves_hidden_files_out(tmp_path):
    for name in ("b/x.wav", "a.FLAC", "._a.wav", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = [p.relative_to(tmp_path).as_posix() for p in list_audio(tmp_path)]
    assert found == ["a.FLAC", "b/x.wav"]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        list_audio(tmp_path / "nowhere")
