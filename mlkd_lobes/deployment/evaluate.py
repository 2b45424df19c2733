"""Evaluates any model on exactly the test of a finished run.

The same manifest, noise and conditions as the run's, so that the report shows the
model beside the run with paired differences.
"""

from __future__ import annotations

import os
import pathlib
import re
import tempfile
import time

import numpy as np
from tqdm import tqdm

from mlkd_lobes.data.audio import SAMPLE_RATE
from mlkd_lobes.deployment.outside import Relabelled
from mlkd_lobes.deployment.parity import in_batches
from mlkd_lobes.deployment.run_speech import RunSpeech
from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation import results
from mlkd_lobes.evaluation.metrics import peak_memory_mb
from mlkd_lobes.files import file_sha256, text_sha256
from mlkd_lobes.models.classifier import state_sha256
from mlkd_lobes.noise.add_noise import Condition

# Seconds of audio that are classified at once.
BATCH_SECONDS = 60
# What the results of a run and those of a model on its test have in common.
SHARED = ("corpus", "protocol", "fold", "seed", "noise_corpus", "labels")
SHARED += ("test_sha256", "split_sha256", "note", "label_map")


def evaluate(
    model, source, run, name, mapping=None, places=(None, None), device="cpu"
) -> pathlib.Path:
    """Writes the results of a model on a run's test; their folder, beside the run.

    model: from `open_any`; source: what it was opened from; name: what results call
    it; mapping: its classes to the run's labels, if they differ; places: of speech and
    noise, if not where the run found them.
    """
    run = pathlib.Path(os.path.abspath(run))
    folder, about = run.parent / name, results.read_results(run)
    if (folder / "settings.json").exists():
        raise InputError(f"{folder}: holds a training; give another --name")
    model = Relabelled(model, about["labels"], mapping)
    speech = RunSpeech(run, model.labels, *places)
    grid = [Condition(c["noise"], c["snr_db"]) for c in about["conditions"]]
    _check_test(run, about, speech, grid)
    folder.mkdir(exist_ok=True)
    # One that may not be written to is an error before the work.
    tempfile.TemporaryFile(dir=folder).close()
    sha256 = _content_sha256(model.model.module, source)
    records, seconds, spent = [], 0.0, 0.0
    total = len(speech.manifests["test"])
    for utterance in tqdm(speech.test(grid), total=total, disable=None):
        started = time.perf_counter()
        size = max(1, BATCH_SECONDS * SAMPLE_RATE // utterance.wavs[0].shape[1])
        parts = [in_batches(model, wavs, size) for wavs in utterance.wavs]
        found = np.concatenate(parts)
        spent += time.perf_counter() - started
        seconds += sum(wav.size for wav in utterance.wavs) / SAMPLE_RATE
        records.append(results.Record(*utterance[:-1], grid, found))
    header = {key: about[key] for key in SHARED if key in about}
    described = {
        # Folders are private: of a path its last part is kept.
        "source": re.sub(r"^(\w+:)?[/.~].*/", r"\1", source.rstrip("/")),
        "sha256": sha256,
        "labels": model.mapping,
        "left_out": model.left_out,
    }
    compared = [f"{about['system']} - {name}"]
    header.update(
        comparisons=[*(about.get("comparisons") or ()), *compared],
        system=name,
        epoch=None,
        teacher_sha256=None,
        hparams_sha256=text_sha256([described, about.get("test_sha256")]),
        git=results.code_version(),
        model=described,
        settings={"model": described},
    )
    cost = _cost(model, device, spent / seconds)
    table = results.prediction_table(records, model.labels)
    results.write_run(folder, header, table, cost)
    return folder


def _check_test(run, about, speech, grid):
    """Raises if a run's speech or noise is not what the run was tested on."""
    files = run / speech.about["test"]["manifest"], speech.noise["test"].types
    test = results.describe_test(grid, *files, "fp32")
    if about.get("test_sha256") != text_sha256(test):
        raise InputError(
            f"{run}: its test speech or noise has changed since it was evaluated, "
            "or that was in another precision than fp32; evaluate the run again "
            "(train.py … --test_only --eval_precision=fp32)"
        )


def _content_sha256(module, source):
    """A hash of a model's weights, so that no other one is pooled with it."""
    if module is not None:
        return state_sha256(module)
    return file_sha256(source) if os.path.isfile(source) else None


def _cost(model, device, real_time_factor):
    """What can be measured of a model; None where it is not PyTorch's."""
    module = model.model.module
    return {
        "parameters": module and sum(p.numel() for p in module.parameters()),
        "real_time_factor": real_time_factor,
        "peak_memory_mb": peak_memory_mb(device),
        "device": device,
    }
