"""What is laid into a SpeechBrain checkout."""

import ast
import csv
import importlib.util
import pathlib
import re

import pytest
from helpers import RECIPE

from speechbrain.core import RunOptions

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def upstream():
    path = ROOT / "tools/upstream.py"
    spec = importlib.util.spec_from_file_location("upstream", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_package_is_called_as_upstream_calls_it(upstream):
    text = (
        "from mlkd_lobes.audio import read_audio\n"
        "noise: !new:mlkd_lobes.noise.KeyedAddNoise\n"
        "> python -m mlkd_lobes report\n"
        "`mlkd_lobes/` holds the parts\n"
    )
    assert upstream.rewritten(text) == (
        "from speechbrain.lobes.mlkd.audio import read_audio\n"
        "noise: !new:speechbrain.lobes.mlkd.noise.KeyedAddNoise\n"
        "> python -m speechbrain.lobes.mlkd report\n"
        "`speechbrain/lobes/mlkd/` holds the parts\n"
    )


def test_the_row_is_added_once(upstream, tmp_path):
    path = tmp_path / "IEMOCAP.csv"
    header = list(upstream.ROW)
    others = [["x"] * len(header), ["y, z"] * len(header)]
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *others])
    for _ in range(2):
        upstream.add_row(path)
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    assert rows[:3] == [header, *others] and len(rows) == 4
    row = dict(zip(header, rows[3]))
    for key in ("Script_file", "Hparam_file", "Data_prep_file", "Readme_file"):
        assert (ROOT / row[key]).is_file()
    assert row["test_debug_checks"].startswith("file_exists=[mlkd/train_log")


def test_nothing_laid_names_the_package_or_what_is_not_tracked(
    upstream, tmp_path
):
    (ROOT / "mlkd_lobes/__pycache__").mkdir(exist_ok=True)
    for source in (upstream.PACKAGE, upstream.RECIPE):
        target = tmp_path / pathlib.Path(source).name
        (target / "old").mkdir(parents=True)
        upstream.lay_folder(ROOT / source, target)
        laid = [p for p in target.rglob("*") if p.is_file()]
        assert (ROOT / source).is_dir() and len(laid) > 10
        assert not (target / "old").exists()
        assert not list(target.rglob("__pycache__"))
        for path in laid:
            assert "mlkd_lobes" not in path.read_text(encoding="utf-8")


def test_what_is_no_checkout_is_left_alone(upstream, tmp_path, capsys):
    assert upstream.main(str(tmp_path)) == 2
    assert "is no SpeechBrain checkout" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_every_key_is_used_where_upstream_looks_for_it():
    """In train.py or the YAML file itself; `make upstream-check` asks for it."""
    script = (RECIPE / "train.py").read_text(encoding="utf-8")
    text = (RECIPE / "hparams/mlkd.yaml").read_text(encoding="utf-8")
    keys = set(re.findall(r"^([a-z]\w+):", text, re.MULTILINE))
    used = set(re.findall(r'\["(\w+)"\]', script))
    used |= set(re.findall(r"<(\w+)", text)) | set(RunOptions().as_dict())
    assert len(keys) > 50
    assert keys <= used, keys - used


@pytest.mark.parametrize(
    "path", sorted((ROOT / "mlkd_lobes").rglob("[!_]*.py"))
)
def test_what_is_public_has_a_docstring(path):
    """As SpeechBrain asks of its lobes, setters included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            if not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path.name}: {node.name}"
