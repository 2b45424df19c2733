#!/usr/bin/env python3
"""How fast an exported student is, beside its teacher, at wav2vec2-base's shape.

Random weights: speed depends on the shape alone. Every variant answers the same
waveforms, in turn, round after round in one process, so that what slows the
machine slows all of them; ratios are medians over rounds. Memory is that of a
process of its own (one_answer.py) that opens the model and answers one waveform.

> python benchmarks/inference.py results/bench/inference.json
"""

import argparse
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import torch
import transformers
from onnxruntime import quantization

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "tests"))

from helpers import LABELS, save_encoder
from machine import write_figures
from one_answer import open_variant, speech

from mlkd_lobes.data.batches import torch_threads
from mlkd_lobes.deployment.graph import write_int8, write_onnx
from mlkd_lobes.deployment.models import TorchModel
from mlkd_lobes.evaluation.metrics import macs_per_second
from mlkd_lobes.models.classifier import EmotionClassifier
from mlkd_lobes.models.encoder import SSLEncoder

# Transformer layers (None: all) and share of the front end's filters: one, or one
# per convolution.
EARLY_QUARTER = [0.25] * 3 + [0.5] * 4
EARLY_HALF = [0.5] * 4 + [1.0] * 3
NETWORKS = {
    "teacher": (None, 1.0),
    "student": (2, 1.0),
    "early-slim student": (2, EARLY_HALF),
    "slim student": (2, 0.5),
    "slim student of one layer": (1, 0.5),
    "slimmest student": (1, EARLY_QUARTER),
}
SECONDS, THREADS, ROUNDS = (1, 5, 15), (1, 2), 7
BASELINE = "teacher, torch fp32"


def write_models(folder, config):
    """Teacher and students in their formats; returns variant to path."""
    source = save_encoder(folder / "source", config)
    paths = {}
    for name, (layers, channels) in NETWORKS.items():
        encoder = SSLEncoder(source, source, layers, channels=channels)
        model = EmotionClassifier(encoder, LABELS).eval()
        paths[f"{name}, torch fp32"] = folder / name
        model.save_pretrained(folder / name)
        if name == "teacher":
            continue
        onnx, int8 = folder / f"{name}.onnx", folder / f"{name}_int8.onnx"
        write_onnx(model, onnx)
        if name == "student":
            paths["student, ONNX fp32"] = onnx
            dynamic = folder / "dynamic.onnx"
            quantization.quantize_dynamic(
                str(onnx), str(dynamic), op_types_to_quantize=["MatMul", "Gemm"]
            )
            paths["student, ONNX dynamic INT8"] = dynamic
        write_int8(onnx, int8, speech(2, 4))
        paths[f"{name}, ONNX static INT8"] = int8
    return paths


def megabytes(path):
    """Size of a model's file."""
    file = path if path.is_file() else path / "model.safetensors"
    return file.stat().st_size / 1e6


def gmacs(path, seconds):
    """Billion multiply-accumulates per second of audio, for torch models."""
    return macs_per_second(TorchModel.open(path).model, seconds) / 1e9


def seconds_of(function):
    """How long a call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def matmul_gflops(threads, size=2048, rounds=8):
    """What this machine reaches in a large product of float32 matrices."""
    a, b = torch.randn(2, size, size)
    with torch_threads(threads):
        best = min(seconds_of(lambda: a @ b) for _ in range(rounds))
    return 2 * size**3 / best / 1e9


def peak_memory(path, seconds, threads):
    """Most memory of a process that answers one waveform, in MiB."""
    script = pathlib.Path(__file__).with_name("one_answer.py")
    command = [sys.executable, script, path, str(seconds), str(threads)]
    return float(subprocess.check_output(command).split()[-1])


def time_variants(paths, threads, seconds, rounds=ROUNDS):
    """Per variant the seconds of every round, all variants in turn."""
    models = {name: open_variant(p, threads) for name, p in paths.items()}
    wavs = speech(seconds)
    found = {name: [] for name in models}
    with torch_threads(threads):
        for model in models.values():
            model(wavs)
        for _ in range(rounds):
            for name, model in models.items():
                found[name].append(seconds_of(lambda: model(wavs)))
    return found


def rows(paths, peak, threads, seconds, rounds=ROUNDS):
    """One row per variant of what results/bench/inference.json holds."""
    timed = time_variants(paths, threads, seconds, rounds)
    work = {n: gmacs(paths[f"{n}, torch fp32"], seconds) for n in NETWORKS}
    for name, path in paths.items():
        latency = statistics.median(timed[name])
        pairs = zip(timed[BASELINE], timed[name])
        macs = work[name.split(",")[0]]
        yield {
            "name": name,
            "threads": threads,
            "seconds": seconds,
            "latency_ms": round(1000 * latency, 1),
            "real_time_factor": round(latency / seconds, 4),
            "ratio": round(statistics.median(b / own for b, own in pairs), 2),
            "peak_memory_mb": round(peak_memory(path, seconds, threads)),
            "file_mb": round(megabytes(path), 1),
            "gmacs_per_second": round(macs, 2),
            "share_of_matmul_peak": round(
                2 * macs * seconds / latency / peak, 2
            ),
        }


def benchmark(config, threads=THREADS, seconds=SECONDS, rounds=ROUNDS):
    """All figures for a model of one shape."""
    with tempfile.TemporaryDirectory() as folder:
        paths = write_models(pathlib.Path(folder), config)
        peaks = {n: matmul_gflops(n) for n in threads}
        variants = [
            row
            for n in threads
            for length in seconds
            for row in rows(paths, peaks[n], n, length, rounds)
        ]
    return {
        "name": "inference",
        "shape": f"{config.num_hidden_layers} layers, {config.hidden_size} wide",
        "baseline": BASELINE,
        "matmul_gflops": {str(n): round(p, 1) for n, p in peaks.items()},
        "variants": variants,
    }


def main(path, threads, seconds):
    """Measures at wav2vec2-base's shape, writes and prints the figures."""
    result = benchmark(transformers.Wav2Vec2Config(), threads, seconds)
    write_figures(path, result)
    for row in result["variants"]:
        print(
            "{threads} thread(s), {seconds:2} s, {name:43} {latency_ms:8} ms, "
            "{ratio:5} x, {peak_memory_mb:5} MB, file {file_mb:5} MB, "
            "{share_of_matmul_peak:4} of peak".format(**row)
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", help="where the figures go")
    parser.add_argument("--threads", type=int, nargs="+", default=THREADS)
    parser.add_argument("--seconds", type=int, nargs="+", default=SECONDS)
    main(**vars(parser.parse_args()))
