"""A built wheel: what it holds and needs, without the repository."""

import csv
import re
import subprocess
import sys
import zipfile
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from test_export import ROOT

# Runs a command with the wheel's files and the packages that it asks for alone.
RUN = """
import importlib.abc, runpy, sys
class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {hidden!r}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, Hide())
sys.path.insert(0, {wheel!r})
import mlkd_lobes
assert mlkd_lobes.__file__.startswith({wheel!r}), mlkd_lobes.__file__
sys.argv = ['mlkd_lobes', *sys.argv[1:]]
runpy.run_module('mlkd_lobes', run_name='__main__')
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps"]
    command += ["--no-build-isolation", "--quiet", "-w", str(folder)]
    subprocess.run(command, check=True, cwd=folder)
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "content")
    return folder / "content"


def spelled(name):
    """A distribution's name in its one spelling."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(wheel, extra):
    """Names of the distributions that an extra brings, and theirs."""
    (about,) = wheel.glob("*.dist-info/METADATA")
    lines = re.findall(r"^Requires-Dist: (.*)", about.read_text(), re.M)
    found, pending = set(), [(line, extra) for line in lines]
    while pending:
        line, extra = pending.pop()
        requirement = Requirement(line)
        marker, name = requirement.marker, spelled(requirement.name)
        if marker and not marker.evaluate({"extra": extra or ""}):
            continue
        if name == "mlkd-lobes":
            pending += [(o, e) for e in requirement.extras for o in lines]
        elif name not in found:
            found.add(name)
            own = metadata.requires(name) or []
            pending += [(other, None) for other in own]
    return found


def test_predicting_needs_no_pytorch(wheel, exported, speech, tmp_path):
    names = needed(wheel, "onnx")
    assert {"onnxruntime", "numpy", "soundfile", "soxr", "tqdm"} <= names
    assert not {"torch", "transformers", "speechbrain", "pandas"} & names
    modules = metadata.packages_distributions()
    hidden = {
        module
        for module, owners in modules.items()
        if not {*map(spelled, owners)} & {*names, "mlkd-lobes"}
    }
    assert "torch" in hidden
    code = RUN.format(hidden=sorted(hidden), wheel=str(wheel))
    out = tmp_path / "found.csv"
    model, folder = exported / "onnx/model_int8.onnx", speech[0]
    arguments = ["predict", str(model), str(folder), f"--output={out}"]
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with open(out) as file:
        assert len(list(csv.DictReader(file))) == len(list(folder.iterdir()))


def test_the_extras_bring_their_packages(wheel):
    assert {"torch", "speechbrain", "transformers"} <= needed(wheel, "train")
    assert {"gradio", "torch"} <= needed(wheel, "app")
    assert "silero-vad" in needed(wheel, "vad")


def test_the_wheel_holds_all_modules_and_their_data(wheel):
    own = [p for p in (ROOT / "mlkd_lobes").rglob("*") if p.is_file()]
    names = {
        p.relative_to(ROOT).as_posix()
        for p in own
        if "__pycache__" not in p.parts
    }
    held = {p.relative_to(wheel).as_posix() for p in wheel.rglob("*")}
    assert names <= held
