"""What no preparation may leave: silence, and noise heard in two splits."""

import pytest
import torch
from helpers import seeded, write_wav
from prepare import check_leakage

from mlkd_lobes.audibility import audible_noise, leave_silence_out
from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.leakage import LeakageError
from mlkd_lobes.files import write_csv
from mlkd_lobes.noise import KeyedAddNoise, read_noise_csv

HEADER = ["ID", "duration", "wav", "wav_format", "wav_opts"]


def given_csv(folder, wavs):
    for name, wav in wavs.items():
        write_wav(folder / f"{name}.wav", wav)
    rows = [[name, 1.0, folder / f"{name}.wav", "wav", ""] for name in wavs]
    write_csv(folder / "own.csv", HEADER, rows)
    return str(folder / "own.csv")


def short_event(name):
    """Clips of 5 s, as ESC-50 has them: 0.4 s of sound, then digital zeros."""
    wav = torch.zeros(5 * 16000)
    wav[:6400] = 0.1 * torch.randn(6400, generator=seeded(name))
    return wav


def test_of_given_noise_only_what_is_heard_is_drawn(tmp_path):
    csv = given_csv(tmp_path, {str(n): short_event(n) for n in range(3)})
    noise = KeyedAddNoise(csv)
    leave_silence_out(noise, tmp_path / "elsewhere")
    [segments] = {len(s) for s in noise.types["noise"].values()}
    assert segments == 1
    for utterance in range(200):
        assert noise.draw(str(utterance), 16000).noise.abs().max() > 0


def test_given_noise_that_is_silent_is_named(tmp_path):
    csv = given_csv(tmp_path, {"quiet": torch.zeros(16000)})
    with pytest.raises(InputError, match="own.csv: .*quiet.wav is silent from"):
        audible_noise(csv, read_noise_csv(csv))


def test_recordings_of_one_content_are_named(tmp_path):
    noise = {}
    for split, seed in (("train", 1), ("valid", 2), ("test", 1)):
        folder = tmp_path / split
        csv = given_csv(folder, {"a": short_event(seed)})
        noise[split] = read_noise_csv(csv)
    with pytest.raises(LeakageError) as error:
        check_leakage(dict.fromkeys(noise, _Nothing), noise, ())
    pair = f"{tmp_path}/test/a.wav = {tmp_path}/train/a.wav"
    assert f"same content(s): {pair}" in str(error.value)


class _Nothing:
    """A dataset without utterances."""

    data = {}


def test_a_touch_of_silence_is_no_noise(tmp_path):
    """A given segment may end a frame into what is heard."""
    csv = given_csv(tmp_path, {"a": short_event("a")})
    types = read_noise_csv(csv)
    [[whole]] = types["noise"].values()
    types["noise"][whole.path] = [whole._replace(start=6300, stop=80000)]
    with pytest.raises(InputError, match="silent from frame 6300 to 80000"):
        audible_noise(csv, types)
