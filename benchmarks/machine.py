"""The machine that figures are measured on, for the other benchmarks."""

import os
import pathlib
import platform

import onnxruntime
import torch

from mlkd_lobes.files import write_json

# What decides how fast INT8 is, best first: flags of Linux and their names.
INSTRUCTIONS = {
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX2 VNNI",
    "avx2": "AVX2 only",
}


def write_figures(path, figures):
    """Writes a benchmark's figures together with the machine."""
    write_json(path, {"machine": machine(), **figures})


def machine(cpuinfo="/proc/cpuinfo"):
    """Processor, its instructions, cores and threads, versions of libraries."""
    file = pathlib.Path(cpuinfo)
    lines = file.read_text().splitlines() if file.is_file() else []
    pairs = [[part.strip() for part in line.split(":", 1)] for line in lines]
    info = dict(pair for pair in pairs if len(pair) == 2)
    flags = info.get("flags", "").split()
    known = [name for flag, name in INSTRUCTIONS.items() if flag in flags]
    return {
        "processor": info.get("model name", platform.processor()),
        "instructions": known[0] if known else "",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
