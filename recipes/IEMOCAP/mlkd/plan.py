"""Which runs a table consists of, and which of them are finished."""

import os
import pathlib
from collections import namedtuple

from prepare import find_corpus
from ruamel.yaml import YAMLError
from runs import SETTINGS, read_settings, read_stage
from settings import (
    SettingsError,
    check_arguments,
    command_line_keys,
    keys_of_system,
    object_definitions,
    resolve_overrides,
    resolved_values,
)
from stages import PLACE_KEYS, training_options
from values import check_values

import speechbrain as sb
from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.results import RESULTS, is_whole

# What a run's place follows from.
OWN_KEYS = ("fold", "seed", "system", "output_folder")

Run = namedtuple(
    "Run",
    ["fold", "seed", "system", "folder", "command"]
    + ["values", "options", "learns_from_teacher"],
)
Run.__doc__ = """One system on one fold with one seed.

Its `folder`, its `command` (the arguments of train.py), the `values` of all keys,
the run `options` that training depends on, and whether it is a student of the
teacher trained beside it.
"""


def make_plan(options, passed):
    """All runs, folds outermost.

    Arguments
    ---------
    options : argparse.Namespace
        From `cross_validate.parse`.
    passed : list of str
        Options of train.py.

    Returns
    -------
    list of Run
        In the order to run them.

    Raises
    ------
    SettingsError
        If a fold, seed or system is not known, a value of a system cannot be
        meant, or a run's own key is given.
    """
    arguments = [options.hparams_file, *passed]
    hparams_file, run_opts, text = sb.parse_arguments(arguments)
    check_arguments(arguments, run_opts, text)
    overrides = resolve_overrides(hparams_file, text)
    for key in OWN_KEYS:
        if any(f"{option}=".startswith(f"--{key}=") for option in passed):
            raise SettingsError(
                f"{key}: is set per run; give --folds, --seeds, --systems or "
                "--results_folder"
            )
    values = resolved_values(hparams_file, overrides)
    check_values(values)
    if values["prepare_only"]:
        raise SettingsError(
            "prepare_only: prepares one fold and runs nothing; give it to "
            "train.py"
        )
    corpus, protocol = find_corpus(values["corpus"], values["protocol"])
    n_folds = protocol.n_folds or values["n_folds"]
    folds = _numbers(options.folds, "folds", n_folds)
    seeds = _numbers(options.seeds, "seeds")
    systems = _once(options.systems.split(","), "systems")
    # Unknown systems are refused before anything runs.
    for system in systems:
        _check_system(hparams_file, text, system)
    plan = []
    for fold in folds:
        for seed in seeds:
            for system in systems:
                own = [f"--fold={fold}", f"--seed={seed}", f"--system={system}"]
                command = [options.hparams_file, *passed, *own]
                plan.append(_plan_run(command))
    _check_test_speech(plan)
    return plan


def _check_test_speech(plan):
    """Folds that are tested must be so on speech of their own."""
    found = {}
    for run in plan:
        if run.values["train_only"]:
            continue
        path = os.path.realpath(run.values["test_annotation"])
        fold = found.setdefault(path, run.fold)
        if fold != run.fold:
            raise SettingsError(
                f"folds: {fold} and {run.fold} are both tested on {path}; give "
                "one of them, --folds=1, or name the fold in the YAML file's "
                "test_annotation"
            )


def _check_system(hparams_file, text, system):
    """A system must be what its name says, and every run have its folder."""
    overrides = resolve_overrides(hparams_file, text, system)
    if "output_folder" in overrides:
        raise SettingsError(
            "output_folder: is set per run; give results_folder instead"
        )
    typed = command_line_keys(text)
    for key in keys_of_system(hparams_file, text, system):
        if key in typed:
            raise SettingsError(
                f"{key}: is what makes the system {system}; on the command "
                "line it would win over that. Put it into a settings file, "
                "which systems win over"
            )


def _plan_run(command):
    """A run from the arguments of train.py."""
    hparams_file, run_opts, text = sb.parse_arguments(command)
    overrides = resolve_overrides(hparams_file, text)
    values = resolved_values(hparams_file, overrides)
    try:
        check_values(values)
    except SettingsError as error:
        raise SettingsError(f"{values['system']}: {error}")
    student = values["network"] == "student"
    return Run(
        values["fold"],
        values["seed"],
        values["system"],
        pathlib.Path(values["output_folder"]) / values["system"],
        command,
        values,
        training_options(values, run_opts),
        student and values["teacher_folder"] is None,
    )


def _numbers(text, name, most=None):
    """Numbers of a comma-separated list, or all of them."""
    if text == "all" and most:
        return list(range(1, most + 1))
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise SettingsError(f"{name}: {text!r} is no list such as 1,2,3")
    for number in numbers:
        if most and not 1 <= number <= most:
            raise SettingsError(f"{name}: {number} is not between 1 and {most}")
    return _once(numbers, name)


def _once(values, name):
    """Values of a list, of which none may come twice."""
    for value in values:
        if values.count(value) > 1:
            raise SettingsError(f"{name}: {value} is there twice")
    return values


def is_done(run):
    """Whether there is nothing left to do for a run.

    Arguments
    ---------
    run : Run
        The run.

    Returns
    -------
    bool
        Whether its results are there, whole, and of these settings; if it is
        only to be trained, whether it is. Where that is not certain, train.py
        will tell: it looks into files, and is fast where nothing is to be done.
    """
    if not _same_settings(run) or not has_ended(run):
        return False
    return run.values["train_only"] or not _is_newer(run.folder)


def has_ended(run):
    """Whether what a run leaves is there, of whatever settings.

    Arguments
    ---------
    run : Run
        The run.

    Returns
    -------
    bool
        Whether its results are there and whole; if it is only to be trained,
        whether it is.
    """
    if run.values["train_only"]:
        return is_trained(run.folder, run.system)
    return is_whole(run.folder)


def _same_settings(run):
    """Whether the folder's last run had the same settings."""
    try:
        there = resolved_values(run.folder / "hyperparams.yaml", {})
        trained = read_settings(run.folder / SETTINGS)
        return _agree(run, there, trained)
    # Not there, or not whole: a run was killed while it wrote them.
    except (OSError, KeyError, TypeError, ValueError, YAMLError):
        return False


def _agree(run, there, trained):
    """Whether a run is what hyperparams.yaml and settings.json tell of."""
    objects = object_definitions(run.command[0])
    ignored = {*PLACE_KEYS, *objects}
    definitions = {key: objects.get(key) for key in trained["objects"]}
    return (
        all(there[key] == run.values[key] for key in {*run.values} - ignored)
        and all(trained[key] == run.options[key] for key in run.options)
        and trained["objects"] == definitions
    )


def _is_newer(folder):
    """Whether a run was started, and not ended, since its results."""
    written = (folder / RESULTS).stat().st_mtime_ns
    return (folder / "hyperparams.yaml").stat().st_mtime_ns > written


def is_trained(folder, system):
    """Whether a system beside a run is trained, as far as can be read.

    Arguments
    ---------
    folder : pathlib.Path
        The run's folder.
    system : str
        Of the same fold and seed; may be the run's own.

    Returns
    -------
    bool
        False also where its files are damaged: train.py will say so.
    """
    try:
        return read_stage(folder.with_name(system)) is not None
    except (OSError, InputError):
        return False
