"""Speeds are drawn by seed, epoch and utterance, and are what they say."""

from collections import Counter

import pytest
import torch

from mlkd_lobes.errors import InputError
from mlkd_lobes.speed import KeyedSpeedPerturb


def tone(hertz, seconds=1.0):
    time = torch.arange(int(16000 * seconds)) / 16000
    return torch.sin(2 * torch.pi * hertz * time)


def pitch(wav):
    spectrum = torch.fft.rfft(wav * torch.hann_window(len(wav))).abs()
    return spectrum.argmax().item() * 16000 / len(wav)


@pytest.mark.parametrize("speed", [80, 90, 97.5, 100, 115])
def test_speech_is_as_fast_as_it_says(speed):
    wav, said = KeyedSpeedPerturb(16000, [speed])(tone(400), "a")
    assert said == speed
    assert len(wav) == pytest.approx(16000 * 100 / speed, abs=1)
    assert pitch(wav) == pytest.approx(400 * speed / 100, abs=1.5)


def test_its_own_speed_leaves_speech_as_it_is():
    wav = torch.randn(1000)
    assert torch.equal(KeyedSpeedPerturb(16000)(wav, "a")[0], wav)


def test_draws_depend_on_seed_epoch_and_utterance_alone():
    def draws(seed, epoch, names):
        perturb = KeyedSpeedPerturb(16000, [90, 100, 110], seed)
        perturb.set_epoch(epoch)
        return {name: perturb(torch.zeros(160), name)[1] for name in names}

    names = [f"utterance {n}" for n in range(300)]
    first = draws(1, 1, names)
    torch.manual_seed(5)
    assert draws(1, 1, names[::-1]) == first
    assert draws(1, 2, names) != first and draws(2, 1, names) != first
    counts = Counter(first.values())
    assert set(counts) == {90, 100, 110} and min(counts.values()) > 70


@pytest.mark.parametrize("speeds", [[], 90, [90, "fast"], [0.9], [True]])
def test_wrong_speeds_are_refused(speeds):
    with pytest.raises(InputError, match="speeds: "):
        KeyedSpeedPerturb(16000, speeds)


def test_speeds_that_need_gigabytes_are_refused():
    with pytest.raises(InputError, match="speeds: 92.5 would need filters of"):
        KeyedSpeedPerturb(16000, [92.5, 100])
