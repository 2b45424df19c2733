"""Recordings as users have them: read, or refused with the reason."""

import os
import re

import numpy as np
import pytest
import soundfile
import torch
from helpers import seeded

from mlkd_lobes.cli import main
from mlkd_lobes.data import audio, mp3
from mlkd_lobes.errors import InputError

RATE, SECONDS = 44100, 4
POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    "size 12345\n"
)


@pytest.fixture
def model(finished):
    return str(finished.arguments["output_folder"] / "random")


@pytest.fixture(scope="module")
def samples():
    """Loud and quiet stretches, of which variable bit rates make much."""
    wav = 0.1 * np.random.default_rng(0).standard_normal(RATE * SECONDS)
    wav[RATE : 3 * RATE] *= 1e-4
    return wav


@pytest.fixture
def sound(tmp_path, samples):
    path = tmp_path / "sound.wav"
    soundfile.write(path, samples, RATE, "PCM_16")
    return path


def predict(model, capsys, *arguments):
    """Exit code, rows and errors of predict."""
    capsys.readouterr()
    code = main(["predict", model, *map(str, arguments)])
    found = capsys.readouterr()
    return code, found.out.splitlines()[1:], found.err


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "W64"])
@pytest.mark.parametrize("value", [1e38, 1e19, -1e11])
def test_absurd_samples_are_refused(
    model, samples, tmp_path, capsys, value, kind
):
    path = tmp_path / f"huge.{kind.lower()}"
    soundfile.write(path, samples * value, RATE, "FLOAT", format=kind)
    code, rows, errors = predict(model, capsys, path)
    assert code == 1 and not rows and str(path) in errors


@pytest.mark.parametrize("value", [2.0**15, 2.0**31])
def test_integers_stored_as_floats_are_read(
    model, samples, tmp_path, capsys, value
):
    path = tmp_path / "loud.wav"
    soundfile.write(path, samples * value, RATE, "FLOAT")
    assert predict(model, capsys, path)[0] == 0


def without_count(content):
    """An MP3 without its first frame, which holds the number of frames."""
    return content[content.index(content[:2], 4) :]


def tag(size):
    """An ID3 tag of a picture's size, with what looks like a frame in it."""
    sizes = bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x03\x00\x00" + sizes + b"\xff\xfb\x90\x00".ljust(size, b"\1")


WRAPPED = {
    "plain": lambda c: c,
    "id3v1": lambda c: c + b"TAG".ljust(128, b"x"),
    "id3v2": lambda c: tag(100000) + c,
    "ape": lambda c: c + b"APETAGEX\xd0\x07\0\0".ljust(3000, b"\0"),
    "two tags": lambda c: tag(300) + tag(50000) + c,
    "picture behind": lambda c: c + b"APETAGEX" + tag(50000),
    "junk between": lambda c: c[:4180] + b"\0" * 999 + c[4180:],
}


@pytest.mark.parametrize("rate", [16000, RATE])
@pytest.mark.parametrize("mode", ["CONSTANT", "AVERAGE", "VARIABLE"])
def test_an_mp3_without_a_frame_count_is_whole(tmp_path, samples, mode, rate):
    path, wav = tmp_path / "a.mp3", audio.resample(samples, RATE, rate)
    with soundfile.SoundFile(
        path, "w", rate, 1, bitrate_mode=mode, compression_level=0.5
    ) as file:
        file.write(wav)
    counted = audio.read_audio(path, sample_rate=rate)
    content = without_count(path.read_bytes())
    for name, wrap in WRAPPED.items():
        if name == "junk between":
            # At the border of two frames.
            [first, *_] = mp3._frames(content)
            content_of = content[: first.stop] + b"\0" * 999
            content_of += content[first.stop :]
        else:
            content_of = wrap(content)
        path.write_bytes(content_of)
        info = audio.audio_info(path)
        found = audio.read_audio(path, sample_rate=rate)
        # Encoders add a frame or two at the ends.
        assert 0 <= len(found) - len(counted) < 3 * 1152, name
        assert info.frames == len(found), name
        part = audio.read_frames(path, len(found) // 2, 999, rate)
        half = found[len(found) // 2 :][:999]
        assert np.abs(part - half).max() < 1e-4, name


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize("rate,channels", [(16000, 1), (24000, 2)])
def test_a_part_of_an_mp3_is_that_of_the_whole(tmp_path, mode, rate, channels):
    """After a seek, the decoder lacks the bits of earlier frames."""
    shape = 40 * rate, channels
    wav = 0.3 * torch.randn(shape, generator=seeded("mp3")).numpy()
    # Loud and nearly silent in turn: quiet frames leave bits over.
    wav[np.arange(len(wav)) // (rate // 2) % 3 > 0] *= 1e-4
    path = tmp_path / "a.mp3"
    options = {"bitrate_mode": mode, "compression_level": 0.99}
    soundfile.write(path, wav, rate, format="MP3", **options)
    whole = audio.read_frames(path, 0, -1, rate)
    for start in range(1, len(whole) - 4000, 10007):
        part = audio.read_frames(path, start, 4000, rate)
        assert np.abs(part - whole[start:][:4000]).max() < 1e-5, start
    rest = audio.read_frames(path, start, -1, rate)
    assert np.abs(rest - whole[start:]).max() < 1e-5


@pytest.mark.parametrize("flags,count", [(15, 0), (14, 99)])
def test_a_frame_count_of_nothing_is_counted(tmp_path, samples, flags, count):
    path = tmp_path / "a.mp3"
    soundfile.write(path, samples, RATE, format="MP3")
    expected = audio.audio_info(path).frames
    content = path.read_bytes()
    place = re.search(b"Xing|Info", content).end()
    numbers = bytes([0, 0, 0, flags]) + count.to_bytes(4, "big")
    path.write_bytes(content[:place] + numbers + content[place + 8 :])
    found = audio.read_audio(path, sample_rate=RATE)
    assert 0 <= len(found) - expected < 3 * 1152


def test_mp3s_are_predicted_in_windows(model, tmp_path, samples, capsys):
    path = tmp_path / "a.mp3"
    soundfile.write(path, np.tile(samples, 5), RATE, format="MP3")
    path.write_bytes(tag(9999) + without_count(path.read_bytes()))
    code, rows, errors = predict(model, capsys, path)
    assert code == 0 and len(rows) == 2, errors


def test_a_cut_mp3_with_a_frame_count_is_refused(
    model, tmp_path, samples, capsys
):
    path = tmp_path / "a.mp3"
    soundfile.write(path, samples, RATE, format="MP3")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    code, rows, errors = predict(model, capsys, path)
    assert code == 1 and not rows and "truncated" in errors


@pytest.mark.parametrize("rate,code", [(4000, 0), (24414, 0), (96001, 0),
                                       (384000, 0), (3999, 1), (384001, 1)])  # fmt: skip
def test_any_integer_rate_is_read(model, tmp_path, capsys, rate, code):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.sin(np.arange(rate) * 0.1) / 9, rate)
    found, rows, errors = predict(model, capsys, path)
    assert found == code and len(rows) == 1 - code
    assert (str(rate) in errors) == bool(code)


@pytest.mark.parametrize("kind,subtype", [("WAV", "GSM610"), ("AU", "G721_32")])
def test_formats_of_telephones_are_read(
    model, samples, tmp_path, capsys, kind, subtype
):
    """libsndfile cannot seek in them."""
    path = tmp_path / f"a.{kind.lower()}"
    soundfile.write(path, samples[::5], 8000, subtype, format=kind)
    code, rows, errors = predict(model, capsys, path, "--window=1")
    assert code == 0 and len(rows) == 5, errors


def test_comments_are_not_sizes(model, samples, tmp_path, capsys):
    path = tmp_path / "a.wav"
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        file.comment = "my data : 99999999"
        file.write(samples)
    assert predict(model, capsys, path)[0] == 0


@pytest.mark.parametrize("content", [b"\xff", b"ID3", b"\xff\xfb", b"ID3" * 99])
def test_pieces_of_mp3s_are_named(model, tmp_path, capsys, content):
    path = tmp_path / "a.mp3"
    path.write_bytes(content)
    code, rows, errors = predict(model, capsys, path)
    assert code == 1 and not rows and str(path) in errors


CONTAINERS = [
    ("WAV", "PCM_16"),
    ("WAV", "PCM_24"),
    ("WAV", "FLOAT"),
    ("WAV", "ULAW"),
    ("WAVEX", "PCM_16"),
    ("RF64", "PCM_16"),
    ("AIFF", "PCM_16"),
    ("AU", "PCM_16"),
    ("W64", "PCM_24"),
    ("NIST", "PCM_16"),
    ("FLAC", "PCM_16"),
    ("CAF", "PCM_16"),
]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("kind,subtype", CONTAINERS)
def test_what_is_cut_is_refused(
    model, samples, tmp_path, capsys, kind, subtype, channels
):
    path = tmp_path / f"a.{kind.lower()}"
    path = path.with_suffix(
        {"WAVEX": ".wav", "NIST": ".sph"}.get(kind, path.suffix)
    )
    wav = np.stack([samples] * channels, 1)
    soundfile.write(path, wav, RATE, subtype, format=kind)
    assert audio.audio_info(path).frames == len(samples)
    content = path.read_bytes()
    for share in (0.5, 0.99):
        path.write_bytes(content[: int(share * len(content))])
        code, rows, errors = predict(model, capsys, path)
        assert code == 1 and not rows and str(path) in errors, share


def header_alone(content):
    return content[:44]


def impossible_chunk(content):
    return (
        content[:36]
        + b"QWDu"
        + (3667229085).to_bytes(4, "little")
        + content[44:]
    )


@pytest.mark.parametrize("damage", [header_alone, impossible_chunk])
def test_damaged_wavs_of_reports_are_refused(
    model, sound, tmp_path, capsys, damage
):
    path = tmp_path / "damaged.wav"
    path.write_bytes(damage(sound.read_bytes()))
    code, rows, errors = predict(model, capsys, path)
    assert code == 1 and not rows and str(path) in errors


def test_apple_double_files_hide_nothing(model, samples, tmp_path, capsys):
    """libsndfile would open `._a.mp3` instead of, or besides, `a.mp3`."""
    for name in ("a.mp3", "b.wav", "c.aiff"):
        soundfile.write(tmp_path / name, samples, RATE)
        beside = tmp_path / f"._{name}"
        beside.write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X".ljust(4096, b"\0"))
    code, rows, errors = predict(model, capsys, tmp_path)
    assert code == 0 and len(rows) == 3, errors


@pytest.mark.parametrize("suffix", ["webm", "MP4", "mka", "ac3", "m4a", "amr"])
def test_formats_that_cannot_be_read_are_named(
    model, sound, tmp_path, capsys, suffix
):
    path = tmp_path / f"other.{suffix}"
    path.write_bytes(b"\0\0\0\x18ftypmp42".ljust(999, b"\1"))
    code, rows, errors = predict(model, capsys, tmp_path)
    assert code == 1 and len(rows) == 1 and path.name in errors


def test_voc_files_are_read(model, samples, tmp_path, capsys):
    soundfile.write(tmp_path / "a.voc", samples, RATE, format="VOC")
    code, rows, _ = predict(model, capsys, tmp_path)
    assert code == 0 and len(rows) == 1


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "list.csv"])
def test_a_git_lfs_pointer_is_named_as_one(model, tmp_path, capsys, name):
    path = tmp_path / name
    path.write_text(POINTER)
    code, _, errors = predict(model, capsys, path)
    assert code == 1 and "git lfs pull" in errors


@pytest.mark.parametrize("kind", ["input", "list", "audio", "model"])
def test_no_output_overwrites_what_it_reads(
    model, sound, tmp_path, capsys, kind
):
    table = tmp_path / "list.csv"
    table.write_text("path\nsound.wav\n")
    other = tmp_path / "other.FLAC"
    other.write_bytes(b"precious")
    weights = f"{model}/model/config.json"
    output = {"input": sound, "list": table, "audio": other, "model": weights}
    before = os.stat(output[kind]).st_size
    link = tmp_path / "link.csv"
    link.symlink_to(output[kind])
    for name in (output[kind], link)[: 1 if kind == "audio" else 2]:
        code, _, errors = predict(model, capsys, table, f"--output={name}")
        assert code == 1 and "--output" in errors
    assert os.stat(output[kind]).st_size == before


@pytest.mark.parametrize("option", ["--html", "--figure"])
def test_reports_do_not_overwrite_their_archives(tmp_path, capsys, option):
    archive = tmp_path / "runs.svg"
    archive.write_bytes(b"precious")
    assert main(["report", str(archive), f"{option}={archive}"]) == 1
    assert f"{option}: {archive} is an input" in capsys.readouterr().err
    assert archive.read_bytes() == b"precious"


def test_the_doctor_does_not_overwrite_a_manifest(finished, corpus, capsys):
    folder = finished.arguments["output_folder"]
    manifest = folder / "manifests/train.json"
    before = manifest.read_bytes()
    command = ["doctor", str(folder), f"--data_folder={corpus}"]
    assert main([*command, f"--json={manifest}"]) == 1
    assert manifest.read_bytes() == before


def test_names_that_are_not_utf8_are_named(model, sound, tmp_path, capsys):
    bad = tmp_path / os.fsdecode(b"\xff.wav")
    sound.rename(bad)
    code, rows, errors = predict(model, capsys, bad)
    assert code == 1 and not rows and "is not UTF-8; rename it" in errors
    with pytest.raises(InputError, match="not UTF-8"):
        audio.audio_info(bad)


def test_names_with_line_ends_stay_in_their_row(model, sound, tmp_path, capsys):
    path = sound.rename(tmp_path / "a\rb.wav")
    out = tmp_path / "out.csv"
    assert main(["predict", model, str(path), f"--output={out}"]) == 0
    from mlkd_lobes.files import read_csv

    assert [row["path"] for row in read_csv(out)] == [str(path)]
