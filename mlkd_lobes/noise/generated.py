"""Generated noise: babble of several voices, and white noise."""

import os
import pathlib
from collections import defaultdict

import numpy as np
import soundfile
import torch

from mlkd_lobes import files
from mlkd_lobes.data.audio import (
    SAMPLE_RATE,
    audio_info,
    list_audio,
    read_frames,
)
from mlkd_lobes.data.leakage import HeldOut
from mlkd_lobes.data.manifests import SPLITS
from mlkd_lobes.errors import InputError
from mlkd_lobes.noise.add_noise import MAX_DRAWS, SILENCE, pick
from mlkd_lobes.noise.corpora import assign_by_hash

GENERATED = {"train": 30, "valid": 10, "test": 10}
GENERATED_SECONDS = 20
BABBLE_VOICES = (5, 7)
GENERATORS = ("babble", "white")
# Of the generating code: another version gives other noise.
VERSION = 1


def read_talkers(folder, corpus_files, corpus_speakers):
    """Talkers of a folder by split; none may be in the emotion corpus.

    Arguments
    ---------
    folder : str
        Speech of several talkers: a manifest.csv with path and speaker, or a
        sub-folder per talker, or a file per talker.
    corpus_files : collection of str
        The emotion corpus' audio files: none may be in the babble.
    corpus_speakers : collection of str
        The emotion corpus' speakers: none may be a talker.

    Returns
    -------
    dict
        Split to talker to audio files.

    Raises
    ------
    InputError
        If talkers are fewer than 3, in the emotion corpus, or share files.
    """
    folder = pathlib.Path(folder)
    talkers = defaultdict(list)
    manifest = folder / "manifest.csv"
    if manifest.is_file():
        for row in files.read_csv(manifest, ["path", "speaker"]):
            path = folder / files.spelled(folder, row["path"])
            talkers[files.composed(row["speaker"])].append(path)
    else:
        for path in list_audio(folder):
            talker = path.relative_to(folder).parts[0]
            talkers[files.composed(talker)].append(path)
    # To test, training speech need not be there.
    there = [str(file) for file in corpus_files if os.path.isfile(file)]
    corpus, owners = HeldOut([{"wav": f, "speaker": None} for f in there]), {}
    for talker, paths in talkers.items():
        taken = {owners.setdefault(p.resolve(), talker) for p in paths}
        copies = any(corpus.has(p, os.path.getsize(p), "") for p in paths)
        if talker in corpus_speakers or taken != {talker} or copies:
            raise InputError(
                f"babble_folder: {folder}: talker {talker} is also a speaker "
                "of the emotion corpus, or shares a file with another talker; "
                "use other people's speech, or rename the talker in "
                "manifest.csv if the names only coincide"
            )
    if len(talkers) < 3:
        raise InputError(
            f"babble_folder: {folder}: {len(talkers)} talker(s); at least 3 "
            "are needed, since no talker is used in two splits"
        )
    splits = assign_by_hash(sorted(talkers), 0.3)
    by_split = {split: {} for split in SPLITS}
    for talker, paths in talkers.items():
        by_split[splits[talker]][talker] = paths
    return by_split


def babble(talkers, split, number):
    """One recording of babble: several voices at the same level.

    Arguments
    ---------
    talkers : dict
        Split to talker to audio files.
    split : str
        The split whose talkers are used.
    number : int
        Which recording; seeds all draws together with the split.

    Returns
    -------
    torch.Tensor
        Waveform [time] at 16 kHz.
    """
    generator = torch.Generator()
    generator.manual_seed(files.stable_seed("babble", split, number))
    names = list(talkers[split])
    low, high = BABBLE_VOICES
    n = low + pick(high - low + 1, generator)
    # Every talker is used once before one is used twice.
    order = torch.randperm(len(names), generator=generator).tolist()
    voices = [names[order[i % len(names)]] for i in range(n)]
    return sum(_voice(talkers[split][v], generator) for v in voices)


def _voice(paths, generator):
    """One talker, utterance after utterance, each at the same level."""
    n_samples, parts, total, silent = GENERATED_SECONDS * SAMPLE_RATE, [], 0, 0
    while total < n_samples:
        path = paths[pick(len(paths), generator)]
        wav = _excerpt(path, generator)
        level = wav.square().mean().sqrt()
        if level > SILENCE:
            parts.append(wav / level)
            total += len(wav)
            continue
        silent += 1
        if silent > MAX_DRAWS:
            raise InputError(
                f"babble: {path}: silent in {MAX_DRAWS} draws; leave it out"
            )
    return torch.cat(parts)[:n_samples]


def _excerpt(path, generator):
    """A file, or an excerpt of a long one, no longer than the babble."""
    info = audio_info(path)
    start, n = 0, GENERATED_SECONDS * info.sample_rate
    if info.frames > n:
        start = pick(info.frames - n, generator)
    return torch.from_numpy(read_frames(path, start, min(n, info.frames)))


def white(split, number):
    """One recording of white noise.

    Arguments
    ---------
    split : str
        The split it is made for.
    number : int
        Which recording; seeds all draws together with the split.

    Returns
    -------
    torch.Tensor
        Waveform [time] at 16 kHz.
    """
    generator = np.random.default_rng(files.stable_seed("white", split, number))
    noise = generator.standard_normal(GENERATED_SECONDS * SAMPLE_RATE)
    return torch.from_numpy(noise).float()


def origins(talkers):
    """Hashes of the sources of generated noise, the same on every machine.

    Generated samples may differ by a bit between machines, these hashes do not.

    Arguments
    ---------
    talkers : dict
        Split to talker to audio files.

    Returns
    -------
    dict
        (kind, split) to a hash.
    """
    hashes = {}
    for split in SPLITS:
        voices = [
            [files.sampled_sha256(path) for path in paths]
            for paths in talkers.get(split, {}).values()
        ]
        for kind in GENERATORS:
            source = voices if kind == "babble" and talkers else None
            content = [VERSION, kind, split, source]
            hashes[kind, split] = files.text_sha256(content)
    return hashes


def generate(recording, talkers):
    """Writes a generated recording.

    Arguments
    ---------
    recording : Recording
        Of a generated type, at <split>_<number>.flac.
    talkers : dict
        From `read_talkers`; for babble.
    """
    split, number = recording.path.stem.split("_")
    if recording.kind == "babble":
        wav = babble(talkers, split, int(number))
    else:
        wav = white(split, int(number))
    scaled = (0.5 * wav / wav.abs().max()).numpy()
    with files.atomic_path(recording.path) as temporary:
        soundfile.write(str(temporary), scaled, SAMPLE_RATE)
