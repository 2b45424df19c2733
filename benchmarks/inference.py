#!/usr/bin/env python3
"""How fast an exported student is, beside its teacher, at wav2vec2-base's shape.

Random weights: speed depends on the shape alone. Every variant answers the same
waveforms, in turn, round after round in one process, so that what slows the
machine slows all of them; ratios are medians over rounds. Memory is that of a
process of its own which opens the model and answers one waveform.

> python benchmarks/inference.py results/bench/inference.json
"""

import multiprocessing
import pathlib
import statistics
import sys
import tempfile
import time

import numpy as np
import torch
import transformers
from onnxruntime import quantization

from mlkd_lobes.classifier import EmotionClassifier
from mlkd_lobes.deployment.backends import OnnxBackend, TorchBackend
from mlkd_lobes.deployment.graph import write_int8, write_onnx
from mlkd_lobes.encoders import SSLEncoder
from mlkd_lobes.evaluation.cost import macs_per_second, peak_memory_mb
from mlkd_lobes.files import write_json
from mlkd_lobes.threads import torch_threads

LABELS = ["neu", "hap", "sad", "ang"]
STUDENT_LAYERS = 2
SECONDS, THREADS, ROUNDS = (1, 5, 15), (1, 2), 7
BASELINE = "teacher, torch fp32"


def speech(seconds, n=1):
    """Something like speech: noise whose level changes, as waveforms."""
    generator = np.random.default_rng(0)
    time_axis = np.arange(seconds * 16000) / 16000
    level = 0.1 * (1.1 + np.sin(2 * np.pi * 4 * time_axis))
    noise = generator.standard_normal((n, seconds * 16000))
    return list((level * noise).astype(np.float32))


def write_models(folder, config):
    """Teacher and student in every format; returns variant to path."""
    torch.manual_seed(0)
    source = str(folder / "source")
    transformers.AutoModel.from_config(config).save_pretrained(source)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(source)
    paths = {}
    for name, layers in (("teacher", None), ("student", STUDENT_LAYERS)):
        encoder = SSLEncoder(source, source, layers)
        model = EmotionClassifier(encoder, LABELS).eval()
        paths[f"{name}, torch fp32"] = folder / name
        model.save_pretrained(folder / name)
    onnx, dynamic, static = (
        folder / f"{name}.onnx" for name in ("fp32", "dynamic", "static")
    )
    write_onnx(model, onnx)
    quantization.quantize_dynamic(
        str(onnx), str(dynamic), op_types_to_quantize=["MatMul", "Gemm"]
    )
    write_int8(onnx, static, speech(2, 4))
    paths["student, ONNX fp32"] = onnx
    paths["student, ONNX dynamic INT8"] = dynamic
    paths["student, ONNX static INT8"] = static
    return paths


def open_variant(path, threads):
    """A backend; an ONNX one has threads of its own."""
    if path.suffix == ".onnx":
        return OnnxBackend(path, threads=threads)
    return TorchBackend(path)


def megabytes(path):
    """Size of a model's file."""
    file = path if path.is_file() else path / "model.safetensors"
    return file.stat().st_size / 1e6


def gmacs(path):
    """Billion multiply-accumulates per second of audio, for torch models."""
    return macs_per_second(TorchBackend(path).model) / 1e9


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


def in_own_process(function, *arguments):
    """The result of a call in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(function, arguments)


def peak_memory(path, seconds, threads):
    """Most memory of a process that answers one waveform, in MiB."""
    with torch_threads(threads):
        open_variant(path, threads)(speech(seconds))
    return peak_memory_mb("cpu")


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


def rows(paths, threads, seconds, rounds=ROUNDS):
    """One row per variant of what results/bench/inference.json holds."""
    macs = {"teacher": gmacs(paths[BASELINE])}
    macs["student"] = gmacs(paths["student, torch fp32"])
    peak = matmul_gflops(threads)
    timed = time_variants(paths, threads, seconds, rounds)
    for name, path in paths.items():
        latency = statistics.median(timed[name])
        pairs = zip(timed[BASELINE], timed[name])
        work = macs[name.split(",")[0]]
        yield {
            "name": name,
            "threads": threads,
            "seconds": seconds,
            "latency_ms": round(1000 * latency, 1),
            "real_time_factor": round(latency / seconds, 4),
            "ratio": round(statistics.median(b / own for b, own in pairs), 2),
            "peak_memory_mb": round(
                in_own_process(peak_memory, path, seconds, threads)
            ),
            "file_mb": round(megabytes(path), 1),
            "gmacs_per_second": round(work, 2),
            "share_of_matmul_peak": round(
                2 * work * seconds / latency / peak, 2
            ),
        }


def benchmark(config, threads=THREADS, seconds=SECONDS, rounds=ROUNDS):
    """All figures for a model of one shape."""
    with tempfile.TemporaryDirectory() as folder:
        paths = write_models(pathlib.Path(folder), config)
        peaks = {str(n): round(matmul_gflops(n), 1) for n in threads}
        variants = [
            row
            for n in threads
            for length in seconds
            for row in rows(paths, n, length, rounds)
        ]
    return {
        "name": "inference",
        "shape": f"{config.num_hidden_layers} layers, {config.hidden_size} wide",
        "baseline": BASELINE,
        "matmul_gflops": peaks,
        "variants": variants,
    }


def main(path):
    """Measures at wav2vec2-base's shape, writes and prints the figures."""
    result = benchmark(transformers.Wav2Vec2Config())
    write_json(path, result)
    for row in result["variants"]:
        print(
            "{threads} thread(s), {seconds:2} s, {name:27} {latency_ms:8} ms, "
            "{ratio:5} x, {peak_memory_mb:5} MB, file {file_mb:5} MB, "
            "{share_of_matmul_peak:4} of peak".format(**row)
        )


if __name__ == "__main__":
    main(sys.argv[1])
