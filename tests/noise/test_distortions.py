"""Distortions: what they do, and that they are keyed and never counted as noise."""

import numpy as np
import pytest
import torch
from helpers import seeded

from mlkd_lobes.noise.add_noise import CLEAN, conditions, is_additive
from mlkd_lobes.noise.distortions import (
    DISTORTIONS,
    GAIN_DB,
    _room,
    apply_grid,
    distort,
)


@pytest.fixture(scope="module")
def speech():
    """Noise with the spectrum of speech, roughly, in bursts."""
    wav = torch.randn(3 * 16000, generator=seeded("speech"))
    wav = torch.nn.functional.avg_pool1d(wav[None], 5, 1, 2)[0]
    return 0.2 * wav * (torch.sin(torch.arange(len(wav)) / 900) > 0)


def band(wav, low, high):
    """Energy between two frequencies in Hz."""
    spectrum = np.abs(np.fft.rfft(wav.double().numpy())) ** 2
    frequency = np.fft.rfftfreq(len(wav), 1 / 16000)
    return spectrum[(frequency >= low) & (frequency < high)].sum()


@pytest.mark.parametrize("name", DISTORTIONS)
def test_draws_are_keyed(name, speech):
    out = distort(speech, name, "a")
    assert torch.equal(out, distort(speech, name, "a"))
    assert out.dtype == torch.float32 and out.isfinite().all()
    assert len(out) == (32000 if name == "cut" else len(speech))
    assert not torch.equal(out, speech)
    if name in ("gain", "cut", "reverberation"):
        assert not torch.equal(out, distort(speech, name, "b"))


@pytest.mark.parametrize("name", DISTORTIONS)
@pytest.mark.parametrize("n", [1, 399, 8000])
def test_short_and_silent_waveforms(name, n, speech):
    for wav in (torch.zeros(n), 1e-9 * speech[:n], 3.0 + speech[:n]):
        out = distort(wav, name, "a")
        assert len(out) == n and out.isfinite().all()


def test_gain_is_within_its_range(speech):
    levels = []
    for i in range(200):
        out = distort(speech, "gain", str(i))
        levels.append(20 * np.log10((out.std() / speech.std()).item()))
    assert max(map(abs, levels)) <= GAIN_DB + 1e-3
    assert max(levels) > 0.8 * GAIN_DB and min(levels) < -0.8 * GAIN_DB


def test_clipping_flattens_the_peaks(speech):
    out = distort(speech, "clipping", "a")
    peaks = (out.abs() >= out.abs().max() - 1e-6).float().mean().item()
    assert 0.002 < peaks < 0.01
    assert out.abs().max() < speech.abs().max()


def test_a_telephone_passes_its_band_only(speech):
    out = distort(speech, "telephone", "a")
    for low, high in ((0, 100), (5000, 8000)):
        assert band(out, low, high) < 0.05 * band(speech, low, high)
    assert band(out, 800, 2000) > 0.5 * band(speech, 800, 2000)


def test_low_pass_and_codecs_lose_the_top(speech):
    low = distort(speech, "low_pass", "a")
    assert band(low, 7000, 8000) < 0.6 * band(speech, 7000, 8000)
    for name in ("mp3", "opus"):
        out = distort(speech, name, "a")
        # Still the same signal, in time as well.
        together = torch.corrcoef(torch.stack([out, speech]))[0, 1]
        assert 0.5 < together < 0.999, name


def test_rooms_differ_and_ring(speech):
    responses = [_room(i) for i in range(4)]
    assert len({len(r) for r in responses}) == 4
    for response in responses:
        assert np.abs(response).argmax() == 0
        late = np.square(response[800:]).sum() / np.square(response).sum()
        assert 0.005 < late < 0.95
    out = distort(speech, "reverberation", "a")
    assert out.square().sum().item() == pytest.approx(
        speech.square().sum().item(), rel=1e-3
    )


def test_a_grid_ends_in_its_distortions(speech):
    grid = conditions(["rain"], [0], ["cut", "gain"])
    assert [tuple(c) for c in grid] == [
        ("clean", None),
        ("rain", 0),
        ("distorted-cut", None),
        ("distorted-gain", None),
    ]
    assert [is_additive(c.noise) for c in grid] == [False, True, False, False]

    class Mixer:
        """Stands in for KeyedAddNoise."""

        def apply_conditions(self, wav, utterance, wanted):
            assert wanted == grid[:2] and wanted[0] == CLEAN
            return wav.expand(2, -1)

    parts = apply_grid(Mixer(), speech, "a", grid)
    assert [tuple(part.shape) for part in parts] == [
        (2, 48000),
        (1, 32000),
        (1, 48000),
    ]
