"""Noise that no corpus holds: babble of several voices, and white noise."""

import pathlib
from collections import defaultdict

import numpy as np
import torch
from manifests import SPLITS, CorpusError
from noise_corpora import Recording, shares

from mlkd_lobes.audio import read_frames
from mlkd_lobes.files import (
    atomic_path,
    read_csv,
    sampled_sha256,
    stable_seed,
    text_sha256,
)
from mlkd_lobes.noise import MAX_DRAWS, SILENCE
from mlkd_lobes.recordings import audio_info, list_audio
from speechbrain.dataio import audio_io

GENERATED = {"train": 30, "valid": 10, "test": 10}
GENERATED_SECONDS = 20
BABBLE_VOICES = (5, 7)
GENERATORS = ("babble", "white")
# Of the code that generates: noise of another version is other noise.
VERSION = 1


def read_talkers(folder, corpus_files, corpus_speakers):
    """Talkers of a folder, dealt to splits; nobody of the emotion corpus.

    Arguments
    ---------
    folder : str
        Speech of several talkers: a manifest.csv with path and speaker, or a
        sub-folder per talker, or a file per talker.
    corpus_files : collection of str
        The emotion corpus' audio files: none may be in the babble.
    corpus_speakers : collection of str
        Its speakers: likewise.

    Returns
    -------
    dict
        Split to talker to audio files.

    Raises
    ------
    CorpusError
        If a talker is also in the emotion corpus, or there are fewer than 3.
    """
    folder = pathlib.Path(folder)
    talkers = defaultdict(list)
    if (folder / "manifest.csv").is_file():
        for row in read_csv(folder / "manifest.csv", ["path", "speaker"]):
            talkers[row["speaker"]].append(folder / row["path"])
    else:
        for path in list_audio(folder):
            parts = path.relative_to(folder).parts
            talkers[parts[0]].append(path)
    corpus_files = {pathlib.Path(file).resolve() for file in corpus_files}
    for talker, paths in talkers.items():
        if talker in corpus_speakers or any(
            path.resolve() in corpus_files for path in paths
        ):
            raise CorpusError(
                f"babble_folder: {folder}: talker {talker} is also a speaker "
                "of the emotion corpus; take other people's speech, or rename "
                "the talker in manifest.csv if it is somebody else"
            )
    if len(talkers) < 3:
        raise CorpusError(
            f"babble_folder: {folder}: {len(talkers)} talker(s); at least 3 "
            "are needed, since no talker is heard in two splits"
        )
    _refuse_dialogs(talkers)
    splits = shares(sorted(talkers), 0.3)
    dealt = {split: {} for split in SPLITS}
    for talker, paths in talkers.items():
        dealt[splits[talker]][talker] = paths
    return dealt


def _refuse_dialogs(talkers):
    """A file in which several speak would be heard in several splits."""
    voices = {}
    for talker, paths in talkers.items():
        for path in paths:
            other = voices.setdefault(path.resolve(), talker)
            if other != talker:
                raise CorpusError(
                    f"babble_folder: {path}: holds {other} and {talker}; "
                    "babble needs files with one talker each"
                )


def babble(talkers, split, number):
    """One recording of babble.

    Arguments
    ---------
    talkers : dict
        Split to talker to audio files.
    split : str
        Whose talkers speak.
    number : int
        Which recording; with the split decides all chances.

    Returns
    -------
    torch.Tensor
        Waveform [time] at 16 kHz.
    """
    generator = torch.Generator()
    generator.manual_seed(stable_seed("babble", split, number))
    names = list(talkers[split])
    low, high = BABBLE_VOICES
    n = low + _pick(high - low + 1, generator)
    # Everybody speaks before anybody speaks with two voices.
    order = torch.randperm(len(names), generator=generator).tolist()
    voices = [names[order[i % len(names)]] for i in range(n)]
    return sum(_voice(talkers[split][v], generator) for v in voices)


def _voice(paths, generator):
    """One talker, utterance after utterance, each at the same level."""
    n_samples, parts, total, silent = GENERATED_SECONDS * 16000, [], 0, 0
    while total < n_samples:
        path = paths[_pick(len(paths), generator)]
        wav = _excerpt(path, generator)
        level = wav.square().mean().sqrt()
        if level > SILENCE:
            parts.append(wav / level)
            total += len(wav)
            continue
        silent += 1
        if silent > MAX_DRAWS:
            raise CorpusError(
                f"babble: {path}: silent wherever it was read; leave it out"
            )
    return torch.cat(parts)[:n_samples]


def _excerpt(path, generator):
    """A file, or somewhere in it as much as is needed at most."""
    info = audio_info(path)
    needed = GENERATED_SECONDS * info.sample_rate
    if info.frames <= needed:
        return read_frames(path, 0, -1)
    return read_frames(path, _pick(info.frames - needed, generator), needed)


def white(split, number):
    """One recording of white noise.

    Arguments
    ---------
    split : str
        Where it is heard.
    number : int
        Which recording; with the split decides all chances.

    Returns
    -------
    torch.Tensor
        Waveform [time] at 16 kHz.
    """
    generator = np.random.default_rng(stable_seed("white", split, number))
    noise = generator.standard_normal(GENERATED_SECONDS * 16000)
    return torch.from_numpy(noise).float()


def _pick(n, generator):
    return torch.randint(n, (), generator=generator).item()


def origins(talkers):
    """Of what generated noise is made: the same on every machine.

    Its samples may differ by a bit between machines, these hashes do not.

    Arguments
    ---------
    talkers : dict
        Split to talker to audio files.

    Returns
    -------
    dict
        (kind, split) to a hash.
    """
    voices = {
        split: [
            [sampled_sha256(path) for path in paths] for paths in t.values()
        ]
        for split, t in talkers.items()
    }
    return {
        (kind, split): text_sha256(
            [
                VERSION,
                kind,
                split,
                voices.get(split) if kind == "babble" else None,
            ]
        )
        for kind in GENERATORS
        for split in SPLITS
    }


def plan_generated(kind, folder):
    """The recordings of a type that are generated.

    Arguments
    ---------
    kind : str
        The noise type.
    folder : pathlib.Path
        Where they go.

    Returns
    -------
    list of Recording
        Some per split, not yet written.
    """
    return [
        Recording(path, kind, str(path), split)
        for split, count in GENERATED.items()
        for path in (
            folder / f"{split}_{number:02d}.flac" for number in range(count)
        )
    ]


def generate(recording, make):
    """Writes a generated recording.

    Arguments
    ---------
    recording : Recording
        From `plan_generated`.
    make : callable
        Takes a split and a number, gives a waveform.
    """
    split, number = recording.path.stem.split("_")
    wav = make(split, int(number))
    with atomic_path(recording.path) as temporary:
        scaled = 0.5 * wav / wav.abs().max()
        audio_io.save(str(temporary), scaled[None], 16000)
