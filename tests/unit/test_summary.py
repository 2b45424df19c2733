"""Folds are pooled, seeds averaged, systems compared on the same utterances."""

import gzip
import json
import re
import shutil
import warnings

import numpy as np
import pandas as pd
import pytest

from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.figures import ua_over_snr
from mlkd_lobes.evaluation.page import page_html
from mlkd_lobes.evaluation.pooling import on_shared_folds, pool
from mlkd_lobes.evaluation.report import aims, report_text
from mlkd_lobes.evaluation.results import (
    find_runs,
    is_whole,
    prediction_columns,
    read_predictions,
    read_results,
    write_run,
)
from mlkd_lobes.evaluation.statistics import (
    mean_ua,
    seeds_interval,
    speaker_counts,
    unchanged_counts,
)
from mlkd_lobes.evaluation.summary import (
    confusion,
    consistency_interval,
    contrast,
    contrasts,
    noise_kinds,
    score,
    seen_noise,
    unseen_noise,
)
from mlkd_lobes.evaluation.tables import contrasts_table
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
    table = read_predictions(place)
    table = table[(table["true"] == "neu") | (table["id"] == "s4-1")].copy()
    table.loc[table["id"] == "s4-1", "predicted"] = "neu"
    write_run(place, read_results(place), table, GRID, {})
    (system,) = pool(find_runs([tmp_path]))
    assert score(system, [CLEAN]) == pytest.approx((1 + 10 / 11) / 2)
    counts = speaker_counts([system.seeds[1]], LABELS, [CLEAN])
    assert mean_ua(counts) == pytest.approx((1 + 10 / 11) / 2)


def test_other_metrics_of_pooled_folds(folder):
    _, better = pool(find_runs([folder]))
    noisy = seen_noise(better)
    # Seed 1: 5 of 10 right per speaker, from the front, labels in turn.
    assert score(better, noisy, "recall", "neu") == pytest.approx(0.6)
    assert score(better, noisy, "recall", "ang") == pytest.approx(0.5)
    assert score(better, noisy, "consistency") == pytest.approx(0.8)
    found = confusion(better, noisy)
    assert found == pytest.approx(np.array([[0.6, 0.4], [0.5, 0.5]]))
    # Clean, seed 1: 4 of 5 neu and 3 of 5 ang are right; seed 2: 4 of 5 each.
    expected = np.mean([(8 / 11 + 6 / 9) / 2, 0.8])
    assert score(better, [CLEAN], "F1") == pytest.approx(expected)


def test_consistency_has_an_interval(folder):
    _, better = pool(find_runs([folder]))
    noisy = seen_noise(better)
    counts = unchanged_counts(list(better.seeds.values()), noisy)
    per_seed = [
        np.mean([e["consistency"] for e in scores if e["noise"] == "rain"])
        for scores in better.scores.values()
    ]
    assert mean_ua(counts) == pytest.approx(per_seed)
    low, high = consistency_interval(better, noisy)
    # Every speaker of a seed is answered alike: nothing hangs on who is drawn.
    assert low == high == pytest.approx(score(better, noisy, "consistency"))
    for seed in (1, 2):
        unmoved(folder / f"mlkd-1-{seed}", "s2")
    _, better = pool(find_runs([folder]))
    assert score(better, noisy, "consistency") == pytest.approx(0.85)
    # Of four speakers all may be drawn to be s2, or none.
    assert consistency_interval(better, noisy) == pytest.approx((0.8, 1.0))


def unmoved(place, speaker=None):
    """Makes noise change nothing of what a run says, or says of a speaker."""
    table = read_predictions(place)
    clean = table[table["noise"] == "clean"].set_index("id")["predicted"]
    rows = table["speaker"].isin([speaker] if speaker else table["speaker"])
    table.loc[rows, "predicted"] = table.loc[rows, "id"].map(clean)
    write_run(place, read_results(place), table, GRID, {})


def test_systems_are_compared_with_the_student_alone(folder):
    systems = pool(find_runs([folder]))
    primary = contrasts(systems)[0]
    assert primary[:3] == ("mlkd", "student_noisy", "noisy")
    assert primary.seeds == [1, 2]
    found = primary.found
    assert found.difference == pytest.approx(0.1)
    assert found.per_seed == pytest.approx([0.1, 0.1])
    assert found.n_speakers == 4 and found.p == pytest.approx(2 / 16)
    assert primary.per_run == pytest.approx([0.1] * 4)
    under = [c.under for c in contrasts(systems)]
    assert under == ["noisy", "clean", "unseen noise"]
    unseen = contrast(*systems[::-1], under="unseen noise").found
    assert unseen.difference == pytest.approx(
        score(systems[1], unseen_noise(systems[1]))
        - score(systems[0], unseen_noise(systems[0]))
    )
    write(folder, "kd_last", 1, 1, 9)
    names = {c.one for c in contrasts(pool(find_runs([folder])))}
    assert names == {"mlkd"}  # kd_last has another set of folds
    systems = pool(find_runs([folder], folds=[1]))
    names = [c.one for c in contrasts(systems)]
    assert names[:2] == ["mlkd", "kd_last"]  # what was asked first, first
    assert contrasts([s for s in systems if s.name == "kd_last"]) == []


def test_systems_are_compared_on_the_same_folds(folder, tmp_path):
    """What is left out costs as few runs as possible, and is named."""
    write(folder, "kd_last", 1, 1, 9)
    runs, left_out = on_shared_folds(find_runs([folder]))
    assert len(runs) == 8 and left_out == ["kd_last, seed 1, fold(s) 1"]
    text = report_text(pool(runs), runs[0].results, left_out=left_out)
    assert "fold(s) 1, 2: 40 test" in text and "same folds: kd_last, s" in text
    for seed in (1, 2):
        write(folder, "kd_last", 1, seed, 9)
        write(folder, "teacher", 1, seed, 9)
    # Four systems on one fold are as many runs as two on both.
    runs, left_out = on_shared_folds(find_runs([folder]))
    assert len(runs) == 8 and len(left_out) == 4
    for seed in (1, 2):
        write(folder, "random", 1, seed, 9)
    runs, left_out = on_shared_folds(find_runs([folder]))
    assert len(runs) == 10 and {run.results["fold"] for run in runs} == {1}
    assert left_out[0] == "mlkd, seed 1, fold(s) 2" and len(left_out) == 4


def test_an_utterance_is_tested_in_one_fold(folder):
    table = read_predictions(folder / "mlkd-1-1")
    about = {**read_results(folder / "mlkd-2-1")}
    write_run(folder / "mlkd-2-1", about, table, GRID, {})
    with pytest.raises(InputError, match="s2-0, which fold 1 tests as well"):
        pool(find_runs([folder], systems=["mlkd"]))


def test_systems_tested_on_other_utterances_are_named(folder):
    for seed in (1, 2):
        place = folder / f"mlkd-1-{seed}"
        table = read_predictions(place)
        table = table[table["id"] != "s2-3"]
        write_run(place, read_results(place), table, GRID, {})
    with pytest.raises(InputError, match="mlkd and student_noisy were tested"):
        pool(find_runs([folder]))
    # Also where they share no seed.
    found = [("mlkd", 1), ("student_noisy", 2)]
    runs = [
        run
        for run in find_runs([folder])
        if (run.results["system"], run.results["seed"]) in found
    ]
    with pytest.raises(InputError, match="were tested on different"):
        pool(on_shared_folds(runs)[0])


@pytest.mark.parametrize("grid", [GRID[:1], [CLEAN, GRID[3]]])
def test_without_noise_met_in_training(tmp_path, grid):
    """Clean speech alone, or unseen noise alone: dashes, no figure over SNR."""
    for fold in (1, 2):
        write(tmp_path, "mlkd", fold, 1, 8, grid)
        write(tmp_path, "student_noisy", fold, 1, 6, grid)
        write(tmp_path, "teacher", fold, 1, 6, grid)
    runs = find_runs([tmp_path])
    systems = pool(runs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = report_text(systems, runs[0].results)
        assert "nan" not in text and "| mlkd − teacher" in text
        row = next(r for r in text.splitlines() if r.startswith("| mlkd  "))
        cells = [cell.strip() for cell in row.split("|")[2:6]]
        assert cells == ["1", "80.0", "–", "–"]
        page = page_html(systems, runs[0].results)
    assert "nan" not in re.sub("<svg.*?</svg>", "", page, flags=re.DOTALL)
    with pytest.raises(InputError, match="no UA over SNR to draw"):
        ua_over_snr(systems)


def test_one_speaker_has_no_interval(tmp_path):
    place = write(tmp_path, "mlkd", 1, 1, 8)
    other = write(tmp_path, "student_noisy", 1, 1, 6)
    for folder in (place, other):
        table = read_predictions(folder)
        table = table[table["speaker"] == "s2"]
        write_run(folder, read_results(folder), table, GRID, {})
    runs = find_runs([tmp_path])
    text = report_text(pool(runs), runs[0].results)
    assert "nan" not in text
    row = next(r for r in text.splitlines() if r.startswith("| mlkd − student"))
    cells = [cell.strip() for cell in row.split("|")[2:9]]
    assert cells[:4] == ["noisy", "1", "+20.0", "–"] and cells[6] == "–"


def test_what_the_student_keeps_is_said(folder):
    for fold in (1, 2):
        for seed in (1, 2):
            write(folder, "teacher", fold, seed, 9)
    systems = pool(find_runs([folder]))
    mlkd = next(s for s in systems if s.name == "mlkd")
    (said,) = aims(systems)
    # Noise changes 2 of 10 answers; 7 and 8 of 10 are right, the teacher's 9.
    assert score(mlkd, seen_noise(mlkd, snr=10.0), "consistency") == 0.8
    assert "At 10 dB mlkd says of 80.0 % of the utterances" in said
    assert f"its UA is {100 * 0.75 / 0.9:.1f} % of the teacher's" in said
    assert aims([mlkd]) == []
    for fold in (1, 2):
        write(folder, "mlkd_semi", fold, 1, 8)
    semi = aims(pool(find_runs([folder])))
    assert semi[0] == said
    assert semi[1].startswith("At 10 dB mlkd_semi says of 80.0 %")
    for place in folder.glob("mlkd_semi*"):
        shutil.rmtree(place)
    # A seed that the teacher has not would compare what is not comparable.
    for fold in (1, 2):
        unmoved(write(folder, "mlkd", fold, 3, 2))
    assert aims(pool(find_runs([folder]))) == [said]


def test_runs_in_which_a_system_is_better_are_counted(folder):
    write(folder, "mlkd", 1, 2, 4)  # student_noisy: 7
    write(folder, "mlkd", 2, 2, 7)
    write(folder, "mlkd", 1, 3, 9)  # a seed that the other has not
    write(folder, "mlkd", 2, 3, 9)
    systems = pool(find_runs([folder]))
    primary = contrasts(systems)[0]
    assert primary.per_run == pytest.approx([0.1, -0.3, 0.1, 0.0], abs=1e-12)
    table = contrasts_table(systems)
    row = dict(zip(table.header, table.rows[0]))
    assert row["runs better"] == "2 of 4" and row["seeds"] == "2"
    # Student's t of two values, their mean -2.5, its error 12.5 points.
    per_seed = primary.found.per_seed
    assert per_seed == pytest.approx([0.1, -0.15], abs=1e-12)
    low, high = seeds_interval(per_seed)
    assert (low, high) == pytest.approx((-1.6133, 1.5633), abs=1e-3)
    assert row["over seeds"] == "-161.3 to +156.3"
    # Of one seed nothing was trained twice.
    runs = [r for r in find_runs([folder]) if r.results["seed"] == 1]
    table = contrasts_table(pool(runs))
    assert dict(zip(table.header, table.rows[0]))["over seeds"] == "–"


def test_a_small_p_is_not_written_as_none(tmp_path):
    for fold in range(1, 7):
        write(tmp_path, "student_noisy", fold, 1, 5)
        write(tmp_path, "mlkd", fold, 1, 7)
    systems = pool(find_runs([tmp_path]))
    assert contrasts(systems)[0].found.p == pytest.approx(2 / 2**12)
    assert "< 0.001" in contrasts_table(systems).rows[0]


def test_report(folder):
    runs = find_runs([folder])
    text = report_text(pool(runs), runs[0].results)
    assert "40 test utterances of 4 speakers" in text
    assert "chance is 50.0 % UA" in text
    assert "Intervals over 4 speakers are not to be trusted" in text
    assert "main comparison is mlkd − student_noisy in noise" in text
    row = next(r for r in text.splitlines() if r.startswith("| mlkd  "))
    cells = [cell.strip() for cell in row.split("|")[2:-1]]
    # Speakers are answered alike, so that all draws are equal.
    assert cells[:4] == ["2", "75.0", "55.0", "55.0 to 55.0"]
    row = next(r for r in text.splitlines() if r.startswith("| mlkd − student"))
    assert "+10.0" in row and "+10.0, +10.0" in row and "0.125" in row
    for metric in ("UA", "WA", "macro-F1", "recall", "unchanged"):
        assert f"| {metric} (" in text


def test_a_class_that_was_not_tested_is_left_out(tmp_path):
    place = write(tmp_path, "mlkd", 1, 1, 8)
    table = read_predictions(place)
    table = table[table["true"] == "neu"]
    write_run(place, read_results(place), table, GRID, {})
    runs = find_runs([tmp_path])
    (system,) = pool(runs)
    assert np.isnan(score(system, [CLEAN], "recall", "ang"))
    text = report_text([system], runs[0].results)
    row = next(r for r in text.splitlines() if "| mlkd" in r and "–" in r)
    assert row.count("–") == 2


def test_no_comparison_is_announced_that_is_not_there(folder):
    runs = find_runs([folder])
    runs = [r for r in runs if (r.results["system"] == "mlkd")
            == (r.results["seed"] == 1)]  # fmt: skip
    text = report_text(pool(runs), runs[0].results)
    assert "main comparison" not in text and "mlkd −" not in text


def test_a_comparison_needs_noise_that_was_trained_on(tmp_path):
    for name in ("mlkd", "student_noisy"):
        write(tmp_path, name, 1, 1, 8, grid=[CLEAN, GRID[3]])
    runs = find_runs([tmp_path])
    text = report_text(pool(runs), runs[0].results)
    assert "main comparison" not in text and "mlkd − student_noisy" in text
    assert '"over seeds"' not in text


def test_what_unlabelled_speech_adds_is_asked(folder):
    for fold in (1, 2):
        write(folder, "mlkd_semi", fold, 1, 9)
    asked = contrasts(pool(find_runs([folder])))
    (found,) = [c for c in asked if (c.one, c.other) == ("mlkd_semi", "mlkd")]
    # Over the seed that both have: 7 of 10 are right with mlkd.
    assert found.seeds == [1] and found.under == "noisy"
    assert found.found.difference == pytest.approx(0.2)


def test_labels_may_be_numbers(tmp_path):
    for system, right in (("mlkd", 8), ("student_noisy", 6)):
        place = write(tmp_path, system, 1, 1, right)
        table = read_predictions(place)
        numbers = {"neu": "0", "ang": "1"}
        for column in ("true", "predicted"):
            table[column] = table[column].map(numbers)
        table = table.rename(columns={"p_neu": "p_0", "p_ang": "p_1"})
        header = {**read_results(place), "labels": ["0", "1"]}
        write_run(place, header, table, GRID, {})
    systems = pool(find_runs([tmp_path]))
    assert contrasts(systems)[0].found.difference == pytest.approx(0.2)
    assert score(systems[1], [CLEAN], "recall", "0") == pytest.approx(0.8)


@pytest.mark.parametrize("key", ["n", "WA", "UA", "confusion"])
def test_results_that_are_not_of_the_predictions_are_refused(folder, key):
    run = find_runs([folder])[0]
    entry = run.results["conditions"][1]
    if key == "confusion":  # as many right, of other classes
        entry[key] = [row[::-1] for row in entry[key][::-1]]
    else:
        entry[key] /= 2
    (run.folder / "results.json").write_text(json.dumps(run.results))
    with pytest.raises(InputError, match="are not those of its results"):
        pool(find_runs([folder]))


def test_predictions_of_other_labels_are_refused(folder):
    for run in find_runs([folder]):
        about = {**run.results, "labels": ["neu", "sad"]}
        (run.folder / "results.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match=r"name \['ang'\], which are none of"):
        pool(find_runs([folder]))


def test_a_speaker_may_be_called_na(tmp_path):
    place = write(tmp_path, "mlkd", 1, 1, 8)
    table = read_predictions(place)
    table["speaker"] = table["speaker"].replace({"s2": "NA", "s3": "null"})
    write_run(place, read_results(place), table, GRID, {})
    assert set(read_predictions(place)["speaker"]) == {"NA", "null"}
    (system,) = pool(find_runs([tmp_path]))
    assert system.counts.speakers == ["NA", "null"]


def test_only_some_folds(folder):
    (_, better) = pool(find_runs([folder], folds=[2]))
    assert better.folds == [2] and len(better.costs) == 2
    (worse,) = pool(find_runs([folder], systems=["student_noisy"]))
    assert worse.name == "student_noisy"
    with pytest.raises(InputError, match="of fold.s. 3, 4 there; of: 1, 2"):
        find_runs([folder], folds=[1, 3, 4])


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


def test_predictions_of_another_run_are_refused(folder):
    place = folder / "mlkd-1-1"
    content = (place / "predictions.csv.gz").read_bytes()
    other = (folder / "mlkd-1-2/predictions.csv.gz").read_bytes()
    (place / "predictions.csv.gz").write_bytes(other)
    assert not is_whole(place)
    with pytest.raises(InputError, match="mlkd-1-1: its predictions are not"):
        pool(find_runs([folder]))
    for damaged in (b"", content[:-20], b"no table"):
        (place / "predictions.csv.gz").write_bytes(damaged)
        with pytest.raises(InputError, match="predictions.csv.gz: cannot be"):
            pool(find_runs([folder]))
    (place / "predictions.csv.gz").write_bytes(content)
    (place / "cost.json").unlink()
    with pytest.raises(InputError, match="mlkd-1-1/cost.json: cannot be read"):
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
    for at in range(20, len(content), 97):
        flipped = bytearray(content)
        flipped[at] ^= 255
        predictions.write_bytes(bytes(flipped))
        is_whole(place)  # may be lucky, but never raises
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 255
    predictions.write_bytes(bytes(flipped))
    assert not is_whole(place)
    predictions.write_bytes(content)
    assert np.isfinite(score(pool(find_runs([folder]))[0], [CLEAN]))
