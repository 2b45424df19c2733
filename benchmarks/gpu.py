#!/usr/bin/env python3
"""What a fold of IEMOCAP's size costs on the GPU of this machine.

The settings are mlkd.yaml's but for corpus, noise and epochs, the encoder is of
wav2vec2-base's shape with random weights. The corpus is random, a sixth of
IEMOCAP's size with lengths like its own, of five speakers, three of them for
training. Teacher and student are trained for three epochs and tested: the first
epoch fills the student's cache of targets, all others cost what the second does;
the third runs under torch.profiler and shows where its time goes.
From that follows what the epochs and the student's test take on five folds of
IEMOCAP; preparation and checkpoints come on top, and start-up is counted as if it
grew with the corpus. Beside time and memory, the student's logits are compared
with the CPU's. The results themselves mean nothing.

> python benchmarks/gpu.py results/bench/gpu.json
"""

import gc
import json
import os
import pathlib
import sys
import tempfile
import time

import torch
import transformers
from clock import Clock
from torch.utils.data.dataloader import _BaseDataLoaderIter as BaseIterator
from training import YAML, save_encoder, train, write_noise, write_speech

import speechbrain as sb
from mlkd_lobes.data.manifests import read_entries
from mlkd_lobes.evaluation.results import read_cost
from mlkd_lobes.files import write_json
from mlkd_lobes.models.classifier import load_classifier
from mlkd_lobes.models.encoder import SSLEncoder
from mlkd_lobes.training.checkpoints import SafeCheckpointer
from speechbrain.dataio.batch import PaddedBatch

# IEMOCAP: utterances of the four classes, of 4.5 s on average; folds of loso5.
LABELS = ["neu", "hap", "sad", "ang"]
UTTERANCES, SECONDS, FOLDS = 5531, 4.5, 5
# The corpus has one of SHARE utterances of IEMOCAP; EPOCHS are measured, one more is
# profiled.
SHARE, EPOCHS = 6, 2
NOISE_TYPES = ["hum", "rain", "street", "music", "cafe"]
SYSTEMS = ("teacher", "mlkd")
# What an epoch's time is spent in, and the function that does it.
PARTS = {
    "start of workers": (torch.utils.data.DataLoader, "__iter__"),
    "waiting for data": (BaseIterator, "__next__"),
    "copies": (PaddedBatch, "to"),
    "training steps": (sb.Brain, "fit_batch"),
    "validation": (sb.Brain, "_fit_valid"),
    "checkpoint": (SafeCheckpointer, "save_checkpoint"),
}
# Of the check of arithmetic: utterances of so many seconds.
LENGTHS = (1.0, 2.3, 4.5)


def write_inputs(root, config):
    """Speech of five speakers, five types of noise, an encoder."""
    n = UTTERANCES // SHARE
    write_speech(root / "speech", n - 2, speaker=lambda i: i % FOLDS)
    write_noise(root / "noise", NOISE_TYPES)
    save_encoder(root / "base", config)


def command_line(root, system, device):
    """What the user of such a corpus would type."""
    options = {
        "system": system,
        "corpus": "csv",
        "protocol": "groups",
        "n_folds": FOLDS,
        "label_map": f"{{{', '.join(f'{name}: {name}' for name in LABELS)}}}",
        "data_folder": root / "speech",
        "noise_corpus": "folder",
        "noise_folder": root / "noise",
        "noise_types": f"[{', '.join(NOISE_TYPES)}]",
        "wav2vec2_hub": root / "base",
        "teacher_epochs": EPOCHS + 1,
        "student_epochs": EPOCHS + 1,
        "results_folder": root / "results",
        "device": device,
    }
    arguments = [f"--{key}={value}" for key, value in options.items()]
    return [str(YAML), *arguments, "--noprogressbar"]


class LastEpoch:
    """Where the last epoch's time goes: the program's parts, and the device's.

    On the device kernels and copies overlap the program, which waits for them where
    it needs a value.
    """

    def __init__(self, device):
        self.clock, self.profiler, self.device = Clock(), None, {}
        if device.startswith("cuda"):
            kinds = [torch.profiler.ProfilerActivity.CUDA]
            self.profiler = torch.profiler.profile(activities=kinds)

    def __enter__(self):
        fit = sb.Brain._fit_train
        self.undo = [self.clock.watch(*at, name) for name, at in PARTS.items()]

        def fit_train(brain, **options):
            self.clock.calls.clear()
            if self.profiler and options["epoch"] > EPOCHS:
                self.profiler.start()
            return fit(brain, **options)

        sb.Brain._fit_train = fit_train
        self.undo.append(lambda: setattr(sb.Brain, "_fit_train", fit))
        return self

    def stop(self):
        """At the end of the epoch."""
        self.parts = self.clock.totals()
        if self.profiler:
            self.profiler.stop()
            for event in self.profiler.key_averages():
                kind = event.key.split()[0]
                kind = kind if kind in ("Memcpy", "Memset") else "kernels"
                spent = event.self_device_time_total / 1e6
                self.device[kind] = round(self.device.get(kind, 0) + spent, 3)

    def __exit__(self, *_):
        for function in reversed(self.undo):
            function()


def run(root, system, device):
    """Trains and tests a system; what its epochs, its test, its memory took."""
    seconds, evaluate = [], train.evaluate

    def timed_evaluate(*arguments):
        epoch.stop()
        started = time.perf_counter()
        results = evaluate(*arguments)
        seconds.append(time.perf_counter() - started)
        return results

    train.evaluate = timed_evaluate
    gc.collect()  # of the network before
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        with LastEpoch(device) as epoch:
            train.run(*sb.parse_arguments(command_line(root, system, device)))
    finally:
        train.evaluate = evaluate
    folder = folder_of(root, system)
    history, cost = (
        train.run_folder.read_stage(folder)["history"],
        read_cost(folder),
    )
    return {
        "epoch_seconds": [round(e["seconds"], 2) for e in history[:EPOCHS]],
        "seconds_of_profiled_epoch": epoch.parts,
        "device_seconds_of_profiled_epoch": epoch.device,
        "test_seconds": round(seconds[0], 2),
        "test_real_time_factor": cost["real_time_factor"],
        "peak_memory_mb": round(cost["peak_memory_mb"]),
    }


def folder_of(root, name):
    """Where a system's run is, or what the systems of the fold share."""
    return root / "results/csv/groups/fold_1/seed_1" / name


def seconds_of_speech(root):
    """How long each split is."""
    seconds = {}
    for split in ("train", "valid", "test"):
        path = folder_of(root, "manifests") / f"{split}.json"
        entries = read_entries(path).values()
        seconds[split] = round(sum(entry["length"] for entry in entries))
    return seconds


def differences(root, device):
    """Largest differences of a student's logits, in single precision (no TF32).

    For the rest of this process as well.
    """
    folder = folder_of(root, "mlkd") / "model"

    def encoder(source):
        return SSLEncoder(source, source)

    model = load_classifier(folder, encoder, LABELS).eval()
    generator = torch.Generator().manual_seed(0)
    wavs = [
        torch.randn(int(16000 * length), generator=generator)
        for length in LENGTHS
    ]
    lengths = torch.tensor(LENGTHS) / max(LENGTHS)
    batch = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    with torch.no_grad():
        expected = model(batch, lengths).logits
        model.to(device)
        together = model(batch.to(device), lengths.to(device)).logits.cpu()
        alone = [model(wav[None].to(device)).logits.cpu() for wav in wavs]
    return {
        "cpu and device": (together - expected).abs().max().item(),
        "alone and in a batch": (together - torch.cat(alone))
        .abs()
        .max()
        .item(),
        "largest logit": expected.abs().max().item(),
    }


def hours_all_folds(networks, speech, epochs):
    """Epochs of teacher and student on all folds, and the student's tests."""
    scale = UTTERANCES * SECONDS / sum(speech.values())
    seconds = networks["mlkd"]["test_seconds"]
    for name, n in epochs.items():
        first, *later = networks[name]["epoch_seconds"]
        seconds += first + (n - 1) * later[-1]
    return FOLDS * scale * seconds / 3600


def benchmark(root, config, device):
    """All figures."""
    write_inputs(root, config)
    networks = {system: run(root, system, device) for system in SYSTEMS}
    speech = seconds_of_speech(root)
    settings = train.overrides.read_values(YAML, {"data_folder": ""})
    epochs = {
        "teacher": settings["teacher_epochs"],
        "mlkd": settings["student_epochs"],
    }
    gpu = device.startswith("cuda")
    return {
        "name": "gpu",
        "device": torch.cuda.get_device_name() if gpu else device,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "precision": settings["precision"],
        "workers": settings["num_workers"],
        "batch_seconds": settings["max_batch_length"],
        "seconds_of_speech": speech,
        "networks": networks,
        "largest_logit_differences": differences(root, device),
        "epochs": epochs,
        "hours_all_folds": round(hours_all_folds(networks, speech, epochs), 2),
    }


def main(path):
    """Measures, writes and prints."""
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py: no GPU that PyTorch could use")
    with tempfile.TemporaryDirectory() as folder:
        config = transformers.Wav2Vec2Config()
        result = benchmark(pathlib.Path(folder), config, "cuda:0")
    write_json(path, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main(sys.argv[1])
