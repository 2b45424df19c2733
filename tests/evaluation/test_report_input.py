"""Input that the report refuses or accepts."""

import gzip
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import torch
from fake_runs import GRID, LABELS, rewrite, write

from mlkd_lobes.cli import main
from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.comparison import compare, find_runs, pool
from mlkd_lobes.evaluation.report import setting
from mlkd_lobes.evaluation.results import (
    Record,
    prediction_table,
    read_predictions,
    read_results,
)


def test_folds_are_chosen_by_number(tmp_path, capsys):
    for fold in (1, 2):
        write(tmp_path, "mlkd", fold, 1, 8)
    assert main(["report", str(tmp_path), "--folds=2"]) == 0
    assert "fold(s) 2:" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["report", str(tmp_path), "--folds=two"])
    assert "argument --folds: invalid" in capsys.readouterr().err


def test_runs_that_cannot_be_compared_are_refused(tmp_path, capsys):
    write(tmp_path / "a", "mlkd", 1, 1, 8)
    other = tmp_path / "b"
    for header, message in (
        ({"protocol": "x"}, "protocol x, but groups"),
        ({}, "fold 1, seed 1 of mlkd is given twice"),
        ({"grid": GRID[:3]}, "other conditions"),
    ):
        write(other, "mlkd", 1, 1, 8, **header)
        assert main(["report", str(tmp_path)]) == 1
        assert message in capsys.readouterr().err
    shutil.rmtree(other)
    write(other, "other", 2, 1, 8)
    assert main(["report", str(tmp_path)]) == 0
    assert "left out, so that all" in capsys.readouterr().out.lower()
    assert main(["report", str(tmp_path / "nowhere")]) == 1
    (other / "other-2-1/results.json").write_text('{"schema": 1, ')
    assert main(["report", str(tmp_path)]) == 1
    assert "results.json: is not valid JSON" in capsys.readouterr().err


def test_comparisons_of_the_command_line_win(tmp_path, capsys):
    for system, right in (("mlkd", 8), ("kd_last", 7)):
        write(tmp_path, system, 1, 1, right)
    assert main(["report", str(tmp_path)]) == 0
    assert "kd_last −" not in capsys.readouterr().out
    assert main(["report", str(tmp_path), "--compare=kd_last - mlkd"]) == 0
    assert "| kd_last − mlkd" in capsys.readouterr().out
    assert main(["report", str(tmp_path), "--compare=kd_last"]) == 1
    assert "not of the form 'one - other'" in capsys.readouterr().err
    assert main(["report", str(tmp_path), "--compare=mlkd - kd_lost"]) == 1
    message = (
        "--compare: no system 'kd_lost'; the known ones are: kd_last, mlkd"
    )
    assert message in capsys.readouterr().err


def test_impossible_options_are_refused(tmp_path, capsys):
    write(tmp_path, "mlkd", 1, 1, 8)
    cases = {
        "--figure=ua.xyz": "no format 'xyz'; the known ones are: svg, png, pdf",
        "--figure=ua": "no format ''; the known ones are: svg, png, pdf",
        "--systems=best": "no results of system best there; found: mlkd",
    }
    for option, message in cases.items():
        assert main(["report", str(tmp_path), option]) == 1
        assert message in capsys.readouterr().err


def test_the_command_writes_figure_and_tables(tmp_path, capsys):
    write(tmp_path / "runs", "mlkd", 1, 1, 8)
    figure = tmp_path / "ua.svg"
    command = ["report", str(tmp_path / "runs"), f"--figure={figure}"]
    assert main(command) == 0
    assert "60.0" in capsys.readouterr().out
    assert figure.stat().st_size > 5000


def test_runs_tested_on_other_noise_do_not_compare(tmp_path):
    for system, seed, test in (
        ("mlkd", 1, "a"),
        ("student_noisy", 1, "a"),
        ("student_noisy", 2, "a"),
    ):
        write(tmp_path, system, 1, seed, 9, test_sha256=test)
    assert len(pool(find_runs([tmp_path])).systems) == 2
    write(tmp_path, "kd_last", 1, 1, 9)  # made before results printed it
    assert len(pool(find_runs([tmp_path])).systems) == 3
    for seed in (2, 3):  # tests do not depend on it
        place = write(tmp_path, "mlkd", 1, seed, 9, test_sha256="b")
        with pytest.raises(InputError, match="other speech or noise.*evaluate"):
            pool(find_runs([tmp_path]))
        shutil.rmtree(place)


def test_trainings_with_other_settings_do_not_pool(tmp_path):
    """Half of the folds with other epochs would look like one experiment."""
    write(tmp_path, "mlkd", 1, 1, 9)  # made before results printed it
    for fold, settings in (
        (2, {"student_epochs": 20}),
        (3, {"student_epochs": 20, "added_later": 1}),
    ):
        write(tmp_path, "mlkd", fold, 1, 9, settings=settings)
    assert len(pool(find_runs([tmp_path])).systems) == 1
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
    assert "no results.json in" in capsys.readouterr().err
    assert main(["report", str(tmp_path), "--folds=1,9"]) == 1
    printed = capsys.readouterr().err
    assert "no results of fold 9 there; found: 1, 2" in printed


def test_files_are_written_before_a_closed_pipe(tmp_path):
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
def test_non_finite_logits_are_refused(value):
    logits = torch.zeros(len(GRID), 4)
    logits[1, 2] = value
    with pytest.raises(InputError, match="u7: the network's output is NaN"):
        own = Record("u7", "s", 1.0, 0, GRID, logits.softmax(-1))
        prediction_table([own], "abcd")


@pytest.mark.parametrize(
    "key,value,message",
    [
        ("labels", None, "its results are damaged"),
        ("confusion", None, "its results are damaged"),
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
    printed = capsys.readouterr().err
    assert "mlkd-1-1" in printed and message in printed


def test_a_class_of_few_speakers_is_reported(tmp_path):
    """Many draws of speakers have none of it."""
    for fold in range(1, 6):
        write(tmp_path, "mlkd", fold, 1, 8)
    warning = "fewer than 8 speakers were tested on ang."
    assert warning not in setting(pool(find_runs([tmp_path])))
    for fold in range(2, 6):
        place = tmp_path / f"mlkd-{fold}-1"
        rewrite(place, lambda table: table[table["true"] == "neu"])
    assert setting(pool(find_runs([tmp_path]))).endswith(warning)


@pytest.mark.parametrize("place", [0.2, 0.5, 0.99])
def test_damaged_archives_are_named(tmp_path, place, capsys):
    write(tmp_path / "a", "mlkd", 1, 1, 8)
    archive = shutil.make_archive(tmp_path / "packed", "zip", tmp_path, "a")
    content = bytearray(pathlib.Path(archive).read_bytes())
    at = int(place * len(content))
    content[at : at + 20] = bytes(20)
    pathlib.Path(archive).write_bytes(content)
    assert main(["report", archive]) == 1
    assert "packed.zip" in capsys.readouterr().err


def test_linked_runs_and_archives_of_one_run_are_found(tmp_path, capsys):
    for fold in (1, 2):
        write(tmp_path / "disk", "mlkd", fold, 1, 8)
    results = tmp_path / "results [1]"
    results.mkdir()
    for number, folder in enumerate(sorted((tmp_path / "disk").iterdir())):
        (results / f".{number}").symlink_to(folder)
    (results / "up").symlink_to(results)
    (results / "above").symlink_to(tmp_path)
    assert main(["report", str(results)]) == 0
    assert "fold(s) 1, 2:" in capsys.readouterr().out
    archive = shutil.make_archive(tmp_path / "one", "zip", folder)
    assert main(["report", archive]) == 0
    assert "fold(s) 2:" in capsys.readouterr().out


def test_a_comparison_that_cannot_be_shown_is_an_error(tmp_path, capsys):
    for system in ("mlkd", "kd_last"):
        for fold in (1, 2):
            write(tmp_path / "a", system, fold, 1, 8)
    write(tmp_path / "a", "slim", 1, 1, 8)
    wanted = "--compare=slim - mlkd"
    assert main(["report", str(tmp_path / "a"), wanted]) == 1
    assert "left out: slim" in capsys.readouterr().err
    write(tmp_path / "b", "mlkd", 1, 1, 8)
    write(tmp_path / "b", "slim", 1, 2, 8)
    assert main(["report", str(tmp_path / "b"), wanted]) == 1
    assert "left out: nothing" in capsys.readouterr().err


def test_folds_that_cannot_be_read_are_not_missing_silently(
    tmp_path, caplog, monkeypatch
):
    write(tmp_path, "mlkd", 1, 1, 8)
    (tmp_path / "fold_2").symlink_to("/gone")
    walk = os.walk

    def with_an_unreadable_folder(place, onerror, followlinks):
        onerror(PermissionError(13, "Permission denied", "fold_3"))
        return walk(place, followlinks=followlinks)

    monkeypatch.setattr(os, "walk", with_an_unreadable_folder)
    assert main(["report", str(tmp_path)]) == 0
    assert "fold_2: left out (a broken link)" in caplog.text
    assert "fold_3: left out (Permission denied)" in caplog.text


def test_another_corpus_is_refused_though_it_would_be_left_out(
    tmp_path, capsys
):
    for system in ("mlkd", "student_noisy"):
        write(tmp_path, system, 1, 1, 8)
        write(tmp_path, system, 3, 2, 8, corpus="other")
    assert main(["report", str(tmp_path)]) == 1
    assert "give runs of one corpus" in capsys.readouterr().err


def test_runs_of_another_version_lack_durations(tmp_path, capsys):
    """Of one fold: no utterance may count as a long one for that."""
    write(tmp_path, "mlkd", 1, 1, 8)
    old = write(tmp_path, "mlkd", 2, 1, 8) / "predictions.csv.gz"
    assert main(["report", str(tmp_path)]) == 0
    assert "by duration" in capsys.readouterr().out
    table = read_predictions(old.parent).drop(columns="seconds")
    text = table.to_csv(index=False, lineterminator="\n")
    old.write_bytes(gzip.compress(text.encode()))
    assert main(["report", str(tmp_path)]) == 0
    assert "by duration" not in capsys.readouterr().out


def test_a_model_that_is_never_right_has_no_share(tmp_path, capsys):
    write(tmp_path, "mlkd", 1, 1, 8)
    write(tmp_path, "teacher", 1, 1, 0)
    assert main(["report", str(tmp_path)]) == 0
    assert "of that of teacher" not in capsys.readouterr().out


def test_equal_runs_are_not_better_by_rounding(tmp_path):
    """0.1 + 0.2 + 0.3 is more than 0.3 + 0.2 + 0.1."""

    def right(*shares):
        """Tenths of each class that are right in noise, condition by condition."""

        def change(table):
            places = table.groupby(["noise", "snr_db", "true"]).cumcount()
            cells = zip(table["snr_db"], table["true"])
            pairs = [(snr, true) for snr in (0, 10) for true in LABELS]
            least = pd.Series(map(dict(zip(pairs, shares)).get, cells))
            other = table["true"].map(dict(zip(LABELS, LABELS[::-1])))
            return table.assign(
                predicted=table["true"].where(places < least, other)
            )

        return change

    for system, shares in (("mlkd", (1, 2, 3, 0)), ("other", (3, 2, 1, 0))):
        rewrite(write(tmp_path, system, 1, 1, 8, GRID[1:3]), right(*shares))
    systems = pool(find_runs([tmp_path])).systems
    for one, other in (systems, systems[::-1]):
        assert compare(one, other).per_run == [0.0]


def test_a_duration_with_few_utterances_has_no_figure(tmp_path, capsys):
    for fold in (1, 2, 3):
        write(tmp_path, "mlkd", fold, 1, 8)
    assert main(["report", str(tmp_path)]) == 0
    table = capsys.readouterr().out.split("by duration")[1].splitlines()
    cells = [cell.strip() for cell in table[2].split("|")[2:-1]]
    # Of 2 to 4 s are four of each speaker's utterances, the last one wrong.
    assert cells == ["–", "–", "75.0", "–"]


def test_other_teachers_are_named(tmp_path, capsys):
    sentence = "Students of seed(s) 2 have different teachers."
    for system in ("teacher", "mlkd", "student_noisy"):
        network = "teacher" if system == "teacher" else "student"
        for seed in (1, 2):
            own = {"settings": {"network": network}, "teacher_sha256": network}
            write(tmp_path, system, 1, seed, 8, **own)
    assert main(["report", str(tmp_path)]) == 0
    assert "different teachers" not in capsys.readouterr().out
    rewrite(tmp_path / "mlkd-1-2", lambda table: table, teacher_sha256="b")
    assert main(["report", str(tmp_path)]) == 0
    assert sentence in capsys.readouterr().out


def test_differences_that_are_not_configured_are_mentioned(tmp_path, capsys):
    for system in ("one", "two"):
        write(tmp_path, system, 1, 1, 8)
    assert main(["report", str(tmp_path)]) == 0
    assert "No configured difference" in capsys.readouterr().out
    assert main(["report", str(tmp_path), "--compare=one - two"]) == 0
    assert "No configured difference" not in capsys.readouterr().out
