"""How sure a difference is: intervals and tests that know of speakers.

Utterances of one speaker rise and fall together, so speakers, not utterances,
are drawn (bootstrap) or flipped (sign-flip test). Folds are pooled: every
speaker is tested once per seed. Seeds are averaged; what they differ by is shown
beside.

Percentiles of a bootstrap over few speakers lie too close together. They are
therefore taken further out, where Student's t puts them: Hesterberg's expanded
percentile interval (The American Statistician 69, 2015).
"""

import math
from collections import namedtuple

import numpy as np
import pandas as pd
from scipy import stats

from mlkd_lobes.errors import InputError
from mlkd_lobes.noise import CLEAN

DRAWS = 10_000
# All sign patterns of up to 14 speakers, so many random ones of more.
PATTERNS = 2**14

SpeakerCounts = namedtuple("SpeakerCounts", ["correct", "total", "speakers"])
SpeakerCounts.__doc__ = """Right answers of a system, by who speaks.

`correct` [seeds, speakers, conditions, classes], `total` [speakers, conditions,
classes], `speakers`, their names in order.
"""

Comparison = namedtuple(
    "Comparison",
    ["difference", "low", "high", "p", "per_seed", "n_speakers"],
)
Comparison.__doc__ = """UA of one system minus another's on the same utterances.

`difference` with the bounds of its 95 % interval, `p` of the sign-flip test,
the difference of every seed, and how many speakers all this rests on.
"""


def speaker_counts(tables, labels, conditions):
    """Counts right answers per speaker, condition and class.

    Arguments
    ---------
    tables : sequence of pandas.DataFrame
        Per seed the predictions of all folds, as `read_predictions` gives them.
    labels : sequence of str
        The classes.
    conditions : sequence of mlkd_lobes.noise.Condition
        The conditions that count.

    Returns
    -------
    SpeakerCounts
        Of these seeds.

    Raises
    ------
    InputError
        If the seeds were not tested on the same utterances, or speakers are
        not known.
    """
    speakers = sorted(set(tables[0]["speaker"]))
    if "" in speakers:
        raise InputError(
            "some test utterances have no speaker, without whom no interval "
            "can be given; add `speaker` to the manifest and evaluate again"
        )
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


def unchanged_counts(tables, conditions):
    """Counts predictions that noise leaves as they are without it.

    Arguments
    ---------
    tables : sequence of pandas.DataFrame
        As for `speaker_counts`, clean speech among the conditions.
    conditions : sequence of mlkd_lobes.noise.Condition
        The conditions that count.

    Returns
    -------
    SpeakerCounts
        With all utterances in one class: what `mean_ua` and `interval` give of
        it is the consistency.
    """
    return speaker_counts(list(map(_unchanged, tables)), [True], conditions)


def _unchanged(table):
    """Where the same label as without noise is the right answer."""
    clean = table[table["noise"] == CLEAN.noise].set_index("id")["predicted"]
    same = table["id"].map(clean) == table["predicted"]
    return table.assign(true=True, predicted=same)


def _name(noise, snr):
    """A condition as a key; NaN is how a table writes no SNR."""
    return noise if snr is None or np.isnan(snr) else f"{noise} {float(snr)}"


def mean_ua(counts):
    """UA, mean over conditions, of every seed.

    Arguments
    ---------
    counts : SpeakerCounts
        A system's.

    Returns
    -------
    numpy.ndarray
        Fractions [seeds].

    Example
    -------
    >>> correct = np.array([[[[1.0, 0.0]], [[1.0, 2.0]]]])
    >>> total = np.array([[[1.0, 2.0]], [[1.0, 2.0]]])
    >>> mean_ua(SpeakerCounts(correct, total, ["a", "b"])).tolist()
    [0.75]
    """
    return _ua(counts.correct.sum(1), counts.total.sum(0))


def _ua(correct, total):
    """Mean recall over classes, then over conditions: [..., conditions, K]."""
    with np.errstate(invalid="ignore"):
        recall = correct / total
    return np.nanmean(recall, axis=(-2, -1))


def interval(counts, seed=0):
    """Bounds of the 95 % interval of the mean UA, speakers drawn anew.

    Arguments
    ---------
    counts : SpeakerCounts
        A system's.
    seed : int
        Of the draws.

    Returns
    -------
    (float, float)
        Fractions.
    """
    weights = _weights(len(counts.speakers), seed)
    values = _drawn(counts.correct.mean(0), counts.total, weights)
    return _bounds(values, len(counts.speakers))


def compare(one, other, seed=0):
    """Compares two systems on the same utterances.

    Arguments
    ---------
    one : SpeakerCounts
        Of a system.
    other : SpeakerCounts
        Of another, with the same seeds.
    seed : int
        Of the draws.

    Returns
    -------
    Comparison
        `one` minus `other`.

    Raises
    ------
    InputError
        If they were not tested on the same utterances with the same seeds.
    """
    if not same_utterances(one, other):
        raise InputError("the systems were tested on different utterances")
    if len(one.correct) != len(other.correct):
        raise InputError(
            f"{len(one.correct)} seeds of one system, {len(other.correct)} of "
            "the other"
        )
    per_seed = mean_ua(one) - mean_ua(other)
    weights = _weights(len(one.speakers), seed)
    drawn = [
        _drawn(counts.correct.mean(0), counts.total, weights)
        for counts in (one, other)
    ]
    low, high = _bounds(drawn[0] - drawn[1], len(one.speakers))
    return Comparison(
        float(per_seed.mean()),
        low,
        high,
        sign_flip_p(_shares_of(one, other), seed),
        per_seed.tolist(),
        len(one.speakers),
    )


def same_utterances(one, other):
    """Whether two systems were tested on the same, as far as counts tell.

    Arguments
    ---------
    one : SpeakerCounts
        Of a system.
    other : SpeakerCounts
        Of another.

    Returns
    -------
    bool
        Whether speakers, and the utterances of each, agree.
    """
    return one.speakers == other.speakers and np.array_equal(
        one.total, other.total
    )


def seeds_interval(per_seed):
    """Bounds of the 95 % interval of a mean over seeds (Student's t).

    What speakers drawn anew cannot tell: how far another training of the same
    two systems may end from these. Folds are no further trainings: with one seed
    they share their draws, and most of their speech.

    Arguments
    ---------
    per_seed : sequence of float
        What one system has more than another with each seed, folds pooled.

    Returns
    -------
    (float, float)
        NaN for a single seed: nothing was trained twice.

    Example
    -------
    >>> low, high = seeds_interval([1.0, 2.0, 3.0])
    >>> round(low, 2), round(high, 2)
    (-0.48, 4.48)
    """
    n = len(per_seed)
    if n < 2:
        return math.nan, math.nan
    mean = float(np.mean(per_seed))
    error = float(np.std(per_seed, ddof=1)) / math.sqrt(n)
    reach = float(stats.t.ppf(0.975, n - 1)) * error
    return mean - reach, mean + reach


def _weights(n_speakers, seed):
    """How often each speaker is drawn: [draws, speakers]."""
    generator = np.random.default_rng(seed)
    even = np.full(n_speakers, 1 / n_speakers)
    return generator.multinomial(n_speakers, even, size=DRAWS)


def _bounds(values, n_speakers):
    """Expanded percentiles of bootstrap values; see the module."""
    if n_speakers < 2:
        return math.nan, math.nan
    t = stats.t.ppf(0.975, n_speakers - 1)
    level = stats.norm.cdf(-t * math.sqrt(n_speakers / (n_speakers - 1)))
    return tuple(np.quantile(values, [level, 1 - level]).tolist())


def _drawn(correct, total, weights):
    """Mean UA of every draw."""
    shape = (len(weights), *total.shape[1:])
    flat = len(total), -1
    drawn = [
        (weights @ part.reshape(flat)).reshape(shape)
        for part in (correct, total)
    ]
    return _ua(*drawn)


def _shares_of(one, other):
    """What each speaker contributes to the difference of the mean UAs."""
    total = one.total.sum(0)
    with np.errstate(invalid="ignore"):
        parts = (one.correct - other.correct).mean(0) / total
    n = np.count_nonzero(total)
    return np.nansum(parts, axis=(-2, -1)) / n


def sign_flip_p(shares, seed=0):
    """Two-sided p of a sum, were each part as likely with the other sign.

    SciPy's permutation test of `PATTERNS` sign patterns, exact where there are
    no more.

    Arguments
    ---------
    shares : numpy.ndarray
        What each speaker contributes [speakers].
    seed : int
        Of the patterns.

    Returns
    -------
    float
        Between 0 and 1.

    Example
    -------
    >>> sign_flip_p(np.array([0.1, 0.2, 0.1]))
    0.25
    """
    # SciPy wants two parts; of one both patterns are as far from zero.
    if len(shares) < 2:
        return 1.0
    test = stats.permutation_test(
        (shares,),
        np.sum,
        permutation_type="samples",
        n_resamples=PATTERNS,
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return float(test.pvalue)
