#!/usr/bin/env python3
"""UA of finished runs in float32 and INT8, as an export measures it.

> OMP_NUM_THREADS=1 python tools/quantised.py results/slim/int8.json RUN...
"""

import pathlib
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor

from mlkd_lobes.deployment import ONNX, find_model, graph, parity
from mlkd_lobes.deployment.export import quantise
from mlkd_lobes.deployment.models import open_classifier
from mlkd_lobes.deployment.run_speech import RunSpeech
from mlkd_lobes.evaluation.results import read_results
from mlkd_lobes.files import write_json

RUN_KEYS = ("system", "corpus", "fold", "seed")


def measured(run):
    """A run's UA in float32 and INT8, and why the gate refuses INT8, if it does."""
    about = read_results(run)
    model = open_classifier(find_model(run)[0]).eval()
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place)
        graph.write_onnx(model, folder / ONNX)
        int8 = quantise(folder, RunSpeech(run, model.labels))
    found = {key: about[key] for key in RUN_KEYS}
    return {**found, "refused": parity.int8_failure(int8), **int8}


def main(path, *runs):
    """Measures one run per core at a time, writes and prints."""
    with ProcessPoolExecutor() as executor:
        found = list(executor.map(measured, map(pathlib.Path, sorted(runs))))
    write_json(path, {"runs": found})
    for run in found:
        print(run)


if __name__ == "__main__":
    main(*sys.argv[1:])
