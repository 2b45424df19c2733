"""Classifies a recording mixed with noise: the app's computations, without its page.

A recording is mixed with a noise at an SNR; every model's probabilities are given for
the mixture, for the recording at other SNRs, and of long ones window by window.
"""

from __future__ import annotations

import pathlib
from collections import ChainMap, namedtuple

import numpy as np
import torch

from mlkd_lobes.data import audio
from mlkd_lobes.data.activity import audible_segments
from mlkd_lobes.deployment import predict as tools
from mlkd_lobes.errors import InputError, check_choice
from mlkd_lobes.noise import generated
from mlkd_lobes.noise.corpora import read_csv_corpus, read_esc, read_folder
from mlkd_lobes.noise.mixing import mix

# Seconds: the longest recording accepted, and the longest classified as one window.
LONGEST, SHORT = 600, 20
WINDOW, HOP = 4.0, 2.0
SNRS = (-10, -5, 0, 5, 10, 15, 20)
NONE, OWN, WHITE, BABBLE = "none", "own recording", "white", "babble"
# MUSAN's folder of speech, of which babble is made.
SPEECH = "speech"


class Answer(namedtuple("Answer", "mixture windows probabilities curves")):
    """`mixture` [time] at 16 kHz; its `windows` as Parts; for every
    model's name `probabilities` [windows, labels], and `curves` [SNRs and clean, labels]
    of a short recording in noise, else empty."""


class Noises:
    """Noise types by name: generated ones, those of a folder, and one's own file."""

    def __init__(self, folder=None, babble_folder=None):
        self.paths = {}
        for recording in _recordings(folder) if folder else ():
            self.paths.setdefault(recording.kind, []).append(recording.path)
        self.talkers = {str(p): [p] for p in self.paths.get(SPEECH, ())}
        if babble_folder:
            by_split = generated.read_talkers(babble_folder, (), ())
            self.talkers = dict(ChainMap(*by_split.values()))
            self.paths.pop(BABBLE, None)
        babble = [BABBLE] if self.talkers and BABBLE not in self.paths else []
        # A folder's own white noise comes before the generated one.
        own = sorted(self.paths.keys() - {NONE, WHITE})
        self.names = [NONE, WHITE, *babble, *own, OWN]

    def draw(self, name, n: int, own=None):
        """Noise [n], the same for every call; None for no noise."""
        check_choice("noise", name, self.names)
        if name == NONE:
            return None
        if name == OWN:
            if own is None:
                raise InputError(f"noise: give a recording for '{OWN}'")
            _check_length(own)
            noise = _audible([own])
        elif name in self.paths:
            noise = _audible(self.paths[name])
        elif name == BABBLE:
            noise = generated.babble({"app": self.talkers}, "app", 0).numpy()
        else:
            noise = generated.white("app", 0).numpy()
        return np.resize(noise, n)


def _recordings(folder):
    """Recordings of a noise corpus in any layout that a folder shows."""
    folder = pathlib.Path(folder)
    if (folder / "manifest.csv").is_file():
        return read_csv_corpus(folder)
    try:
        found = read_esc(folder)
    except InputError:
        found = read_folder(folder)
    if not found:
        raise InputError(f"noise_folder: no audio in {folder}")
    return found


def _audible(paths):
    """The first audible part of the first recording that has one."""
    reason = f"{paths[0]}: the noise is silent"
    for path in paths:
        try:
            for start, stop in audible_segments(path)[:1]:
                rate = audio.audio_info(path).sample_rate
                n = min(stop - start, LONGEST * rate)
                return audio.read_frames(path, start, n)
        except InputError as error:
            reason = str(error)
    raise InputError(reason)


def _check_length(path):
    """Raises for a recording that is too long for a page."""
    seconds = audio.audio_info(path).duration
    if seconds > LONGEST:
        raise InputError(
            f"the recording lasts {seconds:.0f} s; at most {LONGEST} s are taken "
            "here, the command predict takes any"
        )


def answer(models, noises, recording, noise=NONE, snr=0.0, own=None) -> Answer:
    """Mixes a recording with a noise and classifies it with every model.

    models: name to EmotionModel; noises: Noises; recording: a path; noise: one of
    `noises.names`; snr: in dB; own: path of one's own noise.
    """
    _check_length(recording)
    wav = torch.from_numpy(audio.read_audio(recording))
    if not wav.any():
        raise InputError("the recording is silent: all samples are zero")
    drawn = noises.draw(noise, len(wav), own)
    is_short = len(wav) <= SHORT * audio.SAMPLE_RATE
    versions = wav[None]
    if drawn is not None:
        snrs = [float(snr), *(SNRS if is_short else ())]
        versions = mix(wav, torch.from_numpy(drawn), snrs)
    mixture, bounds = versions[0].numpy(), [(0, len(wav))]
    if not is_short:
        size = [round(s * audio.SAMPLE_RATE) for s in (WINDOW, HOP)]
        bounds = list(tools.sliding(len(wav), *size))
    rate = audio.SAMPLE_RATE
    parts = [tools.Part(recording, a / rate, b / rate) for a, b in bounds]
    windows = [mixture[a:b] for a, b in bounds]
    curves, others = {}, [*versions[1:].numpy(), wav.numpy()]
    for name, model in models.items():
        if drawn is not None and is_short:
            curves[name] = _classified(model, others)
    found = {name: _classified(m, windows) for name, m in models.items()}
    return Answer(mixture, parts, found, curves)


def _classified(model, wavs):
    """Probabilities [waveforms, labels]."""
    batches = tools.classify(model.model, ((None, wav) for wav in wavs), 60.0)
    return np.array([p.probabilities for p in batches])


def summary(answer: Answer, models) -> str:
    """A line per model: its emotion and probability, the mean over windows."""
    lines = []
    for name, probabilities in answer.probabilities.items():
        mean, labels = probabilities.mean(0), models[name].labels
        text = f"**{name}**: {labels[mean.argmax()]} ({mean.max():.0%})"
        if len(probabilities) > 1:
            text += f", the mean of {len(probabilities)} windows"
        lines.append(text)
    return "  \n".join(lines)
