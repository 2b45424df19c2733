#!/usr/bin/env python3
"""Runs train.py for every combination of folds, seeds and systems.

> python cross_validate.py hparams/mlkd.yaml --folds=all --seeds=1,2,3 \
    --systems=teacher,student_noisy,mlkd_semi \
    --data_folder=IEMOCAP_full_release --noise_folder=musan

Every other option is passed on to train.py. Finished runs are skipped: repeat the
command to resume a sweep. Runs of a fold and seed share its teacher. `--list`
prints the commands instead of running them, for example for a scheduler.

Authors
 * The MLKD recipe's authors 2026
"""

import argparse
import contextlib
import functools
import json
import os
import pathlib
import queue
import shlex
import subprocess
import sys
import threading
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import torch
from filelock import FileLock
from inputs import TEACHER, find_corpus
from ruamel.yaml import YAML, YAMLError

import speechbrain as sb
from mlkd_lobes.errors import InputError, run_command
from mlkd_lobes.evaluation.comparison import comparisons, find_runs, pool
from mlkd_lobes.evaluation.report import report_text
from mlkd_lobes.evaluation.results import RESULTS, is_complete
from mlkd_lobes.files import atomic_path
from mlkd_lobes.training import cluster, run_folder
from mlkd_lobes.training.overrides import (
    check_arguments,
    read_settings,
    read_values,
)
from mlkd_lobes.training.settings import TABLE, row_of, training_record

HERE = pathlib.Path(__file__).resolve().parent
ONE_TEACHER = "warning: one teacher for all folds must not know test speakers"
DEFAULT_SYSTEMS = "teacher,student_noisy,kd_last,mlkd,mlkd_semi"
# Keys that are set per run; they identify a row of validation.csv.
RUN_KEYS = ["fold", "seed", "system"]
# A search also reports their mean UA: that of the chosen epoch is a maximum.
LAST_EPOCHS = 5
RUN = "fold seed system folder command settings record"


class Run(namedtuple("Run", RUN)):
    """One run; `command` is what train.py gets as arguments."""


def parse(argv):
    """Splits a command line into own options and those of train.py."""
    parser = argparse.ArgumentParser(
        description="Folds x seeds x systems; other options go to train.py.",
        # Otherwise --seed, which belongs to train.py, would mean --seeds.
        allow_abbrev=False,
    )
    parser.add_argument("hparams_file")
    parser.add_argument("--folds", default="all", help="all, or e.g. 1,2")
    parser.add_argument("--seeds", default="1", help="e.g. 1,2,3")
    parser.add_argument("--systems", default=DEFAULT_SYSTEMS)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--executor", choices=["local", "slurm"])
    parser.add_argument("--slurm", default="{}", help="of its jobs, see docs")
    parser.add_argument("--list", action="store_true", help="run nothing")
    return parser.parse_known_args(argv)


def make_plan(options, passed):
    """All runs, folds outermost; raises for folds, seeds or systems that are
    unknown, and for keys that are set per run."""
    arguments = [options.hparams_file, *passed]
    hparams_file, run_opts, text = sb.parse_arguments(arguments)
    check_arguments(arguments, run_opts)
    systems = _distinct(options.systems.split(","), "systems")
    found = [read_settings(hparams_file, text, system) for system in systems]
    for settings, system in zip(found, systems):
        _check_system(settings, system)
    values = found[0].values
    if values["prepare_only"]:
        raise InputError(
            "prepare_only: prepares one fold and runs nothing; give it to "
            "train.py"
        )
    _, protocol = find_corpus(values)
    n_folds = protocol.n_folds or values["n_folds"]
    folds = _numbers(options.folds, "folds", n_folds)
    plan = [
        _plan_run([*arguments, f"--fold={fold}", f"--seed={seed}"], system)
        for fold in folds
        for seed in _numbers(options.seeds, "seeds")
        for system in systems
    ]
    if len({r.settings.values["test_annotation"] for r in plan}) < len(folds):
        raise InputError("test_annotation: is of one fold; give --folds=N")
    return plan


def _check_system(settings, system):
    """Refuses keys that are set per run, or by the system itself."""
    for key in RUN_KEYS:
        if key in settings.command_line_keys:
            raise InputError(
                f"{key}: is set per run; give --folds, --seeds or --systems"
            )
    if "output_folder" in settings.overrides:
        raise InputError("output_folder: is set per run; give results_folder")
    for key in settings.system_keys:
        if key in settings.command_line_keys:
            raise InputError(
                f"{key}: is set by the system {system}; on the command line it "
                "would override that. Put it into a settings file, which "
                "systems override"
            )


def _plan_run(command, system):
    """A run from the arguments of train.py."""
    # In quotes where YAML would read a number, a date or nothing.
    quoted = system if YAML().load(system) == system else json.dumps(system)
    command = [*command, f"--system={quoted}"]
    hparams_file, run_opts, text = sb.parse_arguments(command)
    settings = read_settings(hparams_file, text)
    values = settings.values
    folder = pathlib.Path(values["output_folder"], system)
    record = training_record(settings, run_opts)
    place = values["fold"], values["seed"], system, folder
    return Run(*place, command, settings, record)


def _numbers(text, name, most=None):
    """Numbers of a comma-separated list, or all of them."""
    if text == "all" and most:
        return list(range(1, most + 1))
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{name}: {text!r} is not a list such as 1,2,3")
    for number in numbers:
        if most and not 1 <= number <= most:
            raise InputError(f"{name}: {number} is not between 1 and {most}")
    return _distinct(numbers, name)


def _distinct(values, name):
    """Values of a list, none of which may come twice."""
    for value in values:
        if values.count(value) > 1:
            raise InputError(f"{name}: {value} is given twice")
    return values


def is_done(run):
    """Whether a run is finished with these settings, without reading any audio.

    Where that is not certain, train.py decides, fast if nothing is to be done.
    """
    if "--test_only" in run.command:
        return False
    try:
        same = _same_settings(run) and _same_teacher(run) and has_ended(run)
        return same and _is_newer(run)
    # Missing or half-written: a run was killed.
    except (OSError, KeyError, TypeError, ValueError, YAMLError):
        return False


def has_ended(run):
    """Whether a run's final files can be read, whatever its settings."""
    if not run.settings.values["train_only"]:
        return is_complete(run.folder)
    try:
        return run_folder.read_stage(run.folder) is not None
    except (OSError, InputError):
        return False


def _same_settings(run):
    """Whether the folder's last run had the same settings."""
    values, objects = run.settings.values, run.settings.objects
    found = read_values(run.folder / "hyperparams.yaml", {})
    record = run_folder.read_record(run.folder)
    tested = [k for k in values if row_of(k).affects != "nothing"]
    trained = [record[key] == run.record[key] for key in run.record]
    plain = [found[k] == values[k] for k in tested if k not in objects]
    return all(trained) and all(plain)


def _same_teacher(run):
    """Whether a student was trained with the teacher that is beside it now."""
    teacher = run_folder.read_stage(run.folder.with_name(TEACHER))
    if teacher is None or not uses_teacher(run):
        return True
    stage = run_folder.read_stage(run.folder)
    return stage["teacher_sha256"] == teacher["model_sha256"]


def _is_newer(run):
    """Whether a run ended after its start and what it was prepared from."""
    values, end = run.settings.values, run_folder.STAGE
    earlier = [values[key] for key in TABLE if key.endswith("annotation")]
    if not values["train_only"]:  # then train.py ends with a test
        earlier.append(run.folder / "hyperparams.yaml")
        end = RESULTS
    if values["corpus"] == "csv" and not values["skip_prep"]:
        earlier.append(pathlib.Path(values["data_folder"], "manifest.csv"))
    newest = max(os.stat(path).st_mtime_ns for path in earlier)
    return newest <= (run.folder / end).stat().st_mtime_ns


def run_all(plan, jobs):
    """Runs what is not finished; a failure does not stop the others.

    Jobs share the cores; on several GPUs each gets the next one. Returns the runs
    that failed.
    """
    jobs = min(jobs, len(plan))
    slots, devices = queue.Queue(), _devices() if jobs > 1 else []
    threads = str(max(1, torch.get_num_threads() // jobs))
    own = [{"CUDA_VISIBLE_DEVICES": device} for device in devices] or [{}]
    for job in range(jobs):
        environment = {"OMP_NUM_THREADS": threads, **os.environ}
        slots.put({**environment, **own[job % len(own)]})
    first, futures, stop = teacher_runs(plan), {}, threading.Event()
    teachers = {*first.values()}
    with ThreadPoolExecutor(jobs) as executor:
        try:
            # Teachers first: a waiting student would occupy a job.
            for run in sorted(plan, key=lambda run: run.folder not in teachers):
                before = futures.get(first.get(run.folder.parent))
                futures[run.folder] = executor.submit(
                    _run_after, before, run, slots, stop
                )
            return [run for run in plan if not futures[run.folder].result()]
        except KeyboardInterrupt:
            # Running ones were interrupted as well; the others do not start.
            stop.set()
            raise


def run_on_cluster(plan, parameters):
    """Runs what is not finished as Slurm jobs, one per fold and seed, its teacher
    first. Returns the runs that failed."""
    teachers, jobs = {*teacher_runs(plan).values()}, {}
    runs = [run for run in plan if not is_done(run)]
    for run in sorted(runs, key=lambda run: run.folder not in teachers):
        step = run.folder, _command(run), log_of(run)
        jobs.setdefault(run.folder.parent, []).append(step)
    folder = pathlib.Path(plan[0].settings.values["results_folder"])
    arguments = [*jobs.values()], folder / "slurm", parameters, _print
    done = cluster.run_jobs(*arguments)
    return [r for r in runs if not (done.get(r.folder) and has_ended(r))]


def _devices():
    """The GPUs that may be used, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [str(number) for number in range(torch.cuda.device_count())]
    return visible.split(",")


def uses_teacher(run):
    """Whether a run trains the teacher of its fold and seed, or needs it."""
    values = run.settings.values
    student = values["network"] == "student" and not values["teacher_folder"]
    return run.system == TEACHER or student


def teacher_runs(plan):
    """The folder of the run that trains the teacher, per fold and seed."""
    ordered = sorted(plan, key=lambda run: run.system != TEACHER)
    first = {}
    for run in filter(uses_teacher, ordered):
        first.setdefault(run.folder.parent, run.folder)
    return first


def _run_after(before, run, slots, stop):
    """Runs on a free device once another run has ended; whether it succeeded."""
    if before is not None:
        before.result()
    environment = slots.get()
    try:
        return not stop.is_set() and _finish(run, environment)
    finally:
        slots.put(environment)


def _finish(run, environment):
    """Executes a run unless it is finished; whether it is now."""
    try:
        if is_done(run):
            _print(f"finished already: {_title(run)}")
            return True
        return _execute(run, environment)
    # Whatever it is, a full disk or a damaged file: the other runs continue.
    except Exception as error:
        _print(f"{_title(run)}: {type(error).__name__}: {error}", sys.stderr)
        return False


def _execute(run, environment):
    """Executes one run, its output in a log file; whether it succeeded."""
    _print(f"running: {_title(run)}")
    log = log_of(run)
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8") as file:
        output = {"stdout": file, "stderr": subprocess.STDOUT}
        code = subprocess.call(_command(run), env=environment, **output)
    # Not is_done: another process may have restarted the finished run since.
    return code == 0 and has_ended(run)


def _command(run):
    """The command of a run, for the current folder."""
    return [sys.executable, str(HERE / "train.py"), *run.command]


def log_of(run):
    """A log file beside the run's folder."""
    return run.folder.with_name(f"{run.system}.log")


def _print(line, file=None):
    """Prints a line in one write, so that lines of parallel jobs do not mix; a
    closed pipe or a full disk must not stop the runs."""
    with contextlib.suppress(OSError, ValueError):
        print(line + "\n", end="", file=file, flush=True)


def _title(run):
    return f"fold {run.fold}, seed {run.seed}, {run.system}"


def test_text(done):
    """Tables of the test, folds pooled."""
    pooled = pool(find_runs([run.folder for run in done]))
    wanted = done[0].settings.values["comparisons"]
    return report_text(pooled, comparisons(pooled.systems, wanted))


def validation_text(done):
    """Validation scores of trained runs, a row per system; in validation.csv a row
    per run, beside those of other runs."""
    rows = pd.DataFrame(map(_validation_row, done))
    path = done[0].folder.parents[2] / "validation.csv"
    # Two searches may end at the same time.
    with FileLock(path.with_name(".validation.lock")):
        both = pd.concat([rows, _earlier(path, [*rows])])
        known = both.drop_duplicates(RUN_KEYS)
        with atomic_path(path) as temporary:
            known.sort_values(RUN_KEYS).to_csv(temporary, index=False)
    scores = rows.groupby("system", sort=False)[["valid_UA", "last_UA"]]
    text = scores.agg(["count", "mean", "std"]).round(4).to_string()
    return f"{text}\n\n{path}"


def _earlier(path, columns):
    """Rows of earlier searches, if there are any."""
    try:
        if not path.exists():
            return None
        # Only empty scores are missing values: a system may be called NA.
        scores = {name: [""] for name in ("epoch", "valid_UA", "last_UA")}
        return pd.read_csv(
            path,
            usecols=columns,
            dtype={"system": str, "settings": str},
            keep_default_na=False,
            na_values=scores,
        )
    except ValueError as error:
        raise InputError(f"{path}: cannot be read ({error}); move it away")


def _validation_row(run):
    """Validation scores of a trained run, and the settings it changes."""
    stage = run_folder.read_stage(run.folder)
    scores = [e["valid_UA"] for e in stage["history"] if "valid_UA" in e]
    last = scores[-LAST_EPOCHS:]
    defaults = sb.core.RunOptions().as_dict()
    defaults.update(read_values(run.command[0], {"data_folder": None}))
    changed = {
        key: value
        for key, value in run.record.items()
        if not row_of(key).scope and value != defaults.get(key, value)
    }
    return {
        "system": run.system,
        "fold": run.fold,
        "seed": run.seed,
        "epoch": stage["epoch"],
        "valid_UA": stage["valid_UA"],
        "last_UA": sum(last) / len(last) if last else None,
        "training_seconds": stage["training_seconds"],
        "settings": json.dumps(changed, sort_keys=True),
    }


def main(argv):
    """Runs the plan, or lists it; the exit code."""
    options, passed = parse(argv)
    return run_command(functools.partial(_run_command, options, passed))


def _run_command(options, passed):
    plan = make_plan(options, passed)
    if options.list:
        for run in plan:
            print(shlex.join(_command(run)))
        return 0
    teachers = {run.settings.values["teacher_folder"] for run in plan} - {None}
    if len(teachers) == 1 and len({run.fold for run in plan}) > 1:
        _print(ONE_TEACHER, sys.stderr)
    if options.executor == "slurm":
        failed = run_on_cluster(plan, options.slurm)
    else:
        failed = run_all(plan, max(1, options.jobs))
    for run in failed:
        log = f"; see {log_of(run)}" if log_of(run).exists() else ""
        _print(f"failed: {_title(run)}{log}", sys.stderr)
    done = [run for run in plan if run not in failed]
    try:
        if done:
            trained = done[0].settings.values["train_only"]
            _print("\n" + (validation_text if trained else test_text)(done))
    except (OSError, InputError) as error:
        print(f"no table: {error}", file=sys.stderr)
        return 1
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
