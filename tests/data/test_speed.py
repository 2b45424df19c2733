"""Speed perturbation: the right speed, drawn by seed, epoch and utterance."""

from collections import Counter

import pytest
import torch

from mlkd_lobes.data.batches import KeyedSpeedPerturb


def tone(hertz, seconds=1.0):
    time = torch.arange(int(16000 * seconds)) / 16000
    return torch.sin(2 * torch.pi * hertz * time)


def pitch(wav):
    spectrum = torch.fft.rfft(wav * torch.hann_window(len(wav))).abs()
    return spectrum.argmax().item() * 16000 / len(wav)


@pytest.mark.parametrize("speed", [80, 90, 97, 100, 115])
def test_length_and_pitch_follow_the_speed(speed):
    wav, reported = KeyedSpeedPerturb(16000, [speed])(tone(400), "a")
    assert reported == speed
    assert len(wav) == pytest.approx(16000 * 100 / speed, abs=1)
    assert pitch(wav) == pytest.approx(400 * speed / 100, abs=1.5)


def test_original_speed_changes_nothing():
    wav = torch.randn(1000)
    assert torch.equal(KeyedSpeedPerturb(16000)(wav, "a")[0], wav)


def test_draws_depend_on_seed_epoch_and_utterance_only():
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
