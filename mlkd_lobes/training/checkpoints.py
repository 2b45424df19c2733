"""State of a training: checkpoints, history, learning rates, statistics."""

import json
import math
import shutil

import torch
import yaml

from mlkd_lobes.errors import InputError
from mlkd_lobes.files import report_full_disk
from speechbrain.utils.checkpoints import (
    METAFNAME,
    Checkpointer,
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.distributed import ddp_barrier, if_main_process
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

UNFINISHED = "partial-"


class SafeCheckpointer(Checkpointer):
    """A `Checkpointer` that is safe against a kill at any moment.

    The original writes a checkpoint's `CKPT.yaml` first and its parameters after
    it, in the place where checkpoints are searched: a process killed in between
    leaves a folder that counts as a checkpoint and cannot be loaded. Here a
    checkpoint gets its name when it is complete, and one that cannot be read (a
    full disk, a bad sector) is skipped for the one before.

    Example
    -------
    >>> import torch
    >>> folder = getfixture("tmp_path")
    >>> model = torch.nn.Linear(1, 1)
    >>> checkpointer = SafeCheckpointer(folder, {"model": model})
    >>> checkpoint = checkpointer.save_checkpoint(meta={"UA": 0.5})
    >>> checkpointer.recover_if_possible().meta["UA"]
    0.5
    """

    def __init__(self, checkpoints_dir, recoverables=None):
        super().__init__(checkpoints_dir, recoverables)
        if if_main_process():
            for folder in self.checkpoints_dir.glob(UNFINISHED + "*"):
                shutil.rmtree(folder)

    def save_checkpoint(self, meta={}, **options):
        """Saves a checkpoint under another name, then renames it.

        Arguments
        ---------
        meta : dict
            Plain numbers and strings to select checkpoints by.
        **options : dict
            What `Checkpointer.save_checkpoint` takes.

        Returns
        -------
        speechbrain.utils.checkpoints.Checkpoint, or None
            The checkpoint on the main process.

        Raises
        ------
        InputError
            If the disk is full.
        """
        with report_full_disk(self.checkpoints_dir / "checkpoint"):
            saved = super().save_checkpoint(meta, **options)
        # Others may still write into it.
        ddp_barrier()
        if saved is not None:
            final = saved.path.with_name(saved.path.name[len(UNFINISHED) :])
            saved.path.rename(final)
            saved = self._construct_checkpoint_objects([final])[0]
        # All processes must see the same checkpoints before any are deleted.
        ddp_barrier()
        return saved

    def recover_if_possible(self, **selection):
        """Loads the best checkpoint that can be read.

        Arguments
        ---------
        **selection : dict
            What `Checkpointer.find_checkpoints` takes.

        Returns
        -------
        speechbrain.utils.checkpoints.Checkpoint, or None
            The one loaded; None if there is none at all.

        Raises
        ------
        InputError
            If there are checkpoints but none can be read.
        """
        candidates = self.find_checkpoints(**selection)
        for checkpoint in candidates:
            try:
                self.load_checkpoint(checkpoint)
                return checkpoint
            except Exception as error:  # whatever a damaged file causes
                logger.warning(
                    f"{checkpoint.path} cannot be read ({error}); "
                    "trying the checkpoint before it"
                )
        if candidates:
            raise InputError(
                f"{self.checkpoints_dir}: none of its checkpoints can be read; "
                "delete the folder to start this stage again"
            )
        return None

    def _new_checkpoint_dirpath(self):
        final = super()._new_checkpoint_dirpath()
        return final.with_name(UNFINISHED + final.name)

    @staticmethod
    def _construct_checkpoint_objects(checkpoint_dirs):
        readable = [folder for folder in checkpoint_dirs if _has_meta(folder)]
        return Checkpointer._construct_checkpoint_objects(readable)


def _has_meta(folder):
    """Whether a checkpoint's meta file can be read."""
    try:
        meta = yaml.safe_load((folder / METAFNAME).read_text(encoding="utf-8"))
        return isinstance(meta, dict) and "end-of-epoch" in meta
    except (OSError, ValueError, yaml.YAMLError):
        logger.warning(f"{folder}: its {METAFNAME} cannot be read; skipped")
        return False


class StagedSchedule:
    """A learning-rate schedule per stage of training, each from its start.

    Arguments
    ---------
    schedule : callable
        Takes rate, warm-up steps and steps; the result has `calculate_lr`.
    rate : float
        The highest learning rate.
    warmup_share : float
        Share of a stage's steps spent on warm-up.
    n_steps : sequence of int
        Optimizer steps of each stage.

    Example
    -------
    >>> from speechbrain.nnet.schedulers import LinearWarmupScheduler
    >>> staged = StagedSchedule(LinearWarmupScheduler, 1.0, 0.5, [4, 4])
    >>> [staged.calculate_lr(step) for step in range(1, 10)]
    [0.5, 1.0, 0.5, 0.0, 0.5, 1.0, 0.5, 0.0, 0.0]
    """

    def __init__(self, schedule, rate, warmup_share, n_steps):
        self.rate, self.n_steps = rate, n_steps
        self.stages = [
            schedule(rate, round(warmup_share * n), n) for n in n_steps
        ]

    def calculate_lr(self, step):
        """The rate of an optimizer step.

        Arguments
        ---------
        step : int
            Counted from 1, over all stages.

        Returns
        -------
        float
            The learning rate.
        """
        for stage, n in zip(self.stages[:-1], self.n_steps):
            if step <= n:
                return stage.calculate_lr(step)
            step -= n
        return self.stages[-1].calculate_lr(step)


def n_processes():
    """How many processes train together.

    Returns
    -------
    int
        Their number, 1 without distributed training.
    """
    started = torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if started else 1


def updates_per_epoch(n_batches, accumulated):
    """Optimizer steps of an epoch, whose batches are shared by processes.

    Arguments
    ---------
    n_batches : int
        Batches of an epoch.
    accumulated : int
        Batches per optimizer step.

    Returns
    -------
    int
        Their number, at least 1.

    Raises
    ------
    InputError
        If there is none, or a process would get at most one batch.
    """
    processes = n_processes()
    share = math.ceil(n_batches / processes)
    if not 1 <= accumulated <= share:
        raise InputError(
            f"grad_accumulation_factor: {accumulated} is not between 1 and "
            f"{share}, the number of batches of an epoch per process"
        )
    if processes > 1 and n_batches <= processes:
        raise InputError(
            f"max_batch_length: an epoch of {n_batches} batches is too few "
            f"for {processes} processes; use fewer of them, or shorter batches"
        )
    return share // accumulated


def epoch_statistics(loss, terms, snrs):
    """Mean of every loss of an epoch, and the SNRs.

    Arguments
    ---------
    loss : float
        The weighted sum.
    terms : dict of str to list of torch.Tensor
        Each named loss, batch by batch.
    snrs : list of torch.Tensor
        SNRs in dB, batch by batch; infinite without noise.

    Returns
    -------
    dict
        Plain numbers by name.
    """
    stats = {"loss": float(loss)}
    for name, values in terms.items():
        values = torch.stack(values).float()
        # As in the loss, a skipped batch does not count.
        stats[name] = values[torch.isfinite(values)].mean().item()
    snrs = torch.cat(snrs)
    noisy = snrs[torch.isfinite(snrs)]
    if len(noisy):
        stats["snr_low"] = noisy.min().item()
        stats["snr_mean"] = noisy.mean().item()
        stats["snr_high"] = noisy.max().item()
        stats["clean_share"] = 1 - len(noisy) / len(snrs)
    return stats


@register_checkpoint_hooks
class History:
    """Statistics of every epoch, kept in the checkpoints.

    Example
    -------
    >>> history = History()
    >>> history.epochs.append({"epoch": 1, "UA": 0.5, "seconds": 2.0})
    >>> history.epochs[-1]["UA"]
    0.5
    """

    def __init__(self):
        self.epochs = []

    @mark_as_saver
    def _save(self, path):
        path.write_text(json.dumps(self.epochs), encoding="utf-8")

    @mark_as_loader
    def _load(self, path, end_of_epoch):
        self.epochs = json.loads(path.read_text(encoding="utf-8"))
