"""A run's folder: its settings, whether it is trained, whether it is evaluated.

settings.json   the settings the network depends on; written first
save/, targets/ checkpoints, cached targets; removed after the training
model/          the trained network, a Hugging Face folder
stage.json      how the training went; exists when it is finished
results.json    and the files beside it: see `mlkd_lobes.evaluation.results`

A folder holds one training; a command with other settings is refused.
"""

import contextlib
import os
import pathlib

from filelock import FileLock, Timeout

from mlkd_lobes import files
from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.results import code_version, split_hashes
from mlkd_lobes.models.classifier import state_sha256
from mlkd_lobes.models.distillation import needs_teacher
from mlkd_lobes.training.settings import comparable_keys, row_of
from speechbrain.utils.distributed import (
    ddp_broadcast,
    if_main_process,
    run_on_main,
)
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

SETTINGS, STAGE, MODEL = "settings.json", "stage.json", "model"
# Seconds of one attempt to get a lock; all processes then try again together.
LOCK_SECONDS = 60
ANOTHER_FOLDER = (
    "Give another --results_folder, or delete that folder to train again."
)
NOT_COMPARABLE = (
    "Systems compared with each other differ only in the keys of their entries: "
    "give another --results_folder, or define a system of your own that sets "
    "this key."
)


def check_run_config(output_folder, system, record, systems):
    """Raises if a run does not fit what an output folder holds already.

    The run's own folder must have the same settings, the others the same corpus, fold
    and noise. Two systems may differ only in what their entries set.

    Arguments
    ---------
    output_folder : str or pathlib.Path
        Holds the runs of one fold and seed.
    system : str
        The run's system.
    record : dict
        From `mlkd_lobes.training.settings.training_record`; hashes of contents
        under "content" once they are known.
    systems : dict
        Entry of each system: key to value.

    Raises
    ------
    InputError
        Naming folder and settings.
    """
    output_folder, record = pathlib.Path(output_folder), _flat(record)
    for path in sorted(output_folder.glob(f"*/{SETTINGS}")):
        other, found = path.parent.name, read_record(path.parent)
        if other == system:
            _compare(path.parent, found, record, record)
            continue
        both = {*found} & {*record}
        shared = [key for key in both if row_of(key).scope]
        _compare(path.parent, found, record, shared)
        # The entry of a system that is no longer defined is unknown.
        new = not (output_folder / system / SETTINGS).is_file()
        if new and other in systems:
            own = {*systems[system], *systems[other]}
            keys = comparable_keys(found, record, own)
            _compare(path.parent, found, record, keys, NOT_COMPARABLE)


def check_systems(output_folder, systems):
    """`check_run_config` for all systems of a command.

    Arguments
    ---------
    output_folder : str or pathlib.Path
        Holds the runs of one fold and seed.
    systems : dict
        System to hyperparameters, with its settings as `record`.
    """
    for name, own in systems.items():
        check_run_config(output_folder, name, own["record"], own["systems"])


def read_record(folder):
    """The settings a folder's training was started with.

    Arguments
    ---------
    folder : pathlib.Path
        The run's folder.

    Returns
    -------
    dict
        Key to value, hashes of contents among them.

    Raises
    ------
    InputError
        If they are damaged.
    """
    return _flat(files.read_json(folder / SETTINGS, dict))


def _flat(record):
    """A record with the hashes of contents beside the settings."""
    record = dict(record)
    content = record.pop("content", {})
    return {**record, **content}


def _compare(folder, found, wanted, keys, advice=ANOTHER_FOLDER):
    changed = [
        f"{key}: {found.get(key)!r} there, {wanted.get(key)!r} now"
        for key in sorted(keys)
        if found.get(key) != wanted.get(key)
    ]
    if changed:
        raise InputError(
            f"{folder} holds a training with other settings "
            f"({'; '.join(changed)}). {advice}"
        )


def reserve(folder, record, systems):
    """Binds a folder to the settings of one training.

    Arguments
    ---------
    folder : pathlib.Path
        The run's folder.
    record : dict
        Settings, hashes of contents under "content".
    systems : dict
        Entry of each system: key to value.

    Raises
    ------
    InputError
        If the folder belongs to a training with other settings, or a first
        training in it would not be comparable with those beside it.
    """
    clear_leftovers(folder)
    if not (folder / SETTINGS).is_file():
        check_run_config(folder.parent, folder.name, record, systems)
        files.remove(folder / "targets")
        files.write_json(folder / SETTINGS, record)
        return
    found, wanted = read_record(folder), _flat(record)
    keys = {*found, *wanted}
    if read_stage(folder):
        # A trained network serves any number of processes.
        keys.discard("processes")
    _compare(folder, found, wanted, keys)


@contextlib.contextmanager
def reserved(folder, record, systems):
    """Reserves a folder; releases it if training fails before a checkpoint.

    Arguments
    ---------
    folder : pathlib.Path
        The run's folder.
    record : dict
        Settings, hashes of contents under "content".
    systems : dict
        Entry of each system: key to value.

    Raises
    ------
    InputError
        As `reserve` does.
    """
    run_on_main(reserve, args=[folder, record, systems])
    try:
        yield
    except BaseException:
        kept = [*folder.glob(STAGE), *folder.glob("save/CKPT*")]
        if if_main_process() and not kept:
            (folder / SETTINGS).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def locked(folder):
    """Lets one command at a time work in a folder; others wait.

    Arguments
    ---------
    folder : str or pathlib.Path
        The folder; created if missing.
    """
    path = pathlib.Path(folder) / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=LOCK_SECONDS)
    # A barrier that lasts longer than two hours ends distributed training.
    while not ddp_broadcast(if_main_process() and _acquired(lock)):
        logger.warning_once(f"{path}: waiting for another command to end")
    try:
        yield
    finally:
        lock.release()


def _acquired(lock):
    """Tries to acquire a lock; whether it was free before the timeout."""
    with contextlib.suppress(Timeout):
        lock.acquire()
    return lock.is_locked


def check_prepared(folder, splits):
    """Raises if speech or noise are not those that a run was trained with.

    Arguments
    ---------
    folder : pathlib.Path
        The run's folder.
    splits : dict
        Split to manifest and AddNoise.

    Raises
    ------
    InputError
        Naming the folder.
    """
    found = read_record(folder)
    wanted = split_hashes(splits, "train_noise" in found)
    advice = "Another command prepared the fold differently; repeat this one."
    _compare(folder, found, wanted, wanted, advice)


def clear_leftovers(folder):
    """Removes what a killed process left half-written or not removed.

    Arguments
    ---------
    folder : pathlib.Path
        The run's folder.
    """
    if not read_stage(folder):
        clear_partial(folder)
        return
    # Half-written files may belong to another process' evaluation.
    for name in ("save", "targets"):
        files.remove(folder / name)


def clear_partial(folder):
    """Removes half-written files.

    Arguments
    ---------
    folder : pathlib.Path
        A run's folder in which no other process works.
    """
    for path in folder.glob(files.PARTIAL_PREFIX + "*"):
        files.remove(path)


def read_stage(folder):
    """How a finished training went.

    Arguments
    ---------
    folder : str or pathlib.Path
        The run's folder.

    Returns
    -------
    dict or None
        epoch (the chosen one), valid_UA, training_seconds, the hashes of the
        network and its teacher, history; None if it is not finished.
    """
    path = pathlib.Path(folder) / STAGE
    return files.read_json(path) if path.is_file() else None


def finish_stage(folder, model, best, history, teacher_sha256):
    """Keeps the trained network and removes checkpoints and cache.

    Arguments
    ---------
    folder : pathlib.Path
        The run's folder.
    model : mlkd_lobes.models.classifier.EmotionClassifier
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
    files.write_json(folder / STAGE, stage)
    clear_leftovers(folder)


def results_header(folder, test, fit, names, teacher):
    """Origin of results: names, hashes and settings for results.json.

    Arguments
    ---------
    folder : pathlib.Path
        The run's folder, its training finished.
    test : dict
        From `mlkd_lobes.evaluation.results.describe_test`.
    fit : dict
        Likewise, of the speech on which the temperature is fitted.
    names : dict
        system, corpus, protocol, fold, seed, noise_corpus, labels and others.
    teacher : str or pathlib.Path
        The folder of a student's teacher; only runs have settings.

    Returns
    -------
    dict
        The header that `write_run` takes.
    """
    stage = read_stage(folder)
    record = files.read_json(folder / SETTINGS)
    record.pop("content", None)
    depends = [record, stage["model_sha256"], test, fit]
    shared = same_for_all_runs(record)
    if record["network"] == "student" and read_stage(teacher):
        found = files.read_json(pathlib.Path(teacher, SETTINGS))
        shared = {**same_for_all_runs(found), **shared}
        shared.pop("content", None)
    return {
        **names,
        "epoch": stage["epoch"],
        "teacher_sha256": stage["teacher_sha256"],
        "hparams_sha256": files.text_sha256(depends),
        "test_sha256": files.text_sha256(test),
        "settings": {
            key: value
            for key, value in shared.items()
            if not _lies_in(value, folder.parent)
        },
        "git": code_version(),
    }


def same_for_all_runs(record):
    """The part of a record that all runs of a system have in common.

    Arguments
    ---------
    record : dict
        From `training_record`.

    Returns
    -------
    dict
        Key to value or definition, without fold and seed.
    """
    shared = {k: v for k, v in record.items() if row_of(k).scope != "run"}
    objects = shared.pop("objects")
    return {**shared, **objects}


def _lies_in(value, folder):
    """Whether a value is a path in a folder, as keys of one's own YAML may be."""
    if not isinstance(value, str) or os.sep not in value:
        return False
    folder = os.path.abspath(folder)
    return os.path.commonpath([folder, os.path.abspath(value)]) == folder


def distils(values):
    """Whether a system is trained with distillation losses.

    Arguments
    ---------
    values : dict
        Key to value.

    Returns
    -------
    bool
        False for teachers and for students on labels alone.
    """
    student = values["network"] == "student"
    return student and needs_teacher(values["loss_weights"])


def describe_data(values, splits):
    """The speech and noise of a run, for data.json.

    Arguments
    ---------
    values : dict
        Key to value.
    splits : dict
        Split to manifest and AddNoise.

    Returns
    -------
    dict
        For `mlkd_lobes.deployment.run_speech`. Paths in the output folder are
        relative to the run, which may move; others are absolute.
    """
    keys = ["network", "speech", "speeds", "snr_low", "snr_high"]
    description = {key: values[key] for key in keys}
    unseen = (values["unseen_noise"] or {}).items()
    description["unseen_noise"] = {k: os.path.abspath(v) for k, v in unseen}
    for key in ("data_folder", "noise_folder"):
        description[key] = values[key] and os.path.abspath(values[key])
    output = os.path.abspath(values["output_folder"])
    for split, (manifest, noise) in splits.items():
        paths = {"manifest": manifest, "noise": noise.csv_file}
        description[split] = {
            name: f"../{os.path.relpath(path, output)}"
            if _lies_in(str(path), pathlib.Path(output))
            else os.path.abspath(path)
            for name, path in paths.items()
        }
    description["unlabelled"] = values["unlabelled"] and distils(values)
    description["encoder"] = values["wav2vec2_hub"]
    student = values["network"] == "student"
    description["teacher"] = values["teacher_folder"] if student else None
    description["checked"] = not values["skip_prep"]
    return description
