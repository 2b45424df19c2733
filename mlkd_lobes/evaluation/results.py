"""What a run leaves behind: results.json, predictions.csv.gz, cost.json.

results.json holds the metrics of every condition, predictions.csv.gz what they
were computed from, utterance by utterance, and cost.json what may differ between
two equal runs: time, memory, machine.
"""

import contextlib
import gzip
import io
import json
import pathlib
import zlib
from collections import namedtuple

import numpy as np
import pandas as pd

from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.metrics import consistency, emotion_metrics
from mlkd_lobes.files import atomic_path, write_json
from mlkd_lobes.noise import CLEAN, UNSEEN_PREFIX, Condition

StoredRun = namedtuple("StoredRun", ["folder", "results"])
StoredRun.__doc__ = """A finished run: where it is, what results.json says."""

SCHEMA = 1
# What results.json must have for a report.
HEADER = ("system", "corpus", "protocol", "fold", "seed", "noise_corpus")
HEADER += ("labels", "conditions")
# What each of its conditions must have.
CONDITION = ("noise", "snr_db", "n", "WA", "UA", "F1", "recall", "confusion")
CONDITION += ("consistency",)
# What each row of the predictions must have, besides the probabilities.
ROW = ("id", "speaker", "noise", "snr_db", "true", "predicted")
# What reading a damaged file may end in.
DAMAGED = (EOFError, OSError, ValueError, zlib.error)
RESULTS, PREDICTIONS, COST = "results.json", "predictions.csv.gz", "cost.json"


def prediction_columns(labels):
    """Columns of predictions.csv.gz.

    Arguments
    ---------
    labels : sequence of str
        The classes.

    Returns
    -------
    list of str
        Column names.
    """
    return [*ROW, *[f"p_{label}" for label in labels]]


def prediction_table(records, grid, labels, speakers):
    """Predictions as they are stored.

    Arguments
    ---------
    records : iterable of (str, int, torch.Tensor)
        Utterance, index of its label, logits [conditions, classes].
    grid : sequence of Condition
        The conditions.
    labels : sequence of str
        The classes.
    speakers : dict
        Speaker of each utterance.

    Returns
    -------
    pandas.DataFrame
        Columns as `prediction_columns` says; one row per utterance and
        condition, probabilities to six digits.

    Raises
    ------
    mlkd_lobes.errors.InputError
        If a logit is no finite number: the greatest of such would pass for an
        answer.
    """
    rows = []
    for utterance, label, logits in records:
        if not logits.isfinite().all():
            raise InputError(
                f"{utterance}: the network answers NaN or infinity; with "
                "--eval_precision=fp32 it may not, else its training went wrong"
            )
        said = logits.argmax(-1).tolist()
        posteriors = logits.softmax(-1).tolist()
        for condition, best, p in zip(grid, said, posteriors):
            row = [utterance, speakers[utterance], *condition]
            row += [labels[label], labels[best]]
            rows.append(row + [round(value, 6) for value in p])
    return pd.DataFrame(rows, columns=prediction_columns(labels))


def summarize(predictions, labels, grid):
    """Metrics of every condition from the predictions.

    Arguments
    ---------
    predictions : pandas.DataFrame
        Columns as `prediction_columns` says.
    labels : sequence of str
        The classes, in order.
    grid : sequence of Condition
        The conditions, in the order wanted.

    Returns
    -------
    list of dict
        One per condition: noise, snr_db, the metrics, and consistency with
        the clean predictions (None for clean itself, or without it).
    """
    by_condition = {
        (noise, None if pd.isna(snr) else snr): rows.set_index("id")
        for (noise, snr), rows in predictions.groupby(
            ["noise", "snr_db"], dropna=False, sort=False
        )
    }
    clean = by_condition.get(CLEAN)
    summary = []
    for condition in grid:
        rows = by_condition[condition]
        entry = {"noise": condition.noise, "snr_db": condition.snr_db}
        entry.update(emotion_metrics(rows["true"], rows["predicted"], labels))
        entry["consistency"] = None
        if condition != CLEAN and clean is not None:
            same = clean.loc[rows.index, "predicted"]
            entry["consistency"] = consistency(rows["predicted"], same)
        summary.append(entry)
    return summary


def write_run(folder, header, predictions, grid, cost):
    """Writes a run's three files; results.json last, so that it means "done".

    Arguments
    ---------
    folder : str or pathlib.Path
        The run's folder.
    header : dict
        system, corpus, protocol, fold, seed, noise_corpus, labels, epoch,
        settings and the hashes.
    predictions : pandas.DataFrame
        Columns as `prediction_columns` says.
    grid : sequence of Condition
        The conditions.
    cost : dict
        Whatever was measured.

    Returns
    -------
    dict
        The content of results.json.
    """
    folder = pathlib.Path(folder)
    columns = prediction_columns(header["labels"])
    results = {"schema": SCHEMA, **header}
    results["conditions"] = summarize(predictions, header["labels"], grid)
    with contextlib.ExitStack() as stack:
        # All three are written before one gets its name, results.json last.
        parts = {
            name: stack.enter_context(atomic_path(folder / name))
            for name in (RESULTS, COST, PREDICTIONS)
        }
        parts[PREDICTIONS].write_bytes(_compressed(predictions[columns]))
        write_json(parts[COST], cost)
        write_json(parts[RESULTS], results)
        # Results never stand beside predictions that they were not made from.
        (folder / RESULTS).resolve().unlink(missing_ok=True)
    return results


def _compressed(table):
    """A table as gzipped CSV."""
    text = table.to_csv(index=False, lineterminator="\n")
    # No time stamp, no name: equal predictions are equal files.
    buffer = io.BytesIO()
    with gzip.GzipFile("", "wb", fileobj=buffer, mtime=0) as file:
        file.write(text.encode())
    return buffer.getvalue()


def read_results(folder):
    """A run's results.

    Arguments
    ---------
    folder : str or pathlib.Path
        The run's folder.

    Returns
    -------
    dict
        The content of results.json.

    Raises
    ------
    FileNotFoundError
        If the run has none.
    mlkd_lobes.errors.InputError
        If it is damaged or of another schema.
    """
    path = pathlib.Path(folder) / RESULTS
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; is the run finished?")
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: is damaged ({error})")
    schema = results.get("schema") if isinstance(results, dict) else None
    if schema != SCHEMA:
        raise InputError(f"{path}: schema {schema}, expected {SCHEMA}")
    _check_keys(path, results, HEADER)
    for key in ("fold", "seed"):
        if not isinstance(results[key], int):
            raise InputError(f"{path}: {key} {results[key]!r} is no number")
    if not isinstance(results["labels"], list):
        raise InputError(f"{path}: labels {results['labels']!r} are no list")
    conditions = results["conditions"]
    for entry in (isinstance(conditions, list) and conditions) or [None]:
        _check_keys(f"{path}: a condition", entry, CONDITION)
    return results


def _check_keys(where, found, expected):
    """Refuses what lacks a key, or is nothing that has keys."""
    known = found if isinstance(found, dict) else ()
    missing = [key for key in expected if key not in known]
    if missing:
        raise InputError(f"{where} lacks {', '.join(missing)}")


def read_predictions(folder):
    """A run's predictions.

    Arguments
    ---------
    folder : str or pathlib.Path
        The run's folder.

    Returns
    -------
    pandas.DataFrame
        One row per utterance and condition.

    Raises
    ------
    mlkd_lobes.errors.InputError
        If they are not there, or damaged.
    """
    path = pathlib.Path(folder) / PREDICTIONS
    try:
        # A speaker may be called NA and a label 1; only an SNR may be missing.
        table = pd.read_csv(
            path,
            dtype={name: str for name in ROW if name != "snr_db"},
            keep_default_na=False,
            na_values={"snr_db": [""]},
        )
    except DAMAGED as error:
        raise InputError(f"{path}: cannot be read ({error})")
    _check_keys(path, dict.fromkeys(table.columns), ROW)
    return table


def read_cost(folder):
    """What a run took.

    Arguments
    ---------
    folder : str or pathlib.Path
        The run's folder.

    Returns
    -------
    dict
        The content of cost.json.

    Raises
    ------
    mlkd_lobes.errors.InputError
        If it is not there, or damaged.
    """
    path = pathlib.Path(folder) / COST
    try:
        cost = json.loads(path.read_text(encoding="utf-8"))
    except DAMAGED as error:
        raise InputError(f"{path}: cannot be read ({error})")
    if not isinstance(cost, dict):
        raise InputError(f"{path}: holds no mapping")
    return cost


def fits(predictions, results):
    """Whether results were made from these predictions.

    Arguments
    ---------
    predictions : pandas.DataFrame
        As `read_predictions` gives them.
    results : dict
        The content of results.json.

    Returns
    -------
    bool
        Whether the answers are those counted under every condition, and WA and
        UA follow from them.
    """
    place = ["noise", "snr_db", "true", "predicted"]
    heard = {
        (noise, None if pd.isna(snr) else snr, true, predicted): n
        for (noise, snr, true, predicted), n in predictions.groupby(
            place, dropna=False
        )
        .size()
        .items()
    }
    said = {
        (entry["noise"], entry["snr_db"], true, predicted): n
        for entry in results["conditions"]
        for true, row in zip(results["labels"], entry["confusion"])
        for predicted, n in zip(results["labels"], row)
        if n
    }
    return said == heard and all(map(_adds_up, results["conditions"]))


def _adds_up(entry):
    """Whether number, WA and UA of a condition are those of its confusion."""
    confusion = np.array(entry["confusion"])
    right, total = np.diag(confusion), confusion.sum(1)
    recall = right[total > 0] / total[total > 0]
    found = [total.sum(), right.sum() / total.sum(), recall.mean()]
    said = [entry["n"], entry["WA"], entry["UA"]]
    return np.allclose(said, found, atol=1e-9)


def find_runs(folders, folds=None, systems=None):
    """All finished runs below some folders.

    Arguments
    ---------
    folders : sequence of str or pathlib.Path
        Where to look.
    folds : sequence of int, optional
        Only runs of these.
    systems : sequence of str, optional
        Only runs of these.

    Returns
    -------
    list of StoredRun
        In the order of their paths.

    Raises
    ------
    FileNotFoundError
        If there is none below one of the folders.
    mlkd_lobes.errors.InputError
        If there is none of one of the folds or systems, or a file is damaged.
    """
    paths = set()
    for folder in folders:
        below = set(pathlib.Path(folder).rglob(RESULTS))
        if not below:
            raise FileNotFoundError(f"no {RESULTS} below {folder}")
        paths |= below
    runs = [StoredRun(p.parent, read_results(p.parent)) for p in sorted(paths)]
    found = {run.results["fold"] for run in runs}
    missing = [str(fold) for fold in folds or () if fold not in found]
    if missing:
        raise InputError(
            f"no results of fold(s) {', '.join(missing)} there; of: "
            f"{', '.join(map(str, sorted(found)))}"
        )
    if folds:
        runs = [run for run in runs if run.results["fold"] in folds]
    there = list(dict.fromkeys(run.results["system"] for run in runs))
    for system in systems or ():
        if system not in there:
            raise InputError(
                f"no results of system '{system}' there; of: {', '.join(there)}"
            )
    return [
        run for run in runs if not systems or run.results["system"] in systems
    ]


def is_whole(folder):
    """Whether a run is finished and all its files can be read.

    Arguments
    ---------
    folder : str or pathlib.Path
        The run's folder.

    Returns
    -------
    bool
        False if a file is missing, damaged or does not fit the others.
    """
    try:
        read_cost(folder)
        return fits(read_predictions(folder), read_results(folder))
    # A file can be read and still not hold what it should.
    except (OSError, ValueError, KeyError, TypeError):
        return False


def metric(results, condition, name="UA"):
    """One number of a run.

    Arguments
    ---------
    results : dict
        The content of results.json.
    condition : Condition
        Which condition.
    name : str
        Which metric.

    Returns
    -------
    float
        A fraction.
    """
    for entry in results["conditions"]:
        if Condition(entry["noise"], entry["snr_db"]) == condition:
            return entry[name]
    raise KeyError(f"no condition {tuple(condition)} in these results")


def noise_types(results, unseen=False):
    """Noise types of a run, in the order evaluated.

    Arguments
    ---------
    results : dict
        The content of results.json.
    unseen : bool
        Those never met in training instead of the others.

    Returns
    -------
    list of str
        Noise types.
    """
    names = [c["noise"] for c in results["conditions"] if c["noise"] != "clean"]
    names = list(dict.fromkeys(names))
    return [n for n in names if n.startswith(UNSEEN_PREFIX) == unseen]


def noisy_mean(results, name="UA", noise=None, snr=None):
    """Plain mean of a metric over noise types and SNRs.

    Arguments
    ---------
    results : dict
        The content of results.json.
    name : str
        Which metric.
    noise : str, optional
        Only this type; default: all seen in training.
    snr : float, optional
        Only this SNR; default: all.

    Returns
    -------
    float
        A fraction.
    """
    kinds = [noise] if noise else noise_types(results)
    values = [
        entry[name]
        for entry in results["conditions"]
        if entry["noise"] in kinds and (snr is None or entry["snr_db"] == snr)
    ]
    if not values:
        raise KeyError(f"no noisy condition for noise {noise}, SNR {snr}")
    return sum(values) / len(values)
