#!/usr/bin/env python3
"""Distillation with ten hours and with a thousand hours of unlabelled speech.

The thousand hours are simulated: a table with as many rows, whose paths are all
different and lead to the same few recordings. Measured, each in a process of its
own: the list, the first training with it, and the most memory of both.

> python benchmarks/unlabelled.py results/bench/unlabelled.json
"""

import itertools
import pathlib
import statistics
import sys
import tempfile

import torch
import training  # first: it extends sys.path
from preparation import timed

from mlkd_lobes.evaluation.metrics import peak_memory_mb
from mlkd_lobes.files import write_json

HOURS, SECONDS, FILES, STEPS = (10, 1000), 12, 20, 60
BITS = 20


def write_table(folder, hours):
    """Rows of different names for a few recordings."""
    folder.mkdir()
    for number in range(FILES):
        wav = 0.1 * torch.randn(16000 * SECONDS)
        training.write_wav(folder / f"{number}.wav", wav)
    with open(folder / "manifest.csv", "w", encoding="utf-8") as table:
        table.write("path\n")
        for row in range(hours * 3600 // SECONDS):
            # "./" and ".//" encode the bits of the row; the file is the same.
            name = "".join("./" + "/" * (row >> b & 1) for b in range(BITS))
            table.write(f"{name}{row % FILES}.wav\n")


def measure(root, hours):
    """Figures of a process that lists, or finds the list, and trains."""
    changes = {
        "unlabelled": "folder",
        "unlabelled_folder": root / str(hours),
        "output_folder": root / f"out_{hours}",
        "num_workers": 1,
        # Of a thousand hours hardly a crop comes twice.
        "cache_limit": 0,
    }
    listing = timed(lambda: training.load(root, "tiny", "few", **changes))
    options = training.LATER, root, "tiny", "few"
    brain, loader = training.make_brain(*options, **changes)
    loop = training.steps(brain, loader)
    seconds = [step.seconds for step in itertools.islice(loop, STEPS)]
    (database,) = pathlib.Path(changes["output_folder"]).glob("*.db")
    return {
        "hours": hours,
        "recordings": hours * 3600 // SECONDS,
        "crops": len(loader.dataset.datasets[1]),
        "listing_seconds": listing,
        "database_mb": round(database.stat().st_size / 2**20, 1),
        "steps": len(seconds),
        "seconds_per_step": round(statistics.median(seconds[1:]), 3),
        "peak_memory_mb": round(peak_memory_mb("cpu")),
    }


def main(path):
    """Writes the tables, measures and writes the figures."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        training.write_speech(root / "few", 400)
        training.write_noise(root / "noise")
        training.write_teacher(root / "tiny", training.TINY)
        for hours in HOURS:
            write_table(root / str(hours), hours)
        result = [
            training.in_own_process(measure, root, hours) for hours in HOURS
        ]
    write_json(path, result)
    print(*result, sep="\n")


if __name__ == "__main__":
    main(sys.argv[1])
