"""Runs put together: folds pooled, seeds side by side."""

import reprlib
from collections import defaultdict, namedtuple

import pandas as pd

from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.results import (
    fits,
    read_cost,
    read_predictions,
    summarize,
)
from mlkd_lobes.evaluation.statistics import same_utterances, speaker_counts
from mlkd_lobes.evaluation.summary import score, seen_noise
from mlkd_lobes.noise import Condition

# What all runs of a report have in common.
COMMON = ("corpus", "protocol", "labels", "noise_corpus")

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
    tested, trained = {}, {}
    for run in runs:
        _check_kind(run, runs[0])
        results = run.results
        place = results["seed"], results["fold"]
        # Older results say neither.
        if "test_sha256" in results:
            _check_tested(run, tested.setdefault(results["fold"], run))
        if "settings" in results:
            _check_trained(run, trained.setdefault(results["system"], run))
        if place in by_system[results["system"]]:
            raise InputError(
                f"{run.folder}: fold {results['fold']}, seed {results['seed']} "
                f"of {results['system']} is given twice"
            )
        by_system[results["system"]][place] = run
    systems = [
        _system(name, places, first["labels"], _grid(first))
        for name, places in by_system.items()
    ]
    _check_utterances(systems)
    return sorted(systems, key=lambda s: score(s, seen_noise(s)))


def _check_kind(run, first):
    """All runs are of one corpus, and evaluated under the same conditions."""
    for key in COMMON:
        if run.results[key] != first.results[key]:
            raise InputError(
                f"{run.folder}: {key} {run.results[key]}, but "
                f"{first.results[key]} in {first.folder}; give runs of one {key}"
            )
    if _grid(run.results) != _grid(first.results):
        raise InputError(
            f"{run.folder} was evaluated under other conditions than "
            f"{first.folder}"
        )


def _check_tested(run, other):
    """Runs of a fold heard the same."""
    if run.results["test_sha256"] != other.results["test_sha256"]:
        raise InputError(
            f"{run.folder}: was tested on other speech or noise, or in another "
            f"precision, than {other.folder}; evaluate both again"
        )


def _check_utterances(systems):
    """Systems of the same folds were tested on the same, whatever the seeds."""
    first = {}
    for system in systems:
        other = first.setdefault(tuple(system.folds), system)
        if not same_utterances(system.counts, other.counts):
            raise InputError(
                f"{other.name} and {system.name} were tested on different "
                "utterances"
            )


def _check_trained(run, other):
    """Runs of a system are trainings with the same settings.

    Those that both know: later code may have more of them.
    """
    here, there = run.results["settings"], other.results["settings"]
    for key in sorted({*here} & {*there}):
        if here[key] != there[key]:
            raise InputError(
                f"{run.folder}: was trained with {key} "
                f"{reprlib.repr(here[key])}, but "
                f"{reprlib.repr(there[key])} in {other.folder}; give runs of "
                "one setting"
            )


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
    said, labels = {*table["true"], *table["predicted"]}, run.results["labels"]
    if not said <= {*labels}:
        raise InputError(
            f"{run.folder}: its predictions name {sorted(said - {*labels})}, "
            f"which are none of its labels {labels}; evaluate it again"
        )
    try:
        belongs = fits(table, run.results)
    # What is no number, where one is expected.
    except (TypeError, ValueError) as error:
        raise InputError(f"{run.folder}: its results are damaged ({error})")
    if not belongs:
        raise InputError(
            f"{run.folder}: its predictions are not those of its results; "
            "evaluate it again"
        )
    return table
