"""What is laid into a SpeechBrain checkout."""

import ast
import csv
import pathlib
import re

import pytest
from helpers import RECIPE

from speechbrain.core import RunOptions

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def upstream():
    import upstream

    return upstream


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
    assert row["test_debug_checks"].startswith(
        "file_exists=[mlkd_semi/train_log"
    )


def test_only_the_imports_of_train_are_laid(upstream, tmp_path):
    recipe = tmp_path / "recipes/IEMOCAP/mlkd"
    old = recipe / "mlkd_lobes/old.py"
    old.parent.mkdir(parents=True)
    old.touch()
    laid = upstream.lay_files(tmp_path)
    assert not old.exists()
    names = {str(path.relative_to(recipe)) for path in laid}
    assert "train.py" in names
    assert "mlkd_lobes/noise/add_noise.py" in names
    assert "mlkd_lobes/data/corpora.yml" in names
    left = ("deployment", "cli.py", "cross_validate.py", "report.py")
    assert not [name for name in names if any(part in name for part in left)]
    # SpeechBrain's list of recipes must name all of them.
    assert [n for n in names if n.endswith(".yaml")] == ["hparams/mlkd.yaml"]


def test_folder_without_checkout_is_unchanged(upstream, tmp_path, capsys):
    assert upstream.main(str(tmp_path)) == 2
    assert "is not a SpeechBrain checkout" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_every_key_is_used_where_upstream_looks_for_it():
    """In train.py or the YAML file itself; `make upstream-check` needs it."""
    script = (RECIPE / "train.py").read_text(encoding="utf-8")
    text = (RECIPE / "hparams/mlkd.yaml").read_text(encoding="utf-8")
    keys = set(re.findall(r"^([a-z]\w+):", text, re.MULTILINE))
    used = set(re.findall(r'\["(\w+)"\]|hparams\.(\w+)', script))
    used = {name for pair in used for name in pair}
    used |= set(re.findall(r"<(\w+)", text)) | set(RunOptions().as_dict())
    assert len(keys) > 50
    assert keys <= used, keys - used


def test_public_names_have_docstrings(upstream):
    """As SpeechBrain demands of its lobes; with Arguments where there are any."""
    for path in upstream.contribution():
        if path.suffix != ".py":
            continue
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                if not node.name.startswith("_"):
                    assert ast.get_docstring(node), f"{path}: {node.name}"
