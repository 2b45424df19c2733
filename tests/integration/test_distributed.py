"""Two processes on CPU: torchrun starts the same command."""

import json
import os
import subprocess
import sys

from helpers import RECIPE

from mlkd_lobes.evaluation.results import read_predictions

# A file system on which the second process reads late.
SLOW = """
import time
from mlkd_lobes.checkpoints import SafeCheckpointer
from speechbrain.utils.distributed import if_main_process

class SlowCheckpointer(SafeCheckpointer):
    def find_checkpoints(self, **selection):
        found = super().find_checkpoints(**selection)
        if not if_main_process():
            time.sleep(2)
        return found
"""


def test_two_processes_end_with_whole_results(experiment, tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    yaml = tmp_path / "mlkd.yaml"
    text = (RECIPE / "hparams/mlkd.yaml").read_text()
    known = "mlkd_lobes.checkpoints.SafeCheckpointer"
    assert text.count(known) == 1
    yaml.write_text(text.replace(known, "slow.SlowCheckpointer"))
    options = experiment.command(
        "mlkd",
        "--distributed_backend=gloo",
        teacher_epochs=1,
        student_epochs=1,
    )[1:]
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    torchrun += ["--standalone", "--nproc_per_node=2"]
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(
        [*torchrun, str(RECIPE / "train.py"), str(yaml), *options],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    folder = experiment.arguments["output_folder"] / "mlkd"
    test = json.loads((folder.parent / "manifests/test.json").read_text())
    labelled = [name for name, entry in test.items() if entry["emo"]]
    predictions = read_predictions(folder)
    for _, heard in predictions.groupby(["noise", "snr_db"], dropna=False):
        assert sorted(heard["id"]) == sorted(labelled)
