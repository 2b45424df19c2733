"""Datasets and batches: utterances of a manifest as a Brain receives them.

One utterance at a time, in the loader's workers: read, perturbed in speed, mixed
with noise. Every draw depends on seed, epoch and utterance alone. In evaluation an
utterance is read once and mixed under all conditions.
"""

import contextlib
import functools
import itertools
import math
import random

import numpy as np
import torch
from torch.utils.data import Sampler

from mlkd_lobes.data.audio import read_audio, to_seconds
from mlkd_lobes.data.manifests import read_entries, wav_path
from mlkd_lobes.errors import InputError, check_choice
from mlkd_lobes.files import stable_seed
from speechbrain.augment.time_domain import SpeedPerturb
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.dataio.sampler import DynamicBatchSampler
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

# Utterances per evaluation batch: each is an open file on its way from the worker.
MAX_EVALUATED = 32
# What is read from a manifest's entries; wav and length are required.
MANIFEST_KEYS = ("wav", "length", "emo", "start", "stop", "speaker", "session")
# What items are made from.
TAKEN = ["id", "wav", "start", "stop", "emo"]


def read_manifest(path, data_folder, labels, longest, unlabelled=False):
    """A manifest as a dataset without pipeline, its entries checked.

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
        Longest utterance allowed, in seconds.
    unlabelled : bool
        Whether utterances without a label are kept.

    Returns
    -------
    speechbrain.dataio.dataset.DynamicItemDataset
        One item per utterance.

    Raises
    ------
    FileNotFoundError
        If the manifest does not exist.
    InputError
        If it is not a manifest or empty, has no labels or an unknown one, or an
        utterance that is too long.
    """
    data = {}
    for name, given in read_entries(path).items():
        where = f"{path}: utterance {name}"
        # Other keys, such as "label", could clash with those of pipelines.
        data[name] = entry = {key: given.get(key) for key in MANIFEST_KEYS}
        _check_entry(entry, labels, longest, where)
        entry["wav"] = wav_path(entry["wav"], data_folder, where)
        entry["signal"] = name
    dataset = DynamicItemDataset(data)
    labelled = [name for name in data if data[name]["emo"]]
    if not labelled:
        raise InputError(f"{path}: none of its utterances has a label")
    if not unlabelled:
        dataset.data_ids = labelled
    elif len(labelled) == len(data):
        logger.warning(f"unlabelled: {path} has no unlabelled utterance")
    return dataset


def _check_entry(entry, labels, longest, where):
    """Raises for impossible values; times become numbers."""
    for key in ("length", "start", "stop"):
        entry[key] = to_seconds(entry[key], f"{where}: '{key}'")
    if not entry["length"]:
        raise InputError(f"{where} has no 'length'")
    if entry["emo"] is not None:
        check_choice(where, entry["emo"], labels, "label")
    if entry["length"] > longest:
        raise InputError(
            f"{where} lasts {entry['length']} s, more than the {longest} s "
            "that fit into a batch: cut it (columns start and end), or raise "
            "max_batch_length and eval_batch_length"
        )


def repeat_labelled(dataset, ratio):
    """Adds every labelled utterance again, for other noise and speed, under other IDs.

    Arguments
    ---------
    dataset : DynamicItemDataset
        From `read_manifest`.
    ratio : float
        Copies of each utterance, rounded up.
    """
    labelled = [n for n in dataset.data_ids if dataset.data[n]["emo"]]
    for name in labelled:
        for number in range(math.ceil(ratio)):
            again = f"{name} again {number}"
            dataset.data[again] = {**dataset.data[name], "signal": name}
            dataset.data_ids.append(again)


def add_training_pipeline(dataset, labels, speed, noise=None):
    """Adds the items of training: noisy signal, clean signal, label.

    `key` identifies the clean signal: the utterance (of a repeated one, the
    original) and its speed.

    Arguments
    ---------
    dataset : DynamicItemDataset
        From `read_manifest`.
    labels : list of str
        The classes.
    speed : KeyedSpeedPerturb
        Chooses the speed.
    noise : mlkd_lobes.noise.add_noise.KeyedAddNoise, optional
        Makes `sig` noisy; without it `sig` is clean.
    """
    item = functools.partial(_training_item, labels, speed, noise)
    keys = ["key", "clean", "sig", "snr", "label"]
    dataset.add_dynamic_item(item, [*TAKEN, "signal"], keys)
    dataset.set_output_keys(keys)


# Functions of the module, so that they can be sent to spawned workers.
def _training_item(labels, speed, noise, name, wav, start, stop, emo, signal):
    with torch_threads(1):
        clean = torch.from_numpy(read_audio(wav, start, stop))
        clean, percent = speed(clean, name)
        noisy, snr = noise.corrupt(clean, name) if noise else (clean, math.inf)
    label = -1 if emo is None else labels.index(emo)
    return f"{signal}@{percent}", clean, noisy, snr, label


def add_evaluation_pipeline(dataset, labels, conditions, mix):
    """Adds the items of evaluation: an utterance under all conditions.

    `wavs` is a list of waveforms [conditions, time], in the order of the
    conditions.

    Arguments
    ---------
    dataset : DynamicItemDataset
        From `read_manifest`.
    labels : list of str
        The classes.
    conditions : list of mlkd_lobes.noise.add_noise.Condition
        The conditions.
    mix : callable
        Makes them of a waveform, an ID and the conditions.
    """
    item = functools.partial(_evaluation_item, labels, conditions, mix)
    keys = ["wavs", "conditions", "label"]
    dataset.add_dynamic_item(item, TAKEN, keys)
    dataset.set_output_keys(["id", "speaker", "length", *keys])


def _evaluation_item(labels, conditions, mix, utterance, wav, start, stop, emo):
    with torch_threads(1):
        clean = torch.from_numpy(read_audio(wav, start, stop))
        wavs = mix(clean, utterance, conditions)
    return wavs, conditions, labels.index(emo)


def evaluation_batches(dataset, n_conditions, batch_seconds):
    """Utterances of similar length, as many as a batch may hold.

    Arguments
    ---------
    dataset : DynamicItemDataset
        From `read_manifest`.
    n_conditions : int
        Conditions of every utterance.
    batch_seconds : float
        Length of a batch, of all conditions and padding included; a single
        utterance may have more.

    Returns
    -------
    list of list of int
        Indices of utterances; each is there once.
    """
    lengths = [dataset.data[name]["length"] for name in dataset.data_ids]
    batches = [[]]
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        seconds = (len(batches[-1]) + 1) * n_conditions * lengths[i]
        full = seconds > batch_seconds or len(batches[-1]) == MAX_EVALUATED
        if batches[-1] and full:
            batches.append([])
        batches[-1].append(i)
    return batches


@contextlib.contextmanager
def torch_threads(number):
    """Limits PyTorch's threads inside a block.

    The last bits of a long sum depend on their number; with one thread, items are
    the same in the main process (num_workers: 0) and in a worker.

    Arguments
    ---------
    number : int
        Of threads.

    Yields
    ------
    None
    """
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class KeyedSpeedPerturb(SpeedPerturb):
    """SpeechBrain's `SpeedPerturb` with draws keyed by seed, epoch, utterance.

    Faster or slower speech sounds like another voice, so a few speakers become
    more.

    Arguments
    ---------
    orig_freq : int
        Sampling rate in Hz.
    speeds : sequence of int
        Speeds in percent, all equally likely; [100]: only the original speed.
    seed : int
        Part of every draw's key.

    Example
    -------
    >>> perturb = KeyedSpeedPerturb(16000, speeds=[80])
    >>> slower, speed = perturb(torch.rand(8000), "utterance")
    >>> slower.shape, speed
    (torch.Size([10000]), 80)
    """

    def __init__(self, orig_freq, speeds=(100,), seed=0):
        super().__init__(orig_freq, list(speeds))
        # In shared memory: workers live on from epoch to epoch.
        self.seed, self.epoch = seed, torch.tensor(0).share_memory_()

    def set_epoch(self, epoch):
        """Sets the epoch of the draws; call it before a loader's iteration.

        Arguments
        ---------
        epoch : int
            The epoch that begins.
        """
        self.epoch.fill_(epoch)

    def forward(self, wav, utterance):
        """An utterance at its speed in the current epoch.

        Arguments
        ---------
        wav : torch.Tensor
            Waveform [time].
        utterance : str
            Its ID.

        Returns
        -------
        wav : torch.Tensor
            Waveform [time * 100 / speed].
        speed : int
            The speed in percent.
        """
        key = stable_seed("speed", self.seed, int(self.epoch), utterance)
        chosen = key % len(self.speeds)
        speed = self.speeds[chosen]
        if speed == 100:
            return wav, speed
        return self.resamplers[chosen](wav[None])[0], speed


class TrainingBatchSampler(Sampler):
    """Batches of similar lengths, with further signals added.

    Labelled utterances are batched by SpeechBrain's DynamicBatchSampler. Further
    signals, if there are any, are added to batches of about their own length, none
    twice in an epoch, and spread over it: the dataset's unlabelled ones; where they do
    not suffice, crops; then labelled ones again. So all systems make the same updates
    on the same labelled utterances, and several processes, which get a part of the
    batches each, never the same crop.

    Arguments
    ---------
    dataset : DynamicItemDataset
        With `length` (seconds) and `emo` per utterance. Those without a label,
        and those repeated by `repeat_labelled`, are further ones.
    max_batch_length : float
        Seconds per batch, padding included, at the recordings' own speed; and as
        much times `ratio` for further signals.
    num_buckets : int
        Groups of similar length.
    seed : int
        Determines the order, together with the epoch.
    ratio : float
        Further signals per labelled one, at most.
    crops : mlkd_lobes.data.unlabelled.Crops, optional
        Crops; their indices follow those of the dataset.
    processes : int
        The number of batches is a multiple of it: labelled ones repeat, with
        other crops.
    """

    def __init__(
        self,
        dataset,
        max_batch_length,
        num_buckets,
        seed,
        ratio=1.0,
        crops=(),
        processes=1,
    ):
        entries = [dataset.data[name] for name in dataset.data_ids]
        self.lengths = [float(entry["length"]) for entry in entries]
        self.max_batch_length, self.seed, self.epoch = max_batch_length, seed, 0
        named = zip(dataset.data_ids, entries)
        self.is_again = np.array([e.get("signal", n) != n for n, e in named])
        self.is_unlabelled = np.array([not entry["emo"] for entry in entries])
        labelled = ~self.is_again & ~self.is_unlabelled
        self.labelled = np.flatnonzero(labelled).tolist()
        own = [self.lengths[i] for i in self.labelled]
        # Boundaries from the data, so that batches are as full as possible.
        shares = np.arange(1, num_buckets + 1) / num_buckets
        bounds = np.unique(np.round(np.quantile(own, shares), 3)) + 1e-3
        self.bounds = bounds.tolist()
        # The last bucket takes longer ones as well.
        self.buckets = np.searchsorted(bounds[:-1], self.lengths)
        self.sampler = DynamicBatchSampler(
            self.labelled,
            max_batch_length,
            bucket_boundaries=self.bounds,
            lengths_list=own,
            seed=seed,
        )
        self.processes, self.ratio, n = processes, ratio, len(entries)
        ends = [n + crops.count_up_to(b) if crops else n for b in self.bounds]
        # The indices of the crops of each bucket.
        self.crops = list(map(range, [n, *ends], ends))

    def set_epoch(self, epoch):
        """Sets the order of an epoch.

        Arguments
        ---------
        epoch : int
            The epoch that begins.
        """
        self.epoch = epoch
        self.sampler.set_epoch(epoch)

    def __len__(self):
        return len(self.sampler) + -len(self.sampler) % self.processes

    def __iter__(self):
        # A copy: the sampler shuffles anew once it is exhausted.
        batches, owed, plan = list(self.sampler), 0.0, []
        for places in itertools.islice(itertools.cycle(batches), len(self)):
            batch = [self.labelled[place] for place in places]
            bucket = max(self.buckets[batch])
            owed = owed % 1 + self.ratio * len(batch)
            plan.append((batch, bucket, int(owed)))
        queues = [self._queue(b, plan) for b in range(len(self.bounds))]
        for batch, bucket, number in plan:
            yield batch + self._fill(batch, queues[bucket], bucket, number)

    def _queue(self, bucket, plan):
        """Slots of a bucket in this epoch's order, each with a further signal or, where
        there are too few, empty."""
        number = sum(slots for _, own, slots in plan if own == bucket)
        key = stable_seed(self.seed, self.epoch, "further", bucket)
        generator, here, found = random.Random(key), self.buckets == bucket, []
        unlabelled = np.flatnonzero(self.is_unlabelled & here).tolist()
        again = np.flatnonzero(self.is_again & here).tolist()
        for own in (unlabelled, self.crops[bucket], again):
            found += generator.sample(own, min(number - len(found), len(own)))
        slots = [[i] for i in found] + [[]] * (number - len(found))
        return iter(generator.sample(slots, number))

    def _fill(self, batch, queue, bucket, number):
        """Takes up to `number` further signals that fit into a batch."""
        added, longest = [], max(self.lengths[i] for i in batch)
        room = (1 + self.ratio) * self.max_batch_length
        for i in itertools.chain(*itertools.islice(queue, number)):
            known = i < len(self.lengths)
            length = self.lengths[i] if known else self.bounds[bucket]
            new_longest = max(longest, length)
            if (len(batch) + len(added) + 1) * new_longest <= room:
                added.append(i)
                longest = new_longest
        return added
