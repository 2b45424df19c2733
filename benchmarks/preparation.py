#!/usr/bin/env python3
"""How long preparation takes at full size, and how much memory.

A generated tree with the counts of IEMOCAP: 5,531 turns of the four classes and
4,508 others, 4.5 s each; and recordings of noise, half an hour each. Everything
is written to a temporary folder first (about 1.7 GB).

> python benchmarks/preparation.py results/bench/preparation.json
"""

import multiprocessing
import pathlib
import resource
import sys
import tempfile
import time

import torch

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "recipes/IEMOCAP/mlkd"), str(ROOT / "tests")]

from helpers import write_wav  # noqa: E402
from iemocap_prepare import COUNTS, prepare_iemocap  # noqa: E402
from iemocap_tree import write_iemocap  # noqa: E402
from noise_prepare import prepare_noise  # noqa: E402

from mlkd_lobes.files import write_json  # noqa: E402

OTHERS_PER_SESSION = [902, 902, 902, 901, 901]
SECONDS = 4.5
RECORDINGS, MINUTES = 12, 30
LABELS = ["neu", "hap", "sad", "ang"]


def timed(function, *arguments):
    """Seconds that a call takes."""
    started = time.perf_counter()
    function(*arguments)
    return round(time.perf_counter() - started, 1)


def peak_megabytes():
    """Most memory this process has had."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def write_trees(root):
    """Writes speech and noise; in a process of its own, whose memory is its own."""
    for (session, counts), others in zip(COUNTS.items(), OTHERS_PER_SESSION):
        write_iemocap(root / "iemocap", {session: counts}, others, SECONDS)
    noise = 0.1 * torch.randn(MINUTES * 60 * 16000)
    for number in range(RECORDINGS):
        write_wav(root / f"noise/hum/{number}.wav", noise)


def main(path):
    """Writes the trees, prepares them, writes the figures."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        writer = multiprocessing.Process(target=write_trees, args=[root])
        writer.start()
        writer.join()
        speech = str(root / "iemocap"), root / "manifests", LABELS, {}, "loso5"
        noise = "folder", str(root / "noise"), root / "csvs", ["hum"]
        result = {
            "turns": 5531 + sum(OTHERS_PER_SESSION),
            "seconds": timed(prepare_iemocap, *speech, 1),
            "seconds_when_prepared_already": timed(prepare_iemocap, *speech, 1),
            "noise_hours": RECORDINGS * MINUTES / 60,
            "noise_seconds": timed(prepare_noise, *noise),
            "peak_memory_mb": peak_megabytes(),
        }
    write_json(path, result)
    print(result)


if __name__ == "__main__":
    main(sys.argv[1])
