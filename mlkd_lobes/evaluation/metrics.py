"""Metrics of a run and cost of a model.

WA, weighted accuracy, is plain accuracy; UA, unweighted accuracy, the mean of
the classes' recalls; F1 the mean of their F1 scores. Classes that do not occur
in the truth are left out of these means.
"""

import pathlib
import resource
import sys

import numpy as np
import pandas as pd
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mlkd_lobes.noise.add_noise import (
    CLEAN,
    DISTORTED,
    UNSEEN_PREFIX,
    Condition,
    is_additive,
)


def emotion_metrics(true, predicted, labels):
    """All metrics of one condition.

    Arguments
    ---------
    true : sequence of str
        The emotions.
    predicted : sequence of str
        The predictions.
    labels : sequence of str
        All classes, in order.

    Returns
    -------
    dict
        `n`, `WA`, `UA`, `F1` and `recall` per class (None where the class
        does not occur) as fractions, `confusion` with the truth as rows.

    Example
    -------
    >>> result = emotion_metrics(["a", "a", "b"], ["a", "b", "b"], ["a", "b"])
    >>> round(result["WA"], 3), result["UA"], result["confusion"]
    (0.667, 0.75, [[1, 1], [0, 1]])
    """
    n = len(labels)
    rows, columns = (pd.Categorical(v, labels).codes for v in (true, predicted))
    cells = n * rows.astype(int) + columns
    confusion = np.bincount(cells, minlength=n * n).reshape(n, n)
    hits, counts = np.diag(confusion), confusion.sum(1)
    present = counts > 0
    recall = hits / np.maximum(counts, 1)
    # Twice the true positives, divided by predicted plus true cases.
    f1 = 2 * hits / np.maximum(counts + confusion.sum(0), 1)
    return {
        "n": int(counts.sum()),
        "WA": float(hits.sum() / counts.sum()),
        "UA": float(recall[present].mean()),
        "F1": float(f1[present].mean()),
        "recall": {
            label: float(r) if occurs else None
            for label, r, occurs in zip(labels, recall, present)
        },
        "confusion": confusion.tolist(),
    }


def metric(results, condition, name="UA"):
    """One number of a run.

    Arguments
    ---------
    results : dict
        The content of results.json.
    condition : Condition
        The condition.
    name : str
        The metric.

    Returns
    -------
    float
        A fraction.
    """
    found = {
        Condition(entry["noise"], entry["snr_db"]): entry[name]
        for entry in results["conditions"]
    }
    return found[condition]


def noise_types(results, unseen=False):
    """Noise types of a run, in the order evaluated.

    Arguments
    ---------
    results : dict
        The content of results.json.
    unseen : bool
        The unseen ones instead of the others.

    Returns
    -------
    list of str
        Noise types.
    """
    names = dict.fromkeys(c["noise"] for c in results["conditions"])
    names = filter(is_additive, names)
    return [n for n in names if n.startswith(UNSEEN_PREFIX) == unseen]


def noisy_mean(results, name="UA", noise=None, snr=None):
    """Plain mean of a metric over noise types and SNRs.

    Arguments
    ---------
    results : dict
        The content of results.json.
    name : str
        The metric.
    noise : str, optional
        Only this type; default: all but unseen ones.
    snr : float, optional
        Only this SNR; default: all.

    Returns
    -------
    float
        A fraction.
    """
    kinds = [noise] if noise else noise_types(results)
    values = [
        entry[name]
        for entry in results["conditions"]
        if entry["noise"] in kinds and (snr is None or entry["snr_db"] == snr)
    ]
    return sum(values) / len(values)


def markdown(header, rows):
    """A Markdown table, columns aligned so that it is legible as plain text.

    Arguments
    ---------
    header : sequence of str
        Column names.
    rows : sequence of sequences of str
        The cells.

    Returns
    -------
    str
        Lines of text.

    Example
    -------
    >>> print(markdown(["a", "b"], [["1", "2"]]))
    | a |  b |
    |---|---:|
    | 1 |  2 |
    """
    table = [list(header), *[list(row) for row in rows]]
    widths = [max(2, *map(len, column)) for column in zip(*table)]
    widths[0] = max(len(row[0]) for row in table)

    def line(row):
        """A row of cells, padded."""
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(w) for cell, w in zip(row[1:], widths[1:])]
        return "| " + " | ".join(cells) + " |"

    rule = ["-" * (widths[0] + 2)] + ["-" * (w + 1) + ":" for w in widths[1:]]
    return "\n".join(
        [line(table[0]), "|" + "|".join(rule) + "|", *map(line, table[1:])]
    )


def run_table(results, name="UA"):
    """One run: noise types as rows, SNRs as columns.

    Arguments
    ---------
    results : dict
        The content of results.json.
    name : str
        The metric, in percent.

    Returns
    -------
    str
        A Markdown table; its last row is the mean over the types of training.
    """
    seen, unseen = noise_types(results), noise_types(results, unseen=True)
    noisy = [c for c in results["conditions"] if is_additive(c["noise"])]
    snrs = list(dict.fromkeys(c["snr_db"] for c in noisy))
    clean = f"{100 * metric(results, CLEAN, name):.1f}"
    rows = [["clean", *["" for _ in snrs], clean]]
    named = {kind: kind for kind in seen + unseen}
    if seen:
        named["mean, seen types"] = None
    for title, kind in named.items():
        cells = [noisy_mean(results, name, kind, snr) for snr in snrs]
        cells.append(noisy_mean(results, name, kind))
        rows.append([title, *[f"{100 * cell:.1f}" for cell in cells]])
    for entry in results["conditions"]:
        if entry["noise"].startswith(DISTORTED):
            value = f"{100 * entry[name]:.1f}"
            rows.append([entry["noise"], *["" for _ in snrs], value])
    header = [f"{name} (%)"] + [f"{snr:g} dB" for snr in snrs] + ["mean"]
    return markdown(header, rows)


def macs_per_second(model, seconds=10):
    """Multiply-accumulates per second of audio.

    Arguments
    ---------
    model : torch.nn.Module
        Takes waveforms [batch, time].
    seconds : int
        Length of the trial signal; attention grows with it.

    Returns
    -------
    float
        Of convolutions, matrix products and attention, by PyTorch's counter; on
        a GPU without the positional convolution, an FFT there.
    """
    device = next(model.parameters()).device
    signal = torch.zeros(1, seconds * 16000, device=device)
    counter = FlopCounterMode(display=False)
    # The counter overlooks fused attention on a CPU.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model(signal)
    return counter.get_total_flops() / 2 / seconds


def peak_memory_mb(device="cpu"):
    """Peak memory so far.

    Arguments
    ---------
    device : str
        "cpu": resident memory of this process; else of the GPU.

    Returns
    -------
    float
        In MiB.
    """
    if str(device).startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = pathlib.Path("/proc/self/status")
    if status.is_file():
        # Linux keeps the parent's `ru_maxrss` when a child starts a program.
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 2**10
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def model_cost(model, device):
    """Cost of a classifier, and where it was measured.

    Arguments
    ---------
    model : mlkd_lobes.models.classifier.EmotionClassifier
        The classifier; moved to the CPU.
    device : str
        Where it ran.

    Returns
    -------
    dict
        Parameters of encoder and head, MACs per second of audio, peak memory,
        device and threads.
    """
    gpu = device.startswith("cuda")
    return {
        "parameters": sum(p.numel() for p in model.encoder.parameters()),
        "head_parameters": sum(p.numel() for p in model.head.parameters()),
        # On a GPU the positional convolution is an FFT, which is not counted.
        "macs_per_second": macs_per_second(model.cpu()),
        "peak_memory_mb": peak_memory_mb(device),
        "device": torch.cuda.get_device_name() if gpu else device,
        "threads": torch.get_num_threads(),
    }
