"""The splits of a fold: their files, their utterances, how these are heard.

Every function takes the hyperparameters as `load_hyperpyyaml` gives them.
"""

import pathlib

import torch
from data import add_grid_pipeline, add_training_pipeline, read_manifest
from prepare import (
    check_given_noise,
    check_leakage,
    find_corpus,
    prepare_corpus,
    prepare_noise_csvs,
)

from mlkd_lobes.noise import CLEAN, conditions
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)


def annotations(hparams):
    """Where the splits' files are.

    Arguments
    ---------
    hparams : dict
        The hyperparameters.

    Returns
    -------
    speech, noise : dict
        The manifest and the noise CSV of "train", "valid" and "test".
    """
    speech = {
        "train": hparams["train_annotation"],
        "valid": hparams["valid_annotation"],
        "test": hparams["test_annotation"],
    }
    noise = {
        "train": hparams["noise_annotation"],
        "valid": hparams["noise_valid_annotation"],
        "test": hparams["noise_test_annotation"],
    }
    return speech, noise


def replacements(hparams):
    """What `$noise_folder` stands for in noise CSVs.

    Arguments
    ---------
    hparams : dict
        The hyperparameters.

    Returns
    -------
    dict
        As SpeechBrain's datasets take it.
    """
    return {"noise_folder": hparams["noise_folder"]}


def prepare(hparams):
    """Writes manifests and noise CSVs; with skip_prep takes those given.

    Arguments
    ---------
    hparams : dict
        The hyperparameters.

    Raises
    ------
    FileNotFoundError
        If a file or folder that is named does not exist.
    mlkd_lobes.errors.InputError
        If corpus or noise are not what they should be, or training and test
        share speakers or recordings.
    """
    if not hparams["skip_prep"]:
        _prepare_speech(hparams)
    unlabelled = hparams["unlabelled"]
    datasets = {
        split: dataset(hparams, split, unlabelled and split == "train")
        for split in annotations(hparams)[0]
    }
    _prepare_noise(hparams, datasets)
    if unlabelled and all(
        entry["emo"] for entry in datasets["train"].data.values()
    ):
        logger.warning(
            "unlabelled: the training speakers have no unlabelled utterance"
        )
    declared = None
    if not hparams["skip_prep"]:
        _, protocol = find_corpus(hparams["corpus"], hparams["protocol"])
        declared = protocol.declared
    noise, paths = annotations(hparams)[1], replacements(hparams)
    check_leakage(datasets, noise, paths, declared)


def _prepare_speech(hparams):
    """The fold's manifests, by the first process."""
    run_on_main(
        prepare_corpus,
        kwargs={
            "corpus": hparams["corpus"],
            "data_folder": hparams["data_folder"],
            "save_folder": pathlib.Path(hparams["output_folder"]) / "manifests",
            "protocol": hparams["protocol"],
            "partial_corpus": hparams["partial_corpus"],
            "labels": hparams["labels"],
            "label_map": hparams["label_map"],
            "columns": hparams["columns"],
            "n_folds": hparams["n_folds"],
            "fold": hparams["fold"],
        },
    )


def _prepare_noise(hparams, datasets):
    """Its noise CSVs, by the first process; those given are checked."""
    folder = pathlib.Path(hparams["output_folder"]) / "noise"
    csvs = annotations(hparams)[1]
    run_on_main(
        prepare_noise_csvs,
        kwargs={
            "save_folder": folder,
            "csvs": csvs,
            "datasets": datasets,
            "noise_corpus": hparams["noise_corpus"],
            "noise_folder": hparams["noise_folder"],
            "noise_types": hparams["noise_types"],
            "babble_folder": hparams["babble_folder"],
            "unseen_noise": hparams["unseen_noise"],
        },
    )
    run_on_main(check_given_noise, args=[folder, csvs, replacements(hparams)])


def dataset(hparams, split, unlabelled=False):
    """A split's utterances, without pipeline.

    Arguments
    ---------
    hparams : dict
        The hyperparameters.
    split : str
        "train", "valid" or "test".
    unlabelled : bool
        Whether utterances without a label are among them.

    Returns
    -------
    speechbrain.dataio.dataset.DynamicItemDataset
        None of them longer than a batch may be.

    Raises
    ------
    FileNotFoundError, mlkd_lobes.errors.InputError
        If the manifest does not exist, or is not one (`read_manifest`).
    """
    longest = hparams["max_batch_length"]
    return read_manifest(
        annotations(hparams)[0][split],
        hparams["data_folder"],
        hparams["labels"],
        unlabelled=unlabelled,
        longest=longest if split == "train" else hparams["eval_batch_length"],
    )


def training_set(hparams, unlabelled=False):
    """What is trained on: every draw follows from seed, epoch and utterance.

    Arguments
    ---------
    hparams : dict
        The hyperparameters.
    unlabelled : bool
        Whether utterances without a label are among them.

    Returns
    -------
    speechbrain.dataio.dataset.DynamicItemDataset
        With the pipeline of training.
    """
    data = dataset(hparams, "train", unlabelled)
    noise = hparams["add_noise"] if hparams["speech"] == "noisy" else None
    speed = hparams["speed_perturb"]
    add_training_pipeline(data, hparams["labels"], speed, noise)
    return data


def validation_set(hparams):
    """What the epoch is chosen by: speech as in training, clean or noisy.

    Arguments
    ---------
    hparams : dict
        The hyperparameters.

    Returns
    -------
    data : speechbrain.dataio.dataset.DynamicItemDataset
        Each utterance is heard under all conditions.
    grid : list of mlkd_lobes.noise.Condition
        The conditions.
    """
    noise, grid = hparams["valid_noise"], [CLEAN]
    if hparams["speech"] == "noisy":
        grid = conditions(list(noise.types), hparams["valid_snrs"])[1:]
    data = dataset(hparams, "valid")
    add_grid_pipeline(data, hparams["labels"], grid, noise)
    return data, grid


def test_set(hparams):
    """What is reported: clean, and every noise type at every SNR.

    Arguments
    ---------
    hparams : dict
        The hyperparameters.

    Returns
    -------
    data : speechbrain.dataio.dataset.DynamicItemDataset
        Each utterance is heard under all conditions.
    grid : list of mlkd_lobes.noise.Condition
        The conditions, clean first.
    """
    noise = hparams["test_noise"]
    grid = conditions(list(noise.types), hparams["test_snrs"])
    data = dataset(hparams, "test")
    add_grid_pipeline(data, hparams["labels"], grid, noise)
    return data, grid


def loader_options(hparams):
    """What all loaders have: workers, and a generator of their own.

    The global one stays as it is, whatever loaders draw.

    Arguments
    ---------
    hparams : dict
        The hyperparameters.

    Returns
    -------
    dict
        Keyword arguments of a loader.
    """
    return {
        "num_workers": hparams["num_workers"],
        "generator": torch.Generator().manual_seed(hparams["seed"]),
    }
