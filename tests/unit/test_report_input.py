"""What the report refuses, and what it gets along with."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from test_evaluation import GRID, HEADER, table
from test_summary import (
    GRID as CONDITIONS,
    write,
)

from mlkd_lobes.__main__ import main
from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.pooling import pool
from mlkd_lobes.evaluation.report import setting, update_text
from mlkd_lobes.evaluation.results import (
    find_runs,
    prediction_table,
    read_predictions,
    read_results,
    write_run,
)


def test_folds_are_chosen_by_number(tmp_path, capsys):
    write_run(tmp_path / "a", HEADER, table(), GRID, {})
    write_run(tmp_path / "b", {**HEADER, "fold": 2}, table(), GRID, {})
    assert main(["report", str(tmp_path), "--folds=2"]) == 0
    assert "fold(s) 2:" in capsys.readouterr().out
    assert main(["report", str(tmp_path), "--folds=two"]) == 1
    assert "'two' is no list such as 3,4,5,6" in capsys.readouterr().err


def test_runs_that_cannot_be_compared_are_refused(tmp_path, capsys):
    write_run(tmp_path / "a", HEADER, table(), GRID, {})
    write_run(tmp_path / "b", {**HEADER, "protocol": "x"}, table(), GRID, {})
    assert main(["report", str(tmp_path)]) == 1
    assert "protocol x, but groups" in capsys.readouterr().err
    write_run(tmp_path / "b", HEADER, table(), GRID, {})
    assert main(["report", str(tmp_path)]) == 1
    assert "fold 1, seed 1 of mlkd is given twice" in capsys.readouterr().err
    write_run(
        tmp_path / "b", {**HEADER, "fold": 2, "seed": 2}, table(), GRID, {}
    )
    assert main(["report", str(tmp_path)]) == 0
    assert "left out, so that all" in capsys.readouterr().out.lower()
    renamed = {**HEADER, "system": "other", "fold": 2}
    write_run(tmp_path / "b", renamed, table(), GRID, {})
    assert main(["report", str(tmp_path), "--systems=mlkd,other"]) == 1
    assert "--systems: other would be left out" in capsys.readouterr().err
    write_run(tmp_path / "b", HEADER, table(), GRID[:3], {})
    assert main(["report", str(tmp_path)]) == 1
    assert "other conditions" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "nowhere")]) == 1
    (tmp_path / "b/results.json").write_text('{"schema": 1, ')
    assert main(["report", str(tmp_path)]) == 1
    assert "b/results.json: is damaged" in capsys.readouterr().err


def test_options_that_cannot_be_meant(tmp_path, capsys):
    write_run(tmp_path / "a", HEADER, table(), GRID, {})
    folder = str(tmp_path)
    cases = {
        "--figure=ua.xyz": "'ua.xyz' ends in none of svg, png, pdf",
        "--figure=ua": "'ua' ends in none of svg, png, pdf",
        "--listen=x": "--listen: is for a page; give --html as well",
        "--systems=best": "no results of system 'best' there; of: mlkd",
    }
    for option, message in cases.items():
        assert main(["report", folder, option]) == 1
        assert message in capsys.readouterr().err


def test_missing_marks_are_an_error():
    with pytest.raises(ValueError, match="found 0"):
        update_text("nothing here", "x", "new")


def test_runs_tested_on_other_noise_do_not_compare(tmp_path):
    for system, seed, test in (
        ("mlkd", 1, "a"),
        ("student_noisy", 1, "a"),
        ("student_noisy", 2, "a"),
    ):
        write(tmp_path, system, 1, seed, 9, test_sha256=test)
    assert len(pool(find_runs([tmp_path]))) == 2
    write(tmp_path, "kd_last", 1, 1, 9)  # made before results said it
    assert len(pool(find_runs([tmp_path]))) == 3
    for seed in (2, 3):  # tests do not depend on it
        place = write(tmp_path, "mlkd", 1, seed, 9, test_sha256="b")
        with pytest.raises(InputError, match="other speech or noise.*evaluate"):
            pool(find_runs([tmp_path]))
        shutil.rmtree(place)


def test_trainings_with_other_settings_do_not_pool(tmp_path):
    """Half of the folds with other epochs would look like one experiment."""
    write(tmp_path, "mlkd", 1, 1, 9)  # made before results said it
    for fold, settings in (
        (2, {"student_epochs": 20}),
        (3, {"student_epochs": 20, "added_later": 1}),
    ):
        write(tmp_path, "mlkd", fold, 1, 9, settings=settings)
    assert len(pool(find_runs([tmp_path]))) == 1
    write(tmp_path, "mlkd", 4, 1, 9, settings={"student_epochs": 40})
    with pytest.raises(
        InputError, match="trained with student_epochs 40, but 20 in.*mlkd-2"
    ):
        pool(find_runs([tmp_path]))


def test_every_folder_has_runs(tmp_path, capsys):
    """A mistyped one would leave speakers out without a word."""
    for fold in (1, 2):
        write(tmp_path / f"fold_{fold}", "mlkd", fold, 1, 8)
    folders = [str(tmp_path / name) for name in ("fold_1", "fold_22")]
    assert main(["report", *folders]) == 1
    assert "no results.json below" in capsys.readouterr().err
    assert main(["report", str(tmp_path), "--folds=1,9"]) == 1
    said = capsys.readouterr().err
    assert "no results of fold(s) 9 there; of: 1, 2" in said


def test_an_end_mark_that_is_lost_loses_nothing_else():
    block = "<!-- report: {} -->\nold\n"
    text = block.format("a") + "by hand\n" + block.format("b")
    text += "<!-- end of report -->"
    with pytest.raises(InputError, match="found 0"):
        update_text(text, "a", "new")
    changed = update_text(text, "b", "new")
    assert changed == "new".join(text.rsplit("old", 1))


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_page_keeps_its_line_ends(tmp_path, line_end):
    write(tmp_path / "runs", "mlkd", 1, 1, 8)
    marks = [f"<!-- report: {tmp_path}/runs -->", "<!-- end of report -->"]
    lines = ["größer", *marks, "last", ""]
    page = tmp_path / "page.md"
    page.write_bytes(line_end.join(lines).encode())
    command = ["report", f"{tmp_path}/runs", f"--update={page}"]
    assert main(command) == 0
    text = page.read_bytes().decode()
    assert "| mlkd" in text and text.endswith(f"-->{line_end}last{line_end}")
    assert text.replace(line_end, "").count("\n") == 0


def test_a_page_of_another_encoding_is_named(tmp_path, capsys):
    write(tmp_path / "runs", "mlkd", 1, 1, 8)
    page = tmp_path / "page.md"
    page.write_bytes("größer".encode("latin-1"))
    assert main(["report", f"{tmp_path}/runs", f"--update={page}"]) == 1
    assert "page.md: is no UTF-8 text" in capsys.readouterr().err


def test_files_are_written_whoever_reads_the_tables(tmp_path):
    write(tmp_path / "runs", "mlkd", 1, 1, 8)
    page, (reader, writer) = tmp_path / "page.html", os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "mlkd_lobes", "report"]
    done = subprocess.run(
        [*command, str(tmp_path / "runs"), f"--html={page}"],
        stdout=writer,
        stderr=subprocess.PIPE,
    )
    os.close(writer)
    assert done.returncode == 1 and not done.stderr
    assert page.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("suffix", ["svg", "png", "pdf"])
def test_equal_figures_are_equal_files(tmp_path, suffix, monkeypatch):
    # A dollar sign is no formula.
    write(tmp_path / "runs", r"$\own$", 1, 1, 8)
    made = []
    for day in ("1000000000", "1100000000"):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", day)
        figure = tmp_path / f"{day}.{suffix}"
        command = ["report", str(tmp_path / "runs"), f"--figure={figure}"]
        assert main(command) == 0
        made.append(figure.read_bytes())
    assert made[0] == made[1]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_answers_that_are_no_numbers_are_refused(value):
    logits = torch.zeros(len(GRID), 4)
    logits[1, 2] = value
    with pytest.raises(InputError, match="u7: the network answers NaN or inf"):
        prediction_table([("u7", 0, logits)], GRID, "abcd", {"u7": "s"})


@pytest.mark.parametrize(
    "key,value,message",
    [
        ("fold", "1", "fold '1' is no number"),
        ("seed", None, "seed None is no number"),
        ("labels", None, "labels None are no list"),
        ("confusion", None, "its results are damaged"),
        ("UA", None, "its results are damaged"),
    ],
)
def test_results_of_the_wrong_kind_are_named(
    tmp_path, capsys, key, value, message
):
    place = write(tmp_path, "mlkd", 1, 1, 8)
    results = read_results(place)
    (results if key in results else results["conditions"][0])[key] = value
    (place / "results.json").write_text(json.dumps(results))
    assert main(["report", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "mlkd-1-1" in said and message in said


def test_a_cost_of_the_wrong_kind_is_named(tmp_path, capsys):
    place = write(tmp_path, "mlkd", 1, 1, 8)
    (place / "cost.json").write_text("[]")
    assert main(["report", str(tmp_path)]) == 1
    assert "cost.json: holds no mapping" in capsys.readouterr().err


def test_a_class_of_few_speakers_is_told(tmp_path):
    """Many draws of speakers have none of it."""
    for fold in range(1, 6):
        write(tmp_path, "mlkd", fold, 1, 8)
    warning = (
        "Intervals are not to be trusted: fewer than 8 speakers were tested on "
        "ang."
    )
    assert warning not in said_of(tmp_path)
    for fold in range(2, 6):
        place = tmp_path / f"mlkd-{fold}-1"
        rows = read_predictions(place)
        rows = rows[rows["true"] == "neu"]
        write_run(place, read_results(place), rows, CONDITIONS, {})
    assert said_of(tmp_path).endswith(warning)


def said_of(folder):
    """What a report says of its figures."""
    runs = find_runs([folder])
    return setting(pool(runs), runs[0].results)
