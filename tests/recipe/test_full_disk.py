"""A full disk costs the step that was being taken, and nothing before it."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

TESTS = pathlib.Path(__file__).parents[1]
# In a namespace of its own: a disk for this process alone.
ON_SMALL_DISK = (
    'mount -t tmpfs -o size=24m none "$1" && '
    'disk="$1" kept="$2" && shift 2 && '
    '"$@" && cp -r "$disk/out" "$kept"'
)


def on_small_disk(folder, kept, *command):
    """Runs a command where `folder` is a disk of 24 MB; keeps its `out`."""
    folder.mkdir()
    inside = ["sh", "-c", ON_SMALL_DISK, "sh", folder, kept, *command]
    return subprocess.run(
        ["unshare", "-rm", *map(str, inside)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )


@pytest.fixture(scope="module")
def small_disks(tmp_path_factory):
    """Skips where a test may not mount anything."""
    folder = tmp_path_factory.mktemp("disk")
    if not shutil.which("unshare"):
        pytest.skip("there is no `unshare`")
    done = on_small_disk(folder / "a", folder / "b", "mkdir", folder / "a/out")
    if done.returncode:
        pytest.skip(f"no disk can be mounted: {done.stderr.strip()}")


@pytest.mark.parametrize(
    "moment",
    [
        "checkpoint",
        *[
            pytest.param(m, marks=pytest.mark.slow)
            for m in ("cache", "results")
        ],
    ],
)
def test_full_disk(small_disks, finished, tmp_path, moment):
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    command = finished.command("mlkd", output_folder=disk / "out")
    script = TESTS / "full_disk.py"
    done = on_small_disk(
        disk, kept, sys.executable, script, moment, disk, *command
    )
    assert done.returncode == 0, done.stderr
    assert f"error: {disk}/out/" in done.stderr + done.stdout
    assert "the disk is full" in done.stderr + done.stdout
    out = finished.arguments["output_folder"]
    for name in (
        "teacher/model/model.safetensors",
        "mlkd/model/model.safetensors",
        "mlkd/predictions.csv.gz",
        "mlkd/results.json",
    ):
        assert (kept / name).read_bytes() == (out / name).read_bytes(), name
    assert not list(kept.rglob("*partial-*"))
