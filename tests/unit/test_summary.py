"""Folds are pooled, seeds averaged, systems compared on the same utterances."""

import gzip

import numpy as np
import pandas as pd
import pytest

from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.report import report_text
from mlkd_lobes.evaluation.results import (
    find_runs,
    is_whole,
    prediction_columns,
    write_run,
)
from mlkd_lobes.evaluation.summary import (
    comparisons,
    noise_kinds,
    pool,
    score,
    seen_noise,
)
from mlkd_lobes.evaluation.tables import plot_systems
from mlkd_lobes.noise import CLEAN, Condition

LABELS = ["neu", "ang"]
GRID = [CLEAN, Condition("rain", 0.0), Condition("rain", 10.0)]
GRID += [Condition("unseen-room", 0.0)]
HEADER = {
    "corpus": "tiny",
    "protocol": "groups",
    "noise_corpus": "folder",
    "labels": LABELS,
}


def write(folder, system, fold, seed, right, grid=GRID, **header):
    """Two speakers a fold; the first `right` of 10 answers are right."""
    rows = []
    for speaker in (f"s{2 * fold}", f"s{2 * fold + 1}"):
        for n in range(10):
            true = LABELS[n % 2]
            for condition in grid:
                worse = 0 if condition == CLEAN else 2
                said = true if n < right - worse else LABELS[1 - n % 2]
                row = [f"{speaker}-{n}", speaker, *condition, true, said]
                rows.append([*row, 0.5, 0.5])
    table = pd.DataFrame(rows, columns=prediction_columns(LABELS))
    names = {**HEADER, "system": system, "fold": fold, "seed": seed, **header}
    place = folder / f"{system}-{fold}-{seed}"
    write_run(place, names, table, grid, {})
    return place


@pytest.fixture
def folder(tmp_path):
    """Two folds, two seeds; the better system by one answer in ten."""
    for fold in (1, 2):
        for seed in (1, 2):
            write(tmp_path, "student_noisy", fold, seed, 5 + seed)
            write(tmp_path, "mlkd", fold, seed, 6 + seed)
    return tmp_path


def test_folds_are_pooled_and_seeds_averaged(folder):
    worse, better = pool(find_runs([folder]))
    assert (worse.name, better.name) == ("student_noisy", "mlkd")
    assert better.folds == [1, 2] and list(better.seeds) == [1, 2]
    assert len(better.seeds[1]) == 2 * 2 * 10 * len(GRID)
    assert score(better, [CLEAN]) == pytest.approx(0.75)
    assert score(better, [CLEAN], "WA") == pytest.approx(0.75)
    assert score(better, seen_noise(better)) == pytest.approx(0.55)
    assert noise_kinds(better) == ["rain"]
    assert noise_kinds(better, unseen=True) == ["unseen-room"]
    assert seen_noise(better, snr=10.0) == [Condition("rain", 10.0)]


def test_ua_of_pooled_folds_is_not_the_mean_of_folds(tmp_path):
    """Fold 2 tests one utterance of a class: it must not count like ten."""
    write(tmp_path, "mlkd", 1, 1, 10)
    place = write(tmp_path, "mlkd", 2, 1, 10)
    (system,) = pool(find_runs([tmp_path]))
    table = system.seeds[1]
    keep = ~(table["speaker"].isin(["s4", "s5"]) & (table["true"] == "ang"))
    table = table[keep | (table["id"] == "s4-1")].copy()
    table.loc[table["id"] == "s4-1", "predicted"] = "neu"
    system = system._replace(seeds={1: table})
    assert score(system, [CLEAN]) == pytest.approx((1 + 10 / 11) / 2)
    assert place.is_dir()


def test_systems_are_compared_with_the_student_alone(folder):
    systems = pool(find_runs([folder]))
    ((name, seeds, found),) = comparisons(systems)
    assert (name, seeds) == ("mlkd", [1, 2])
    assert found.difference == pytest.approx(0.1)
    assert found.per_seed == pytest.approx([0.1, 0.1])
    assert found.n_speakers == 4 and found.p == pytest.approx(2 / 16)
    write(folder, "kd_last", 1, 1, 9)
    names = [name for name, *_ in comparisons(pool(find_runs([folder])))]
    assert names == ["mlkd"]  # kd_last has another set of folds
    assert comparisons(systems[1:]) == []


def test_report_and_figure(folder):
    runs = find_runs([folder])
    systems = pool(runs)
    text = report_text(systems, runs[0].results)
    assert "40 test utterances of 4 speakers" in text
    assert "intervals are too narrow" in text
    row = next(r for r in text.splitlines() if r.startswith("| mlkd  "))
    cells = [cell.strip() for cell in row.split("|")[2:-1]]
    assert cells[:3] == ["2", "75.0", "55.0"] and " to " in cells[3]
    row = next(r for r in text.splitlines() if "mlkd − student" in r)
    assert "+10.0" in row and "+10.0, +10.0" in row and "0.125" in row
    plot_systems(systems, folder / "ua.svg")
    figure = (folder / "ua.svg").read_text()
    assert figure.count("<path") > 10


def test_runs_that_do_not_fit_together_are_refused(folder):
    write(folder, "mlkd", 3, 1, 9)
    with pytest.raises(InputError, match="mlkd: seed 2 lacks fold.s. 3"):
        pool(find_runs([folder]))
    write(folder, "mlkd", 3, 2, 9, grid=GRID[:2])
    with pytest.raises(InputError, match="under other conditions"):
        pool(find_runs([folder]))
    write(folder, "mlkd", 3, 2, 9, noise_corpus="musan")
    with pytest.raises(InputError, match="noise_corpus musan, but folder"):
        pool(find_runs([folder]))


def test_a_folder_given_twice_counts_once(folder):
    assert len(find_runs([folder, folder])) == 8


def test_a_run_is_whole_or_it_is_not(folder):
    place = folder / "mlkd-1-1"
    assert is_whole(place) and not is_whole(folder / "nowhere")
    predictions = place / "predictions.csv.gz"
    content = predictions.read_bytes()
    predictions.write_bytes(content[:-20])
    assert not is_whole(place)
    lines = gzip.decompress(content).decode().splitlines()
    predictions.write_bytes(gzip.compress("\n".join(lines[:-1]).encode()))
    assert not is_whole(place)
    predictions.write_bytes(content)
    for name in ("results.json", "cost.json"):
        text = (place / name).read_text()
        (place / name).write_text(text[: len(text) // 2])
        assert not is_whole(place)
        (place / name).write_text(text)
    assert is_whole(place)
    assert np.isfinite(score(pool(find_runs([folder]))[0], [CLEAN]))
