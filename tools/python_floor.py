#!/usr/bin/env python3
"""Checks the lowest Python version of each part of the code.

> python tools/python_floor.py

What goes upstream runs on SpeechBrain's lowest version, everything else on that of
pyproject.toml.
"""

import pathlib
import subprocess
import sys

from size import imported

VERMIN = pathlib.Path(sys.executable).with_name("vermin")
ROOT = pathlib.Path(__file__).resolve().parents[1]
UPSTREAM, OWN = "3.8", "3.11"
FOLDERS = ("mlkd_lobes", "recipes", "examples", "benchmarks", "tools", "tests")


def main():
    """The exit code: 1 if a file needs a newer version."""
    upstream = imported(ROOT)
    others = {p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py")}
    failed = 0
    for floor, paths in ((UPSTREAM, upstream), (OWN, others - {*upstream})):
        command = [VERMIN, f"--target={floor}-"]
        command += ["--violations", "--no-tips", "--eval-annotations"]
        failed |= subprocess.call([*command, *sorted(map(str, paths))])
    return failed


if __name__ == "__main__":
    sys.exit(main())
