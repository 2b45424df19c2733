"""Test conditions beyond additive noise: rooms, telephones, codecs, levels, cuts.

Every distortion is a function of a waveform and a generator that is seeded by its
name and the utterance, so all systems get the same. They are never counted as noise.
"""

import functools
import io
from collections import namedtuple

import numpy as np
import scipy.signal
import soundfile
import torch
from torchaudio import functional as F

from mlkd_lobes.data.audio import SAMPLE_RATE, resample
from mlkd_lobes.files import stable_seed
from mlkd_lobes.noise.add_noise import DISTORTED

# Largest gain in dB, either way.
GAIN_DB = 10
# Share of the samples that are clipped.
CLIPPED = 0.003
LOW_PASS_HZ = 6500
CUT_SECONDS = 2
TELEPHONE_RATE, TELEPHONE_LOW_HZ, TELEPHONE_HIGH_HZ = 8000, 300, 3400
# libsndfile's compression levels, about 16 and 10 kbit/s; samples by which MP3
# comes late.
MP3_LEVEL, OPUS_LEVEL, MP3_DELAY = 0.95, 0.976, 1105
# Simulated rooms: how many, their sides in m, reverberation times in s.
ROOMS, SIDES, TIMES = 16, ((3, 8), (3, 6), (2.4, 3.5)), (0.3, 0.9)
MAX_REFLECTIONS = 15


class Distortion(namedtuple("Distortion", "apply unchanged", defaults=[None])):
    """`apply` takes a waveform [time] in float64 and a generator;
    `unchanged`: the smallest share of predictions that should not change, after
    audEERING's tests of emotion models (arXiv 2312.06270); None: no threshold."""


def _gain(wav, generator):
    return wav * 10 ** (generator.uniform(-GAIN_DB, GAIN_DB) / 20)


def _clip(wav, _):
    limit = np.quantile(np.abs(wav), 1 - CLIPPED)
    return wav.clip(-limit, limit)


def _low_pass(wav, _):
    return _filtered(wav, F.lowpass_biquad, LOW_PASS_HZ)


def _cut(wav, generator):
    n = CUT_SECONDS * SAMPLE_RATE
    start = int(generator.integers(max(1, len(wav) - n + 1)))
    return wav[start : start + n]


def _telephone(wav, _):
    band = _filtered(wav, F.highpass_biquad, TELEPHONE_LOW_HZ)
    band = _filtered(band, F.lowpass_biquad, TELEPHONE_HIGH_HZ)
    return _coded(band, "WAV", "ULAW", TELEPHONE_RATE)


def _mp3(wav, _):
    options = {"bitrate_mode": "CONSTANT", "compression_level": MP3_LEVEL}
    late = np.pad(wav, (0, MP3_DELAY))
    return _coded(late, "MP3", "MPEG_LAYER_III", **options)[MP3_DELAY:]


def _opus(wav, _):
    return _coded(wav, "OGG", "OPUS", compression_level=OPUS_LEVEL)


def _reverberation(wav, generator):
    response = _room(int(generator.integers(ROOMS)))
    wet = scipy.signal.fftconvolve(wav, response)[: len(wav)]
    return wet * np.linalg.norm(wav) / max(np.linalg.norm(wet), 1e-10)


DISTORTIONS = {
    "gain": Distortion(_gain, 0.95),
    "clipping": Distortion(_clip, 0.95),
    "low_pass": Distortion(_low_pass, 0.95),
    "cut": Distortion(_cut),
    "telephone": Distortion(_telephone, 0.5),
    "mp3": Distortion(_mp3),
    "opus": Distortion(_opus),
    "reverberation": Distortion(_reverberation),
}


def apply_grid(noise, wav, utterance, grid):
    """An evaluation utterance under clean, noisy and distorted conditions.

    Arguments
    ---------
    noise : mlkd_lobes.noise.add_noise.KeyedAddNoise
        Mixes.
    wav : torch.Tensor
        Clean waveform [time], unpadded.
    utterance : str
        Its ID.
    grid : sequence of mlkd_lobes.noise.add_noise.Condition
        The conditions, distortions last.

    Returns
    -------
    list of torch.Tensor
        Waveforms [conditions, time], in order; distortions may change the length.
    """
    names = [c.noise for c in grid if c.noise.startswith(DISTORTED)]
    mixed = noise.apply_conditions(
        wav, utterance, grid[: len(grid) - len(names)]
    )
    others = [distort(wav, n[len(DISTORTED) :], utterance) for n in names]
    return [mixed, *(other[None] for other in others)]


def distort(wav, name, utterance):
    """An utterance as a distortion leaves it.

    Arguments
    ---------
    wav : torch.Tensor
        Clean waveform [time] at 16 kHz, unpadded.
    name : str
        A key of `DISTORTIONS`.
    utterance : str
        Its ID.

    Returns
    -------
    torch.Tensor
        Waveform [time]; `cut` shortens it.

    Example
    -------
    >>> distort(torch.ones(40000), "cut", "utterance").shape
    torch.Size([32000])
    """
    seed = stable_seed("distortion", name, utterance)
    generator = np.random.default_rng(seed)
    out = DISTORTIONS[name].apply(wav.double().numpy(), generator)
    return torch.from_numpy(np.ascontiguousarray(out, dtype=np.float32))


def _filtered(wav, biquad, frequency):
    scale = max(1.0, np.abs(wav).max())  # torchaudio clips at full scale
    wav = torch.from_numpy(wav / scale)
    return scale * biquad(wav, SAMPLE_RATE, frequency).numpy()


def _coded(wav, container, codec, rate=SAMPLE_RATE, **options):
    """A waveform encoded and decoded again by libsndfile, as long as before."""
    buffer, scale = io.BytesIO(), max(1.0, np.abs(wav).max())
    buffer.name = f"a.{container.lower()}"
    sent = resample(wav / scale, SAMPLE_RATE, rate)
    soundfile.write(buffer, sent, rate, codec, format=container, **options)
    buffer.seek(0)
    wav, n_samples = soundfile.read(buffer)[0], len(wav)
    wav = resample(scale * wav, rate, SAMPLE_RATE)[:n_samples]
    return np.pad(wav, (0, n_samples - len(wav)))


@functools.lru_cache(maxsize=None)
def _room(number):
    """Impulse response of a simulated room, from the direct sound on."""
    import pyroomacoustics

    generator = np.random.default_rng(stable_seed("room", number))
    sides = [generator.uniform(*side) for side in SIDES]
    time = generator.uniform(*TIMES)
    absorption, _ = pyroomacoustics.inverse_sabine(time, sides)
    walls = pyroomacoustics.Material(absorption)
    room = pyroomacoustics.ShoeBox(
        sides, fs=SAMPLE_RATE, materials=walls, max_order=MAX_REFLECTIONS
    )
    places = generator.uniform(0.15, 0.85, (2, 3)) * sides
    room.add_source(places[0])
    room.add_microphone(places[1])
    room.compute_rir()
    response = room.rir[0][0]
    return response[np.abs(response).argmax() :]
