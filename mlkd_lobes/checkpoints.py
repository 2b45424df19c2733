"""SpeechBrain's Checkpointer, made to survive a kill at any moment.

The original writes a checkpoint's `CKPT.yaml` first and its parameters after
it, in the place where checkpoints are looked for: a process killed in between
leaves a folder that counts as a checkpoint and cannot be loaded. Here a
checkpoint gets its name when it is whole, and one that cannot be read (a full
disk, a bad sector) is passed over for the one before.
"""

import json
import shutil

import yaml

from mlkd_lobes.errors import InputError
from mlkd_lobes.files import full_disk_told
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

PARTIAL_PREFIX = "partial-"


class SafeCheckpointer(Checkpointer):
    """A `Checkpointer` whose checkpoints are whole or absent.

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
            for folder in self.checkpoints_dir.glob(PARTIAL_PREFIX + "*"):
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
        mlkd_lobes.errors.InputError
            If the disk is full.
        """
        with full_disk_told(self.checkpoints_dir / "checkpoint"):
            saved = super().save_checkpoint(meta, **options)
        # Others may still write into it.
        ddp_barrier()
        if saved is not None:
            final = saved.path.with_name(saved.path.name[len(PARTIAL_PREFIX) :])
            saved.path.rename(final)
            saved = self._construct_checkpoint_objects([final])[0]
        # All must see the same checkpoints, or some would delete one alone.
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
        mlkd_lobes.errors.InputError
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
        return final.with_name(PARTIAL_PREFIX + final.name)

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
        logger.warning(f"{folder}: its {METAFNAME} cannot be read; passed over")
        return False


@register_checkpoint_hooks
class History:
    """What each epoch brought, kept in the checkpoints.

    Example
    -------
    >>> history = History()
    >>> history.append({"epoch": 1, "UA": 0.5, "seconds": 2.0})
    >>> history.epochs[-1]["UA"]
    0.5
    """

    def __init__(self):
        self.epochs = []

    def append(self, entry):
        """Adds an epoch.

        Arguments
        ---------
        entry : dict
            Plain numbers.
        """
        self.epochs.append(entry)

    @mark_as_saver
    def _save(self, path):
        path.write_text(json.dumps(self.epochs), encoding="utf-8")

    @mark_as_loader
    def _load(self, path, end_of_epoch):
        self.epochs = json.loads(path.read_text(encoding="utf-8"))
