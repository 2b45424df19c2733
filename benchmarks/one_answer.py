#!/usr/bin/env python3
"""Most memory of a process that opens a model and answers one waveform, in MiB.

Imports nothing but what the model's backend needs.

> python benchmarks/one_answer.py model.onnx 5 1
"""

import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from mlkd_lobes.deployment.models import OnnxModel, TorchModel  # noqa: E402


def speech(seconds, n=1):
    """Something like speech: noise whose level changes, as waveforms."""
    generator = np.random.default_rng(0)
    time_axis = np.arange(seconds * 16000) / 16000
    level = 0.1 * (1.1 + np.sin(2 * np.pi * 4 * time_axis))
    noise = generator.standard_normal((n, seconds * 16000))
    return list((level * noise).astype(np.float32))


def open_variant(path, threads):
    """A backend; PyTorch's threads are set by its caller."""
    if pathlib.Path(path).suffix == ".onnx":
        return OnnxModel(path, threads=threads)
    return TorchModel.open(path)


def main(path, seconds, threads):
    """Answers and prints the figure."""
    if pathlib.Path(path).suffix != ".onnx":
        import torch

        torch.set_num_threads(threads)
    open_variant(path, threads)(speech(seconds))
    status = pathlib.Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) / 2**10)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
