#!/usr/bin/env python3
"""Compares two versions of the code at the command line: same files, same figures.

> git worktree add ../old eaf24de
> python tools/equality.py ../old . ../equality [--ravdess=DIR --encoder=DIR
      --noise=DIR --babble=DIR]

Both versions run the same commands on the same generated corpora, in a folder
of the same name. Manifests and noise CSVs must be equal byte for byte,
probabilities to 1e-6; where speech has to be resampled, to the tolerance of
`RESAMPLED`. Prints a table and writes equality.json; exits with 1 on a difference.
"""

import argparse
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pandas as pd

ROOT = pathlib.Path(__file__).resolve().parents[1]
EXACT, RESAMPLED = 1e-6, 0.02
RECIPE = "recipes/IEMOCAP/mlkd"
SYSTEMS = "random teacher teacher_noisy student_clean student_noisy kd_last"
SYSTEMS = [*SYSTEMS.split(), "mlkd", "mlkd_semi"]
# Generates the corpora, with the tests' own writers.
TREES = """
import pathlib, sys
import numpy, soundfile
from experiment import SETTINGS
from helpers import save_encoder, tiny_config, write_corpus, write_noise
from iemocap_tree import write_iemocap
trees = pathlib.Path(sys.argv[1])
counts = dict.fromkeys(["neu", "hap", "sad", "ang"], 4)
write_iemocap(trees / "iemocap", {f"Session{n}": counts for n in range(1, 6)})
write_corpus(trees / "csv")
(trees / "tiny.yaml").write_text(SETTINGS)
save_encoder(trees / "encoder", tiny_config())

def noise(path, rate=16000):
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = list(str(path.relative_to(trees)).encode())
    samples = 0.1 * numpy.random.default_rng(seed).standard_normal(rate)
    soundfile.write(path, samples, rate)

for kind, source in (("noise", "free-sound"), ("music", "fma"), ("speech", "us-gov")):
    for n in range(6):
        noise(trees / f"musan/{kind}/{source}/{kind}-{source}-{n:04d}.wav")
places = "DKITCHEN DLIVING DWASHING NFIELD NPARK NRIVER OHALLWAY OMEETING OOFFICE"
places += " PCAFETER PRESTO PSTATION SCAFE SPSQUARE STRAFFIC TBUS TCAR TMETRO"
for place in places.split():
    for channel in ("ch01", "ch16"):
        noise(trees / f"demand/{place}/{channel}.wav", 48000)
for fold in range(1, 6):
    for kind in ("rain", "wind"):
        noise(trees / f"esc/{kind}_{fold}-{fold}00{len(kind)}-A.wav")
write_noise(trees / "folder")
write_noise(trees / "noise_csv")
rows = ["path,noise_type,group,split"]
for kind in ("rain", "wind"):
    for n, split in enumerate(["train", "train", "train", "valid", "test"]):
        rows.append(f"{kind}/{kind}_{n}.wav,{kind},{kind}{n},{split}")
(trees / "noise_csv/manifest.csv").write_text(chr(10).join(rows))
for rate in (48000, 44100):
    source, target = trees / "csv", trees / f"csv_{rate}"
    (target / "audio").mkdir(parents=True)
    rows = (source / "manifest.csv").read_text()
    (target / "manifest.csv").write_text(rows)
    for path in sorted((source / "audio").iterdir()):
        samples, _ = soundfile.read(path)
        times = numpy.arange(int(len(samples) * rate / 16000)) * 16000 / rate
        again = numpy.interp(times, numpy.arange(len(samples)), samples)
        soundfile.write(target / "audio" / path.name, again, rate)
"""


def preparation_jobs(trees):
    """Every protocol and noise corpus, without training."""
    iemocap = {"data_folder": trees / "iemocap", "partial_corpus": True}
    for protocol, folds in (("loso5", 5), ("s3prl", 5), ("speaker10", 10)):
        for fold in range(1, folds + 1):
            yield (
                f"{protocol}, fold {fold}, MUSAN",
                {**iemocap, "protocol": protocol, "fold": fold},
            )
    for corpus in ("demand", "esc", "folder", "csv"):
        folder = trees / {"csv": "noise_csv"}.get(corpus, corpus)
        noise = {"noise_corpus": corpus, "noise_folder": folder}
        if corpus != "demand":
            noise["noise_types"] = "[rain, wind]"
        yield f"loso5, fold 1, {corpus}", {**iemocap, **noise}
    tiny = {"settings": trees / "tiny.yaml", "data_folder": trees / "csv"}
    for fold in (1, 2, 3):
        noise = {"noise_folder": trees / "folder"}
        yield f"csv groups, fold {fold}", {**tiny, **noise, "fold": fold}


def training_jobs(trees):
    """Every system of the tiny corpus; two of them on resampled speech."""
    for data, systems in (
        ("csv", SYSTEMS),
        ("csv_48000", ["mlkd"]),
        ("csv_44100", ["mlkd"]),
    ):
        for system in systems:
            yield (
                f"{data}, {system}",
                {
                    "settings": trees / "tiny.yaml",
                    "data_folder": trees / data,
                    "noise_folder": trees / "folder",
                    "corpus_name": data,
                    "system": system,
                },
            )


def ravdess_job(options):
    """One fold of real speech with few epochs."""
    yield (
        "RAVDESS fold 1, mlkd",
        {
            "settings": ROOT / "examples/ravdess.yaml",
            "data_folder": options.ravdess,
            "noise_folder": options.noise,
            "babble_folder": options.babble,
            "wav2vec2_hub": options.encoder,
            "teacher_epochs": 2,
            "student_epochs": 2,
            "test_snrs": "[0]",
            "system": "mlkd",
        },
    )


def run_all(checkout, jobs, work):
    """Runs all jobs with one version; a line per job."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    environment.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
    (work / "run").mkdir()
    for place, (name, settings) in enumerate(jobs):
        training = "system" in settings
        results = "all" if training else f"prepared_{place}"
        values = {
            "noise_folder": work / "trees/musan",
            "wav2vec2_hub": work / "trees/encoder",
            "wav2vec2_folder": work / "run/hub",
            **settings,
            "results_folder": work / "run" / results,
        }
        command = [sys.executable, "train.py", "hparams/mlkd.yaml"]
        command += [f"--{key}={value}" for key, value in values.items()]
        command += ["--noprogressbar", "--device=cpu"]
        command += [] if training else ["--prepare_only=True"]
        done = subprocess.run(
            command,
            cwd=checkout / RECIPE,
            env=environment,
            capture_output=True,
            text=True,
        )
        print(f"{checkout.name}: {name}: exit {done.returncode}", flush=True)
        if done.returncode:
            sys.exit(done.stdout[-3000:] + done.stderr[-3000:])


def hashes(folder):
    """Hashes of manifests and noise CSVs; of paths only the name counts."""
    paths = [*folder.rglob("manifests/*.json"), *folder.rglob("noise/*.csv")]
    found = {}
    for path in sorted(paths):
        content = path.read_bytes()
        if path.suffix == ".csv":
            # CSVs name their folders in full, or as `$noise_folder`.
            content = re.sub(rb"[^,\n]*/", b"", content)
        if path.name != "preparation.json":
            name = str(path.relative_to(folder))
            found[name] = hashlib.sha256(content).hexdigest()
    return found


def compare_predictions(old, new):
    """Largest difference of a probability, run by run."""
    rows = {}
    for path in sorted(old.rglob("predictions.csv.gz")):
        place = path.relative_to(old)
        one, other = pd.read_csv(path), pd.read_csv(new / place)
        names = [name for name in one if name.startswith("p_")]
        keys = ["id", "noise", "snr_db"]
        same = one[keys].equals(other[keys])
        gap = (one[names] - other[names]).abs().max().max() if same else 1.0
        limit = RESAMPLED if re.search(r"csv_\d+", str(place)) else EXACT
        rows[str(place.parent)] = {"difference": float(gap), "limit": limit}
    return rows


def main(argv):
    """Runs both versions; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=pathlib.Path)
    parser.add_argument("new", type=pathlib.Path)
    parser.add_argument("work", type=pathlib.Path)
    for name in ("ravdess", "encoder", "noise", "babble"):
        parser.add_argument(f"--{name}", type=pathlib.Path)
    options = parser.parse_args(argv)
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "trees").exists():
        tests = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
        subprocess.run(
            [sys.executable, "-c", TREES, work / "trees"],
            env={**os.environ, "PYTHONPATH": tests},
            check=True,
        )
    jobs = [
        *preparation_jobs(work / "trees"),
        *training_jobs(work / "trees"),
        *(ravdess_job(options) if options.ravdess else ()),
    ]
    for name, checkout in (("old", options.old), ("new", options.new)):
        # What an earlier call made of the old version is kept.
        if name == "new":
            shutil.rmtree(work / name, ignore_errors=True)
        if not (work / name).exists():
            shutil.rmtree(work / "run", ignore_errors=True)
            run_all(checkout.resolve(), jobs, work)
            (work / "run").rename(work / name)
    old, new = hashes(work / "old"), hashes(work / "new")
    differing = sorted(
        name for name in {*old, *new} if old.get(name) != new.get(name)
    )
    found = compare_predictions(work / "old", work / "new")
    far = [
        name for name, row in found.items() if row["difference"] > row["limit"]
    ]
    print(f"\n{len(old)} manifests and noise CSVs, {len(differing)} differ")
    for name in differing:
        print(f"  {name}")
    for name, row in found.items():
        print(f"{row['difference']:.2e} (limit {row['limit']:g})  {name}")
    report = {"files": len(old), "differing": differing, "predictions": found}
    (work / "equality.json").write_text(json.dumps(report, indent=1) + "\n")
    return int(bool(differing or far))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
