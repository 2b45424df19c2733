#!/usr/bin/env python3
"""Writes the machine-made tables of README.md and docs/ from the committed results.

> python tools/pages.py

Each stands between <!-- report: NAME --> and <!-- end of report -->; a test compares
them with the files. `make report` also draws the figures.
"""

import copy
import functools
import pathlib
import re

import differences
import pandas as pd
from bench_tables import bench_text, measured_rows, read

from mlkd_lobes.evaluation import calibration, report
from mlkd_lobes.evaluation.comparison import (
    TEMPERATURE,
    comparisons,
    find_runs,
    pool,
)
from mlkd_lobes.evaluation.metrics import markdown
from mlkd_lobes.evaluation.results import read_predictions
from mlkd_lobes.evaluation.statistics import seeds_interval
from mlkd_lobes.files import read_json
from mlkd_lobes.noise.add_noise import CLEAN

END = "<!-- end of report -->"
ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
CALIBRATED = "ravdess/calibrated.zip"
# A recording of an angry test speaker of fold 1.
EXAMPLE = "03-01-05-02-01-02-14"
TABLE, TABLE_40 = "ravdess/table.zip", "ravdess/table_40.zip"
EMODB, ASED, SLIM = "emodb/table.zip", "ased/table.zip", "slim/table.zip"
REPEATED, EMODB_REPEATED = "ravdess/repeated.zip", "emodb/repeated.zip"
ASED_LAST, SPREAD = "ased/semi_repeated.zip", "ravdess/spread.zip"
# Folds on whose test speakers no setting was chosen.
UNSEARCHED = (4, 5, 6)
# Whose calibration is shown, and the SNRs of validation.
TRUSTED, VALID_SNRS = ("teacher", "student_noisy", "mlkd"), (5,)
# Names of the students of slim.yaml in benchmarks/inference.py.
SHAPES = {
    "mlkd": "student",
    "slim_early": "early-slim student",
    "slim": "slim student",
    "slim_one_layer": "slim student of one layer",
    "slimmest": "slimmest student",
}
# Columns of both intervals of a difference.
INTERVALS = ["95 % over speakers", "95 % over seeds"]
# Question and compared systems.
ANSWERS = [
    ("Is the student better than its teacher?", "mlkd - teacher"),
    ("Does distillation help?", "mlkd - student_noisy"),
    ("… with unlabelled speech?", "semi - student_noisy"),
    ("… with repeated labelled speech?", "repeated - student_noisy"),
    ("Does repetition help on its own?", "control - student_noisy"),
    ("Is unlabelled speech better than that?", "semi - control"),
    ("Is distilled repetition better than that?", "repeated - control"),
    ("Are several levels better than one?", "mlkd - kd_last"),
]
BASELINE = "student_noisy"
# Per corpus its results: the first that have both systems answer. README says which.
TESTS = {
    "RAVDESS": (TABLE_40, REPEATED, TABLE),
    "ASED": (ASED,),
    "EmoDB": (EMODB, EMODB_REPEATED),
}
# The name of the recipe's system that a search called otherwise.
ALIASES = {"semi": "mlkd_semi"}
# Results, whom systems are compared with, and exceptions: those with as many epochs.
SEARCHES = {
    "second search": (
        "search_seeds.csv",
        "student_noisy",
        {"long": "student_noisy_40"},
    ),
    "fourth search": (
        "search_fourth.csv",
        "mlkd",
        {
            "long": "long",
            "student_noisy_40": "long",
            "two_stage": "long",
            "cnn_40": "long",
            "noisy_cnn_40": "student_noisy_40",
        },
    ),
    "fifth search": ("search_fifth.csv", "mlkd", {}),
}


def table_text(name, compared):
    """A committed table and its differences."""
    return text_of(pooled(name), compared)


def text_of(found, compared):
    """Tables of pooled runs; how to read them is written once."""
    wanted = comparisons(found.systems, compared)
    text = report.report_text(found, wanted, short=True)
    return text.replace(" " + report.METHOD, "")


@functools.cache
def pooled(name, folds=None):
    """The systems of a committed table."""
    return pool(find_runs([RESULTS / name], folds))


def difference(found):
    """Cells of the report: the mean and both intervals."""
    (row,) = report.comparisons_table([found]).rows
    return [row[3], row[4], row[7]]


def answers():
    """The questions, with the difference on each corpus that answers them."""
    rows = []
    for question, text in ANSWERS:
        names = [ALIASES.get(name, name) for name in text.split(" - ")]
        compared = "`{}` − `{}`".format(*names)
        gains = [gain_text(text, names) for names in TESTS.values()]
        rows.append([question, compared, *gains])
    levels = [level(names[0]) for names in TESTS.values()]
    rows.insert(0, ["UA in noise (%)", f"`{BASELINE}`", *levels])
    return markdown(["question", "compared", *TESTS], rows)


def gain_text(text, names):
    """A difference in noise and its interval over speakers."""
    found = (comparisons(pooled(name).systems, [text]) for name in names)
    one = next(filter(None, found), None)
    return "{} ({})".format(*difference(*one)[:2]) if one else "–"


def level(name):
    """UA in noise of the baseline."""
    (own,) = (s for s in pooled(name).systems if s.name == BASELINE)
    return report.percent(own.score(own.conditions()))


def all_folds():
    """`repeated` on the five folds of ASED, with the seed that they share."""
    places = [RESULTS / ASED, RESULTS / ASED_LAST]
    runs = find_runs(places, systems=[BASELINE, "control", "repeated"])
    runs = [run for run in runs if run.results["seed"] == 1]
    found = comparisons(pool(runs).systems, differences.ASED_POOLED)
    return markdown(*report.comparisons_table(found))


def spread_out():
    """`semi` with its unlabelled speech spread over the epoch, beside seed 1."""
    beside = [BASELINE, "control", "semi"]
    runs = find_runs([RESULTS / REPEATED], systems=beside)
    runs = [run for run in runs if run.results["seed"] == 1]
    for run in find_runs([RESULTS / SPREAD], systems=["semi"]):
        own = {**run.results, "system": "spread"}
        runs.append(run._replace(results=own))
    return text_of(pool(runs), differences.SPREAD)


def unsearched():
    """The main difference on the folds where nothing was chosen."""
    rows = []
    for name, epochs in ((TABLE_40, 40), (TABLE, 20)):
        systems = pooled(name, UNSEARCHED).systems
        (found,) = comparisons(systems, differences.RECIPE[:1])
        rows.append([str(epochs), *difference(found)])
    return markdown(["epochs", "difference", *INTERVALS], rows)


def aims():
    """What was aimed at, and what was reached."""
    teacher = next(s for s in pooled(TABLE).systems if s.name == "teacher")
    rows = []
    for name, system, epochs in (
        (TABLE, "mlkd", 20),
        (TABLE, "mlkd_semi", 20),
        (TABLE_40, "mlkd", 40),
    ):
        systems = {s.name: s for s in pooled(name).systems}
        student = systems[system]
        text = f"{system} - student_noisy"
        (found,) = comparisons(systems.values(), [text])
        seeds = seeds_interval(found.found.per_seed)
        clean = student.score([CLEAN]) / teacher.score([CLEAN])
        kept = student.score(student.conditions(snr=20), "consistency")
        rows.append(
            [
                f"`{system}`, {epochs} epochs",
                f"{100 * found.found.mean:+.1f}",
                "yes" if found.found.low > 0 else "no",
                "yes" if seeds[0] > 0 else "no",
                f"{100 * clean:.1f} %",
                f"{100 * kept:.1f} %",
            ]
        )
    header = ["system", "gain (aim 2.0)", "interval over speakers above 0"]
    header += ["over seeds", "clean UA, share of the teacher's (aim 95 %)"]
    header += ["predictions unchanged at 20 dB (aim 90 %)"]
    return markdown(header, rows)


def int8_cells(own):
    """How INT8 changes noisy UA (mean over runs), and the runs that the gate refuses."""
    if not own:
        return ["–", "–"]
    found = pd.DataFrame(run["noisy"] for run in own).mean()
    change = found["UA_int8"] - found["UA_float32"]
    refused = sum(run["refused"] is not None for run in own)
    return [f"{100 * change:+.1f}", f"{refused} of {len(own)}"]


def sizes():
    """What a student's size and speed cost in UA."""
    systems = {s.name: s for s in pooled(SLIM).systems}
    measured = {row["name"]: row for row in measured_rows(read("inference"))}
    runs = read_json(RESULTS / "slim/int8.json", dict)["runs"]
    rows = []
    for system, shape in SHAPES.items():
        size, student = measured[f"{shape}, ONNX static INT8"], systems[system]
        found = comparisons(systems.values(), [f"{system} - mlkd"])
        cells = report.comparisons_table(found).rows if system != "mlkd" else []
        gain = [row[i] for row in cells for i in (3, 4, 6)] or ["–"] * 3
        rows.append(
            [
                f"`{system}`",
                f"{size['file_mb']:.0f}",
                f"{size['ratio']:.1f} x",
                report.percent(student.score([CLEAN])),
                report.percent(student.score(student.conditions())),
                *gain,
                *int8_cells([r for r in runs if r["system"] == system]),
            ]
        )
    header = ["student", "MB, base shape, INT8", "speed, base shape, INT8"]
    header += ["clean UA (%)", "noisy UA (%)", "difference, noisy"]
    header += [INTERVALS[0], "each seed", "INT8 − float32, 0 and 10 dB"]
    return markdown([*header, "INT8 refused"], rows)


def trust():
    """Calibration error and coverage, with a temperature of the other folds.

    These runs kept no predictions of validation speech: a fold's temperature comes
    from the tests of the other folds, clean and at the SNRs of validation.
    """
    runs = find_runs([RESULTS / TABLE], systems=["mlkd"])
    folds = {
        speaker: run.results["fold"]
        for run in runs
        if run.results["seed"] == 1
        for speaker in read_predictions(run.folder)["speaker"]
    }
    systems = []
    for system in pooled(TABLE).systems:
        if system.name in TRUSTED:
            system = copy.copy(system)
            tables = system.tables.items()
            system.tables = {
                s: with_temperature(t, system, folds) for s, t in tables
            }
            systems.append(system)
    tables = report.calibration_table(systems), report.coverage_table(systems)
    return "\n\n".join(markdown(*table) for table in tables)


def trust_of_one_fold():
    """Calibration error with the runs' own temperatures."""
    systems = pooled(CALIBRATED).systems
    return markdown(*report.calibration_table(systems))


def example():
    """What two models make of one recording, and how often they are right."""
    rows = []
    for system in pooled(CALIBRATED).systems:
        if system.name == "student_noisy":
            continue
        (tested,) = system.tables.values()
        for kind, snr in (("clean", None), ("rain", 0)):
            here = tested["noise"] == kind
            if snr is not None:
                here &= tested["snr_db"] == snr
            found = tested[here]
            right = (found["true"] == found["predicted"]).mean()
            found = found[found["id"] == EXAMPLE]
            p, _ = calibration.probabilities_of(found, system.labels)
            (p,) = calibration.soften(p, found[[TEMPERATURE]].to_numpy())
            name = kind if snr is None else f"{kind}, {snr} dB"
            label = system.labels[p.argmax()]
            answer = [label, f"{p.max():.0%}", f"{right:.0%}"]
            rows.append([system.name, name, *answer])
    header = ["model", EXAMPLE, "emotion", "probability", "right, of all 144"]
    return markdown(header, rows)


def with_temperature(table, system, folds):
    """Predictions of a seed with each fold's temperature."""
    snrs, own = system.conditions(), table["speaker"].map(folds)
    noisy = table["noise"].isin({c.noise for c in snrs})
    fitted = table["snr_db"].isin(VALID_SNRS) & noisy | (
        table["noise"] == CLEAN.noise
    )
    found = pd.Series(index=table.index, dtype=float)
    for fold in own.unique():
        others = table[fitted & (own != fold)]
        known = calibration.probabilities_of(others, system.labels)
        found[own == fold] = calibration.fit_temperature(*known)
    return table.assign(**{TEMPERATURE: found})


def search_table(file, reference, exceptions):
    """Validation scores of a search: mean of the last five epochs, in percent."""
    found = pd.read_csv(RESULTS / "ravdess" / file)
    index = ["fold", "seed"]
    scores = 100 * found.pivot(index=index, columns="system", values="last_UA")
    rows = []
    for name in scores:
        other = exceptions.get(name, reference)
        gains = (scores[name] - scores[other]).dropna()
        each = "; ".join(
            ", ".join(f"{gain:+.1f}" for gain in fold)
            for _, fold in gains.groupby("fold")
        )
        mean = f"{scores[name].mean():.1f}"
        if name == other:
            rows.append([f"`{name}`", str(len(gains)), mean, "–", "–", "–"])
            continue
        gain = f"{gains.mean():+.1f}"
        rows.append(
            [f"`{name}`", str(len(gains)), mean, f"`{other}`", gain, each]
        )
    header = ["system", "runs", "last_UA (%)", "against", "gain"]
    return markdown([*header, "each run's: fold 1; fold 2"], rows)


def update_text(text, name, block):
    """Replaces the report between two marks in a page.

    >>> old = "<!-- report: x -->\\nold\\n<!-- end of report -->"
    >>> print(update_text(old, "x", "new"))
    <!-- report: x -->
    new
    <!-- end of report -->
    """
    begin = f"<!-- report: {name} -->"
    # Never across another report, if an end mark is missing.
    within = r"\n(?:(?!<!-- report:).)*?"
    pattern = re.escape(begin) + within + re.escape(END)
    found = re.findall(pattern, text, flags=re.DOTALL)
    if len(found) != 1:
        raise SystemExit(f"expected one '{begin} … {END}', found {len(found)}")
    return text.replace(found[0], f"{begin}\n{block}\n{END}")


def blocks():
    """Every page's machine-made blocks by name."""
    results = {
        "table of 20 epochs": table_text(TABLE, differences.RECIPE),
        "table of 40 epochs": table_text(TABLE_40, differences.RECIPE),
        "EmoDB": table_text(EMODB, differences.RECIPE),
        "how to read the tables": report.METHOD,
        "aims": aims(),
        "folds 4 to 6": unsearched(),
    }
    searches = {n: search_table(*search) for n, search in SEARCHES.items()}
    confirmed = {
        "ASED, both together": table_text(ASED_LAST, differences.ASED_LAST),
        "ASED, all folds": all_folds(),
        "ASED": table_text(ASED, differences.ASED),
        "RAVDESS": table_text(REPEATED, differences.RAVDESS),
        "EmoDB": table_text(EMODB_REPEATED, differences.EMODB),
    }
    return {
        "README.md": {"answers": answers()},
        "docs/results.md": results,
        "docs/searches.md": searches,
        "docs/confirmation.md": confirmed,
        "docs/deployment.md": {
            "calibration": trust(),
            "calibration of fold 1": trust_of_one_fold(),
        },
        "docs/app.md": {"example": example()},
        "docs/unlabelled.md": {"spread": spread_out()},
        "docs/performance.md": {
            "results/bench": bench_text(),
            "sizes": sizes(),
        },
    }


def updated(page, found):
    """A page with its blocks renewed."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for name, block in found.items():
        text = update_text(text, name, block)
    return text


if __name__ == "__main__":
    for page, found in blocks().items():
        (ROOT / page).write_text(updated(page, found), encoding="utf-8")
