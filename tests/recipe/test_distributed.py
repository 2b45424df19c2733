"""Two processes on CPU: torchrun starts the same command."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
import train
from helpers import RECIPE
from safetensors.torch import load_file

import speechbrain as sb
from mlkd_lobes.evaluation.results import read_predictions

# What a model draws in training.
DROPOUTS = ["hidden_dropout", "attention_dropout", "activation_dropout"]
DROPOUTS += ["feat_proj_dropout", "layerdrop", "mask_time_prob"]
# Of a weight: sums in another order.
TOLERANCE = 1e-5

# A file system on which the second process reads late.
READS_LATE = """
import time
from mlkd_lobes.training.checkpoints import SafeCheckpointer
from speechbrain.utils.distributed import if_main_process

class SlowCheckpointer(SafeCheckpointer):
    def find_checkpoints(self, **selection):
        found = super().find_checkpoints(**selection)
        if not if_main_process():
            time.sleep(2)
        return found
"""
# And one on which the first process names its checkpoints late.
NAMES_LATE = """
import pathlib
import time
from mlkd_lobes.training.checkpoints import SafeCheckpointer as SlowCheckpointer

rename = pathlib.Path.rename

def late(path, target):
    if path.name.startswith("partial-"):
        time.sleep(2)
    return rename(path, target)

pathlib.Path.rename = late
"""
# Seen where each process ends: a thread that outlives Python may abort it.
NO_THREAD_OF_GLOO = """
import atexit
import os
import pathlib

def check():
    names = pathlib.Path("/proc/self/task").glob("*/comm")
    if "pt_gloo_runloop" in [name.read_text().strip() for name in names]:
        os._exit(7)

atexit.register(check)
"""
# No run here takes a tenth of it: processes that wait for each other for ever.
HANGS_AFTER = 900


def changed_yaml(folder, old, new):
    """A copy of the recipe's YAML file with something else in one place."""
    text = (RECIPE / "hparams/mlkd.yaml").read_text()
    assert text.count(old) == 1
    (folder / "mlkd.yaml").write_text(text.replace(old, new))
    return folder / "mlkd.yaml"


def run_in_two(yaml, options, *folders):
    """The command in two processes, with modules of these folders."""
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    torchrun += ["--standalone", "--nproc_per_node=2"]
    path = os.pathsep.join([*map(str, folders), *filter(None, sys.path)])
    done = subprocess.run(
        [*torchrun, str(RECIPE / "train.py"), str(yaml), *options],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=HANGS_AFTER,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("slow", [READS_LATE, NAMES_LATE])
def test_two_processes_leave_complete_results(experiment, tmp_path, slow):
    (tmp_path / "slow.py").write_text(slow)
    known = "mlkd_lobes.training.checkpoints.SafeCheckpointer"
    yaml = changed_yaml(tmp_path, known, "slow.SlowCheckpointer")
    options = experiment.command(
        "mlkd",
        "--distributed_backend=gloo",
        teacher_epochs=5,  # so that checkpoints are deleted
        student_epochs=1,
    )[1:]
    run_in_two(yaml, options, tmp_path)
    folder = experiment.arguments["output_folder"] / "mlkd"
    test = json.loads((folder.parent / "manifests/test.json").read_text())
    labelled = [name for name, entry in test.items() if entry["emo"]]
    predictions = read_predictions(folder)
    for _, received in predictions.groupby(["noise", "snr_db"], dropna=False):
        assert sorted(received["id"]) == sorted(labelled)


def test_two_processes_train_as_one(experiment, encoder_folder, tmp_path):
    source = encoder_folder(**dict.fromkeys(DROPOUTS, 0.0))
    # Adam would make whole steps of rounding errors.
    yaml = changed_yaml(tmp_path, "torch.optim.AdamW", "torch.optim.SGD")
    changes = {"wav2vec2_hub": source, "teacher_lr": 0.1, "student_lr": 0.1}
    changes |= {"teacher_epochs": 4, "student_epochs": 4}
    # Four batches are an epoch, and one step, in whichever process.
    changes |= {"max_batch_length": 3, "num_buckets": 1}

    def options(name, batches):
        out, flag = tmp_path / name, f"--grad_accumulation_factor={batches}"
        flags = [flag, "--distributed_backend=gloo"]
        return experiment.command("mlkd", *flags, output_folder=out, **changes)[
            1:
        ]

    train.run(*sb.parse_arguments([str(yaml), *options("one", 4)]))
    (tmp_path / "sitecustomize.py").write_text(NO_THREAD_OF_GLOO)
    run_in_two(yaml, options("two", 2), tmp_path)
    start = load_file(pathlib.Path(source, "model.safetensors"))
    for system in ("teacher", "mlkd"):
        ours, theirs = (
            weights(tmp_path / name, system) for name in ("one", "two")
        )
        assert largest_difference(ours, theirs) < TOLERANCE
        encoder = {
            name.removeprefix("wav2vec2."): w for name, w in ours.items()
        }
        assert largest_difference(encoder, start) > 100 * TOLERANCE


def weights(out, system):
    return load_file(out / system / "model/model.safetensors")


def largest_difference(ours, theirs):
    """Of weights that both have."""
    names = set(ours) & set(theirs)
    assert len(names) > 20
    return max((ours[n] - theirs[n]).abs().max().item() for n in names)
