"""What results/ravdess/README.md says of the searches, from what each run gave."""

import pathlib

import pandas as pd
import pytest

from mlkd_lobes.evaluation.results import read_results

RAVDESS = pathlib.Path(__file__).parents[2] / "results/ravdess"
SECOND = ["student_noisy", "student_noisy_lr10", "mlkd", "mlkd_semi"]
THIRD = ["student_noisy_40", "student_noisy_lr2", "long"]
LONGER = ["cnn_40", "noisy_cnn_40", "student_noisy_40"]
FOURTH = ["f1_l1", "f5", "t4", "norm", "cnn", "two_stage", "correlation"]


@pytest.mark.parametrize(
    "title,students",
    [("The second search", SECOND), ("The third search", THIRD)],
)
def test_a_search_is_told_as_it_was(title, students):
    """The tables of results/ravdess/README.md, from what each run gave."""
    scores = last_scores()
    gains = scores.sub(scores["student_noisy"], axis=0)
    rows = [search_row(scores[name], gains[name]) for name in students]
    assert sorted(rows_of(title)) == sorted(rows)
    assert set(scores) == {"teacher", *SECOND, *THIRD}
    # What is worse by far was stopped after two seeds.
    assert list(scores.columns[scores.isna().any()]) == ["student_noisy_lr2"]


def test_the_fourth_search_is_told_as_it_was():
    scores = last_scores("search_fourth.csv")
    assert set(scores) == {"mlkd", "long", *FOURTH, *LONGER}
    gains = gains_of_the_fourth(scores)
    rows = [search_row(scores[name], gains[name]) for name in scores]
    told = [row for row in rows_of("The fourth search") if row.count("|") == 6]
    again = [row for row in rows if row.startswith("| `long`")]
    assert sorted(told) == sorted(rows + again)  # in both tables
    # The rule, and what is said beside it.
    found = pd.DataFrame({"mean": gains.mean(), "ahead": (gains > 0).sum()})
    found = found.loc[FOURTH]
    wins = found[(found["mean"] >= 1) & (found["ahead"] >= 5)]
    assert list(wins.index) == ["cnn"]
    assert list(found.index[found["ahead"] == 6]) == ["correlation"]
    assert found["mean"].min() > -1  # "and nothing loses one"
    for name in ("f1_l1", "two_stage"):  # "half a point"
        assert found["mean"][name] == pytest.approx(-0.5, abs=0.1)
    page = " ".join((RAVDESS / "README.md").read_text().split())
    here, there = scores["mlkd"].mean(), last_scores()["mlkd"].mean()
    assert f"babble `mlkd` has {here:.1f} % here; in the second" in page
    assert f"settings and seeds, it has {there:.1f}." in page


def test_the_longer_front_end_is_told_as_it_was():
    scores, before = last_scores("search_fourth.csv"), last_scores()
    gains = gains_of_the_fourth(scores)
    page = " ".join((RAVDESS / "README.md").read_text().split())
    # "By the rule", "as much", "of fold 1 alone".
    gain = gains["cnn_40"].mean()
    assert gain >= 1
    assert abs(gain - gains["noisy_cnn_40"].mean()) < 0.1
    of_fold = gains["cnn_40"].unstack("fold")
    assert (of_fold[1] > 0).all() and (of_fold[2] < 0).all()
    with_it = (scores["cnn_40"] - scores["noisy_cnn_40"]).dropna()
    without = (scores["long"] - scores["student_noisy_40"])[with_it.index]
    for name, found in (
        ("noisy_cnn_40", with_it),
        ("student_noisy_40", without),
    ):
        told = f"of `{name}` by {per_run(found)} ({found.mean():.1f} on"
        assert told in page
    # The same trainings, of teachers that differ by rounding.
    apart = scores["student_noisy_40"] - before["student_noisy_40"]
    assert f"`last_UA` differs by up to {apart.abs().max():.1f} points" in page
    longer = scores["long"] - before["long"]
    assert f"{longer.abs().max():.1f} for `long`" in page
    both = pd.concat([apart, longer])
    chance = (both**2).mean() ** 0.5
    assert f"by {chance:.1f} root mean square over the twelve" in page
    assert f"which makes {chance / 6**0.5:.1f} of a mean of six" in page
    assert gain < 2 * chance / 6**0.5
    # "When it was trained again."
    lead, before_lead = (
        (found["long"] - found["student_noisy_40"]).mean()
        for found in (scores, before)
    )
    assert f"by {lead:.1f} points instead of {before_lead:.1f}" in page
    assert f"(#the-front-end-with-40-epochs), it is {lead:.1f})" in page
    longer, plain = (
        [
            (found[name] - before[short]).mean()
            for name, short in (
                ("long", "mlkd"),
                ("student_noisy_40", "student_noisy"),
            )
        ]
        for found in (scores, before)
    )
    told = f"gains {longer[0]:.1f} points and `student_noisy` {longer[1]:.1f}"
    assert told in page
    assert f"instead of {plain[0]:.1f} and {plain[1]:.1f}." in page
    for system in ("cnn_40", "noisy_cnn_40"):  # "about 25 minutes"
        assert trained_minutes(system) == pytest.approx(25, abs=2)


def trained_minutes(system):
    """How long a run of a system trains, as the median tells it."""
    runs = pd.read_csv(RAVDESS / "search_fourth.csv")
    return runs[runs["system"] == system]["training_seconds"].median() / 60


def gains_of_the_fourth(scores):
    """Over `mlkd`, or over the same student with 40 epochs."""
    over = dict.fromkeys(("long", "two_stage", "cnn_40"), "long")
    over |= dict.fromkeys(("student_noisy_40", "noisy_cnn_40"), LONGER[-1])
    return pd.DataFrame(
        {name: scores[name] - scores[over.get(name, "mlkd")] for name in scores}
    )


def test_the_gain_at_forty_epochs_is_told_as_it_was():
    scores = last_scores()
    gains = scores["long"] - scores["student_noisy_40"]
    page = (RAVDESS / "README.md").read_text()
    told = " ".join(page.split("## The third search")[1].split())
    assert f"`student_noisy_40`: {per_run(gains)}; {gains.mean():+.1f}" in told
    # "Nearly as well as", "better than both", "better with every run".
    means = scores.mean()
    for twenty in ("mlkd", "mlkd_semi"):
        behind = means[twenty] - means["student_noisy_40"]
        assert 0 < behind < 0.5 and means["long"] > means[twenty]
    assert (scores["long"] > scores["mlkd_semi"]).all()


def last_scores(name="search_seeds.csv"):
    """Percent, a row per fold and seed, a column per system."""
    found = pd.read_csv(RAVDESS / name)
    scores = 100 * found.pivot(
        index=["fold", "seed"], columns="system", values="last_UA"
    )
    assert len(scores) == 6
    return scores


def rows_of(title):
    """The table of a section."""
    page = (RAVDESS / "README.md").read_text()
    part = page.split(f"## {title}")[1].split("\n## ")[0]
    return [line for line in part.splitlines() if line.startswith("| `")]


def test_the_second_search_trained_what_the_table_tests():
    """The same epochs were chosen, by later code, on another day."""
    found = pd.read_csv(RAVDESS / "search_seeds.csv")
    compared = 0
    for run in found.itertuples():
        folder = RAVDESS / f"table/fold_{run.fold}/seed_{run.seed}/{run.system}"
        if folder.exists():
            assert run.epoch == read_results(folder)["epoch"], folder
            compared += 1
    assert compared == 24  # four systems, two folds, three seeds


def search_row(scores, gains):
    """A system's runs, mean, and gain over student_noisy, run by run."""
    scores, gains = scores.dropna(), gains.dropna()
    cells = [f"`{scores.name}`", str(len(scores)), f"{scores.mean():.1f}"]
    told = f"{gains.mean():+.1f} | {per_run(gains)}" if gains.any() else "– | –"
    return f"| {' | '.join(cells)} | {told} |"


def per_run(gains):
    """Seed by seed, fold by fold."""
    return "; ".join(
        ", ".join(f"{gain:+.1f}" for gain in of_fold)
        for _, of_fold in gains.groupby("fold")
    )
