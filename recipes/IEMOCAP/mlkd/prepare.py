"""Which preparation serves which corpus, and what no preparation may leave."""

import os
import pathlib
from collections import defaultdict, namedtuple

import csv_prepare
import iemocap_prepare
from csv_prepare import prepare_csv
from iemocap_prepare import prepare_iemocap
from manifests import SPLITS
from noise_prepare import prepare_noise
from settings import check_choices

from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.leakage import (
    describe_overlaps,
    find_overlaps,
    refuse_overlaps,
)
from mlkd_lobes.files import sampled_sha256
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

Corpus = namedtuple("Corpus", ["prepare", "protocols", "options"])
Corpus.__doc__ = (
    """What prepares a corpus, its protocols, and its own options."""
)

CORPORA = {
    "iemocap": Corpus(
        prepare_iemocap, iemocap_prepare.PROTOCOLS, ("partial_corpus",)
    ),
    "csv": Corpus(prepare_csv, csv_prepare.PROTOCOLS, ("columns", "n_folds")),
}
SAME_CONTENT = "noise recording of the same content"
COMMON_OPTIONS = ("labels", "label_map", "protocol", "fold")


def find_corpus(corpus, protocol):
    """A corpus and one of its protocols, by their names.

    Arguments
    ---------
    corpus : str
        One of `CORPORA`.
    protocol : str
        One of the corpus' protocols.

    Returns
    -------
    corpus : Corpus
        The corpus.
    protocol : manifests.Protocol
        The protocol.

    Raises
    ------
    settings.SettingsError
        If one of them is not known, listing those that are.
    """
    check_choices("corpus", corpus, CORPORA)
    protocols = CORPORA[corpus].protocols
    check_choices("protocol", protocol, protocols)
    return CORPORA[corpus], protocols[protocol]


def prepare_corpus(corpus, data_folder, save_folder, **options):
    """Writes the manifests of an emotion corpus.

    Arguments
    ---------
    corpus : str
        One of `CORPORA`.
    data_folder : str
        The corpus.
    save_folder : str or pathlib.Path
        Where manifests go.
    **options : dict
        Everything that a preparation may take; each takes its own.
    """
    found, _ = find_corpus(corpus, options["protocol"])
    chosen = {k: options[k] for k in (*COMMON_OPTIONS, *found.options)}
    found.prepare(data_folder, save_folder, **chosen)


def prepare_noise_csvs(save_folder, csvs, datasets, **options):
    """Writes the noise CSVs, unless the user gives all of them.

    Arguments
    ---------
    save_folder : str or pathlib.Path
        Where they go.
    csvs : dict
        Split to the CSV in use.
    datasets : dict
        Split to its dataset; none of their speakers may babble.
    **options : dict
        What `prepare_noise` takes.

    Raises
    ------
    mlkd_lobes.errors.InputError
        If a corpus is needed and none is given.
    """
    save_folder = pathlib.Path(save_folder)
    if save_folder not in [pathlib.Path(csv).parent for csv in csvs.values()]:
        return
    if options["noise_folder"] is None:
        raise InputError(
            "noise_folder: expected the folder of a noise corpus (or noise "
            "CSVs in noise_annotation, noise_valid_annotation and "
            "noise_test_annotation)"
        )
    entries = [e for data in datasets.values() for e in data.data.values()]
    prepare_noise(
        save_folder=save_folder,
        corpus_files={entry["wav"] for entry in entries},
        corpus_speakers={entry["speaker"] for entry in entries},
        **options,
    )


def check_leakage(datasets, noise, declared):
    """Refuses, or warns of, speech and noise that splits share.

    Arguments
    ---------
    datasets : dict
        Split to dataset.
    noise : dict
        Split to its noise, from `mlkd_lobes.noise.read_noise_csv`.
    declared : collection of (str, str, str), or None
        Overlaps that the protocol declares; None where the user brought the
        manifests: then any overlap is a warning.

    Raises
    ------
    mlkd_lobes.evaluation.leakage.LeakageError
        Naming what is shared by whom.
    """
    speech = {
        split: [
            {**entry, "wav": os.path.realpath(entry["wav"])}
            for entry in datasets[split].data.values()
        ]
        for split in SPLITS
    }
    for entries, keys in (
        (speech, ["speaker", "session", "wav"]),
        (_noise_entries(noise), ["noise recording", SAME_CONTENT]),
    ):
        if declared is not None:
            refuse_overlaps(entries, keys, declared)
            continue
        overlaps = find_overlaps(entries, keys)
        if overlaps:
            logger.warning("Leakage: " + describe_overlaps(overlaps))


def _noise_entries(noise):
    """Every recording of every split, by its place and by what it holds."""
    paths = {
        split: [path for recordings in kinds.values() for path in recordings]
        for split, kinds in noise.items()
    }
    alike = defaultdict(set)
    for path in {path for members in paths.values() for path in members}:
        alike[sampled_sha256(path)].add(path)
    # A content is called by all that hold it.
    content = {
        path: " = ".join(sorted(same))
        for same in alike.values()
        for path in same
    }
    return {
        split: [
            {
                "noise recording": os.path.realpath(path),
                SAME_CONTENT: content[path],
            }
            for path in members
        ]
        for split, members in paths.items()
    }
