"""The speech and noise of a finished run, to calibrate and compare models on."""

from __future__ import annotations

import functools
import pathlib
import random
import re
from collections import namedtuple

import torch

from mlkd_lobes.data.audio import read_audio, to_seconds
from mlkd_lobes.data.manifests import read_entries, wav_path
from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.results import DATA
from mlkd_lobes.files import file_sha256, read_json, stable_seed
from mlkd_lobes.noise.add_noise import UNSEEN_PREFIX, KeyedAddNoise, conditions
from mlkd_lobes.noise.distortions import apply_grid


class Utterance(namedtuple("Utterance", "id speaker seconds label wavs")):
    """A test utterance: the index of its label, and a list of
    waveforms [conditions, time], in the order of the conditions."""


# SNRs, in dB, at which models are compared.
SNRS = [0, 10]


class RunSpeech:
    """Reads the training and test speech of a run.

    data_folder and noise_folder: where the corpora are, if not where the run
    found them.
    """

    def __init__(self, run, labels, data_folder=None, noise_folder=None):
        run, self.labels = pathlib.Path(run), list(labels)
        self.about = about = read_json(run / DATA, dict)
        self.data_folder = data_folder or about["data_folder"]
        noise = {"noise_folder": noise_folder or about["noise_folder"]}
        noise["unseen_noise"] = about.get("unseen_noise") or {}
        self.manifests, self.noise = {}, {}
        self.sha256 = functools.lru_cache(maxsize=None)(file_sha256)
        for split in ("train", "test"):
            entries = read_entries(run / about[split]["manifest"])
            self.manifests[split] = {
                k: e for k, e in entries.items() if e.get("emo")
            }
            self.noise[split] = KeyedAddNoise(
                str(run / about[split]["noise"]),
                snr_low=about["snr_low"],
                snr_high=about["snr_high"],
                clean_share=0.5,
                replacements=noise,
            )
        kinds = self.noise["test"].types
        used = [k for k in kinds if not k.startswith(UNSEEN_PREFIX)]
        if not used or not all(self.manifests.values()):
            raise InputError(
                f"{run}: has no labelled utterances, or no test noise but "
                "unseen noise"
            )
        self.conditions = conditions(used, SNRS)

    def training(self, n):
        """Yields training waveforms [time], at most n, half of them noisy."""
        names = sorted(self.manifests["train"])
        random.Random(stable_seed("calibration")).shuffle(names)
        for name in names[:n]:
            wav = self._read("train", name)
            yield self.noise["train"].corrupt(wav, name)[0].numpy()

    def test(self, grid=None):
        """Yields every test Utterance under a grid, by default `conditions`."""
        noise, grid = self.noise["test"], grid or self.conditions
        for name, entry in self.manifests["test"].items():
            wavs = apply_grid(noise, self._read("test", name), name, grid)
            label = self.labels.index(entry["emo"])
            seconds = round(to_seconds(entry["length"], name), 3)
            about = name, entry.get("speaker"), seconds
            yield Utterance(*about, label, [wav.numpy() for wav in wavs])

    def _read(self, split, name):
        entry = self.manifests[split][name]
        where = f"{split}.json: utterance {name}"
        path = wav_path(entry["wav"], self.data_folder, where)
        if entry.get("sha256") not in (None, self.sha256(path)[:16]):
            raise InputError(f"{path}: has changed since the run was prepared")
        times = (to_seconds(entry.get(k), where) for k in ("start", "stop"))
        wav = read_audio(path, *times)
        return torch.from_numpy(wav)


def describe_training(speech: RunSpeech) -> dict:
    """What a run's model was trained on, for its card."""
    entries, about = speech.manifests["train"].values(), speech.about
    return {
        **about,
        "utterances": len(entries),
        "speakers": len({entry.get("speaker") for entry in entries}),
        "noise": list(speech.noise["train"].types),
        # Paths are private: of a folder only the name is kept.
        "encoder": _public_name(about["encoder"]),
        "teacher": about["teacher"] and _public_name(about["teacher"]),
    }


def _public_name(source):
    """A model's name on the hub, or the name of its folder."""
    path = pathlib.Path(source)
    on_hub = re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", source)
    return source if on_hub and not path.exists() else path.name
