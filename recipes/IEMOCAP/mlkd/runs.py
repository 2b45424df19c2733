"""A run's folder: whose it is, whether it is trained, whether it is evaluated.

settings.json   what the network depends on; written first
save/           checkpoints, gone when the training is finished
model/          the trained network, a Hugging Face folder
stage.json      how the training went; means that it is finished
results.json    and the files beside it: how the network does in noise
"""

import os
import pathlib
import shutil
import subprocess

from settings import SettingsError, common_keys

from mlkd_lobes.classifier import state_sha256
from mlkd_lobes.evaluation.results import RESULTS, is_whole, read_results
from mlkd_lobes.files import PARTIAL_PREFIX, read_json, text_sha256, write_json

SETTINGS, STAGE, MODEL = "settings.json", "stage.json", "model"
# The system that all students of an output folder learn from.
TEACHER = "teacher"


def check_claims(output_folder, system, plain, systems):
    """Refuses settings that are not those of what a folder holds.

    Arguments
    ---------
    output_folder : str or pathlib.Path
        Holds the runs of one fold and seed.
    system : str
        The run that is asked for.
    plain : dict
        Settings known before anything is prepared; those of the run's own
        folder must be equal, those of the others in what the two have in common.
    systems : dict
        What makes each system: key to value.

    Raises
    ------
    SettingsError
        Naming folder and settings.
    """
    for path in sorted(pathlib.Path(output_folder).glob(f"*/{SETTINGS}")):
        found = read_json(path)
        names, other = plain, path.parent.name
        if other != system:
            own = None
            if other in systems:
                own = {*systems[system], *systems[other]}
            names = common_keys(found, plain, own)
        _compare(path.parent, found, plain, names)


def _compare(folder, found, settings, names):
    changed = [
        f"{key}: {found.get(key)!r} there, {settings.get(key)!r} now"
        for key in sorted(names)
        if found.get(key) != settings.get(key)
    ]
    if changed:
        raise SettingsError(
            f"{folder} holds a training with other settings "
            f"({'; '.join(changed)}). Give another --results_folder, or a "
            "system of your own that sets them, or delete that folder to train "
            "again."
        )


def claim_folder(folder, settings):
    """Makes a folder that of one training; another may not continue in it.

    Arguments
    ---------
    folder : str or pathlib.Path
        Where the training keeps its state.
    settings : dict
        What it depends on.

    Raises
    ------
    SettingsError
        If the folder belongs to a training with other settings.
    """
    path = pathlib.Path(folder) / SETTINGS
    clear_leftovers(path.parent)
    if not path.is_file():
        write_json(path, settings)
        return
    found = read_json(path)
    names = {*found, *settings}
    # What is trained is used by any number of them.
    if read_stage(path.parent):
        names.discard("processes")
    _compare(folder, found, settings, names)


def clear_leftovers(folder):
    """Removes what a killed process left half-written or not cleared away.

    Arguments
    ---------
    folder : pathlib.Path
        The run's folder.
    """
    for path in folder.glob(PARTIAL_PREFIX + "*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    if read_stage(folder):
        for name in ("save", "targets"):
            shutil.rmtree(folder / name, ignore_errors=True)


def read_stage(folder):
    """What a finished training says of itself.

    Arguments
    ---------
    folder : str or pathlib.Path
        The run's folder.

    Returns
    -------
    dict or None
        epoch (the one chosen), valid_UA, training_seconds, the hashes of the
        network and its teacher, history; None if it is not finished.
    """
    path = pathlib.Path(folder) / STAGE
    return read_json(path) if path.is_file() else None


def finish_stage(folder, model, best, history, teacher_sha256):
    """Keeps the trained network and clears away what led to it.

    Arguments
    ---------
    folder : pathlib.Path
        The run's folder.
    model : mlkd_lobes.classifier.EmotionClassifier
        The network, of the best epoch.
    best : speechbrain.utils.checkpoints.Checkpoint, or None
        That epoch's checkpoint; None if nothing was trained.
    history : list of dict
        All epochs.
    teacher_sha256 : str, or None
        Hash of its teacher; None for a teacher itself.
    """
    model.save_pretrained(folder / MODEL)
    own = state_sha256(model)
    stage = {
        "epoch": best and best.meta["epoch"],
        "valid_UA": best and best.meta["UA"],
        "training_seconds": sum(epoch["seconds"] for epoch in history),
        "model_sha256": own,
        "teacher_sha256": teacher_sha256 or own,
        "history": history,
    }
    write_json(folder / STAGE, stage)
    clear_leftovers(folder)


def results_header(folder, test, **names):
    """Where results come from: names and hashes for results.json.

    Arguments
    ---------
    folder : pathlib.Path
        The run's folder, its training finished.
    test : dict
        What the evaluation depends on besides the network.
    **names : dict
        system, corpus, protocol, fold, seed, noise_corpus, labels.

    Returns
    -------
    dict
        The header that `write_run` takes.
    """
    stage = read_stage(folder)
    settings = read_json(folder / SETTINGS)
    depends = [settings, stage["model_sha256"], test]
    return {
        **names,
        "epoch": stage["epoch"],
        "teacher_sha256": stage["teacher_sha256"],
        "hparams_sha256": text_sha256(depends),
        "test_sha256": text_sha256(test),
        "git": code_version(),
    }


def finished_results(folder, header):
    """Results that are there and still true.

    Arguments
    ---------
    folder : pathlib.Path
        The run's folder.
    header : dict
        From `results_header`.

    Returns
    -------
    dict or None
        The content of results.json; None if it has to be made.
    """
    if not is_whole(folder):
        return None
    results = read_results(folder)
    same = results["hparams_sha256"] == header["hparams_sha256"]
    return results if same else None


def confirm_results(folder):
    """Marks results as those of the settings the run was last started with.

    Arguments
    ---------
    folder : pathlib.Path
        The run's folder.
    """
    os.utime(folder / RESULTS)


def code_version():
    """The commit this code is of, for the results.

    Returns
    -------
    str or None
        Hash, with "-dirty" if files differ from it; None outside of git.
    """
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    folder = pathlib.Path(__file__).parent
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
