"""The report of runs, and the README that holds it."""

import functools
import json
import pathlib

import numpy as np
import pandas as pd
import pytest
from test_evaluation import GRID, HEADER, table

from mlkd_lobes.__main__ import main
from mlkd_lobes.evaluation.figures import ua_in_words
from mlkd_lobes.evaluation.pooling import pool
from mlkd_lobes.evaluation.report import report_text, update_text
from mlkd_lobes.evaluation.results import (
    ROW,
    find_runs,
    noisy_mean,
    read_predictions,
    read_results,
    write_run,
)
from mlkd_lobes.evaluation.statistics import seeds_interval
from mlkd_lobes.evaluation.summary import contrast, score, seen_noise
from mlkd_lobes.evaluation.tables import between
from mlkd_lobes.noise import CLEAN

ROOT = pathlib.Path(__file__).parents[2]
TABLE, TABLE_40 = "results/ravdess/table", "results/ravdess/table_40"
UNSEARCHED, UNSEARCHED_40 = (
    [f"{table}/fold_{n}" for n in (4, 5, 6)] for table in (TABLE, TABLE_40)
)
# What stands in which page.
SHOWN = [
    ("README.md", [TABLE]),
    ("results/ravdess/README.md", UNSEARCHED),
    ("results/ravdess/README.md", [TABLE_40]),
    ("results/ravdess/README.md", UNSEARCHED_40),
    ("results/emodb/README.md", ["results/emodb/table"]),
]
RUN = {**HEADER, "corpus": "tiny", "protocol": "groups", "fold": 1, "seed": 1}
RUN["noise_corpus"] = "folder"


@functools.cache
def pooled(*folders):
    """The systems of some folders of the repository."""
    return pool(find_runs([ROOT / folder for folder in folders]))


def named(*folders):
    """The same by name."""
    return {system.name: system for system in pooled(*folders)}


@pytest.mark.parametrize("page,folders", SHOWN)
def test_pages_show_the_committed_results(page, folders):
    about = find_runs([ROOT / folders[0]])[0].results
    report = report_text(pooled(*folders), about, short=True)
    text = (ROOT / page).read_text()
    assert update_text(text, folders[0], report) == text


@pytest.mark.parametrize("folder", [TABLE, "results/emodb/table"])
def test_a_network_has_one_size_in_all_runs(folder):
    """Its cost was counted in one way, whatever commit a run was made with."""
    sizes = {}
    for path in (ROOT / folder).glob("*/*/*/cost.json"):
        teacher = path.parent.name in ("teacher", "teacher_noisy", "random")
        cost = json.loads(path.read_text())
        size = cost["parameters"], cost["macs_per_second"]
        sizes.setdefault(teacher, set()).add(size)
    assert {len(found) for found in sizes.values()} == {1} and len(sizes) == 2


# What the README puts first: systems compared, epochs, where they are.
ASKED = [
    ("mlkd", "student_noisy", 40, TABLE_40),
    ("mlkd", "student_noisy", 20, TABLE),
    ("mlkd_semi", "student_noisy", 20, TABLE),
    ("mlkd", "kd_last", 20, TABLE),
]


@pytest.mark.parametrize("one,other,epochs,folder", ASKED)
def test_the_readme_begins_with_what_was_found(one, other, epochs, folder):
    systems = named(folder)
    found = contrast(systems[one], systems[other]).found
    over_seeds = between(*seeds_interval(found.per_seed), "+.1f")
    each = ", ".join(f"{100 * gain:+.1f}" for gain in found.per_seed)
    row = [f"`{one}` − `{other}`", epochs, f"{100 * found.difference:+.1f}"]
    row += [between(found.low, found.high, "+.1f"), over_seeds, each]
    assert f"| {' | '.join(map(str, row))} |" in results_so_far()


def test_the_readme_says_what_hearing_noise_gives():
    table, table_40 = named(TABLE), named(TABLE_40)
    told, student = results_so_far(), table["student_noisy"]
    noise = seen_noise(student)
    ahead = 100 * (score(student, noise) - score(table["teacher"], noise))
    assert f"`student_noisy` is {ahead:.1f} points ahead of the teacher" in told
    longer = table_40["student_noisy"]
    assert set(longer.seeds) == set(student.seeds)
    before, after = (100 * score(s, noise) for s in (student, longer))
    of_seeds = (
        [score(s, noise, seeds=[seed]) for seed in sorted(s.seeds)]
        for s in (student, longer)
    )
    each = ", ".join(f"{100 * (b - a):+.1f}" for a, b in zip(*of_seeds))
    assert f"from {before:.1f} to {after:.1f} % ({each})" in told
    found = contrast(table_40["mlkd"], longer)
    assert after - before > 100 * found.found.difference  # "as much or more"


def test_the_readme_says_how_sure_the_gain_is():
    told = results_so_far()
    short, longer, before, unsearched = (
        contrast(named(*folders)["mlkd"], named(*folders)["student_noisy"])
        for folders in ([TABLE], [TABLE_40], UNSEARCHED, UNSEARCHED_40)
    )
    wins, wins_20, wins_unsearched = (
        f"{sum(gain > 0 for gain in found.per_run)} of {len(found.per_run)}"
        for found in (longer, short, unsearched)
    )
    assert f"in {wins} runs (six folds, three seeds) with 40" in told
    assert f"in {wins_20} with 20" in told
    before, part = before.found, unsearched.found
    assert (
        f"it is {100 * before.difference:+.1f} with 20 epochs (over speakers "
        f"above zero, over seeds not) and {100 * part.difference:+.1f} with 40"
    ) in told
    assert before.low > 0 > seeds_interval(before.per_seed)[0]
    page = (ROOT / "results/ravdess/README.md").read_text()
    page = " ".join(page.split())
    others = [f"{TABLE_40}/fold_{n}" for n in (1, 2, 3)]
    rest = contrast(named(*others)["mlkd"], named(*others)["student_noisy"])
    assert (
        f"the gain is {100 * part.difference:+.1f} points, ahead in "
        f"{wins_unsearched} runs, and not certain; that it is smaller than on "
        f"folds 1 to 3 ({100 * rest.found.difference:+.1f})"
    ) in page
    for found in (part, rest.found):
        assert seeds_interval(found.per_seed)[0] < 0
    assert part.low < 0
    for place, words in (
        (TABLE, "`mlkd` gains {:+.1f} in noise with 20 epochs, over seeds {},"),
        (TABLE_40, "and {:+.1f} with 40, over seeds {}, over speakers {}.)"),
    ):
        systems = named(*[f"{place}/fold_{n}" for n in (1, 4, 5, 6)])
        found = contrast(systems["mlkd"], systems["student_noisy"]).found
        bounds = seeds_interval(found.per_seed), (found.low, found.high)
        bounds = [between(*pair, "+.1f") for pair in bounds]
        assert words.format(100 * found.difference, *bounds) in page
    # "By 0.4 points", "by 0.6".
    seeds, runs = (
        100 * np.std(gains, ddof=1)
        for gains in (longer.found.per_seed, longer.per_run)
    )
    assert f"lie close together (by {seeds:.1f} points, one" in page
    assert f"let means of six folds vary by {runs / 6**0.5:.1f})" in page


def test_the_readme_says_what_is_gained_beside_noise():
    told, systems = results_so_far(), named(TABLE_40)
    pair = systems["mlkd"], systems["student_noisy"]
    clean, unseen = (
        contrast(*pair, under).found for under in ("clean", "unseen noise")
    )
    assert (
        f"on clean speech, {100 * clean.difference:+.1f}, and in noise not "
        f"met in training, {100 * unseen.difference:+.1f}, is about as"
    ) in told
    for found in (clean, unseen):
        assert found.low < 0 and seeds_interval(found.per_seed)[0] < 0
    times = [
        json.loads(path.read_text())["training_seconds"] / 60
        for path in (ROOT / TABLE_40).glob("*/*/mlkd/cost.json")
    ]
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert f"`mlkd` trained for {np.median(times):.0f} minutes" in readme
    assert f"median of {len(times)} runs" in readme


def results_so_far():
    """That section of the README, on one line."""
    text = (ROOT / "README.md").read_text()
    return " ".join(
        text.split("## Results so far")[1].split("<details>")[0].split()
    )


@pytest.mark.parametrize(
    "table,page",
    [(TABLE, "README.md"), (TABLE_40, "results/ravdess/README.md")],
)
def test_figures_show_the_committed_results(table, page):
    figure, page = ROOT / table / "ua.svg", ROOT / page
    assert f">{ua_in_words(pooled(table))}<" in figure.read_text()
    place = figure.relative_to(page.parent)
    assert f"({place})" in page.read_text()


@pytest.mark.parametrize(
    "column,student,tables",
    [
        (1, "mlkd", ([TABLE], UNSEARCHED)),
        (2, "mlkd_semi", ([TABLE], UNSEARCHED)),
        (3, "mlkd", ([TABLE_40], UNSEARCHED_40)),
    ],
)
def test_the_aims_are_those_of_the_results(column, student, tables):
    """What results/ravdess/README.md says is reached, and what is not."""
    page = (ROOT / "results/ravdess/README.md").read_text()
    table = page.split("## What was aimed at")[1].split("\n\n")[1]
    header, _, *rows = [line.split("|")[1:-1] for line in table.splitlines()]
    assert header[column].strip().startswith(f"`{student}`")
    teachers = [named(*folders)["teacher"] for folders in ([TABLE], UNSEARCHED)]
    found = [
        reached(named(*folders), student, teacher)
        for folders, teacher in zip(tables, teachers)
    ]
    words = {
        (True, True): "yes",
        (False, False): "no",
        (False, True): "no; on folds 4 to 6 yes",
        (True, False): "yes; on folds 4 to 6 no",
    }
    words = [words[pair] for pair in zip(*found)]
    assert [row[column].strip() for row in rows] == words


def reached(systems, name, teacher):
    """Of every aim, whether a system reaches it."""
    student = systems[name]
    gain = contrast(student, systems["student_noisy"])
    at_20 = seen_noise(student, snr=20)
    return [
        gain.found.difference >= 0.02,
        gain.found.low > 0,
        seeds_interval(gain.found.per_seed)[0] > 0,
        score(student, [CLEAN]) >= 0.95 * score(teacher, [CLEAN]),
        score(student, at_20, "consistency") >= 0.9,
    ]


def test_what_20_epochs_give_on_the_folds_of_40_is_told_as_it_was():
    longer = find_runs([ROOT / TABLE_40])
    seeds = {run.results["seed"] for run in longer}
    folds = {run.results["fold"] for run in longer}
    assert len(longer) == 2 * len(seeds) * len(folds)
    assert folds == set(pooled(TABLE)[0].folds)
    found = {
        system.name: 100 * score(system, seen_noise(system), seeds=seeds)
        for system in pooled(TABLE)
    }
    page = (ROOT / "results/ravdess/README.md").read_text()
    told = " ".join(page.split("## The second table")[1].split())
    assert (
        f"`student_noisy` has {found['student_noisy']:.1f} % in noise, `mlkd` "
        f"{found['mlkd']:.1f} % and `mlkd_semi` {found['mlkd_semi']:.1f} %"
    ) in told
    after = {s.name: 100 * score(s, seen_noise(s)) for s in pooled(TABLE_40)}
    # "More than mlkd gains", "most of what mlkd_semi does", "ahead of all".
    gained = after["student_noisy"] - found["student_noisy"]
    lead, most = (
        found[name] - found["student_noisy"] for name in ("mlkd", "mlkd_semi")
    )
    assert lead < gained < most < 2 * gained
    others = [found[name] for name in ("student_noisy", "mlkd", "mlkd_semi")]
    assert after["mlkd"] > max(*others, after["student_noisy"])
    # "What it was", "about as much".
    longer_lead = after["mlkd"] - after["student_noisy"]
    assert longer_lead == pytest.approx(lead, abs=0.2)
    mlkd_gained = after["mlkd"] - found["mlkd"]
    assert f"about as much: {mlkd_gained:.1f} and {gained:.1f} points" in (
        " ".join(page.split())
    )
    assert f"Longer training gives `student_noisy` {gained:.1f} points" in told
    means = {
        (run.folder.parent, run.folder.name): noisy_mean(run.results, "UA")
        for run in longer
    }
    leads = sorted(
        100 * (mean - means[place, "student_noisy"])
        for (place, system), mean in means.items()
        if system == "mlkd"
    )
    told_leads = f"{sum(x > 0 for x in leads)} of {len(leads)} runs"
    assert told_leads in told and f"{-leads[0]:.1f} points behind" in told


def test_what_varies_from_run_to_run_is_told_as_it_was():
    page = (ROOT / "results/ravdess/README.md").read_text()
    told = " ".join(page.split("## What would have to change")[1].split())
    gains, runs_of_each = [], []
    for folder in (TABLE, TABLE_40):
        systems = named(folder)
        found = contrast(systems["mlkd"], systems["student_noisy"])
        gains.append(100 * np.array(found.per_run))
        # Two-sided test at 5 %, power of 80 %, of a mean of one point.
        runs_of_each.append((2.8 * gains[-1].std(ddof=1)) ** 2)
    spread = [gain.std(ddof=1) for gain in gains]
    assert f"by {spread[0]:.1f} points with 20 epochs" in told
    assert f"by {spread[1]:.1f} with 40, more than its mean" in told
    assert all(s > gain.mean() for s, gain in zip(spread, gains))
    assert runs_of_each == pytest.approx([80, 20], abs=5)  # "some"
    student = named(TABLE_40)["mlkd"]
    kept = score(student, seen_noise(student, snr=20), "consistency")
    teacher = named(TABLE)["teacher"]
    clean = score(student, [CLEAN]) / score(teacher, [CLEAN])
    aims = " ".join(page.split("## The second table")[0].split())
    assert f"at 20 dB of {100 * kept:.1f} % of the utterances" in aims
    assert f"its clean UA is {100 * clean:.1f} % of the teachers'" in aims


def test_teachers_trained_again_chose_the_same_epochs():
    stages = list((ROOT / TABLE_40).glob("*/*/teacher/stage.json"))
    runs = find_runs([ROOT / TABLE_40])
    assert 2 * len(stages) == len(runs) > 0
    taught = {(r.folder.parent, r.results["teacher_sha256"]) for r in runs}
    for path in stages:
        stage, place = json.loads(path.read_text()), path.parents[1]
        there = ROOT / TABLE / place.relative_to(ROOT / TABLE_40) / "teacher"
        assert stage["epoch"] == read_results(there)["epoch"]
        assert (place, stage["model_sha256"]) in taught
    assert len(taught) == len(stages)


def test_a_run_made_again_answers_what_the_table_answers():
    again, before = (
        read_predictions(ROOT / f"results/ravdess/{folder}/fold_2/seed_2/mlkd")
        for folder in ("again", "table")
    )
    row = list(ROW)
    pd.testing.assert_frame_equal(again[row], before[row])
    assert len(again) == 5328
    apart = again.drop(columns=row) - before.drop(columns=row)
    assert apart.shape[1] == 4 and apart.abs().max(axis=None) < 0.000151


def test_report_command(tmp_path, capsys):
    write_run(tmp_path / "runs/mlkd", RUN, table(), GRID, {})
    readme = tmp_path / "README.md"
    folder = str(tmp_path / "runs")
    readme.write_text(
        f"a\n<!-- report: {folder} -->\n<!-- end of report -->\nb\n"
    )
    figure = tmp_path / "ua.svg"
    code = main(["report", folder, f"--figure={figure}", f"--update={readme}"])
    assert code == 0
    assert "| mlkd" in readme.read_text() and "62.5" in capsys.readouterr().out
    assert readme.read_text().startswith("a\n") and figure.stat().st_size > 5000
    first = figure.read_bytes()
    main(["report", folder, f"--figure={figure}", f"--update={readme}"])
    assert figure.read_bytes() == first


def test_the_estimate_is_of_todays_settings():
    from ruamel.yaml import YAML

    estimate = json.loads((ROOT / "results/estimate/iemocap.json").read_text())
    path = ROOT / "recipes/IEMOCAP/mlkd/hparams/mlkd.yaml"
    settings = YAML().load(path.read_text())
    batch = estimate["assumes"]["batch_seconds"]
    assert batch == settings["max_batch_length"]
    assert estimate["teacher"]["epochs"] == settings["teacher_epochs"]
    assert estimate["mlkd"]["epochs"] == settings["student_epochs"]
    assert estimate["mlkd"]["parameters"] == 23_492_992
    readme = " ".join((ROOT / "README.md").read_text().split())
    for stage in ("teacher", "mlkd"):
        assert f"{estimate[stage]['memory_gb']} GB" in readme
    gpu = json.loads((ROOT / "results/bench/gpu.json").read_text())
    measured = [
        f"{network['peak_memory_mb'] / 1024:.1f}"
        for network in gpu["networks"].values()
    ]
    assert f"on the H100 [{' and '.join(measured)}]" in readme
    assert f"about {gpu['hours_all_folds']:.0f} hours on an H100" in readme
    assert f"{estimate['hours_all_folds']} hours" in readme
    assert f"{estimate['hours_cross_validation']} for the 60 runs" in readme
    assert f"{estimate['cache_gb_per_run']} GB" in readme
