"""Datasets and batches of this recipe.

One utterance at a time, in the loader's workers: read, mixed with noise whose
draw depends on nothing but seed, epoch and utterance. Evaluation reads each
utterance once and hears it under all conditions.
"""

import os

import numpy as np
import torch
from torch.utils.data import Sampler

import speechbrain as sb
from mlkd_lobes.audio import read_audio
from speechbrain.dataio.dataio import load_data_json
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.dataio.sampler import DynamicBatchSampler


def read_manifest(path, data_folder, labels, unlabelled=False):
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
    ValueError
        If it is empty or has a label that is none of the classes.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such manifest")
    data = load_data_json(path, replacements={"data_root": data_folder})
    if not data:
        raise ValueError(f"{path}: has no utterances")
    for name, entry in data.items():
        for key in ("start", "stop", "speaker", "emo"):
            entry.setdefault(key, None)
        if entry["emo"] not in [None, *labels]:
            raise ValueError(
                f"{path}: utterance {name} is labelled '{entry['emo']}'; the "
                f"known labels are: {', '.join(labels)}"
            )
    dataset = DynamicItemDataset(data)
    if not unlabelled:
        dataset.data_ids = [n for n in dataset.data if dataset.data[n]["emo"]]
    return dataset


def add_training_pipeline(dataset, labels, noise=None):
    """Items of training: what the student hears, the clean signal, the label.

    Arguments
    ---------
    dataset : DynamicItemDataset
        From `read_manifest`.
    labels : list of str
        The classes.
    noise : mlkd_lobes.noise.KeyedAddNoise, optional
        Corrupts `sig`; without it `sig` is clean.
    """

    @sb.utils.data_pipeline.takes("id", "wav", "start", "stop")
    @sb.utils.data_pipeline.provides("clean", "sig", "snr")
    def speech_pipeline(utterance, wav, start, stop):
        clean = read_audio(wav, start, stop)
        yield clean
        if noise is None:
            yield clean
            yield float("inf")
        else:
            noisy, snr = noise.corrupt(clean, utterance)
            yield noisy
            yield snr

    dataset.add_dynamic_item(speech_pipeline)
    _add_label(dataset, labels)
    dataset.set_output_keys(["id", "clean", "sig", "snr", "label"])


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

    @sb.utils.data_pipeline.takes("id", "wav", "start", "stop")
    @sb.utils.data_pipeline.provides("grid")
    def grid_pipeline(utterance, wav, start, stop):
        clean = read_audio(wav, start, stop)
        if noise is None:
            return clean[None]
        return noise.grid(clean, utterance, conditions)

    dataset.add_dynamic_item(grid_pipeline)
    _add_label(dataset, labels)
    dataset.set_output_keys(["id", "grid", "label"])


def _add_label(dataset, labels):
    @sb.utils.data_pipeline.takes("emo")
    @sb.utils.data_pipeline.provides("label")
    def label_pipeline(emo):
        return -1 if emo is None else labels.index(emo)

    dataset.add_dynamic_item(label_pipeline)


class TrainingBatchSampler(Sampler):
    """Batches of similar lengths; unlabelled speech rides along.

    The labelled utterances are batched by SpeechBrain's DynamicBatchSampler.
    Unlabelled ones, if there are any, are batched likewise and one such batch
    is joined to each labelled one, so that every system of an experiment makes
    the same updates on the same labelled utterances.

    Arguments
    ---------
    dataset : DynamicItemDataset
        With `length` (seconds) and `emo` per utterance.
    max_batch_length : float
        Seconds per batch, padding included.
    num_buckets : int
        Groups of similar length.
    seed : int
        With the epoch decides the order.
    """

    def __init__(self, dataset, max_batch_length, num_buckets, seed):
        entries = [dataset.data[name] for name in dataset.data_ids]
        labelled = [i for i, e in enumerate(entries) if e["emo"] is not None]
        others = [i for i, e in enumerate(entries) if e["emo"] is None]
        self.parts = [
            (part, _dynamic(part, entries, max_batch_length, num_buckets, seed))
            for part in (labelled, others)
            if part
        ]

    def set_epoch(self, epoch):
        """Reorders for an epoch.

        Arguments
        ---------
        epoch : int
            The epoch that begins.
        """
        for _, sampler in self.parts:
            sampler.set_epoch(epoch)

    def __len__(self):
        return len(self.parts[0][1])

    def __iter__(self):
        # Copies: the sampler shuffles anew once it is exhausted.
        batches = [
            [[part[i] for i in batch] for batch in list(sampler)]
            for part, sampler in self.parts
        ]
        for number, batch in enumerate(batches[0]):
            for extra in batches[1:]:
                batch = batch + extra[number % len(extra)]
            yield batch


def _dynamic(part, entries, max_batch_length, num_buckets, seed):
    lengths = [float(entries[i]["length"]) for i in part]
    # Boundaries from the data: batches are then as full as they may be.
    shares = np.arange(1, num_buckets + 1) / num_buckets
    bounds = np.unique(np.round(np.quantile(lengths, shares), 3)) + 1e-3
    return DynamicBatchSampler(
        part,
        max_batch_length,
        bucket_boundaries=bounds.tolist(),
        lengths_list=lengths,
        seed=seed,
    )


def training_loader_options(dataset, hparams):
    """Options of `Brain.make_dataloader` for training.

    Arguments
    ---------
    dataset : DynamicItemDataset
        The training set.
    hparams : dict
        With max_batch_length, num_buckets, num_workers, seed.

    Returns
    -------
    dict
        Keyword arguments.
    """
    sampler = TrainingBatchSampler(
        dataset,
        hparams["max_batch_length"],
        hparams["num_buckets"],
        hparams["seed"],
    )
    return {"batch_sampler": sampler, **_common(hparams)}


def grid_loader_options(hparams):
    """Options of `Brain.make_dataloader` for evaluation.

    Arguments
    ---------
    hparams : dict
        With num_workers.

    Returns
    -------
    dict
        Keyword arguments.
    """
    return {"batch_size": 1, **_common(hparams)}


def _common(hparams):
    # Its own generator, so that loaders draw nothing from the global one.
    return {
        "num_workers": hparams["num_workers"],
        "generator": torch.Generator().manual_seed(hparams["seed"]),
    }
