"""Folds are pooled, seeds averaged, systems compared on the same utterances."""

import gzip
import json
import re
import warnings

import numpy as np
import pytest
from fake_runs import GRID, LABELS, rewrite, write

from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.comparison import comparisons, find_runs, pool
from mlkd_lobes.evaluation.figures import ua_over_snr
from mlkd_lobes.evaluation.page import page_html
from mlkd_lobes.evaluation.report import (
    comparisons_table,
    kept_shares,
    report_text,
)
from mlkd_lobes.evaluation.results import (
    is_complete,
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
from mlkd_lobes.noise.add_noise import CLEAN, Condition

MAIN = ["mlkd - student_noisy"]


@pytest.fixture
def folder(tmp_path):
    """Two folds, two seeds; the better system by one prediction in ten."""
    for fold in (1, 2):
        for seed in (1, 2):
            write(tmp_path, "student_noisy", fold, seed, 5 + seed)
            write(tmp_path, "mlkd", fold, seed, 6 + seed)
    return tmp_path


def systems_of(folder, **options):
    return pool(find_runs([folder], **options)).systems


def text_of(folder):
    pooled = pool(find_runs([folder]))
    wanted = comparisons(pooled.systems, pooled.about["comparisons"])
    return report_text(pooled, wanted)


def unchanged(speaker=None):
    """Makes the predictions in noise those without it, for all or a speaker."""

    def change(table):
        clean = table[table["noise"] == "clean"].set_index("id")["predicted"]
        rows = table["speaker"].isin([speaker] if speaker else table["speaker"])
        table.loc[rows, "predicted"] = table.loc[rows, "id"].map(clean)
        return table

    return change


def test_folds_are_pooled_and_seeds_averaged(folder):
    worse, better = systems_of(folder)
    assert (worse.name, better.name) == ("student_noisy", "mlkd")
    assert better.folds == [1, 2] and better.seeds == [1, 2]
    assert len(better.tables[1]) == 2 * 2 * 10 * len(GRID)
    assert better.score([CLEAN]) == pytest.approx(0.75)
    assert better.score([CLEAN], "WA") == pytest.approx(0.75)
    assert better.score(better.conditions()) == pytest.approx(0.55)
    assert better.noise_types() == ["rain"]
    assert better.noise_types(unseen=True) == ["unseen-room"]
    assert better.conditions(snr=10.0) == [Condition("rain", 10.0)]


def test_ua_of_pooled_folds_is_not_the_mean_of_folds(tmp_path):
    """Fold 2 tests one utterance of a class, which must not count as ten."""
    write(tmp_path, "mlkd", 1, 1, 10)

    def one_of_a_class(table):
        table = table[(table["true"] == "neu") | (table["id"] == "s4-1")].copy()
        table.loc[table["id"] == "s4-1", "predicted"] = "neu"
        return table

    rewrite(write(tmp_path, "mlkd", 2, 1, 10), one_of_a_class)
    (system,) = systems_of(tmp_path)
    assert system.score([CLEAN]) == pytest.approx((1 + 10 / 11) / 2)
    counts = speaker_counts([system.tables[1]], LABELS, [CLEAN])
    assert mean_ua(counts) == pytest.approx((1 + 10 / 11) / 2)


def test_other_metrics_of_pooled_folds(folder):
    _, better = systems_of(folder)
    noisy = better.conditions()
    # Seed 1: 5 of 10 right per speaker, from the front, labels in turn.
    assert better.score(noisy, "recall", "neu") == pytest.approx(0.6)
    assert better.score(noisy, "recall", "ang") == pytest.approx(0.5)
    assert better.score(noisy, "consistency") == pytest.approx(0.8)
    found = better.confusion(noisy)
    assert found == pytest.approx(np.array([[0.6, 0.4], [0.5, 0.5]]))
    # Clean, seed 1: 4 of 5 neu and 3 of 5 ang are right; seed 2: 4 of 5 each.
    expected = np.mean([(8 / 11 + 6 / 9) / 2, 0.8])
    assert better.score([CLEAN], "F1") == pytest.approx(expected)


def test_consistency_has_an_interval(folder):
    _, better = systems_of(folder)
    noisy = better.conditions()
    counts = unchanged_counts(list(better.tables.values()), noisy)
    assert mean_ua(counts) == pytest.approx([0.8, 0.8])
    # All speakers of a seed are equal, so every draw gives the same.
    assert better.consistency_interval(noisy) == pytest.approx((0.8, 0.8))
    for seed in (1, 2):
        rewrite(folder / f"mlkd-1-{seed}", unchanged("s2"))
    _, better = systems_of(folder)
    assert better.score(noisy, "consistency") == pytest.approx(0.85)
    # Of four speakers, all draws may be s2, or none.
    assert better.consistency_interval(noisy) == pytest.approx((0.8, 1.0))


def test_two_systems_are_compared_seed_by_seed(folder):
    systems = systems_of(folder)
    wanted = [*MAIN, "mlkd - student_noisy, clean", "mlkd - absent"]
    found = comparisons(
        systems, [*wanted, "mlkd - student_noisy, unseen noise"]
    )
    assert [c.under for c in found] == ["noisy", "clean", "unseen noise"]
    main = found[0]
    assert (main.one.name, main.other.name) == ("mlkd", "student_noisy")
    assert main.seeds == [1, 2] and main.per_run == pytest.approx([0.1] * 4)
    assert main.found.mean == pytest.approx(0.1)
    assert main.found.per_seed == pytest.approx([0.1, 0.1])
    assert main.found.n_speakers == 4
    assert main.found.p == pytest.approx(2 / 16)
    unseen = [s.score(s.conditions(unseen=True)) for s in systems]
    assert found[2].found.mean == pytest.approx(unseen[1] - unseen[0])


@pytest.mark.parametrize("text", ["mlkd", "a - b, loud", "a-b"])
def test_comparisons_of_another_form_are_refused(folder, text):
    with pytest.raises(InputError, match="is not of the form 'one - other'"):
        comparisons(systems_of(folder), [text])


def test_only_common_seeds_are_compared(folder):
    for fold in (1, 2):
        write(folder, "mlkd", fold, 3, 9)
    (main,) = comparisons(systems_of(folder), MAIN)
    assert main.seeds == [1, 2] and len(main.per_run) == 4


def test_systems_are_compared_on_the_same_folds(folder):
    """As few runs as possible are left out, and they are named."""
    write(folder, "kd_last", 1, 1, 9)
    pooled = pool(find_runs([folder]))
    assert len(pooled.systems) == 2
    assert pooled.left_out == ["kd_last, seed 1, fold(s) 1"]
    text = report_text(pooled, comparisons(pooled.systems, MAIN))
    assert "fold(s) 1, 2: 40 test" in text and "same folds: kd_last, s" in text
    for seed in (1, 2):
        write(folder, "kd_last", 1, seed, 9)
        write(folder, "teacher", 1, seed, 9)
    # Four systems on one fold are as many runs as two on both.
    pooled = pool(find_runs([folder]))
    assert len(pooled.systems) == 2 and len(pooled.left_out) == 4
    for seed in (1, 2):
        write(folder, "random", 1, seed, 9)
    pooled = pool(find_runs([folder]))
    assert len(pooled.systems) == 5 and pooled.systems[0].folds == [1]
    assert pooled.left_out[0] == "mlkd, seed 1, fold(s) 2"


def test_a_comparison_comes_before_more_folds(tmp_path):
    """As in a sweep whose teachers have run on all folds, its students on one."""
    for fold in (1, 2, 3):
        write(tmp_path, "teacher", fold, 1, 8)
    for system in ("mlkd", "student_noisy"):
        write(tmp_path, system, 1, 1, 9)
    pooled = pool(find_runs([tmp_path]))
    assert len(pooled.systems) == 3
    assert pooled.left_out == ["teacher, seed 1, fold(s) 2, 3"]


def test_utterances_without_a_speaker_have_a_report(folder):
    def forget(table):
        table.loc[table["id"] == table["id"][0], "speaker"] = ""
        return table

    for run in folder.iterdir():
        rewrite(run, forget)
    pooled = pool(find_runs([folder]))
    text = report_text(pooled, comparisons(pooled.systems, MAIN))
    (row,) = [x for x in text.splitlines() if x.startswith("| mlkd − student")]
    assert "–" in row and "+" in row and "nan" not in text
    assert "Some utterances have no speaker: no intervals" in text
    assert " of 4 speakers" in text and "unreliable" not in text


def test_an_utterance_tested_in_two_folds_is_refused(folder):
    table = read_predictions(folder / "mlkd-1-1")
    about = read_results(folder / "mlkd-2-1")
    write_run(folder / "mlkd-2-1", about, table, {})
    with pytest.raises(InputError, match="s2-0 is tested in several folds"):
        systems_of(folder, systems=["mlkd"])


def test_systems_tested_on_other_utterances_are_refused(folder):
    for seed in (1, 2):
        rewrite(folder / f"mlkd-1-{seed}", lambda t: t[t["id"] != "s2-3"])
    with pytest.raises(InputError, match="were tested on different utterances"):
        systems_of(folder)


@pytest.mark.parametrize("grid", [GRID[:1], [CLEAN, GRID[3]]])
def test_runs_without_noise_of_training(tmp_path, grid):
    """Clean speech or unseen noise only: dashes, no figure over SNR."""
    for fold in (1, 2):
        write(tmp_path, "mlkd", fold, 1, 8, grid)
        write(tmp_path, "student_noisy", fold, 1, 6, grid)
        write(tmp_path, "teacher", fold, 1, 6, grid)
    pooled = pool(find_runs([tmp_path]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wanted = comparisons(pooled.systems, pooled.about["comparisons"])
        text = report_text(pooled, wanted)
        assert "nan" not in text and "| mlkd − teacher" in text
        row = next(r for r in text.splitlines() if r.startswith("| mlkd  "))
        cells = [cell.strip() for cell in row.split("|")[2:6]]
        assert cells == ["1", "80.0", "–", "–"]
        page = page_html(pooled, wanted)
    assert "nan" not in re.sub("<svg.*?</svg>", "", page, flags=re.DOTALL)
    with pytest.raises(InputError, match="no UA over SNR to draw"):
        ua_over_snr(pooled.systems)


def test_one_speaker_has_no_interval(tmp_path):
    for system, right in (("mlkd", 8), ("student_noisy", 6)):
        place = write(tmp_path, system, 1, 1, right)
        rewrite(place, lambda table: table[table["speaker"] == "s2"])
    text = text_of(tmp_path)
    assert "nan" not in text
    row = next(r for r in text.splitlines() if r.startswith("| mlkd − student"))
    cells = [cell.strip() for cell in row.split("|")[2:9]]
    assert cells[:4] == ["noisy", "1", "+20.0", "–"] and cells[6] == "–"


def test_what_the_main_system_keeps_is_generated(folder):
    for fold in (1, 2):
        for seed in (1, 2):
            write(folder, "teacher", fold, seed, 9)
    systems = systems_of(folder)
    wanted = comparisons(systems, [*MAIN, "mlkd - teacher, clean"])
    unchanged_share, clean_share = kept_shares(wanted)
    # Noise changes 2 of 10 predictions; 7 and 8 of 10 are right, 9 the teacher's.
    expected = "At 10 dB mlkd keeps its clean-speech prediction for 80.0 % of"
    assert unchanged_share.startswith(expected)
    expected = f"mlkd is {100 * 0.75 / 0.9:.1f} % of that of teacher."
    assert clean_share == f"On clean speech the UA of {expected}"
    assert kept_shares([]) == []


def test_runs_in_which_a_system_is_better_are_counted(folder):
    write(folder, "mlkd", 1, 2, 4)  # student_noisy: 7
    write(folder, "mlkd", 2, 2, 7)
    wanted = comparisons(systems_of(folder), MAIN)
    per_run = wanted[0].per_run
    assert per_run == pytest.approx([0.1, -0.3, 0.1, 0.0], abs=1e-12)
    table = comparisons_table(wanted)
    row = dict(zip(table.header, table.rows[0]))
    assert row["runs better"] == "2 of 4" and row["seeds"] == "2"
    # Student's t of two values, their mean -2.5, its error 12.5 points.
    per_seed = wanted[0].found.per_seed
    assert per_seed == pytest.approx([0.1, -0.15], abs=1e-12)
    low, high = seeds_interval(per_seed)
    assert (low, high) == pytest.approx((-1.6133, 1.5633), abs=1e-3)
    assert row["over seeds"] == "-161.3 to +156.3"
    # A single seed has no interval over seeds, nor have equal ones.
    assert np.isnan(seeds_interval([0.3, 0.1 + 0.2])).all()
    runs = [r for r in find_runs([folder]) if r.results["seed"] == 1]
    table = comparisons_table(comparisons(pool(runs).systems, MAIN))
    assert dict(zip(table.header, table.rows[0]))["over seeds"] == "–"


def test_a_small_p_is_not_shown_as_zero(tmp_path):
    for fold in range(1, 7):
        write(tmp_path, "student_noisy", fold, 1, 5)
        write(tmp_path, "mlkd", fold, 1, 7)
    wanted = comparisons(systems_of(tmp_path), MAIN)
    assert wanted[0].found.p == pytest.approx(2 / 2**12)
    assert "< 0.001" in comparisons_table(wanted).rows[0]


def test_report(folder):
    text = text_of(folder)
    assert "40 test utterances of 4 speakers" in text
    assert "chance is 50.0 % UA" in text
    assert "Intervals are unreliable: fewer than 8 speakers" in text
    row = next(r for r in text.splitlines() if r.startswith("| mlkd  "))
    cells = [cell.strip() for cell in row.split("|")[2:-1]]
    # Speakers are equal, so all draws are.
    assert cells[:4] == ["2", "75.0", "55.0", "55.0 to 55.0"]
    row = next(r for r in text.splitlines() if r.startswith("| mlkd − student"))
    assert "+10.0" in row and "+10.0, +10.0" in row and "0.125" in row
    for metric in ("UA", "WA", "macro-F1", "unchanged"):
        assert f"| {metric} (" in text


def test_a_class_that_was_not_tested_has_no_recall(tmp_path):
    place = write(tmp_path, "mlkd", 1, 1, 8)
    rewrite(place, lambda table: table[table["true"] == "neu"])
    (system,) = systems_of(tmp_path)
    assert np.isnan(system.score([CLEAN], "recall", "ang"))


def test_labels_may_be_numbers(tmp_path):
    def renamed(table):
        for column in ("true", "predicted"):
            table[column] = table[column].map({"neu": "0", "ang": "1"})
        return table.rename(columns={"p_neu": "p_0", "p_ang": "p_1"})

    for system, right in (("mlkd", 8), ("student_noisy", 6)):
        place = write(tmp_path, system, 1, 1, right)
        rewrite(place, renamed, labels=["0", "1"])
    systems = systems_of(tmp_path)
    (main,) = comparisons(systems, MAIN)
    assert main.found.mean == pytest.approx(0.2)
    assert systems[1].score([CLEAN], "recall", "0") == pytest.approx(0.8)


def test_results_that_do_not_follow_from_predictions_are_refused(folder):
    run = find_runs([folder])[0]
    entry = run.results["conditions"][1]
    # As many right, of other classes.
    entry["confusion"] = [row[::-1] for row in entry["confusion"][::-1]]
    (run.folder / "results.json").write_text(json.dumps(run.results))
    with pytest.raises(InputError, match="are not those of its results"):
        systems_of(folder)


def test_predictions_of_other_labels_are_refused(folder):
    for run in find_runs([folder]):
        about = {**run.results, "labels": ["neu", "sad"]}
        (run.folder / "results.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match="not those of its results .labels"):
        systems_of(folder)


def test_speaker_named_na_is_kept(tmp_path):
    def renamed(table):
        names = {"s2": "NA", "s3": "null"}
        table["speaker"] = table["speaker"].replace(names)
        return table

    rewrite(write(tmp_path, "mlkd", 1, 1, 8), renamed)
    (system,) = systems_of(tmp_path)
    assert system.counts.speakers == ["NA", "null"]


def test_folds_and_systems_can_be_chosen(folder):
    (_, better) = systems_of(folder, folds=[2])
    assert better.folds == [2]
    (worse,) = systems_of(folder, systems=["student_noisy"])
    assert worse.name == "student_noisy"
    with pytest.raises(InputError, match="of fold 3, 4 there; found: 1, 2"):
        find_runs([folder], folds=[1, 3, 4])


def test_runs_of_other_corpora_or_conditions_are_refused(folder):
    write(folder, "mlkd", 1, 2, 9, grid=GRID[:2])
    with pytest.raises(InputError, match="under other conditions"):
        systems_of(folder)
    write(folder, "mlkd", 1, 2, 9, noise_corpus="musan")
    with pytest.raises(InputError, match="noise_corpus musan, but folder"):
        systems_of(folder)


def test_predictions_of_another_run_are_refused(folder):
    place = folder / "mlkd-1-1"
    content = (place / "predictions.csv.gz").read_bytes()
    other = (folder / "mlkd-1-2/predictions.csv.gz").read_bytes()
    (place / "predictions.csv.gz").write_bytes(other)
    assert not is_complete(place)
    with pytest.raises(InputError, match="mlkd-1-1: its predictions are not"):
        systems_of(folder)
    for damaged in (b"", content[:-20], b"no table"):
        (place / "predictions.csv.gz").write_bytes(damaged)
        with pytest.raises(InputError, match="predictions.csv.gz: cannot be"):
            systems_of(folder)


def test_a_folder_given_twice_counts_once(folder):
    assert len(find_runs([folder, folder])) == 8


def test_damaged_runs_are_not_complete(folder):
    place = folder / "mlkd-1-1"
    assert is_complete(place) and not is_complete(folder / "nowhere")
    predictions = place / "predictions.csv.gz"
    content = predictions.read_bytes()
    lines = gzip.decompress(content).decode().splitlines()
    shorter = gzip.compress("\n".join(lines[:-1]).encode())
    for damaged in (content[:-20], shorter):
        predictions.write_bytes(damaged)
        assert not is_complete(place)
    for at in range(20, len(content), 97):
        flipped = bytearray(content)
        flipped[at] ^= 255
        predictions.write_bytes(bytes(flipped))
        is_complete(place)  # may be unnoticed, but never raises
    predictions.write_bytes(content)
    for name in ("results.json", "cost.json"):
        text = (place / name).read_text()
        (place / name).write_text(text[: len(text) // 2])
        assert not is_complete(place)
        (place / name).write_text(text)
    assert is_complete(place)
