#!/usr/bin/env python3
"""Kills the recipe at random moments, runs it again, compares the ends.

Every point is a run of teacher and student in a folder of its own, ended by
SIGKILL at a moment drawn from the time an uninterrupted run takes (one that ends
before its moment is none), and then run again by the same command. Weights,
predictions and results must be those of the uninterrupted run, byte for byte.

> PYTHONPATH=tests python tests/kill_points.py results/robustness/kill_points.json
"""

import argparse
import collections
import itertools
import pathlib
import random
import tempfile
import time

from experiment import Experiment
from helpers import save_encoder, tiny_config, write_corpus, write_noise

from mlkd_lobes.evaluation.results import read_results
from mlkd_lobes.files import file_sha256, write_json

SYSTEM = "mlkd"
# Targets at seven speeds, so that the cache is filled for a while.
CHANGES = {
    "teacher_epochs": 12,
    "student_epochs": 16,
    "speeds": "[85, 90, 95, 100, 105, 110, 115]",
    "num_workers": 1,
}
# What a run leaves, besides its results.
COMPARED = (
    "teacher/model/model.safetensors",
    f"{SYSTEM}/model/model.safetensors",
    f"{SYSTEM}/predictions.csv.gz",
)


def make_experiment(folder):
    """Tiny speech, noise and encoder below a folder."""
    return Experiment(
        folder,
        save_encoder(folder / "encoder", tiny_config()),
        write_corpus(folder / "corpus"),
        write_noise(folder / "noise"),
    )


def start(experiment, out):
    """Starts the command; its output goes beside the folder."""
    return experiment.start(SYSTEM, output_folder=out, **CHANGES)


def finish(experiment, out):
    """Runs the command to its end; returns what it leaves."""
    process = start(experiment, out)
    text, _ = process.communicate()
    assert process.returncode == 0, text
    hashes = [file_sha256(out / name) for name in COMPARED]
    return [*hashes, read_results(out / SYSTEM)["conditions"]]


def wait_for_beginning(process, out):
    """Waits until the interpreter has loaded and the run has its folder."""
    while not out.is_dir():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)


def working_seconds(experiment, out):
    """How long an uninterrupted run takes from its beginning to its end."""
    process = start(experiment, out)
    wait_for_beginning(process, out)
    started = time.monotonic()
    text, _ = process.communicate()
    assert process.returncode == 0, text
    return time.monotonic() - started


def moment(out):
    """What a killed run was doing, by what it left."""
    signs = {
        "*/save/partial-*": "writing a checkpoint",
        f"{SYSTEM}/stage.json": "evaluation",
        f"{SYSTEM}/save/CKPT*": "student",
        f"{SYSTEM}/targets/*/*/*": "student's first epoch, filling the cache",
        "teacher/stage.json": "student, before its first step",
        "teacher/save/CKPT*": "teacher",
    }
    for pattern, name in signs.items():
        if any(out.glob(pattern)):
            return name
    return "preparation, teacher's first epoch"


def try_point(experiment, out, seconds, expected):
    """One point; None if the run had ended before its moment."""
    process = start(experiment, out)
    wait_for_beginning(process, out)
    time.sleep(seconds)
    if process.poll() is not None:
        return None
    # Workers see their parent go and end by themselves.
    process.kill()
    process.communicate()
    found = moment(out)
    equal = finish(experiment, out) == expected
    return {"seconds": round(seconds, 3), "moment": found, "equal": equal}


def main(path, n_points, seed):
    """Tries the points, writes and prints them; returns the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        experiment = make_experiment(folder)
        # The first run is slow: files come into memory.
        expected = finish(experiment, folder / "whole")
        seconds = working_seconds(experiment, folder / "again")
        draw, points = random.Random(seed), []
        for n in itertools.count():
            after = draw.uniform(0, seconds)
            point = try_point(experiment, folder / f"{n}", after, expected)
            if point is not None:
                points.append(point)
                print(len(points), *point.values(), flush=True)
            if len(points) == n_points:
                break
    equal = sum(point["equal"] for point in points)
    write_json(
        path,
        {
            "compared": [*COMPARED, "conditions of results.json"],
            "seed": seed,
            "uninterrupted_seconds": round(seconds, 1),
            "tried": n_points,
            "equal": equal,
            "moments": collections.Counter(p["moment"] for p in points),
            "points": points,
        },
    )
    print(f"{equal} of {n_points} ended as if never killed")
    return int(equal < n_points)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=pathlib.Path)
    parser.add_argument("--points", type=int, default=24)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    raise SystemExit(main(options.path, options.points, options.seed))
