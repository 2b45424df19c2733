"""Which preparation serves which corpus, and what no preparation may leave."""

import json
import pathlib

from csv_prepare import prepare_csv
from manifests import SPLITS, audio_path
from noise_prepare import prepare_noise
from settings import check_choices

from mlkd_lobes.evaluation.leakage import (
    LeakageError,
    describe_overlaps,
    find_overlaps,
)
from mlkd_lobes.noise import read_noise_csv
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

# Corpus to its protocols, and each to what prepares it.
CORPORA = {"csv": {"groups": prepare_csv}}


def prepare_corpus(corpus, protocol, data_folder, save_folder, **options):
    """Writes the manifests of an emotion corpus.

    Arguments
    ---------
    corpus : str
        One of `CORPORA`.
    protocol : str
        One of the corpus' protocols.
    data_folder : str
        The corpus.
    save_folder : str or pathlib.Path
        Where manifests go.
    **options : dict
        What the preparation takes.

    Raises
    ------
    SettingsError
        If corpus or protocol is not known, listing those that are.
    """
    check_choices("corpus", corpus, CORPORA)
    check_choices("protocol", protocol, CORPORA[corpus])
    CORPORA[corpus][protocol](data_folder, save_folder, **options)


def prepare_noise_csvs(save_folder, csvs, manifests, data_folder, **options):
    """Writes the noise CSVs, unless the user gives all of them.

    Arguments
    ---------
    save_folder : str or pathlib.Path
        Where they go.
    csvs : dict
        Split to the CSV in use.
    manifests : dict
        Split to the manifest in use; none of its speakers may babble.
    data_folder : str
        What {data_root} stands for in them.
    **options : dict
        What `prepare_noise` takes.

    Raises
    ------
    ValueError
        If a corpus is needed and none is given.
    """
    save_folder = pathlib.Path(save_folder)
    if save_folder not in [pathlib.Path(csv).parent for csv in csvs.values()]:
        return
    if options["noise_folder"] is None:
        raise ValueError(
            "noise_folder: expected the folder of a noise corpus (or noise "
            "CSVs in noise_annotation, noise_valid_annotation and "
            "noise_test_annotation)"
        )
    files, speakers = set(), set()
    for manifest in manifests.values():
        for entry in json.loads(pathlib.Path(manifest).read_text()).values():
            files.add(audio_path(entry, data_folder))
            speakers.add(entry.get("speaker"))
    prepare_noise(
        save_folder=save_folder,
        corpus_files=files,
        corpus_speakers=speakers,
        **options,
    )


def check_leakage(datasets, csvs, replacements, refuse):
    """Refuses, or warns of, speech and noise that splits share.

    Arguments
    ---------
    datasets : dict
        Split to dataset.
    csvs : dict
        Split to noise CSV.
    replacements : dict
        Values of `$name` in the CSVs.
    refuse : bool
        False where the user brought the manifests: then it is a warning.

    Raises
    ------
    mlkd_lobes.evaluation.leakage.LeakageError
        Naming what is shared by whom.
    """
    speech = {split: datasets[split].data.values() for split in SPLITS}
    overlaps = find_overlaps(speech, ["speaker", "session", "wav"])
    noise = {}
    for split in SPLITS:
        kinds = read_noise_csv(csvs[split], replacements)
        paths = [path for recordings in kinds.values() for path in recordings]
        noise[split] = [{"noise recording": path} for path in paths]
    overlaps += find_overlaps(noise, ["noise recording"])
    if overlaps and refuse:
        raise LeakageError(describe_overlaps(overlaps))
    if overlaps:
        logger.warning("Leakage: " + describe_overlaps(overlaps))
