"""Intervals and tests: right on what can be reckoned by hand or simulated."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import (
    given,
    settings,
    strategies as st,
)

from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.statistics import (
    SpeakerCounts,
    compare,
    interval,
    mean_ua,
    same_utterances,
    sign_flip_p,
    speaker_counts,
)
from mlkd_lobes.noise.add_noise import Condition

LABELS = ["a", "b"]
GRID = [Condition("rain", 0.0), Condition("rain", 10.0)]


def predictions(seed, right=0.6, speakers=6, each=10):
    """Speakers differ in how well they are understood."""
    generator = np.random.default_rng(seed)
    rows = []
    for speaker in range(speakers):
        share = right + 0.2 * np.sin(speaker)
        for n in range(each):
            true = LABELS[n % 2]
            for noise, snr in [("clean", None), *GRID]:
                hit = generator.random() < share
                answer = true if hit else LABELS[1 - n % 2]
                rows.append([f"s{speaker}", noise, snr, true, answer])
    header = ["speaker", "noise", "snr_db", "true", "predicted"]
    return pd.DataFrame(rows, columns=header)


def counts(*tables):
    return speaker_counts(tables, LABELS, GRID)


def test_mean_ua_is_that_of_the_metrics():
    tables = predictions(1), predictions(2)
    found = mean_ua(counts(*tables))
    for value, table in zip(found, tables):
        expected = []
        for noise, snr in GRID:
            rows = table[(table["noise"] == noise) & (table["snr_db"] == snr)]
            recalls = [
                (part["predicted"] == label).mean()
                for label, part in rows.groupby("true")
            ]
            expected.append(np.mean(recalls))
        assert value == pytest.approx(np.mean(expected))


def test_clean_speech_is_a_condition_too():
    table = predictions(1)
    found = speaker_counts([table], LABELS, [Condition("clean", None)])
    rows = table[table["noise"] == "clean"]
    assert found.total.sum() == len(rows)
    assert found.correct.sum() == (rows["true"] == rows["predicted"]).sum()


@pytest.mark.parametrize("speakers", [8, 10, 24])
def test_interval_has_its_coverage(speakers):
    """Speakers with a share each of their own; 400 experiments."""
    covered = 0
    names = [str(n) for n in range(speakers)]
    total = np.full((speakers, 1, 2), 20.0)
    for experiment in range(400):
        generator = np.random.default_rng(experiment)
        shares = generator.uniform(0.3, 0.9, size=speakers)
        correct = generator.binomial(20, shares, size=(1, speakers))
        correct = np.stack([correct, correct], axis=-1)[:, :, None, :]
        low, high = interval(SpeakerCounts(correct.astype(float), total, names))
        covered += low <= 0.6 <= high
    assert 0.93 <= covered / 400 <= 0.98


def test_speakers_are_drawn_not_utterances():
    """With the same answers, fewer speakers mean a wider interval."""

    def width(n_speakers):
        correct = np.zeros((1, n_speakers, 1, 2))
        correct[:, : n_speakers // 2] = 120 / n_speakers
        total = np.full((n_speakers, 1, 2), 120 / n_speakers)
        names = [str(n) for n in range(n_speakers)]
        low, high = interval(SpeakerCounts(correct, total, names))
        return high - low

    assert width(8) > 1.4 * width(20) > 2 * width(80)


def test_a_system_differs_from_itself_by_nothing():
    found = compare(counts(predictions(1)), counts(predictions(1)))
    assert found.mean == found.low == found.high == 0
    assert found.p == 1 and found.n_speakers == 6 and found.per_seed == [0]


def test_a_clear_difference_is_found_and_signed():
    better = counts(*(predictions(s, 0.75, 12, 40) for s in (1, 2)))
    worse = counts(*(predictions(s, 0.45, 12, 40) for s in (3, 4)))
    found = compare(better, worse)
    assert 0.2 < found.low < found.mean < found.high < 0.4
    assert found.p == pytest.approx(2 / 2**12)
    assert found.mean == pytest.approx(np.mean(found.per_seed))
    back = compare(worse, better)
    assert back.mean == pytest.approx(-found.mean)
    assert back.low == pytest.approx(-found.high)


def test_pairing_makes_it_sharper():
    """Speakers differ a lot, systems by little: only pairs show it."""
    generator = np.random.default_rng(1)
    correct = generator.uniform(5, 15, size=(1, 20, 1, 2))
    total = np.full((20, 1, 2), 20.0)
    names = [str(n) for n in range(20)]
    worse = SpeakerCounts(correct, total, names)
    better = SpeakerCounts(correct + 0.4, total, names)
    low, high = interval(worse)
    found = compare(better, worse)
    assert found.low == pytest.approx(0.02) == found.high
    assert high - low > 0.05


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=10))
@settings(max_examples=50)
def test_p_is_a_share_of_sign_patterns(values):
    shares = np.array(values)
    p = sign_flip_p(shares)
    assert 2 / 2 ** len(values) - 1e-9 <= p <= 1
    assert p == pytest.approx(sign_flip_p(-shares))


def test_p_is_uniform_where_there_is_no_difference():
    generator = np.random.default_rng(1)
    found = [sign_flip_p(generator.normal(size=12)) for _ in range(300)]
    assert 0.02 < np.mean(np.array(found) <= 0.05) < 0.09
    many = [sign_flip_p(generator.normal(size=30)) for _ in range(100)]
    assert 0 < min(many) and abs(np.mean(many) - 0.5) < 0.1


def test_without_speakers_there_is_no_interval():
    table = predictions(1)
    table.loc[0, "speaker"] = ""
    unknown = counts(table)
    found = compare(unknown, counts(table))
    assert found.mean == 0 and mean_ua(unknown) == mean_ua(
        counts(predictions(1))
    )
    for value in (*interval(unknown), found.low, found.high, found.p):
        assert np.isnan(value)
    alone = SpeakerCounts(np.ones((1, 1, 1, 2)), np.ones((1, 1, 2)), ["a"])
    assert np.isnan(interval(alone)).all()


def test_what_cannot_be_compared_is_refused():
    one = counts(predictions(1))
    assert same_utterances(one, counts(predictions(2)))
    assert not same_utterances(one, counts(predictions(1, speakers=5)))
    assert not same_utterances(one, counts(predictions(1, each=12)))
    with pytest.raises(InputError, match="seeds were tested on different"):
        counts(predictions(1), predictions(2, each=12))
    with pytest.raises(InputError, match="seeds were tested on different"):
        counts(predictions(1), predictions(2, speakers=7))
