"""Datasets and batches of this recipe.

One utterance at a time, in the loader's workers: read, mixed with noise whose
draw depends on nothing but seed, epoch and utterance. Evaluation reads each
utterance once and hears it under all conditions.
"""

import bisect
import functools
import math

import numpy as np
import torch
from torch.utils.data import Sampler

from mlkd_lobes.audio import read_audio
from mlkd_lobes.errors import InputError
from mlkd_lobes.files import stable_seed
from mlkd_lobes.manifest_reader import read_manifest_entries
from mlkd_lobes.recordings import wav_path
from mlkd_lobes.threads import torch_threads
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.dataio.sampler import DynamicBatchSampler

# What is read of a manifest's entries; length must be there as well as wav.
MANIFEST_KEYS = ("wav", "length", "emo", "start", "stop", "speaker", "session")
# No utterance is shorter, in seconds.
SAMPLE = 1 / 16000


def read_manifest(path, data_folder, labels, longest, unlabelled=False):
    """A manifest as a dataset, its labels checked.

    Arguments
    ---------
    path : str
        JSON manifest with wav, length, emo and optionally start, stop,
        speaker.
    data_folder : str
        What {data_root} stands for.
    labels : list of str
        The classes.
    longest : float
        Seconds that an utterance may last.
    unlabelled : bool
        Whether utterances without a label are kept.

    Returns
    -------
    speechbrain.dataio.dataset.DynamicItemDataset
        Without pipeline.

    Raises
    ------
    FileNotFoundError
        If the manifest does not exist.
    mlkd_lobes.errors.InputError
        If it is empty or no manifest, has no labels, or one that is none of
        the classes, or an utterance that is too long.
    """
    data = {}
    for name, given in read_manifest_entries(path).items():
        where = f"{path}: utterance {name}"
        # Other keys, "label" say, could be taken for what pipelines make.
        data[name] = entry = {key: given.get(key) for key in MANIFEST_KEYS}
        _check_entry(entry, labels, longest, where)
        entry["wav"] = wav_path(entry["wav"], data_folder, where)
    dataset = DynamicItemDataset(data)
    labelled = [name for name in data if data[name]["emo"]]
    if not labelled:
        raise InputError(f"{path}: none of its utterances has a label")
    if not unlabelled:
        dataset.data_ids = labelled
    return dataset


def _check_entry(entry, labels, longest, where):
    """Refuses what an utterance cannot be; times become numbers."""
    if entry["length"] is None:
        raise InputError(f"{where} has no 'length'")
    for key, least in (("length", SAMPLE), ("start", 0), ("stop", 0)):
        if entry[key] is not None:
            seconds = _seconds(entry[key])
            if not least <= seconds < math.inf:
                raise InputError(
                    f"{where} has {entry[key]!r} as '{key}', expected seconds"
                )
            entry[key] = seconds
    if entry["emo"] not in [None, *labels]:
        raise InputError(
            f"{where} is labelled '{entry['emo']}'; the known labels are: "
            f"{', '.join(labels)}"
        )
    if entry["length"] > longest:
        raise InputError(
            f"{where} lasts {entry['length']} s, more than the {longest} s "
            "that fit into a batch: cut it (columns start and end), or raise "
            "max_batch_length and eval_batch_length"
        )


def _seconds(value):
    """A number, or the text of one as in SpeechBrain's samples; else NaN."""
    if isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def add_training_pipeline(dataset, labels, speed, noise=None):
    """Items of training: what the student hears, the clean signal, the label.

    `key` names the clean signal: the utterance and the speed it is heard at.

    Arguments
    ---------
    dataset : DynamicItemDataset
        From `read_manifest`.
    labels : list of str
        The classes.
    speed : mlkd_lobes.speed.KeyedSpeedPerturb
        Chooses the speed.
    noise : mlkd_lobes.noise.KeyedAddNoise, optional
        Corrupts `sig`; without it `sig` is clean.
    """

    dataset.add_dynamic_item(
        functools.partial(_heard_in_training, speed, noise),
        takes=["id", "wav", "start", "stop"],
        provides=["key", "clean", "sig", "snr"],
    )
    _add_label(dataset, labels)
    dataset.set_output_keys(["key", "clean", "sig", "snr", "label"])


# Pipelines are functions of the module: workers that are no forks are sent them.
def _heard_in_training(speed, noise, utterance, wav, start, stop):
    with torch_threads(1):  # as in a worker
        clean, percent = speed(read_audio(wav, start, stop), utterance)
        heard, snr = clean, math.inf
        if noise is not None:
            heard, snr = noise.corrupt(clean, utterance)
    return f"{utterance}@{percent}", clean, heard, snr


def add_grid_pipeline(dataset, labels, conditions, noise=None):
    """Items of evaluation: an utterance under all conditions, and its label.

    Arguments
    ---------
    dataset : DynamicItemDataset
        From `read_manifest`.
    labels : list of str
        The classes.
    conditions : list of mlkd_lobes.noise.Condition
        The conditions.
    noise : mlkd_lobes.noise.KeyedAddNoise, optional
        What mixes; not needed for the clean condition alone.
    """

    dataset.add_dynamic_item(
        functools.partial(_heard_in_evaluation, noise, conditions),
        takes=["id", "wav", "start", "stop"],
        provides=["grid"],
    )
    _add_label(dataset, labels)
    dataset.set_output_keys(["id", "grid", "label"])


def _heard_in_evaluation(noise, conditions, utterance, wav, start, stop):
    with torch_threads(1):  # as in a worker
        clean = read_audio(wav, start, stop)
        if noise is None:
            return clean[None]
        return noise.grid(clean, utterance, conditions)


def _add_label(dataset, labels):
    dataset.add_dynamic_item(
        functools.partial(_class, labels), takes=["emo"], provides=["label"]
    )


def _class(labels, emo):
    return -1 if emo is None else labels.index(emo)


class TrainingBatchSampler(Sampler):
    """Batches of similar lengths; unlabelled speech rides along.

    The labelled utterances are batched by SpeechBrain's DynamicBatchSampler.
    Unlabelled ones, if there are any, join batches of about their own length:
    at most as many as a batch may hold labelled ones, and never so many that it
    exceeds twice `max_batch_length`, padding included. So every system of an
    experiment makes the same updates on the same labelled utterances.

    Arguments
    ---------
    dataset : DynamicItemDataset
        With `length` (seconds) and `emo` per utterance.
    max_batch_length : float
        Seconds per batch, padding included, at the recordings' own speed.
    num_buckets : int
        Groups of similar length.
    seed : int
        With the epoch decides the order.
    """

    def __init__(self, dataset, max_batch_length, num_buckets, seed):
        entries = [dataset.data[name] for name in dataset.data_ids]
        self.lengths = [float(entry["length"]) for entry in entries]
        self.max_batch_length, self.seed, self.epoch = max_batch_length, seed, 0
        self.labelled = [i for i, e in enumerate(entries) if e["emo"]]
        own = [self.lengths[i] for i in self.labelled]
        # Boundaries from the data: batches are then as full as they may be.
        shares = np.arange(1, num_buckets + 1) / num_buckets
        bounds = np.unique(np.round(np.quantile(own, shares), 3)) + 1e-3
        self.bounds = bounds.tolist()
        self.sampler = DynamicBatchSampler(
            self.labelled,
            max_batch_length,
            bucket_boundaries=self.bounds,
            lengths_list=own,
            seed=seed,
        )
        self.others = [[] for _ in self.bounds]
        for i, entry in enumerate(entries):
            if not entry["emo"]:
                self.others[self._bucket(i)].append(i)

    def _bucket(self, i):
        """Of an utterance; the last bucket takes longer ones as well."""
        place = bisect.bisect_left(self.bounds, self.lengths[i])
        return min(place, len(self.bounds) - 1)

    def set_epoch(self, epoch):
        """Reorders for an epoch.

        Arguments
        ---------
        epoch : int
            The epoch that begins.
        """
        self.epoch = epoch
        self.sampler.set_epoch(epoch)

    def __len__(self):
        return len(self.sampler)

    def __iter__(self):
        generator = torch.Generator()
        generator.manual_seed(stable_seed(self.seed, self.epoch, "others"))
        orders = [
            [
                bucket[i]
                for i in torch.randperm(len(bucket), generator=generator)
            ]
            for bucket in self.others
        ]
        # A copy: the sampler shuffles anew once it is exhausted.
        for places in list(self.sampler):
            batch = [self.labelled[place] for place in places]
            bucket = max(map(self._bucket, batch))
            room = int(self.max_batch_length / self.bounds[bucket])
            joined = self._join(batch, orders[bucket], room)
            # Who joined goes to the back of the queue.
            orders[bucket].sort(key=set(joined).__contains__)
            yield joined

    def _join(self, batch, others, room):
        """A batch with as many others as there is room for."""
        longest = max(self.lengths[i] for i in batch)
        joined = list(batch)
        for i in others:
            if len(joined) == len(batch) + room:
                break
            widest = max(longest, self.lengths[i])
            if (len(joined) + 1) * widest <= 2 * self.max_batch_length:
                joined.append(i)
                longest = widest
        return joined
