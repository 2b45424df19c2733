"""Confidence intervals and tests over speakers.

Utterances of one speaker are not independent, so speakers, not utterances, are
resampled (bootstrap) or flipped (sign-flip test). Folds are pooled: every speaker
is tested once per seed. Seeds are averaged, and their spread is shown beside.

Percentiles of a bootstrap over few speakers lie too close together. They are
moved outwards to where Student's t puts them: Hesterberg's expanded percentile
interval (The American Statistician 69, 2015).
"""

from __future__ import annotations

import math
from collections import namedtuple

import numpy as np
import pandas as pd
from scipy import stats

from mlkd_lobes.errors import InputError
from mlkd_lobes.noise.add_noise import CLEAN

DRAWS, SEED = 10_000, 0
# All sign patterns of up to 14 speakers, this many random ones of more.
FEW, PATTERNS = 14, 2**17


class SpeakerCounts(
    namedtuple("SpeakerCounts", ["correct", "total", "speakers"])
):
    """Correct predictions of a system per speaker.

    `correct` [seeds, speakers, conditions, classes], `total` [speakers, conditions,
    classes], `speakers`, their names in order.
    """


class Difference(
    namedtuple(
        "Difference", ["mean", "low", "high", "p", "per_seed", "n_speakers"]
    )
):
    """UA of one system minus another's on the same utterances.

    `mean` with the bounds of its 95 % interval over speakers, `p` of the sign-flip
    test, the difference of every seed, and the number of speakers.
    """


def speaker_counts(tables, labels, conditions) -> SpeakerCounts:
    """Counts correct predictions per speaker, condition and class.

    tables: per seed the predictions of all folds.
    """
    speakers = sorted(set(tables[0]["speaker"]))
    names = pd.MultiIndex.from_product(
        [speakers, [_name(*c) for c in conditions], labels]
    )
    shape = len(speakers), len(conditions), len(labels)
    correct, totals = [], []
    for table in tables:
        condition = [_name(*c) for c in zip(table["noise"], table["snr_db"])]
        right = (table["true"] == table["predicted"]).to_numpy()
        grouped = pd.Series(right).groupby(
            [table["speaker"].to_numpy(), condition, table["true"].to_numpy()]
        )
        counted = grouped.agg(["sum", "count"]).reindex(names, fill_value=0)
        correct.append(counted["sum"].to_numpy(float).reshape(shape))
        totals.append(counted["count"].to_numpy(float).reshape(shape))
        if set(table["speaker"]) != set(speakers) or not np.array_equal(
            totals[0], totals[-1]
        ):
            raise InputError(
                "seeds were tested on different utterances; give runs of the "
                "same folds for every seed"
            )
    return SpeakerCounts(np.stack(correct), totals[0], speakers)


def unchanged_counts(tables, conditions) -> SpeakerCounts:
    """Counts predictions that equal those without noise, as one class."""
    return speaker_counts(list(map(_unchanged, tables)), [True], conditions)


def _unchanged(table):
    """A table in which the label predicted without noise is correct."""
    clean = table[table["noise"] == CLEAN.noise].set_index("id")["predicted"]
    same = table["id"].map(clean) == table["predicted"]
    return table.assign(true=True, predicted=same)


def _name(noise, snr):
    """A condition as a key; tables write NaN where there is no SNR."""
    return noise if snr is None or np.isnan(snr) else f"{noise} {float(snr)}"


def mean_ua(counts: SpeakerCounts) -> np.ndarray:
    """UA, mean over conditions, of every seed.

    >>> correct = np.array([[[[1.0, 0.0]], [[1.0, 2.0]]]])
    >>> total = np.array([[[1.0, 2.0]], [[1.0, 2.0]]])
    >>> mean_ua(SpeakerCounts(correct, total, ["a", "b"])).tolist()
    [0.75]
    """
    return ua(counts.correct.sum(1), counts.total.sum(0))


def ua(correct, total):
    """Mean recall over classes, then over conditions: [..., conditions, K]."""
    with np.errstate(invalid="ignore"):
        recall = correct / total
    return np.nanmean(recall, axis=(-2, -1))


def interval(counts: SpeakerCounts) -> tuple[float, float]:
    """Bounds of the 95 % interval of the mean UA, speakers resampled."""
    return _bounds(_resampled_ua(counts), counts.speakers)


def compare(one: SpeakerCounts, other: SpeakerCounts) -> Difference:
    """Compares two systems on the same utterances and seeds."""
    per_seed, speakers = mean_ua(one) - mean_ua(other), one.speakers
    # The same seed draws the same speakers for both.
    draws = [_resampled_ua(counts) for counts in (one, other)]
    low, high = _bounds(draws[0] - draws[1], speakers)
    p = math.nan
    if "" not in speakers:
        p = sign_flip_p(_contributions(one, other))
    mean = float(per_seed.mean())
    n_known = len(speakers) - ("" in speakers)
    return Difference(mean, low, high, p, per_seed.tolist(), n_known)


def same_utterances(one: SpeakerCounts, other: SpeakerCounts) -> bool:
    """Whether two systems were tested on the same, judged by their counts."""
    same = np.array_equal(one.total, other.total)
    return same and one.speakers == other.speakers


def seeds_interval(per_seed) -> tuple[float, float]:
    """Bounds of the 95 % interval of a mean over seeds (Student's t).

    Estimates how far another training of the same systems may differ, which resampled
    speakers cannot. NaN for a single seed, and where all seeds are equal: nothing
    was trained then.

    >>> low, high = seeds_interval([1.0, 2.0, 3.0])
    >>> round(low, 2), round(high, 2)
    (-0.48, 4.48)
    """
    if np.ptp(per_seed) < 1e-9:
        return math.nan, math.nan
    low, high = stats.ttest_1samp(per_seed, 0).confidence_interval()
    return float(low), float(high)


def _resampled_ua(counts):
    """Mean UA of every draw of speakers, seeds averaged."""
    n = len(counts.speakers)
    generator = np.random.default_rng(SEED)
    weights = generator.multinomial(n, np.full(n, 1 / n), size=DRAWS)
    resampled = [
        np.tensordot(weights, part, axes=1)
        for part in (counts.correct.mean(0), counts.total)
    ]
    return ua(*resampled)


def _bounds(values, speakers):
    """Expanded percentiles of bootstrap values; see the module. NaN where a speaker
    is unknown."""
    n_speakers = len(speakers)
    if n_speakers < 2 or "" in speakers:
        return math.nan, math.nan
    t = stats.t.ppf(0.975, n_speakers - 1)
    level = stats.norm.cdf(-t * math.sqrt(n_speakers / (n_speakers - 1)))
    return tuple(np.quantile(values, [level, 1 - level]).tolist())


def _contributions(one, other):
    """Every speaker's contribution to the difference of the mean UAs."""
    total = one.total.sum(0)
    with np.errstate(invalid="ignore"):
        parts = (one.correct - other.correct).mean(0) / total
    return np.nansum(parts, axis=(-2, -1)) / np.count_nonzero(total)


def sign_flip_p(contributions: np.ndarray) -> float:
    """Two-sided p of a sum if every part had a random sign.

    >>> sign_flip_p(np.array([0.1, 0.2, 0.1]))
    0.25
    """
    # SciPy's permutation_test takes seconds, and gigabytes, for as many patterns.
    n = len(contributions)
    if n <= FEW:
        flipped = np.arange(2**n)[:, None] >> np.arange(n) & 1
    else:
        generator = np.random.default_rng(SEED)
        flipped = generator.integers(2, size=(PATTERNS, n), dtype=np.int8)
        flipped[0] = 0  # the observed one
    sums = (1 - 2 * flipped) @ contributions
    return float(np.mean(abs(sums) >= abs(contributions.sum()) - 1e-12))
