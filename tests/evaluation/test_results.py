"""Metrics, results files and the table of a run."""

import errno
import gzip
import json
import os
import shutil
import subprocess
from unittest.mock import MagicMock

import pandas as pd
import pytest
import torch
from hypothesis import (
    given,
    strategies as st,
)
from sklearn.metrics import accuracy_score, f1_score, recall_score

from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation import metrics, results
from mlkd_lobes.evaluation.comparison import find_runs
from mlkd_lobes.evaluation.metrics import emotion_metrics
from mlkd_lobes.noise.add_noise import CLEAN, Condition, conditions

LABELS = ["neu", "hap", "sad", "ang"]
GRID = conditions(["rain", "unseen-room"], [0, 10])


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_a_commit_is_that_of_this_code(tmp_path, monkeypatch):
    """Not of a repository in which a copy is installed."""
    for name in [n for n in os.environ if n.startswith("GIT_")]:
        monkeypatch.delenv(name)
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)

    def git(*words):
        own = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *own, *words], cwd=tmp_path, check=True)

    for name in ("theirs", "results.py"):
        (tmp_path / name).write_text(name)
    git("init", "-q")
    monkeypatch.setattr(results, "__file__", str(tmp_path / "results.py"))
    git("add", "theirs")
    git("commit", "-qm", "theirs")
    assert results.code_version() is None
    git("add", ".")
    assert results.code_version().endswith("-dirty")
    git("commit", "-qm", "ours")
    assert len(results.code_version()) == 40


@given(st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)),
                min_size=1, max_size=40))  # fmt: skip
def test_metrics_are_those_of_their_definitions(pairs):
    true, predicted = zip(*pairs)
    found = emotion_metrics(true, predicted, LABELS)
    assert found["n"] == len(pairs)
    assert found["WA"] == pytest.approx(accuracy_score(true, predicted))
    present = sorted(set(true))
    recall = recall_score(
        true, predicted, labels=present, average=None, zero_division=0
    )
    assert found["UA"] == pytest.approx(recall.mean())
    f1 = f1_score(
        true, predicted, labels=present, average="macro", zero_division=0
    )
    assert found["F1"] == pytest.approx(f1)
    for label, value in zip(present, recall):
        assert found["recall"][label] == pytest.approx(value)
    assert {k for k, v in found["recall"].items() if v is not None} == set(true)
    matrix = torch.tensor(found["confusion"])
    assert matrix.shape == (4, 4) and matrix.sum() == len(pairs)
    for true_label, printed in set(pairs):
        cell = matrix[LABELS.index(true_label), LABELS.index(printed)]
        assert cell == pairs.count((true_label, printed))


def records():
    """Utterance i has label i, is right when clean, 'ang' in rain at 0."""
    for i in range(4):
        logits = torch.zeros(len(GRID), 4)
        logits[:, i] = 2.0
        logits[GRID.index(Condition("rain", 0)), 3] = 9.0
        probabilities = logits.softmax(-1)
        yield results.Record(f"u{i}", "s", 0.5 + i, i, GRID, probabilities)


def table():
    return results.prediction_table(records(), LABELS)


def write(folder, cost=None):
    """Writes a run and reads its results."""
    results.write_run(folder, HEADER, table(), cost or {})
    return results.read_results(folder)


HEADER = {
    "system": "mlkd",
    "corpus": "tiny",
    "protocol": "groups",
    "fold": 1,
    "seed": 1,
    "noise_corpus": "folder",
    "labels": LABELS,
    "hparams_sha256": "0",
}


def test_run_is_written_and_read(tmp_path):
    cost = {"parameters": 1}
    written = write(tmp_path, cost)
    assert written["schema"] == 1
    rows = results.read_predictions(tmp_path)
    assert list(rows.columns) == results.prediction_columns(LABELS)
    pd.testing.assert_frame_equal(rows, table(), check_dtype=False)
    again = results.summarize(rows, LABELS)
    assert again == written["conditions"]
    assert json.loads((tmp_path / "cost.json").read_text()) == cost


def test_conditions_and_consistency(tmp_path):
    run = write(tmp_path)
    assert [(c["noise"], c["snr_db"]) for c in run["conditions"]] == GRID
    assert metrics.metric(run, CLEAN) == 1.0
    assert run["conditions"][0]["consistency"] is None
    assert metrics.metric(run, Condition("rain", 0)) == 0.25
    assert metrics.metric(run, Condition("rain", 0), "consistency") == 0.25
    assert metrics.noise_types(run) == ["rain"]
    assert metrics.noise_types(run, unseen=True) == ["unseen-room"]
    assert metrics.noisy_mean(run) == pytest.approx(0.625)
    assert metrics.noisy_mean(run, snr=0) == 0.25
    assert metrics.noisy_mean(run, noise="unseen-room") == 1.0
    with pytest.raises(KeyError):
        metrics.metric(run, Condition("rain", 5))


def test_equal_predictions_are_equal_files(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name)
    first, second = (tmp_path / n / results.PREDICTIONS for n in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    assert gzip.decompress(first.read_bytes()).startswith(b"id,speaker,noise")


def test_finding_and_refusing_runs(tmp_path):
    with pytest.raises(FileNotFoundError):
        find_runs([tmp_path])
    write(tmp_path / "x/mlkd")
    assert len(find_runs([tmp_path])) == 1
    path = tmp_path / "x/mlkd/results.json"
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(ValueError, match="schema 2, expected 1"):
        results.read_results(path.parent)
    run = write(path.parent)
    del run["fold"], run["corpus"]
    path.write_text(json.dumps(run))
    with pytest.raises(ValueError, match="results.json lacks corpus, fold"):
        results.read_results(path.parent)
    run = write(path.parent)
    whole = run["conditions"]
    lacking = {k: v for k, v in whole[0].items() if k != "WA"}
    for entries in (
        None,
        [],
        [None],
        5,
        [5],
        [list(whole[0])],
        [*whole, lacking],
    ):
        path.write_text(json.dumps({**run, "conditions": entries}))
        with pytest.raises(ValueError, match="results.json: a condition lacks"):
            results.read_results(path.parent)
    frame = table().drop(columns=["predicted", "speaker"])
    frame.to_csv(path.parent / results.PREDICTIONS, index=False)
    with pytest.raises(ValueError, match="gz lacks speaker, predicted"):
        results.read_predictions(path.parent)


def test_results_never_stand_beside_other_predictions(tmp_path, monkeypatch):
    """A run that is written anew and killed half way has no results."""
    write(tmp_path)
    replace, renamed = os.replace, []

    def killed(source, target):
        if renamed:
            raise KeyboardInterrupt
        replace(source, target)
        if target.name == results.PREDICTIONS:
            renamed.append(target.name)

    monkeypatch.setattr("mlkd_lobes.files.os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path)
    assert renamed and not (tmp_path / results.RESULTS).exists()
    assert not results.is_complete(tmp_path)


def test_results_may_be_a_link(tmp_path):
    (tmp_path / "store").mkdir()
    link = tmp_path / results.RESULTS
    link.symlink_to(tmp_path / "store/a.json")
    for cost in ({}, {"x": 1}):
        write(tmp_path, cost)
        assert link.is_symlink() and results.is_complete(tmp_path)


def test_results_stay_if_new_ones_cannot_be_written(tmp_path, monkeypatch):
    write(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(results, "write_json", full)
    with pytest.raises(InputError, match="the disk is full"):
        write(tmp_path, {"x": 1})
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert results.is_complete(tmp_path)


def test_tables_show_the_numbers(tmp_path):
    run = write(tmp_path)
    shown = metrics.run_table(run)
    lines = {line.split("|")[1].strip(): line for line in shown.splitlines()}
    assert [c.strip() for c in lines["rain"].split("|")[2:5]] == [
        "25.0",
        "100.0",
        "62.5",
    ]
    assert "100.0" in lines["clean"]
    assert len({len(line) for line in shown.splitlines()}) == 1


def test_operations_are_counted_on_the_cpu(monkeypatch):
    """Those of an FFT, which a GPU computes instead, would be missing."""
    counted, model = [], MagicMock()
    monkeypatch.setattr(metrics, "macs_per_second", counted.append)
    metrics.model_cost(model, "cpu")
    assert counted == [model.cpu.return_value]


def test_runs_are_read_from_a_zip_archive(tmp_path):
    write(tmp_path / "a/mlkd")
    shutil.make_archive(tmp_path / "packed", "zip", tmp_path, "a")
    (packed,) = find_runs([tmp_path / "packed.zip"])
    (plain,) = find_runs([tmp_path / "a"])
    assert packed.results == plain.results
    tables = [results.read_predictions(run.folder) for run in (packed, plain)]
    pd.testing.assert_frame_equal(*tables)
    assert results.read_cost(packed.folder) == {}
