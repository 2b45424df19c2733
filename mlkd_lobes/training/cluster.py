"""Commands as jobs of a Slurm cluster, by submitit.

A job that is preempted or at the end of its time is queued again by submitit, and its
commands resume where they stopped, as train.py does.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time

from ruamel.yaml import YAML, YAMLError

from mlkd_lobes.errors import InputError

# Seconds between Slurm's request to end and the end, at most.
GRACE = 600


class Job:
    """Commands, one after the other: triples of a name, arguments and a log file."""

    def __init__(self, steps):
        self.steps = steps

    def __call__(self) -> dict:
        """Whether each command succeeded; one that fails does not stop the others."""
        return {name: _succeeds(*step) for name, *step in self.steps}

    def checkpoint(self):
        """What submitit queues when the job has to stop."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _succeeds(command, log):
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8") as file:
        code = subprocess.call(command, stdout=file, stderr=subprocess.STDOUT)
    if code in (-signal.SIGTERM, -signal.SIGUSR2):
        # Slurm ends all processes of a job; this is not a failure of its command.
        time.sleep(GRACE)
    return code == 0


def run_jobs(jobs: list, folder, parameters: str, report=print) -> dict:
    """Hands lists of steps to Slurm, waits, and returns what succeeded by name.

    folder: for submitit's files, the jobs' output among them. parameters: YAML text, of
    submitit's Slurm executor: time (minutes), partition, gpus_per_node and others.
    """
    if not jobs:
        return {}
    try:
        import submitit
    except ImportError:
        raise InputError(
            "executor: slurm needs submitit (pip install submitit)"
        )
    submitted, done = [], {}
    try:
        own = {"job_name": "mlkd", **YAML(typ="safe").load(parameters)}
        if not isinstance(own.get("time"), int):
            raise InputError(f"{own} has no time, in minutes: {{time: 600}}")
        executor = submitit.SlurmExecutor(folder, max_num_timeout=1000)
        executor.update_parameters(**own)
        for steps in jobs:
            submitted.append(executor.submit(Job(steps)))
            report(f"job {submitted[-1].job_id}, output in {folder}")
    except (RuntimeError, ValueError, TypeError, YAMLError) as error:
        raise InputError(f"slurm: {error}")
    for job in submitit.helpers.as_completed(submitted):
        # A job that was cancelled or lost has no result.
        with contextlib.suppress(submitit.core.utils.UncompletedJobError):
            done.update(job.result())
        report(f"job {job.job_id} has ended")
    return done
