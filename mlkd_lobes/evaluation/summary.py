"""Runs put together: folds pooled, seeds side by side, a row per system."""

import math
from collections import defaultdict, namedtuple

import numpy as np
import pandas as pd

from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.results import (
    fits,
    metric,
    read_cost,
    read_predictions,
    summarize,
)
from mlkd_lobes.evaluation.statistics import (
    SpeakerCounts,
    compare,
    interval,
    same_utterances,
    speaker_counts,
    unchanged_counts,
)
from mlkd_lobes.noise import CLEAN, UNSEEN_PREFIX, Condition

# What all runs of a report have in common.
COMMON = ("corpus", "protocol", "labels", "noise_corpus")
# The question asked before anything was measured: multi-level distillation
# against the same student without it.
PRIMARY, BASELINE = "mlkd", "student_noisy"
# Whom the students learn from.
TEACHER = "teacher"
# Whose further differences are of interest: the multi-level students.
MULTI_LEVEL = ("mlkd", "mlkd_semi")

System = namedtuple(
    "System",
    ["name", "runs", "folds", "seeds", "scores", "counts", "costs", "labels"]
    + ["grid"],
)
System.__doc__ = """All runs of a system.

`runs`, (seed, fold) to results.json; `folds`, the folds that every seed has;
`seeds`, seed to the predictions of all folds; `scores`, per seed the metrics of
every condition, folds pooled; `counts`, right answers by seed, speaker, condition
and class; `costs`, cost.json of every run; `labels`; `grid`, the conditions.
"""

Contrast = namedtuple(
    "Contrast", ["one", "other", "under", "seeds", "found", "per_run"]
)
Contrast.__doc__ = """UA of system `one` minus that of `other`.

`under`: "noisy" (noise met in training), "unseen noise" or "clean"; `seeds`
both have; `found`, a mlkd_lobes.evaluation.statistics.Comparison; `per_run`, the
difference of every fold and seed.
"""


def on_shared_folds(runs):
    """The largest choice of runs in which all have the same folds.

    Folds are pooled, so systems compare on the same folds alone. Of a system
    that lacks a few, or a fold that few have, that is left out which costs
    fewest runs; of two such choices the one with more folds is taken.

    Arguments
    ---------
    runs : sequence of mlkd_lobes.evaluation.results.StoredRun
        Any number of systems, folds and seeds.

    Returns
    -------
    runs : list of StoredRun
        What can be compared.
    left_out : list of str
        The other runs in words, a system and seed each.
    """
    folds = defaultdict(set)
    for run in runs:
        folds[_owner(run)].add(run.results["fold"])
    shared = max(
        _intersections(map(frozenset, folds.values())),
        key=lambda chosen: (
            len(chosen) * sum(chosen <= there for there in folds.values()),
            len(chosen),
            sorted(-fold for fold in chosen),
        ),
    )
    kept, left_out = [], defaultdict(list)
    for run in runs:
        fold = run.results["fold"]
        if fold in shared <= folds[_owner(run)]:
            kept.append(run)
        else:
            left_out[_owner(run)].append(fold)
    return kept, [
        f"{system}, seed {seed}, fold(s) {', '.join(map(str, sorted(found)))}"
        for (system, seed), found in left_out.items()
    ]


def _owner(run):
    """Whose folds are pooled."""
    return run.results["system"], run.results["seed"]


def _intersections(sets):
    """Some sets, and all that several of them share."""
    found = set()
    for one in set(sets):
        found |= {one} | {one & other for other in found}
    return found - {frozenset()}


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
        If runs are not comparable, a seed lacks a fold, or files of a run are
        damaged or do not belong together.
    """
    by_system, first = defaultdict(dict), runs[0].results
    grid, tested = _grid(first), {}
    for run in runs:
        folder, results = run
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
        # Older results do not say it.
        if "test_sha256" in results:
            same = tested.setdefault(place, run)
            if same.results["test_sha256"] != results["test_sha256"]:
                raise InputError(
                    f"{folder}: was tested on other speech or noise, or in "
                    f"another precision, than {same.folder}; evaluate both again"
                )
        if place in by_system[results["system"]]:
            raise InputError(
                f"{folder}: fold {results['fold']}, seed {results['seed']} of "
                f"{results['system']} is given twice"
            )
        by_system[results["system"]][place] = run
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
        seed: _pooled({fold: places[seed, fold] for fold in folds})
        for seed in seeds
    }
    scores = {
        seed: summarize(table, labels, grid) for seed, table in tables.items()
    }
    counts = speaker_counts(list(tables.values()), labels, grid)
    costs = [read_cost(run.folder) for run in places.values()]
    runs = {place: run.results for place, run in places.items()}
    return System(
        name, runs, folds, tables, scores, counts, costs, labels, grid
    )


def _pooled(runs):
    """The predictions of all folds; an utterance is tested in one of them."""
    tables = {fold: _predictions(run) for fold, run in runs.items()}
    tested_in = {}
    for fold, table in tables.items():
        for utterance in table["id"].unique():
            if utterance in tested_in:
                raise InputError(
                    f"{runs[fold].folder}: tests utterance {utterance}, which "
                    f"fold {tested_in[utterance]} tests as well; folds that "
                    "are pooled test different utterances"
                )
            tested_in[utterance] = fold
    return pd.concat(tables.values(), ignore_index=True)


def _predictions(run):
    """A run's predictions, which must be those of its results."""
    table = read_predictions(run.folder)
    if not fits(table, run.results):
        raise InputError(
            f"{run.folder}: its predictions are not those of its results; "
            "evaluate it again"
        )
    said, labels = {*table["true"], *table["predicted"]}, run.results["labels"]
    if not said <= {*labels}:
        raise InputError(
            f"{run.folder}: its predictions name {sorted(said - {*labels})}, "
            f"which are none of its labels {labels}; evaluate it again"
        )
    return table


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
    if not same_utterances(*pair):
        raise InputError(
            f"{one.name} and {other.name} were tested on different utterances"
        )
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
        From `pool`.

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
