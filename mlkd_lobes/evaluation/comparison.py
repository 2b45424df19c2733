"""Runs pooled over folds, seeds side by side; differences between systems."""

from __future__ import annotations

import logging
import math
import os
import pathlib
import reprlib
import zipfile
import zlib
from collections import Counter, defaultdict, namedtuple

import numpy as np
import pandas as pd

from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation import (
    calibration,
    metrics,
    results as stored,
    statistics,
)
from mlkd_lobes.noise.add_noise import CLEAN, DISTORTED, Condition

logger = logging.getLogger(__name__)

# What all runs of a report have in common.
COMMON = ("corpus", "protocol", "labels", "noise_corpus")
NOISY, CLEAN_SPEECH, UNSEEN = "noisy", "clean", "unseen noise"
# Key of results.json, and column: the temperature of a run's probabilities.
TEMPERATURE = "temperature"
ACCURATE = 0.9  # the accuracy for which a share of predictions is sought
BINS = 15  # of the calibration error
# Utterances of each class without which a duration has no UA.
FEW_UTTERANCES = 10


class StoredRun(namedtuple("StoredRun", ["folder", "results"])):
    """A finished run: its folder and its results.json."""


class Pooled(namedtuple("Pooled", ["systems", "about", "left_out"])):
    """Systems, the worst in noise first; results.json of one of their
    runs; runs that were left out so that all systems have the same folds."""


class Comparison(
    namedtuple("Comparison", "one other under seeds found per_run")
):
    """UA of system `one` minus that of `other`.

    `under` "noisy" (all types but unseen ones), "clean" or "unseen noise"; the `seeds`
    both have; `found`, a statistics.Difference; the difference `per_run`, of every
    fold and seed, exactly 0 where they are equal.
    """


def find_runs(places, folds=None, systems=None) -> list[StoredRun]:
    """All finished runs in some folders and zip archives of such folders."""
    try:
        found = [f for place in places for f in _run_folders(place)]
        folders = {os.path.realpath(str(f)): f for f in found}
        runs = [StoredRun(f, stored.read_results(f)) for f in folders.values()]
    except (zlib.error, zipfile.BadZipFile) as error:
        raise InputError(f"{places}: a zip archive is damaged ({error})")
    runs.sort(key=lambda run: str(run.folder))
    for key, wanted in (("fold", folds), ("system", systems)):
        found = list(dict.fromkeys(run.results[key] for run in runs))
        missing = [str(w) for w in wanted or () if w not in found]
        if missing:
            raise InputError(
                f"no results of {key} {', '.join(missing)} there; found: "
                f"{', '.join(map(str, found))}"
            )
        runs = [r for r in runs if not wanted or r.results[key] in wanted]
    return runs


def _run_folders(place):
    """Folders of finished runs in a folder or zip archive."""
    place = pathlib.Path(place)
    if place.is_file() and zipfile.is_zipfile(place):
        archive = zipfile.ZipFile(place)
        found = [
            zipfile.Path(archive, name[: -len(stored.RESULTS)])
            for name in archive.namelist()
            if f"/{name}".endswith(f"/{stored.RESULTS}")
        ]
    else:
        found, visited = [], set()
        walk = os.walk(place, onerror=_warn, followlinks=True)
        for folder, below, names in walk:
            # A link may lead back up.
            if os.path.realpath(folder) in visited:
                below.clear()
            visited.add(os.path.realpath(folder))
            for path in (pathlib.Path(folder, n) for n in names if n[0] != "."):
                if path.is_symlink() and not path.exists():
                    logger.warning(f"{path}: left out (a broken link)")
            if stored.RESULTS in names:
                found.append(pathlib.Path(folder))
    if not found:
        raise FileNotFoundError(f"no {stored.RESULTS} in {place}")
    return found


def _warn(error):
    logger.warning(f"{error.filename}: left out ({error.strerror})")


class System:
    """All runs of a system: predictions pooled over folds, seed by seed."""

    def __init__(self, name, runs, labels, grid):
        self.name, self.labels, self.grid = name, labels, grid
        self.runs = {place: run.results for place, run in runs.items()}
        self.seeds = sorted({seed for seed, _ in runs})
        self.folds = sorted({fold for _, fold in runs})
        self.tables = {
            seed: _pool_folds({fold: runs[seed, fold] for fold in self.folds})
            for seed in self.seeds
        }
        self.scores = {
            seed: stored.summarize(table, labels)
            for seed, table in self.tables.items()
        }
        tables = list(self.tables.values())
        self.counts = statistics.speaker_counts(tables, labels, grid)

    def noise_types(self, unseen=False) -> list[str]:
        """Noise types but unseen ones, or only those."""
        return metrics.noise_types(next(iter(self.runs.values())), unseen)

    def distortions(self) -> dict[str, Condition]:
        """Conditions beyond additive noise, by the distortion's name."""
        found = (c for c in self.grid if c.noise.startswith(DISTORTED))
        return {c.noise.removeprefix(DISTORTED): c for c in found}

    def conditions(self, kind=None, snr=None, unseen=False) -> list[Condition]:
        """Noisy conditions, of one type or SNR if given."""
        kinds = [kind] if kind else self.noise_types(unseen)
        return [
            c
            for c in self.grid
            if c.noise in kinds and (snr is None or c.snr_db == snr)
        ]

    def snrs(self, kind=None) -> list[float]:
        """SNRs of the noise that is not unseen, or of one type."""
        return sorted({c.snr_db for c in self.conditions(kind)})

    def _entries(self, conditions, seeds=None):
        return [
            entry
            for seed in seeds or self.seeds
            for entry in self.scores[seed]
            if Condition(entry["noise"], entry["snr_db"]) in conditions
        ]

    def score(self, conditions, name="UA", label=None, seeds=None) -> float:
        """A metric, mean over conditions and seeds; NaN if not tested."""
        found = self._entries(conditions, seeds)
        values = [e[name] if label is None else e[name][label] for e in found]
        known = values and None not in values
        return float(np.mean(values)) if known else math.nan

    def confusion(self, conditions) -> np.ndarray:
        """Shares [classes, classes] of each true class, seeds pooled."""
        entries = self._entries(conditions)
        counts = sum(np.array(entry["confusion"]) for entry in entries)
        return counts / counts.sum(1, keepdims=True).clip(min=1)

    def counts_under(self, conditions, seeds=None) -> statistics.SpeakerCounts:
        """Correct predictions under some conditions, of some or all seeds."""
        rows = [self.seeds.index(seed) for seed in seeds or self.seeds]
        columns = [self.grid.index(condition) for condition in conditions]
        correct, total, speakers = self.counts
        chosen = correct[rows][:, :, columns], total[:, columns]
        return statistics.SpeakerCounts(*chosen, speakers)

    def ua_interval(self, conditions) -> tuple[float, float]:
        """95 % interval of the mean UA over speakers."""
        if not conditions:
            return math.nan, math.nan
        return statistics.interval(self.counts_under(conditions))

    def ua_by_duration(self, bounds):
        """UA in noise of utterances between bounds in seconds, NaN where there are
        few of a class; None where durations are not known, or without noise."""
        found, kinds = [], self.noise_types()
        for table in self.tables.values():
            known = stored.SECONDS in table and table[stored.SECONDS].notna()
            if not np.all(known) or not kinds:
                return None
            table = table[table["noise"].isin(kinds)]
            part = np.digitize(table[stored.SECONDS], bounds)
            n = table.groupby([part, "true"])["id"].nunique().unstack()
            keys = [part, table["noise"], table["snr_db"], table["true"]]
            recall = (table["true"] == table["predicted"]).groupby(keys).mean()
            ua = recall.groupby(level=[0, 1, 2]).mean().groupby(level=0).mean()
            ua = ua.where((n >= FEW_UTTERANCES).all(axis=1))
            found.append(ua.reindex(range(len(bounds) + 1)).to_numpy())
        return np.mean(found, 0)

    def calibration(self, conditions) -> tuple[float, float]:
        """Calibration error without and with the runs' temperatures, mean over
        seeds; NaN for results that have none."""
        found = []
        for table in self.tables.values():
            p, truth, temperature = self._probabilities(table, conditions)
            if not len(truth) or np.isnan(temperature).any():
                return math.nan, math.nan
            both = p, calibration.soften(p, temperature)
            found.append([calibration_error(each, truth) for each in both])
        return tuple(np.mean(found, 0).tolist())

    def over_coverage(self, shares) -> np.ndarray:
        """Accuracy in noise of the most confident shares of all predictions, and
        the largest share with 90 % accuracy; mean over seeds."""
        found = []
        for table in self.tables.values():
            p, truth, temperature = self._probabilities(
                table, self.conditions()
            )
            if not len(truth):
                return np.full(len(shares) + 1, math.nan)
            p = calibration.soften(p, np.nan_to_num(temperature, nan=1.0))
            order = np.argsort(-p.max(1), kind="stable")
            right = (p.argmax(1) == truth)[order]
            accuracy = right.cumsum() / np.arange(1, len(order) + 1)
            kept = [max(1, round(share * len(order))) for share in shares]
            enough = np.flatnonzero(accuracy >= ACCURATE)
            share = (enough[-1] + 1) / len(order) if len(enough) else 0.0
            found.append([*(accuracy[n - 1] for n in kept), share])
        return np.mean(found, 0)

    def _probabilities(self, table, conditions):
        """Probabilities, true classes and temperatures [rows, 1] of conditions."""
        own = zip(table["noise"], table["snr_db"].replace({np.nan: None}))
        rows = table[[pair in conditions for pair in own]]
        found = calibration.probabilities_of(rows, self.labels)
        return *found, rows[[TEMPERATURE]].to_numpy(float)

    def consistency_interval(self, conditions) -> tuple[float, float]:
        """95 % interval of the consistency with clean predictions."""
        tables = list(self.tables.values())
        counts = statistics.unchanged_counts(tables, conditions)
        return statistics.interval(counts)


def pool(runs) -> Pooled:
    """Pools runs system by system; raises if they are not comparable."""
    for run in runs:
        _check_kind(run, runs[0])
    runs, left_out = _on_shared_folds(runs)
    by_system, first = defaultdict(dict), runs[0]
    tested, trained = {}, {}
    for run in runs:
        results = run.results
        place = results["seed"], results["fold"]
        _check_tested(run, tested)
        _check_trained(run, trained)
        if place in by_system[results["system"]]:
            raise InputError(
                f"{run.folder}: fold {results['fold']}, seed {results['seed']} "
                f"of {results['system']} is given twice"
            )
        by_system[results["system"]][place] = run
    labels, grid = first.results["labels"], _grid(first.results)
    systems = [System(n, r, labels, grid) for n, r in by_system.items()]
    for other in systems[1:]:
        if not statistics.same_utterances(systems[0].counts, other.counts):
            raise InputError(
                f"{systems[0].name} and {other.name} were tested on different "
                "utterances"
            )
    systems.sort(key=lambda s: s.score(s.conditions()))
    return Pooled(systems, first.results, left_out)


def _on_shared_folds(runs):
    """The runs of systems and seeds that share most folds; the others as text.

    Folds are pooled, so only systems with the same folds can be compared. Kept are
    folds of several systems, and among these the ones that most runs share.
    """
    folds = defaultdict(set)
    for run in runs:
        folds[_owner(run)].add(run.results["fold"])
    # Any set of folds that several systems share is an intersection of theirs.
    choices = {frozenset(a & b) for a in folds.values() for b in folds.values()}

    def n_runs(chosen):
        owners = [owner for owner, has in folds.items() if chosen <= has]
        several = len({system for system, _ in owners}) > 1
        n, order = len(chosen), [-fold for fold in sorted(chosen)]
        return n > 0 and several, n * len(owners), n, order

    shared = max(choices, key=n_runs)
    kept, left_out = [], defaultdict(list)
    for run in runs:
        if run.results["fold"] in shared <= folds[_owner(run)]:
            kept.append(run)
        else:
            left_out[_owner(run)].append(run.results["fold"])
    return kept, [
        f"{system}, seed {seed}, fold(s) {', '.join(map(str, sorted(found)))}"
        for (system, seed), found in left_out.items()
    ]


def _owner(run):
    """System and seed, whose folds are pooled."""
    return run.results["system"], run.results["seed"]


def _check_kind(run, first):
    """Raises unless two runs have the same corpus and conditions."""
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


def _check_tested(run, tested):
    """Raises unless all runs of a fold had the same test; older results lack
    its hash."""
    sha256 = run.results.get("test_sha256")
    other = tested.setdefault(run.results["fold"], run) if sha256 else run
    if sha256 != other.results.get("test_sha256"):
        raise InputError(
            f"{run.folder}: was tested on other speech or noise, or in another "
            f"precision, than {other.folder}; evaluate both again"
        )


def _check_trained(run, trained):
    """Raises unless all runs of a system share the settings that they hold."""
    here = run.results.get("settings", {})
    other = trained.setdefault(run.results["system"], run) if here else run
    there = other.results.get("settings", {})
    for key in sorted({*here} & {*there}):
        if here[key] != there[key]:
            raise InputError(
                f"{run.folder}: was trained with {key} "
                f"{reprlib.repr(here[key])}, but {reprlib.repr(there[key])} in "
                f"{other.folder}; give runs of one setting"
            )


def _grid(results):
    return [Condition(c["noise"], c["snr_db"]) for c in results["conditions"]]


def _pool_folds(runs):
    """The predictions of all folds; an utterance is tested in one of them."""
    tables = [_predictions(run) for run in runs.values()]
    tested = Counter(name for table in tables for name in table["id"].unique())
    twice = [name for name, n in tested.items() if n > 1]
    if twice:
        folders = ", ".join(str(run.folder) for run in runs.values())
        raise InputError(
            f"{twice[0]} is tested in several folds of {folders}; folds that "
            "are pooled test different utterances"
        )
    return pd.concat(tables, ignore_index=True)


def _predictions(run):
    """A run's predictions; raises unless they are those of its results."""
    table, labels = stored.read_predictions(run.folder), run.results["labels"]
    try:
        belongs = stored.predictions_match(table, run.results)
    # Text where a number is expected.
    except (TypeError, ValueError) as error:
        raise InputError(f"{run.folder}: its results are damaged ({error})")
    if not belongs:
        raise InputError(
            f"{run.folder}: its predictions are not those of its results "
            f"(labels {labels}); evaluate it again"
        )
    return table.assign(**{TEMPERATURE: run.results.get(TEMPERATURE)})


def calibration_error(probabilities, truth):
    """Expected calibration error of probabilities [rows, classes]: the mean over rows
    of |mean confidence − accuracy| of their bin, one of 15 of equal width."""
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == truth
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, confidence - right, BINS)
    return float(np.abs(gaps).sum() / len(truth))


def comparisons(systems, wanted) -> list[Comparison]:
    """Compares systems as wanted, leaving out those that are not there.

    wanted: "one - other", with ", clean" or ", unseen noise" if not in noise.
    """
    named = {system.name: system for system in systems}
    found = []
    for text in wanted:
        match = stored.COMPARISON.fullmatch(text)
        if match is None:
            raise InputError(
                f"comparisons: '{text}' is not of the form 'one - other', "
                f"'one - other, {CLEAN_SPEECH}' or 'one - other, {UNSEEN}'"
            )
        one, other, under = match.groups()
        if one in named and other in named:
            found.append(compare(named[one], named[other], under or NOISY))
    return [comparison for comparison in found if comparison is not None]


def compare(one: System, other: System, under=NOISY):
    """Compares two systems; None without common seeds or conditions."""
    conditions = {
        NOISY: one.conditions(),
        UNSEEN: one.conditions(unseen=True),
        CLEAN_SPEECH: [CLEAN],
    }[under]
    seeds = [seed for seed in one.seeds if seed in other.seeds]
    if not seeds or not conditions:
        return None
    pair = [s.counts_under(conditions, seeds) for s in (one, other)]
    ua = [
        [_mean_ua(system.runs[place], conditions) for system in (one, other)]
        for place in one.runs
        if place[0] in seeds
    ]
    per_run = [round(gain, 9) for gain in -np.diff(ua)[:, 0]]
    found = statistics.compare(*pair)
    return Comparison(one, other, under, seeds, found, per_run)


def _mean_ua(results, conditions):
    """UA of a single run, mean over conditions, from its confusions."""
    counts = [metrics.metric(results, c, "confusion") for c in conditions]
    counts = np.array(counts)
    return float(statistics.ua(np.diagonal(counts, 0, 1, 2), counts.sum(2)))
