"""Sweeps as Slurm jobs: what is submitted, and that killed jobs go on."""

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cross_validate
import pytest
import submitit
from experiment import planned

from mlkd_lobes.errors import InputError
from mlkd_lobes.training import cluster

SLURM = ["--executor=slurm", "--slurm={time: 30}"]


def has_slurm():
    """Whether a cluster answers; tools/slurm_node.sh starts one."""
    if not shutil.which("sinfo"):
        return False
    done = subprocess.run(["sinfo", "-h"], capture_output=True, text=True)
    return done.returncode == 0 and done.stdout.strip() != ""


@pytest.fixture
def here(monkeypatch):
    """Jobs that run in this process, one after the other."""

    class Executor(submitit.DebugExecutor):
        """Takes Slurm's parameters."""

        def __init__(self, folder, max_num_timeout):
            super().__init__(folder)

        def _internal_update_parameters(self, **parameters):
            assert parameters == {"job_name": "mlkd", "time": 30}

    monkeypatch.setattr(submitit, "SlurmExecutor", Executor)


def step(name, code, log):
    return name, [sys.executable, "-c", code], log


def test_a_step_that_fails_does_not_stop_the_others(here, tmp_path):
    log = tmp_path / "logs/log.txt"
    steps = [
        step("good", "print(1)", log),
        step("bad", "import sys; sys.exit('broken')", log),
        step("late", "print(2)", log),
    ]
    found = cluster.run_jobs([steps[:2], steps[2:]], tmp_path, "{time: 30}")
    assert found == {"good": True, "bad": False, "late": True}
    assert log.read_text().split() == ["1", "broken", "2"]


def test_a_stopped_job_is_submitted_again_as_it_was(tmp_path):
    job = cluster.Job([step("a", "", tmp_path / "log")])
    again = job.checkpoint()
    assert again.function is job and not again.args


def test_unusable_clusters_end_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    for text, message in (
        ("{}", "has no time, in minutes"),
        ("{time: '10:00:00'}", "has no time, in minutes"),
        ("{time: 3", "^slurm: "),
        ("time", "^slurm: "),
        ("{time: 3}", "^slurm: "),  # no sbatch
    ):
        with pytest.raises(InputError, match=message):
            cluster.run_jobs([[]], tmp_path, text)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(InputError, match="pip install submitit"):
        cluster.run_jobs([[]], tmp_path, "{time: 3}")


def test_a_fold_and_seed_are_a_job_the_teacher_first(
    command, root, monkeypatch
):
    submitted = []

    def run_jobs(jobs, folder, parameters, report):
        submitted.extend(jobs)
        assert folder == Path(root.parents[1], "slurm")
        return {}

    monkeypatch.setattr(cluster, "run_jobs", run_jobs)
    plan = planned(command, "--folds=1,2", "--systems=mlkd,random,teacher")
    failed = cross_validate.run_on_cluster(plan, "{}")
    assert failed == plan  # without results
    names = [[folder.name for folder, *_ in steps] for steps in submitted]
    assert names == 2 * [["teacher", "mlkd", "random"]]


def test_other_executors_are_refused(command, capsys):
    with pytest.raises(SystemExit):
        cross_validate.main([*command, "--executor=lsf"])
    assert "invalid choice: 'lsf'" in capsys.readouterr().err


def test_a_sweep_runs_as_jobs(here, command, root, capsys):
    own = ["--folds=1", "--systems=teacher,random", *SLURM]
    assert cross_validate.main([*command, *own]) == 0
    printed = capsys.readouterr().out
    assert "job " in printed and "| teacher" in printed.replace("  ", " ")
    assert (root / "fold_1/seed_1/random/results.json").is_file()
    # Nothing is submitted for what is finished.
    assert cross_validate.main([*command, *own]) == 0
    assert "job " not in capsys.readouterr().out


@pytest.mark.slow  # Slurm waits for two minutes before it starts a job again
@pytest.mark.skipif(not has_slurm(), reason="needs a Slurm cluster")
def test_a_job_killed_in_the_middle_goes_on(command, root, tmp_path):
    own = ["--folds=1", "--systems=teacher,mlkd"]
    assert cross_validate.main([*command, *own]) == 0
    expected = [(root / f"fold_1/seed_1/{s}/results.json").read_bytes()
                for s in ("teacher", "mlkd")]  # fmt: skip
    shutil.rmtree(root)
    process = subprocess.Popen(
        [sys.executable, cross_validate.__file__, *command, *own, *SLURM],
        stdout=subprocess.PIPE,
        text=True,
    )
    log = root / "fold_1/seed_1/mlkd.log"
    deadline = time.time() + 300
    while "Going into epoch 1" not in (log.read_text() if log.exists() else ""):
        assert time.time() < deadline and process.poll() is None
        time.sleep(0.2)
    job = re.match(r"job (\d+)", process.stdout.readline())[1]
    subprocess.run(["scontrol", "requeue", job], check=True)
    process.communicate(timeout=300)
    assert process.returncode == 0
    found = [(root / f"fold_1/seed_1/{s}/results.json").read_bytes()
             for s in ("teacher", "mlkd")]  # fmt: skip
    assert found == expected
    assert log.read_text().count("Beginning experiment") >= 2
