#!/usr/bin/env python3
"""How an export's INT8 graph differs from float32 on recordings: labels, probabilities.

The recordings are whole files, silence included, as `predict` gets them.

> python tools/untrimmed.py EXPORT RECORDINGS... --write=FILE
"""

import argparse
import pathlib

import numpy as np

from mlkd_lobes.data.audio import read_audio
from mlkd_lobes.deployment import INT8, ONNX, SUMMARY
from mlkd_lobes.deployment.models import OnnxModel
from mlkd_lobes.deployment.parity import in_batches
from mlkd_lobes.files import read_json, write_json


def compare(folder, recordings):
    """What FILE will hold."""
    wavs = [read_audio(path) for path in recordings]
    float32, int8 = (
        in_batches(OnnxModel(folder / name, threads=1), wavs)
        for name in (ONNX, INT8)
    )
    summary = read_json(folder / SUMMARY)
    same = float32.argmax(-1) == int8.argmax(-1)
    differences = np.abs(float32 - int8)
    return {
        "run": summary["run"],
        "recordings": len(wavs),
        "seconds": round(sum(map(len, wavs)) / summary["sample_rate"], 1),
        "agreement": round(float(same.mean()), 4),
        "mean_difference": round(float(differences.mean()), 4),
        "largest_difference": round(float(differences.max()), 4),
    }


def main():
    """Compares, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("export", type=pathlib.Path)
    parser.add_argument("recordings", nargs="+", type=pathlib.Path)
    parser.add_argument("--write", type=pathlib.Path)
    arguments = parser.parse_args()
    found = compare(arguments.export, sorted(arguments.recordings))
    print(found)
    if arguments.write:
        write_json(arguments.write, found)


if __name__ == "__main__":
    main()
