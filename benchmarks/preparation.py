#!/usr/bin/env python3
"""Preparation and loading at full size: time, memory, open files.

A generated tree with the counts of IEMOCAP: 5,531 turns of the four classes and
4,508 others, 4.5 s each; and twelve hours of noise in recordings of half an hour.
Everything is written to a temporary folder first (about 2.8 GB). Then the
training speech of a fold is loaded and mixed epoch after epoch by two workers.

> python benchmarks/preparation.py results/bench/preparation.json
"""

import multiprocessing
import pathlib
import sys
import tempfile
import time

import torch
import training  # first: it extends sys.path
from helpers import LABELS, write_wav
from iemocap_prepare import COUNTS, prepare_iemocap
from iemocap_tree import write_iemocap
from machine import write_figures
from noise_prepare import prepare_noise

from mlkd_lobes.evaluation.metrics import peak_memory_mb
from mlkd_lobes.training.overrides import read_settings

OTHERS_PER_SESSION = [902, 902, 902, 901, 901]
SECONDS = 4.5
RECORDINGS, MINUTES = 24, 30
EPOCHS = 3


def timed(function, *arguments):
    """Seconds that a call takes."""
    started = time.perf_counter()
    function(*arguments)
    return round(time.perf_counter() - started, 1)


def worker_megabytes():
    """Most memory that any running worker of this process has had."""
    paths = [f"/proc/{w.pid}/status" for w in multiprocessing.active_children()]
    states = [pathlib.Path(path).read_text() for path in paths]
    peaks = [int(text.split("VmHWM:")[1].split()[0]) for text in states]
    return round(max(peaks) / 2**10)


def write_trees(root):
    """Writes speech and noise."""
    for (session, counts), others in zip(COUNTS.items(), OTHERS_PER_SESSION):
        write_iemocap(root / "iemocap", {session: counts}, others, SECONDS)
    for number in range(RECORDINGS):
        noise = 0.1 * torch.randn(MINUTES * 60 * 16000)
        write_wav(root / f"noise/hum/{number}.wav", noise)


def prepare(root):
    """Figures of preparation."""
    speech = str(root / "iemocap"), root / "manifests", LABELS, {}, "loso5"
    noise = "folder", str(root / "noise"), root / "csvs", ["hum"]
    return {
        "turns": 5531 + sum(OTHERS_PER_SESSION),
        "seconds": timed(prepare_iemocap, *speech, 1),
        "seconds_when_prepared_already": timed(prepare_iemocap, *speech, 1),
        "noise_hours": RECORDINGS * MINUTES / 60,
        "noise_seconds": timed(prepare_noise, *noise),
        "peak_memory_mb": round(peak_memory_mb()),
    }


def load(root):
    """Figures of every epoch of loading and mixing, by the recipe's own loader."""
    yaml = str(training.YAML)
    options = {"data_folder": root / "iemocap", "noise_folder": root / "noise"}
    options |= {"system": "mlkd"}
    options |= {"noise_corpus": "folder", "noise_types": "[hum]"}
    options |= {"output_folder": root / "out"}
    text = "\n".join(f"{key}: {value}" for key, value in options.items())
    hparams = training.train.load(yaml, read_settings(yaml, text))
    training.train.prepare(hparams)
    loader = training.training_loader(hparams)
    return [load_epoch(hparams, loader, e + 1) for e in range(EPOCHS)]


def load_epoch(hparams, loader, epoch):
    """One epoch; the workers live on, as in a training."""
    loader.batch_sampler.set_epoch(epoch)
    hparams["add_noise"].set_epoch(epoch)
    started, utterances = time.perf_counter(), 0
    for batch in loader:
        utterances += len(batch)
    seconds = time.perf_counter() - started
    return {
        "epoch": epoch,
        "utterances": utterances,
        "workers": hparams["num_workers"],
        "seconds": round(seconds, 1),
        "peak_memory_mb": round(peak_memory_mb()),
        "peak_memory_of_a_worker_mb": worker_megabytes(),
        "open_files": len(list(pathlib.Path("/dev/fd").iterdir())),
    }


def main(path):
    """Writes the trees, prepares and loads them, writes the figures."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        training.in_own_process(write_trees, root, method="fork")
        result = training.in_own_process(prepare, root, method="fork")
        result["loading"] = training.in_own_process(load, root, method="fork")
    write_figures(path, result)
    print(result)


if __name__ == "__main__":
    main(sys.argv[1])
