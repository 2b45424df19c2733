#!/usr/bin/env python3
"""Where training and a test of the grid spend their time, now and before.

A student of tiny shape is trained for two epochs and tested under all conditions, by
train.py itself on one thread, with the code of this checkout and of an earlier commit
in turn. Timed are the calls that read an utterance, mix it (noise read and decoded
within), and compute logits of the test. Two layouts: rates and formats of RAVDESS and
ESC-50, and of IEMOCAP and DEMAND.

> python benchmarks/loading.py results/bench/loading.json [COMMIT]
"""

import contextlib
import io
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import numpy as np
import soundfile
from clock import Clock

ROOT = pathlib.Path(__file__).resolve().parents[1]
COMMIT, ROUNDS = "eaf24de", 3
# Speech: rate, median seconds, utterances per speaker; noise: rate, format, files per
# type, seconds each.
LAYOUTS = {
    "RAVDESS, ESC-50": ((48000, 1.9, 40), (44100, "ogg", 40, 5)),
    "IEMOCAP, DEMAND": ((16000, 3.6, 10), (16000, "wav", 8, 300)),
}
SPEAKERS, SPREAD, EPOCHS = 6, 0.4, 2
NOISE_TYPES = ["hum", "rain", "street", "music", "cafe"]
LABELS = ["neu", "hap", "sad", "ang"]
TRAIN, TEST = ("reading", "mixing"), ("reading", "mixing", "computing")


# ---- Corpora -----------------------------------------------------------------


def write_speech(folder, rate, median, utterances):
    """A csv corpus of random utterances."""
    draw, rows = np.random.default_rng(0), ["path,speaker,emotion"]
    folder.mkdir(parents=True)
    for i in range(SPEAKERS * utterances):
        seconds = median * np.exp(SPREAD * draw.standard_normal())
        wav = 0.1 * draw.standard_normal(int(rate * seconds))
        soundfile.write(folder / f"{i}.wav", wav, rate)
        rows.append(f"{i}.wav,s{i % SPEAKERS},{LABELS[i // SPEAKERS % 4]}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")


def write_noise(folder, rate, suffix, files, seconds):
    """Random noise, a folder per type."""
    draw = np.random.default_rng(1)
    for kind in NOISE_TYPES:
        (folder / kind).mkdir(parents=True)
        for i in range(files):
            wav = 0.1 * draw.standard_normal(rate * seconds)
            soundfile.write(folder / kind / f"{i}.{suffix}", wav, rate)


def write_encoder(folder):
    """An encoder with random weights, small enough for a CPU."""
    from training import TINY, save_encoder

    save_encoder(folder, TINY)


# ---- One run, in a process of its own ------------------------------------------


def parts(checkout):
    """What reads, mixes and computes, in this checkout and in one of eaf24de."""
    assert "mlkd_lobes" not in sys.modules  # another checkout's
    sys.path[:0] = [str(checkout), str(checkout / "recipes/IEMOCAP/mlkd")]
    if (checkout / "mlkd_lobes/data").is_dir():
        from mlkd_lobes.data import batches
        from mlkd_lobes.models.classifier import EmotionClassifier
        from mlkd_lobes.noise.add_noise import KeyedAddNoise

        return batches, KeyedAddNoise, "apply_conditions", EmotionClassifier
    import data

    from mlkd_lobes.classifier import EmotionClassifier
    from mlkd_lobes.noise import KeyedAddNoise

    return data, KeyedAddNoise, "grid", EmotionClassifier


def run(checkout, arguments):
    """Trains and tests; milliseconds per utterance of every part."""
    reader, noise, grid, classifier = parts(checkout)
    import torch
    import train

    torch.set_num_threads(1)
    clock = Clock()
    clock.watch(reader, "read_audio", "reading")
    clock.watch(noise, "corrupt", "mixing")
    clock.watch(noise, grid, "mixing of a grid")
    clock.watch(
        classifier, "forward", "computing", lambda m, *_: not m.training
    )
    with contextlib.redirect_stdout(io.StringIO()):
        train.main([*arguments, "--train_only=True"])
        read, mixed = clock.calls["reading"], clock.calls["mixing"]
        training = {"reading": mean(read), "mixing": mean(mixed)}
        clock.calls.clear()
        if hasattr(train, "calibration"):
            # Today a test begins with validation speech, for the temperature.
            clock.forget_before(train.calibration, "fit_temperature")
        train.main([*arguments, "--test_only"])
    n, calls = len(clock.calls["reading"]), clock.calls
    names = {"reading": "reading", "mixing of a grid": "mixing"}
    names["computing"] = "computing"
    test = {new: 1000 * sum(calls[old]) / n for old, new in names.items()}
    return {"training": training, "test": test}


def mean(seconds):
    """Milliseconds per call."""
    return 1000 * sum(seconds) / len(seconds)


# ---- All runs ----------------------------------------------------------------


def arguments(root, layout, out):
    """Of train.py."""
    options = {
        "system": "student_noisy",
        "data_folder": root / layout / "speech",
        "corpus": "csv",
        "protocol": "groups",
        "n_folds": 3,
        "label_map": "{neu: neu, hap: hap, sad: sad, ang: ang}",
        "noise_corpus": "folder",
        "noise_folder": root / layout / "noise",
        "noise_types": f"[{', '.join(NOISE_TYPES)}]",
        "valid_snrs": "[0]",
        "teacher_epochs": 1,
        "student_epochs": EPOCHS,
        "wav2vec2_hub": root / "encoder",
        "output_folder": out,
        "precision": "fp32",
        "num_workers": 0,
    }
    return [f"--{key}={value}" for key, value in options.items()]


def measured(checkout, root, layout):
    """Milliseconds per utterance of a run by a checkout's code."""
    with tempfile.TemporaryDirectory(dir=root) as out:
        yaml = checkout / "recipes/IEMOCAP/mlkd/hparams/mlkd.yaml"
        command = [sys.executable, __file__, "--one", checkout, yaml]
        command += arguments(root, layout, out)
        command += ["--device=cpu", "--noprogressbar"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [str(part) for part in command],
            env=environment,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def compare(root, former):
    """Medians of all rounds, before and now, per layout."""
    result = {}
    for layout, (speech, noise) in LAYOUTS.items():
        write_speech(root / layout / "speech", *speech)
        write_noise(root / layout / "noise", *noise)
        found = {"before": [], "now": []}
        for number in range(ROUNDS):
            checkouts = {"before": former, "now": ROOT}
            for name in sorted(checkouts, reverse=number % 2 == 1):
                found[name].append(measured(checkouts[name], root, layout))
        result[layout] = summary(found)
        print(layout, json.dumps(result[layout], indent=1), flush=True)
    return result


def summary(found):
    """Milliseconds per utterance by part, and how much less loading and mixing take."""
    result = {}
    for part, names in (("training", TRAIN), ("test", TEST)):
        rows = {
            when: {
                name: round(
                    statistics.median(run[part][name] for run in runs), 2
                )
                for name in names
            }
            for when, runs in found.items()
        }
        before, now = (
            sum(rows[when][name] for name in TRAIN)
            for when in ("before", "now")
        )
        result[part] = {
            "ms_per_utterance": rows,
            "reading_and_mixing_ratio": round(before / now, 2),
        }
    return result


def main(path, commit=COMMIT):
    """Unpacks the earlier code, runs, writes the figures."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        former = root / "former"
        former.mkdir()
        archive = subprocess.run(
            ["git", "archive", commit],
            cwd=ROOT,
            check=True,
            stdout=subprocess.PIPE,
        )
        subprocess.run(
            ["tar", "-x", "-C", former], input=archive.stdout, check=True
        )
        write_encoder(root / "encoder")
        result = compare(root, former)
    # Not above: a run of the earlier commit imports its own mlkd_lobes.
    from machine import write_figures

    document = {"commit_before": commit, "rounds": ROUNDS, "layouts": result}
    write_figures(path, document)


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        print(json.dumps(run(pathlib.Path(sys.argv[2]), sys.argv[3:])))
    else:
        main(*sys.argv[1:])
