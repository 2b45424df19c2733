"""Runs put together: folds pooled, seeds side by side, a row per system."""

from collections import defaultdict, namedtuple

import numpy as np
import pandas as pd

from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.results import read_predictions
from mlkd_lobes.evaluation.statistics import (
    compare,
    interval,
    mean_ua,
    speaker_counts,
)
from mlkd_lobes.noise import CLEAN, UNSEEN_PREFIX, Condition

# What all runs of a report have in common.
COMMON = ("corpus", "protocol", "labels", "noise_corpus")
# Against whom systems are compared: the student without distillation.
BASELINE = "student_noisy"

System = namedtuple("System", ["name", "folds", "seeds", "labels", "grid"])
System.__doc__ = """All runs of a system.

`folds`, the folds that every seed has; `seeds`, seed to the predictions of all
folds; `labels`; `grid`, the conditions.
"""


def pool(runs):
    """Pools the folds of every system and seed.

    Arguments
    ---------
    runs : sequence of mlkd_lobes.evaluation.results.StoredRun
        Any number of systems, folds and seeds.

    Returns
    -------
    list of System
        The worst in noise first.

    Raises
    ------
    InputError
        If runs are not comparable, or a seed lacks a fold.
    """
    by_system, first = defaultdict(dict), runs[0].results
    grid = _grid(first)
    for folder, results in runs:
        for key in COMMON:
            if results[key] != first[key]:
                raise InputError(
                    f"{folder}: {key} {results[key]}, but {first[key]} in "
                    f"{runs[0].folder}; give runs of one {key}"
                )
        if _grid(results) != grid:
            raise InputError(
                f"{folder} was evaluated under other conditions than "
                f"{runs[0].folder}"
            )
        place = results["seed"], results["fold"]
        if place in by_system[results["system"]]:
            raise InputError(
                f"{folder}: fold {results['fold']}, seed {results['seed']} of "
                f"{results['system']} is given twice"
            )
        by_system[results["system"]][place] = folder
    systems = [
        _system(name, places, first["labels"], grid)
        for name, places in by_system.items()
    ]
    return sorted(systems, key=lambda s: score(s, seen_noise(s)))


def _grid(results):
    return [Condition(c["noise"], c["snr_db"]) for c in results["conditions"]]


def _system(name, places, labels, grid):
    """One system's predictions, every seed with the same folds."""
    seeds = sorted({seed for seed, _ in places})
    folds = sorted({fold for _, fold in places})
    for seed in seeds:
        missing = [fold for fold in folds if (seed, fold) not in places]
        if missing:
            raise InputError(
                f"{name}: seed {seed} lacks fold(s) "
                f"{', '.join(map(str, missing))}, which other seeds have"
            )
    tables = {
        seed: pd.concat(
            [read_predictions(places[seed, fold]) for fold in folds],
            ignore_index=True,
        )
        for seed in seeds
    }
    return System(name, folds, tables, labels, grid)


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


def score(system, conditions, name="UA"):
    """A metric, mean over conditions and seeds, folds pooled.

    Arguments
    ---------
    system : System
        The system.
    conditions : sequence of Condition
        Which.
    name : str
        "UA" or "WA".

    Returns
    -------
    float
        A fraction.
    """
    if name == "UA":
        return float(mean_ua(_counts(system, conditions)).mean())
    values = [_accuracy(table, conditions) for table in system.seeds.values()]
    return float(np.mean(values))


def _counts(system, conditions, seeds=None):
    tables = [system.seeds[seed] for seed in seeds or system.seeds]
    return speaker_counts(tables, system.labels, conditions)


def _accuracy(table, conditions):
    """Plain accuracy, mean over conditions."""
    right = (table["true"] == table["predicted"]).groupby(
        [table["noise"], table["snr_db"].fillna(np.inf)]
    )
    means = right.mean()
    keys = [
        (c.noise, np.inf if c.snr_db is None else c.snr_db) for c in conditions
    ]
    return np.mean([means[key] for key in keys])


def noisy_interval(system):
    """Bounds of the noisy UA, speakers drawn anew.

    Arguments
    ---------
    system : System
        The system.

    Returns
    -------
    (float, float)
        Fractions.
    """
    return interval(_counts(system, seen_noise(system)))


def comparisons(systems, baseline=BASELINE):
    """Noisy UA of every system minus the baseline's, on the same utterances.

    Arguments
    ---------
    systems : sequence of System
        From `pool`.
    baseline : str
        Which one they are compared with.

    Returns
    -------
    list of (str, list of int, mlkd_lobes.evaluation.statistics.Comparison)
        System, the seeds both have, and the difference; empty without the
        baseline.
    """
    named = {system.name: system for system in systems}
    if baseline not in named:
        return []
    base, found = named[baseline], []
    for system in systems:
        seeds = [seed for seed in system.seeds if seed in base.seeds]
        if system is base or not seeds or system.folds != base.folds:
            continue
        chosen = seen_noise(base)
        pair = [_counts(one, chosen, seeds) for one in (system, base)]
        found.append((system.name, seeds, compare(*pair)))
    return found
