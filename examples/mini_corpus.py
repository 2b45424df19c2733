#!/usr/bin/env python3
"""Writes a small IEMOCAP, a small MUSAN and a tiny wav2vec 2.0, all generated.

Ten synthetic speakers say nonsense in four emotions. Each emotion is a set of
acoustic parameters from phonetics (F0 level and range, rate, breathiness,
spectral tilt, loudness) with some spread, rendered by formant synthesis. The
trees have the layout of the real corpora. The encoder has random weights. This
shows that the recipe runs, not that the method works.

> python examples/mini_corpus.py FOLDER
"""

import pathlib
import sys
from collections import namedtuple

import numpy as np
import scipy.signal
import soundfile
import torch
import transformers

RATE = 16000

# F0 and its range are factors of the speaker's F0; rate is in syllables per
# second; breath and tilt are in [0, 1]; level is in dB.
Emotion = namedtuple(
    "Emotion", ["f0", "range", "rate", "breath", "tilt", "level"]
)
EMOTIONS = {
    "neu": Emotion(1.00, 0.10, 4.6, 0.08, 0.60, 0),
    "hap": Emotion(1.45, 0.40, 5.2, 0.10, 0.45, 4),
    "sad": Emotion(0.88, 0.04, 3.2, 0.45, 0.90, -6),
    "ang": Emotion(1.25, 0.20, 6.2, 0.02, 0.00, 7),
}
# In IEMOCAP's four classes, excited is happy.
EMOTIONS["exc"] = EMOTIONS["hap"]
LABELS = ["neu"] * 6 + ["hap"] * 4 + ["exc"] * 2 + ["sad"] * 6 + ["ang"] * 6
# What the four classes leave out sounds like something in between.
OTHERS = ("fru", "xxx", "sur", "fea", "dis", "oth")
SPREAD = 0.2

# First three formants of vowels (Hz) for an adult man.
VOWELS = {
    "a": (730, 1090, 2440),
    "e": (530, 1840, 2480),
    "i": (270, 2290, 3010),
    "o": (570, 840, 2410),
    "u": (300, 870, 2240),
}
CONSONANTS = "bdgmnszk"

Speaker = namedtuple("Speaker", ["f0", "formants", "breath"])
Turn = namedtuple("Turn", ["name", "emotion", "text", "wav"])


def make_speaker(gender, generator):
    """A voice.

    Arguments
    ---------
    gender : str
        "F" or "M".
    generator : numpy.random.Generator
        Of its chances.

    Returns
    -------
    Speaker
        F0 in Hz, factor of the formants, breathiness.
    """
    low, high = (190, 215) if gender == "F" else (105, 120)
    size = 1.17 if gender == "F" else 1.0
    return Speaker(
        generator.uniform(low, high),
        size * generator.uniform(0.97, 1.03),
        generator.uniform(0.0, 0.05),
    )


def make_text(generator, syllables):
    """Nonsense words.

    Arguments
    ---------
    generator : numpy.random.Generator
        Of its chances.
    syllables : int
        How many.

    Returns
    -------
    str
        Consonant and vowel each, with spaces in between.
    """
    return " ".join(
        generator.choice(list(CONSONANTS)) + generator.choice(list(VOWELS))
        for _ in range(syllables)
    )


def speak(text, speaker, emotion, generator):
    """Synthesises a text.

    Arguments
    ---------
    text : str
        From `make_text`.
    speaker : Speaker
        Who.
    emotion : Emotion
        How.
    generator : numpy.random.Generator
        Of its chances.

    Returns
    -------
    numpy.ndarray
        Waveform [time] at 16 kHz.
    """

    def vary(value):
        return value * 2 ** (SPREAD * generator.normal() / 2)

    syllables = text.split()
    rate, spread = vary(emotion.rate), vary(emotion.range)
    level, breath = speaker.f0 * emotion.f0, emotion.breath + speaker.breath
    level *= 2 ** (0.06 * generator.normal())
    contour = level * (
        1
        + spread
        * np.sin(
            generator.uniform(0, 6.28)
            + np.arange(len(syllables) + 1) * generator.uniform(1, 2)
        )
    )
    contour *= np.linspace(1.05, 0.92, len(contour))
    parts = []
    for i, syllable in enumerate(syllables):
        n = int(RATE / rate * generator.uniform(0.8, 1.2))
        f0 = np.linspace(contour[i], contour[i + 1], n)
        source = _voice_source(f0, vary(breath), emotion.tilt, generator)
        formants = np.array(VOWELS[syllable[1]]) * speaker.formants
        parts.append(
            _onset(syllable[0], n, generator) + _vowel(source, formants)
        )
    wav = np.concatenate(parts)
    pause = np.zeros(int(0.05 * RATE))
    wav = np.concatenate([pause, wav, pause])
    gain = 10 ** ((emotion.level + generator.normal() - 26) / 20)
    return gain * wav / np.sqrt(np.mean(wav**2))


def _voice_source(f0, breath, tilt, generator):
    """Glottal pulses, softened by the tilt, and aspiration noise."""
    phase = np.cumsum(f0 * (1 + 0.01 * generator.normal(size=len(f0))) / RATE)
    pulses = np.diff(np.floor(phase), prepend=0.0)
    soft = scipy.signal.lfilter([1 - 0.97 * tilt], [1, -0.97 * tilt], pulses)
    soft = soft / (np.std(soft) + 1e-9)
    return (1 - breath) * soft + breath * generator.normal(size=len(f0))


def _vowel(source, formants):
    """Resonances, faded in and out."""
    for formant, width in zip((*formants, 3500), (80, 100, 140, 200)):
        radius = np.exp(-np.pi * width / RATE)
        angle = 2 * np.pi * formant / RATE
        poles = [1, -2 * radius * np.cos(angle), radius**2]
        source = scipy.signal.lfilter([sum(poles)], poles, source)
    window = scipy.signal.windows.tukey(len(source), 0.4)
    return window * source / (np.std(source) + 1e-9)


def _onset(consonant, n, generator):
    """Noise of a consonant at the beginning of a syllable."""
    out, length = np.zeros(n), min(n, int(0.04 * RATE))
    if consonant in "szk":
        noise = np.diff(generator.normal(size=length + 1))
        out[:length] = 0.4 * np.hanning(length) * noise
    return out


# ---- IEMOCAP -----------------------------------------------------------------


def write_dialog(root, session, dialog, turns):
    """Writes a dialog as IEMOCAP does.

    Arguments
    ---------
    root : pathlib.Path
        The release.
    session : int
        Its number.
    dialog : str
        Its name, e.g. "Ses01F_impro01".
    turns : list of Turn
        Speakers and their texts, in order.
    """
    folder = root / f"Session{session}"
    evaluation = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
    transcription, time = [], 0.5
    for turn in turns:
        end = time + len(turn.wav) / RATE
        evaluation += [
            f"[{time:.4f} - {end:.4f}]\t{turn.name}\t{turn.emotion}\t"
            "[2.5000, 2.5000, 2.5000]",
            "C-E1:\tNeutral;\t()",
            "A-E1:\tval 3; act 3; dom  3;\t()",
            "",
        ]
        transcription.append(
            f"{turn.name} [{time:08.4f}-{end:08.4f}]: {turn.text}"
        )
        time = end + 0.3
        path = folder / "sentences/wav" / dialog / f"{turn.name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, turn.wav, RATE, subtype="PCM_16")
    for name, lines in (
        ("EmoEvaluation", evaluation),
        ("transcriptions", transcription),
    ):
        path = folder / "dialog" / name / f"{dialog}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_session(root, session):
    """Writes a session: two speakers, four dialogs, every kind of label.

    Arguments
    ---------
    root : pathlib.Path
        The release.
    session : int
        1 to 5.
    """
    generator = np.random.default_rng(session)
    speakers = {g: make_speaker(g, generator) for g in "FM"}
    prefix = f"Ses0{session}"
    dialogs = [f"{prefix}F_impro01", f"{prefix}M_impro02"]
    dialogs += [f"{prefix}F_script01_1", f"{prefix}M_script02_2b"]
    for number, dialog in enumerate(dialogs):
        labels = LABELS + [OTHERS[(session + number) % len(OTHERS)]] * 2
        generator.shuffle(labels)
        # A script is the same text in every session.
        script = np.random.default_rng(100 + number)
        texts = script if "script" in dialog else generator
        turns = []
        for i, label in enumerate(labels):
            gender = "FM"[i % 2]
            text = make_text(texts, int(texts.integers(4, 7)))
            emotion = EMOTIONS.get(label) or _between(generator)
            wav = speak(text, speakers[gender], emotion, generator)
            name = f"{dialog}_{gender}{i // 2:03d}"
            turns.append(Turn(name, label, text, np.clip(wav, -1, 1)))
        write_dialog(root, session, dialog, turns)


def _between(generator):
    """An emotion half-way between two."""
    one, two = generator.choice(len(EMOTIONS), 2, replace=False)
    values = list(EMOTIONS.values())
    return Emotion(*np.mean([values[one], values[two]], axis=0))


# ---- MUSAN -------------------------------------------------------------------


def write_musan(root, seconds=12, files=8):
    """Writes noise, music and speech as MUSAN does.

    Arguments
    ---------
    root : pathlib.Path
        The corpus.
    seconds : float
        Length of a file.
    files : int
        How many of each.
    """
    makers = {
        "noise/free-sound": _noise,
        "music/fma": _music,
        "speech/librivox": _reader,
    }
    for place, make in makers.items():
        kind, source = place.split("/")
        for number in range(files):
            generator = np.random.default_rng([len(kind), number])
            wav = make(int(seconds * RATE), generator)
            path = root / place / f"{kind}-{source}-{number:04d}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            level = 0.1 / np.sqrt(np.mean(wav**2))
            soundfile.write(path, np.clip(level * wav, -1, 1), RATE)


def _noise(n, generator):
    """Noise of some colour that comes and goes, over a hum."""
    pole = generator.uniform(-0.5, 0.98)
    noise = scipy.signal.lfilter(
        [1 - abs(pole)], [1, -pole], generator.normal(size=n)
    )
    time = np.arange(n) / RATE
    swell = 1 + 0.8 * np.sin(2 * np.pi * generator.uniform(0.2, 4) * time)
    hum = np.sin(2 * np.pi * generator.uniform(50, 400) * time)
    return noise / np.std(noise) * swell + 0.5 * hum


def _music(n, generator):
    """Chords that change twice a second."""
    time, wav = np.arange(n) / RATE, np.zeros(n)
    for start in range(0, n, RATE // 2):
        chord = 220 * 2 ** (
            (generator.integers(0, 12) + np.array([0, 4, 7, 12])) / 12
        )
        part = slice(start, start + RATE // 2)
        fade = np.exp(-3 * (time[part] - time[start]))
        for note in chord:
            for harmonic in (1, 2, 3):
                wav[part] += (
                    fade
                    * np.sin(2 * np.pi * note * harmonic * time[part])
                    / harmonic
                )
    return wav


def _reader(n, generator):
    """Somebody else reading without emotion."""
    speaker = make_speaker(generator.choice(["F", "M"]), generator)
    parts, total = [], 0
    while total < n:
        text = make_text(generator, 8)
        parts.append(speak(text, speaker, EMOTIONS["neu"], generator))
        total += len(parts[-1])
    return np.concatenate(parts)[:n]


# ---- Encoder -----------------------------------------------------------------


BANDS, PHASES, TAPS = 32, 4, 400


def write_encoder(folder):
    """Writes a tiny wav2vec 2.0 that was never trained.

    Its weights are random but for the first convolution, which holds band-pass
    filters: so an hour of pre-training can be done without.

    Arguments
    ---------
    folder : pathlib.Path
        A Hugging Face folder.
    """
    transformers.set_seed(1)
    config = transformers.Wav2Vec2Config(
        hidden_size=64,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=128,
        conv_dim=[BANDS * PHASES, 64],
        conv_kernel=[TAPS, 3],
        conv_stride=[160, 2],
        num_feat_extract_layers=2,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        conv_bias=True,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )
    model = transformers.Wav2Vec2Model(config)
    layer = model.feature_extractor.conv_layers[0]
    with torch.no_grad():
        layer.conv.weight.copy_(torch.from_numpy(_filters())[:, None])
        layer.conv.bias.zero_()
    model.save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(
        return_attention_mask=True
    ).save_pretrained(folder)


def _filters():
    """Windowed sinusoids, each frequency in four phases."""
    low, high = 80, 5000
    frequencies = low * (high / low) ** (np.arange(BANDS) / (BANDS - 1))
    time = (np.arange(TAPS) - TAPS / 2) / RATE
    waves = [
        np.hanning(TAPS) * np.cos(2 * np.pi * (f * time + phase / PHASES))
        for f in frequencies
        for phase in range(PHASES)
    ]
    return np.array(waves, dtype=np.float32) / np.sqrt(TAPS)


def main(folder):
    """Writes everything.

    Arguments
    ---------
    folder : str
        Gets the folders IEMOCAP_full_release, musan and wav2vec2.
    """
    folder = pathlib.Path(folder)
    for session in range(1, 6):
        write_session(folder / "IEMOCAP_full_release", session)
    write_musan(folder / "musan")
    write_encoder(folder / "wav2vec2")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/mini_corpus.py FOLDER")
    main(sys.argv[1])
