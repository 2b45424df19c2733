"""A run's folder: whose it is, whether it is trained, whether it is evaluated.

settings.json   what the network depends on; written first
save/           checkpoints, gone when the training is finished
model/          the trained network, a Hugging Face folder
stage.json      how the training went; means that it is finished
results.json    and the files beside it: how the network does in noise
"""

import contextlib
import os
import pathlib
import shutil
import subprocess

from filelock import FileLock, Timeout
from settings import SettingsError
from stages import LOGGER_KEYS, SHARED_KEYS, common_keys

from mlkd_lobes.classifier import state_sha256
from mlkd_lobes.evaluation.results import RESULTS, is_whole, read_results
from mlkd_lobes.files import PARTIAL_PREFIX, read_json, text_sha256, write_json
from speechbrain.utils.distributed import (
    ddp_broadcast,
    if_main_process,
    run_on_main,
)

SETTINGS, STAGE, MODEL = "settings.json", "stage.json", "model"
# How long processes wait for another one's lock before they agree to go on.
LOCK_SECONDS = 60
# The system that all students of an output folder learn from.
TEACHER = "teacher"
# What other runs of a system may have otherwise.
OF_A_RUN = ("fold", "seed", "processes", "teacher_sha256")
OF_A_RUN += ("train_manifest", "valid_manifest", "train_noise", "valid_noise")
ANOTHER_FOLDER = (
    "Give another --results_folder, or delete that folder to train again."
)
NOT_COMPARABLE = (
    "Systems beside each other differ in nothing but what they are: give "
    "another --results_folder, or, for a key of the YAML file, a system of "
    "your own that sets it."
)


def check_claims(output_folder, system, settings, systems):
    """Refuses settings that are not those of what a folder holds.

    A run's own folder must be of the same settings, and the others must share
    corpus, fold and noise. A run that is not there yet must be comparable with
    the others as well: two systems differ in nothing but what they are.

    Arguments
    ---------
    output_folder : str or pathlib.Path
        Holds the runs of one fold and seed.
    system : str
        The run that is asked for.
    settings : dict
        What it depends on, as far as it is known.
    systems : dict
        What makes each system: key to value.

    Raises
    ------
    SettingsError
        Naming folder and settings.
    """
    found = {
        path.parent.name: read_settings(path)
        for path in sorted(pathlib.Path(output_folder).glob(f"*/{SETTINGS}"))
    }
    claimed = found.pop(system, None)
    if claimed is not None:
        folder = pathlib.Path(output_folder, system)
        _compare(folder, claimed, settings, settings)
    for other, there in found.items():
        folder = pathlib.Path(output_folder, other)
        shared = {*SHARED_KEYS} & {*there} & {*settings}
        _compare(folder, there, settings, shared)
        # What a system is that no settings file names now is not known.
        if claimed is None and other in systems:
            own = {*systems[system], *systems[other]}
            names = common_keys(there, settings, own)
            _compare(folder, there, settings, names, NOT_COMPARABLE)


def read_settings(path):
    """What a training was claimed with, as today's code would have kept it.

    Arguments
    ---------
    path : pathlib.Path
        A settings.json, also of an older run.

    Returns
    -------
    dict
        Key to value.

    Raises
    ------
    mlkd_lobes.errors.InputError
        If it is damaged.
    """
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise SettingsError(
            f"{path}: is damaged; delete that folder to train again"
        )
    objects = settings.get("objects")
    if not isinstance(objects, dict):
        return settings
    objects = {k: v for k, v in objects.items() if k not in LOGGER_KEYS}
    # What was not kept was SpeechBrain's default, as nearly always.
    return {"eval_precision": "fp32", **settings, "objects": objects}


def _compare(folder, found, settings, names, advice=ANOTHER_FOLDER):
    changed = [
        f"{key}: {found.get(key)!r} there, {settings.get(key)!r} now"
        for key in sorted(names)
        if found.get(key) != settings.get(key)
    ]
    if changed:
        raise SettingsError(
            f"{folder} holds a training with other settings "
            f"({'; '.join(changed)}). {advice}"
        )


def claim_folder(folder, settings, systems):
    """Makes a folder that of one training; another may not continue in it.

    Arguments
    ---------
    folder : str or pathlib.Path
        Where the training keeps its state.
    settings : dict
        What it depends on.
    systems : dict
        What makes each system: key to value.

    Raises
    ------
    SettingsError
        If the folder belongs to a training with other settings, or a first
        training in it would not compare with those beside it.
    """
    path = pathlib.Path(folder) / SETTINGS
    clear_leftovers(path.parent)
    if not path.is_file():
        check_claims(path.parents[1], path.parent.name, settings, systems)
        # What a teacher said of signals that other settings made.
        shutil.rmtree(path.parent / "targets", ignore_errors=True)
        write_json(path, settings)
        return
    found = read_settings(path)
    names = {*found, *settings}
    # What is trained serves any number of them; older folders do not say it.
    if read_stage(path.parent) or "processes" not in found:
        names.discard("processes")
    _compare(folder, found, settings, names)


@contextlib.contextmanager
def claimed_folder(folder, settings, systems):
    """A folder that belongs to a training, if it comes to anything.

    A training that fails before its first checkpoint leaves nothing that other
    settings could not start from.

    Arguments
    ---------
    folder : pathlib.Path
        Where the training keeps its state.
    settings : dict
        What it depends on.
    systems : dict
        What makes each system: key to value.

    Raises
    ------
    SettingsError
        As `claim_folder` does.
    """
    run_on_main(claim_folder, args=[folder, settings, systems])
    try:
        yield
    except BaseException:
        kept = [*folder.glob(STAGE), *folder.glob("save/CKPT*")]
        if if_main_process() and not kept:
            (folder / SETTINGS).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def one_at_a_time(folder):
    """Of several commands one works in a folder, the others wait for it.

    Arguments
    ---------
    folder : str or pathlib.Path
        The folder; made if it is not there.
    """
    path = pathlib.Path(folder) / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=LOCK_SECONDS)
    # Processes that wait in one barrier all the time give up after two hours.
    while not ddp_broadcast(if_main_process() and _acquired(lock)):
        pass
    try:
        yield
    finally:
        lock.release()


def _acquired(lock):
    """Whether a lock was free before its timeout."""
    try:
        lock.acquire()
    except Timeout:
        return False
    return True


def clear_leftovers(folder):
    """Removes what a killed training left half-written or not cleared away.

    Arguments
    ---------
    folder : pathlib.Path
        The run's folder.
    """
    if not read_stage(folder):
        clear_partial(folder)
        return
    # What is half-written may be another process' evaluation of it.
    for name in ("save", "targets"):
        shutil.rmtree(folder / name, ignore_errors=True)


def clear_partial(folder):
    """Removes what a killed process left half-written.

    Arguments
    ---------
    folder : pathlib.Path
        A run's folder that no other process is at work in.
    """
    for path in folder.glob(PARTIAL_PREFIX + "*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


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
    """Where results come from: names, hashes, settings for results.json.

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
        "settings": _common_settings(folder),
        "git": code_version(),
    }


def _common_settings(folder):
    """What a system's runs of other folds and seeds are trained with as well."""
    settings = read_settings(folder / SETTINGS)
    objects = settings.pop("objects", None)
    # Very old ones have a hash of them.
    settings.update(objects if isinstance(objects, dict) else {})
    return {
        key: value
        for key, value in settings.items()
        if key not in OF_A_RUN and not _lies_in(value, folder.parent)
    }


def _lies_in(value, folder):
    """Whether a value names a place of a run, as keys of one's own YAML may."""
    if not isinstance(value, str) or os.sep not in value:
        return False
    place = pathlib.Path(os.path.abspath(value))
    return place.is_relative_to(os.path.abspath(folder))


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
