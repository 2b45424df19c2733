"""Runs the recipe on a disk that is full at a chosen moment, then once more.

> python full_disk.py MOMENT FOLDER arguments of train.py

A test calls it where FOLDER is a small disk of its own, so that writing fails
there as it does for any user. Ends with the exit status of the second run.
"""

import os
import pathlib
import sys

from helpers import RECIPE

sys.path.insert(0, str(RECIPE))

import train  # noqa: E402

from mlkd_lobes.evaluation import results  # noqa: E402
from mlkd_lobes.training.checkpoints import SafeCheckpointer  # noqa: E402
from mlkd_lobes.training.target_cache import TargetCache  # noqa: E402

# The call before which the disk is filled: owner, name, number of the call.
MOMENTS = {
    "checkpoint": (SafeCheckpointer, "save_checkpoint", 2),
    "cache": (TargetCache, "_write", 2),
    "results": (results, "write_run", 1),
}
# Some is left: a file is begun, but not ended.
LEFT = 8192


def fill(path):
    """Writes a file until the disk takes no more."""
    with open(path, "wb", buffering=0) as file:
        try:
            while file.write(bytes(1 << 16)):
                pass
        except OSError:
            os.truncate(path, max(0, file.tell() - LEFT))


def fill_when(moment, filler):
    """Lets the disk be full when something is called for the n-th time."""
    owner, name, turn = MOMENTS[moment]
    original, calls = getattr(owner, name), []

    def full(*args, **options):
        calls.append(name)
        if len(calls) == turn:
            fill(filler)
        return original(*args, **options)

    setattr(owner, name, full)


def main(moment, folder, *command):
    """Two runs of the same command, the disk full in the first."""
    filler = pathlib.Path(folder) / "filler"
    fill_when(moment, filler)
    assert train.main(command) == 1
    assert filler.exists(), f"the {moment} was never written"
    filler.unlink()
    assert train.main(command) == 0


if __name__ == "__main__":
    main(*sys.argv[1:])
