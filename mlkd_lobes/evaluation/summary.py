"""What pooled runs of systems say: figures of each, differences of two."""

import math
from collections import namedtuple

import numpy as np

from mlkd_lobes.evaluation.results import metric
from mlkd_lobes.evaluation.statistics import (
    SpeakerCounts,
    compare,
    interval,
    unchanged_counts,
)
from mlkd_lobes.noise import CLEAN, UNSEEN_PREFIX, Condition

# The question asked before anything was measured: multi-level distillation
# against the same student without it.
PRIMARY, BASELINE = "mlkd", "student_noisy"
# Whom the students learn from.
TEACHER = "teacher"
# Whose further differences are of interest: the multi-level students.
MULTI_LEVEL = ("mlkd", "mlkd_semi")

Contrast = namedtuple(
    "Contrast", ["one", "other", "under", "seeds", "found", "per_run"]
)
Contrast.__doc__ = """UA of system `one` minus that of `other`.

`under`: "noisy" (noise met in training), "unseen noise" or "clean"; `seeds`
both have; `found`, a mlkd_lobes.evaluation.statistics.Comparison; `per_run`, the
difference of every fold and seed.
"""


def noise_kinds(system, unseen=False):
    """Noise types of a system's grid, in order.

    Arguments
    ---------
    system : System
        The system.
    unseen : bool
        Those never met in training instead of the others.

    Returns
    -------
    list of str
        Noise types.
    """
    kinds = dict.fromkeys(c.noise for c in system.grid if c != CLEAN)
    return [k for k in kinds if k.startswith(UNSEEN_PREFIX) == unseen]


def seen_noise(system, kind=None, snr=None):
    """Conditions with noise met in training.

    Arguments
    ---------
    system : System
        The system.
    kind : str, optional
        Only this type, which may be an unseen one.
    snr : float, optional
        Only this SNR.

    Returns
    -------
    list of Condition
        In the order of the grid.
    """
    kinds = [kind] if kind else noise_kinds(system)
    return [
        c
        for c in system.grid
        if c.noise in kinds and (snr is None or c.snr_db == snr)
    ]


def unseen_noise(system):
    """Conditions with noise that was never met in training.

    Arguments
    ---------
    system : System
        The system.

    Returns
    -------
    list of Condition
        In the order of the grid.
    """
    kinds = noise_kinds(system, unseen=True)
    return [c for c in system.grid if c.noise in kinds]


def score(system, conditions, name="UA", label=None, seeds=None):
    """A metric, mean over conditions and seeds, folds pooled.

    Arguments
    ---------
    system : System
        The system.
    conditions : sequence of Condition
        Which.
    name : str
        "UA", "WA", "F1", "consistency" or, with a label, "recall".
    label : str, optional
        The class.
    seeds : collection of int, optional
        Only these.

    Returns
    -------
    float
        A fraction; NaN for the recall of a class that was not tested, and
        without conditions.
    """
    values = [
        entry[name] if label is None else entry[name][label]
        for seed, scores in system.scores.items()
        if seeds is None or seed in seeds
        for entry in scores
        if Condition(entry["noise"], entry["snr_db"]) in conditions
    ]
    known = values and None not in values
    return float(np.mean(values)) if known else math.nan


def confusion(system, conditions):
    """How often each class was taken for which, folds and seeds pooled.

    Arguments
    ---------
    system : System
        The system.
    conditions : sequence of Condition
        Which.

    Returns
    -------
    numpy.ndarray
        Shares [classes, classes] of each true class, a row's sum 1.
    """
    counts = sum(
        np.array(entry["confusion"])
        for scores in system.scores.values()
        for entry in scores
        if Condition(entry["noise"], entry["snr_db"]) in conditions
    )
    return counts / counts.sum(1, keepdims=True).clip(min=1)


def _counts(system, conditions, seeds=None):
    """Right answers under some conditions, of some or all seeds."""
    known = list(system.seeds)
    rows = [known.index(seed) for seed in seeds or known]
    columns = [system.grid.index(condition) for condition in conditions]
    correct, total, speakers = system.counts
    return SpeakerCounts(
        correct[rows][:, :, columns], total[:, columns], speakers
    )


def ua_interval(system, conditions):
    """Bounds of the UA, mean over conditions, speakers drawn anew.

    Arguments
    ---------
    system : System
        The system.
    conditions : sequence of Condition
        Which.

    Returns
    -------
    (float, float)
        Fractions; NaN for a single speaker, and without conditions.
    """
    if not conditions:
        return math.nan, math.nan
    return interval(_counts(system, conditions))


def consistency_interval(system, conditions, seeds=None):
    """Bounds of the consistency, mean over conditions, speakers drawn anew.

    Arguments
    ---------
    system : System
        The system, tested on clean speech as well.
    conditions : sequence of Condition
        Which.
    seeds : collection of int, optional
        Only these.

    Returns
    -------
    (float, float)
        Fractions.
    """
    tables = [system.seeds[seed] for seed in seeds or system.seeds]
    return interval(unchanged_counts(tables, conditions))


def comparable_seeds(one, other):
    """The seeds over which two systems compare.

    Arguments
    ---------
    one : System
        A system.
    other : System
        Another.

    Returns
    -------
    list of int
        Those that both have; none if their folds are not the same.
    """
    same_folds = one.folds == other.folds
    return [seed for seed in one.seeds if same_folds and seed in other.seeds]


def contrast(one, other, under="noisy", conditions=None):
    """UA of one system minus another's, on the same utterances.

    Arguments
    ---------
    one : System
        A system.
    other : System
        Another.
    under : str
        "noisy", "unseen noise" or "clean", or a name for `conditions`.
    conditions : sequence of Condition, optional
        Instead of those that `under` names.

    Returns
    -------
    Contrast, or None
        None if they share no seed, have not the same folds, or nothing was
        heard under these conditions.
    """
    if conditions is None:
        conditions = {
            "noisy": seen_noise(one),
            "unseen noise": unseen_noise(one),
            "clean": [CLEAN],
        }[under]
    seeds = comparable_seeds(one, other)
    if not seeds or not conditions:
        return None
    pair = [_counts(system, conditions, seeds) for system in (one, other)]
    per_run = [
        _mean_ua(one.runs[place], conditions)
        - _mean_ua(other.runs[place], conditions)
        for place in one.runs
        if place[0] in seeds
    ]
    return Contrast(one.name, other.name, under, seeds, compare(*pair), per_run)


def _mean_ua(results, conditions):
    """UA of a single run, mean over conditions."""
    return float(np.mean([metric(results, c, "UA") for c in conditions]))


def contrasts(systems):
    """What is asked of the systems: distillation against none, and further.

    Arguments
    ---------
    systems : sequence of System
        From `mlkd_lobes.evaluation.pooling.pool`.

    Returns
    -------
    list of Contrast
        The primary question; every other system against the student without
        distillation in noise; what unlabelled speech adds; then the
        multi-level students against others.
    """
    named = {system.name: system for system in systems}
    others = [name for name in named if name not in (BASELINE, PRIMARY)]
    asked = [(name, BASELINE, "noisy") for name in [PRIMARY, *others]]
    asked += [(n, PRIMARY, "noisy") for n in MULTI_LEVEL if n != PRIMARY]
    for name in MULTI_LEVEL:
        asked += [
            (name, "kd_last", "noisy"),
            (name, "student_clean", "noisy"),
            (name, TEACHER, "noisy"),
            (name, TEACHER, "clean"),
            (name, BASELINE, "clean"),
            (name, BASELINE, "unseen noise"),
        ]
    found = [
        contrast(named[one], named[other], under)
        for one, other, under in asked
        if one in named and other in named
    ]
    return [entry for entry in found if entry is not None]
