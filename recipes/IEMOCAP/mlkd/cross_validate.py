#!/usr/bin/env python3
"""Folds x seeds x systems from one YAML file, each run a command of its own.

> python cross_validate.py hparams/mlkd.yaml --folds=all --seeds=1,2,3 \
    --systems=teacher,student_noisy,kd_last,mlkd \
    --data_folder=IEMOCAP_full_release --noise_folder=musan

Every other option goes to train.py. A run is finished when its results are there
and whole; started again, this goes on with what is missing. Runs of a fold and
seed share its teacher. `--list` prints the commands for a scheduler of yours.

Authors
 * The MLKD recipe's authors 2026
"""

import argparse
import contextlib
import json
import os
import pathlib
import shlex
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import torch
from filelock import FileLock
from plan import has_ended, is_done, is_trained, make_plan
from runs import SETTINGS, TEACHER, read_stage
from settings import resolved_values
from stages import SHARED_KEYS, training_options

from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.pooling import on_shared_folds, pool
from mlkd_lobes.evaluation.report import report_text
from mlkd_lobes.evaluation.results import find_runs
from mlkd_lobes.files import atomic_path
from speechbrain.core import RunOptions

HERE = pathlib.Path(__file__).resolve().parent
DEFAULT_SYSTEMS = "teacher,student_noisy,kd_last,mlkd"

# What a search compares besides the epoch chosen: the mean of the last epochs,
# which is not the best of many draws.
LAST_EPOCHS = 5
# What names a row of validation.csv.
RUN = ["fold", "seed", "system"]

# How often a free place looks whether a teacher is finished.
POLLING_SECONDS = 1


def parse(argv):
    """Splits a command line into what is ours and what is train.py's.

    Arguments
    ---------
    argv : list of str
        Without the program's name.

    Returns
    -------
    options : argparse.Namespace
        folds, seeds, systems, jobs, list and hparams_file.
    passed : list of str
        The rest.
    """
    parser = argparse.ArgumentParser(
        prog="cross_validate.py",
        description="Folds x seeds x systems; other options go to train.py.",
        # Else --seed, which is train.py's, would pass for --seeds.
        allow_abbrev=False,
    )
    parser.add_argument("hparams_file")
    parser.add_argument("--folds", default="all", help="all, or e.g. 1,2")
    parser.add_argument("--seeds", default="1", help="e.g. 1,2,3")
    parser.add_argument("--systems", default=DEFAULT_SYSTEMS)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument(
        "--list", action="store_true", help="print the commands, run none"
    )
    return parser.parse_known_args(argv)


def run_all(plan, jobs):
    """Runs what is not finished; a failure does not stop the others.

    Arguments
    ---------
    plan : list of Run
        All runs.
    jobs : int
        How many at a time; on several GPUs each takes the next one.

    Returns
    -------
    list of Run
        Those that failed, in the order of the plan.
    """
    pending, running, failed = list(plan), [], []
    lock, devices = threading.Lock(), _devices()

    def take():
        with lock:
            for run in pending:
                if not _must_wait(run, running):
                    pending.remove(run)
                    running.append(run)
                    return run
        return None

    def work(place):
        environment = dict(os.environ)
        if jobs > 1 and len(devices) > 1:
            environment["CUDA_VISIBLE_DEVICES"] = devices[place % len(devices)]
        while pending:
            run = take()
            if run is None:
                time.sleep(POLLING_SECONDS)
                continue
            finished = _finish(run, environment)
            with lock:
                running.remove(run)
                if not finished:
                    failed.append(run)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            list(pool.map(work, range(jobs)))
        except KeyboardInterrupt:
            # Those that run were interrupted as well; the others do not start.
            with lock:
                pending.clear()
            raise
    return sorted(failed, key=plan.index)


def _devices():
    """The GPUs that may be used, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [str(number) for number in range(torch.cuda.device_count())]
    return visible.split(",")


def _must_wait(run, running):
    """Whether another run of its fold and seed is training their teacher.

    Whatever it is, it would wait for that, but keep others from its place.
    """
    if is_trained(run.folder, TEACHER):
        return False
    return any(
        other.folder.parent == run.folder.parent
        for other in running
        if other.system == TEACHER or other.learns_from_teacher
    )


def _finish(run, environment):
    """A run, if it is not finished already; whether it is now."""
    try:
        if is_done(run):
            _say(f"finished already: {_title(run)}")
            return True
        return _execute(run, environment)
    # Whatever it is, a full disk or a damaged file: the other runs go on.
    except Exception as error:
        _say(f"{_title(run)}: {type(error).__name__}: {error}", sys.stderr)
        return False


def _execute(run, environment):
    """One run, its words kept beside its folder; whether it succeeded."""
    _say(f"running: {_title(run)}")
    log = log_of(run)
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8") as file:
        code = subprocess.call(
            _command(run),
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    # Another process may be at work on it by now: what it did is there.
    return code == 0 and has_ended(run)


def _command(run):
    """What does a run, in the folder that the paths in it are relative to."""
    return [sys.executable, str(HERE / "train.py"), *run.command]


def log_of(run):
    """Where the words of a run are kept.

    Arguments
    ---------
    run : Run
        The run.

    Returns
    -------
    pathlib.Path
        A file beside the run's folder.
    """
    return run.folder.with_name(f"{run.system}.log")


def _say(line, file=None):
    """Prints a line in one piece, or it would mix with those of other places.

    Nobody may be listening any more, or the disk be full that keeps what is
    said: no run depends on it.
    """
    with contextlib.suppress(OSError, ValueError):
        print(line + "\n", end="", file=file, flush=True)


def _title(run):
    return f"fold {run.fold}, seed {run.seed}, {run.system}"


def test_text(done):
    """What finished runs make of the test.

    Arguments
    ---------
    done : list of Run
        They have results.

    Returns
    -------
    str
        Tables over pooled folds.
    """
    runs = find_runs([run.folder for run in done])
    runs, left_out = on_shared_folds(runs)
    return report_text(pool(runs), runs[0].results, left_out=left_out)


def validation_text(done):
    """What trained runs make of their validation speech; keeps it as a file.

    Runs that the file tells of already stay in it: a search may take several
    calls.

    Arguments
    ---------
    done : list of Run
        They are trained.

    Returns
    -------
    str
        A row per system; validation.csv has one per run.
    """
    rows = pd.DataFrame(map(_validation_row, done))
    path = done[0].folder.parents[2] / "validation.csv"
    # Two searches may end together.
    with FileLock(path.with_name(".validation.lock")):
        _keep(rows, path)
    table = rows.groupby("system", sort=False)[["valid_UA", "last_UA"]]
    text = table.agg(["count", "mean", "std"]).round(4).to_string()
    return f"{text}\n\n{path}"


def _keep(rows, path):
    """Adds rows to a file; of a run trained anew only what it is now stays."""
    known = [rows, _earlier(path)] if path.exists() else [rows]
    known = pd.concat(known).drop_duplicates(RUN)
    with atomic_path(path) as temporary:
        known.sort_values(RUN).to_csv(temporary, index=False)


def _earlier(path):
    """What other calls of a search have written."""
    try:
        found = pd.read_csv(path)
    except ValueError as error:
        raise InputError(f"{path}: cannot be read ({error}); move it away")
    if not {*RUN} <= {*found}:
        raise InputError(f"{path}: lacks a column of {RUN}; move it away")
    return found


def _validation_row(run):
    """Scores of a trained run on its validation speech."""
    stage = read_stage(run.folder)
    scores = [e["valid_UA"] for e in stage["history"] if "valid_UA" in e]
    last = scores[-LAST_EPOCHS:]
    return {
        "system": run.system,
        "fold": run.fold,
        "seed": run.seed,
        "epoch": stage["epoch"],
        "valid_UA": stage["valid_UA"],
        "last_UA": sum(last) / len(last) if last else None,
        "training_seconds": stage["training_seconds"],
        "settings": json.dumps(_own_settings(run), sort_keys=True),
    }


def _own_settings(run):
    """What a run's training has that the defaults have not."""
    defaults = resolved_values(run.command[0], {"data_folder": None})
    defaults = {**training_options(defaults, RunOptions()), **defaults}
    settings = json.loads((run.folder / SETTINGS).read_text())
    return {
        key: value
        for key, value in settings.items()
        if key in defaults and key not in SHARED_KEYS and value != defaults[key]
    }


def main(argv):
    """Runs the plan, or lists it.

    Arguments
    ---------
    argv : list of str
        Without the program's name.

    Returns
    -------
    int
        The exit code: 1 if a run failed, or there is no table.
    """
    options, passed = parse(argv)
    try:
        plan = make_plan(options, passed)
    except (FileNotFoundError, InputError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.list:
        for run in plan:
            print(shlex.join(_command(run)))
        return 0
    try:
        failed = run_all(plan, max(1, options.jobs))
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    for run in failed:
        log = f"; see {log_of(run)}" if log_of(run).exists() else ""
        _say(f"failed: {_title(run)}{log}", sys.stderr)
    done = [run for run in plan if run not in failed]
    try:
        if done:
            trained = done[0].values["train_only"]
            _say("\n" + (validation_text if trained else test_text)(done))
    except (FileNotFoundError, InputError) as error:
        print(f"no table: {error}", file=sys.stderr)
        return 1
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
