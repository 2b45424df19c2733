"""The files of a finished run: results.json, predictions.csv.gz, cost.json.

results.json holds the metrics of every condition, predictions.csv.gz the
predictions they were computed from, cost.json what may differ between two equal
runs: time, memory, machine. data.json describes the speech and noise, for exports.
"""

import contextlib
import gzip
import io
import pathlib
import re
import subprocess
import zipfile
import zlib
from collections import Counter, namedtuple

import numpy as np
import pandas as pd

from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.metrics import emotion_metrics
from mlkd_lobes.files import atomic_path, file_sha256, read_json, write_json
from mlkd_lobes.noise.add_noise import CLEAN, Condition, noise_fingerprint

SCHEMA = 1
# What results.json must have for a report.
HEADER = ("system", "corpus", "protocol", "fold", "seed", "noise_corpus")
HEADER += ("labels", "conditions")
# What each of its conditions must have.
CONDITION = ("noise", "snr_db", "n", "WA", "UA", "F1", "recall", "confusion")
CONDITION += ("consistency",)
# What each row of the predictions must have, besides the probabilities.
ROW = ("id", "speaker", "noise", "snr_db", "true", "predicted")
SECONDS = "seconds"  # of the utterance; older results lack it
# Errors of reading a damaged file.
DAMAGED = (EOFError, OSError, ValueError, zlib.error, zipfile.BadZipFile)
RESULTS, PREDICTIONS, COST = "results.json", "predictions.csv.gz", "cost.json"
DATA = "data.json"
# A difference that a report shows, in noise unless it says otherwise.
COMPARISON = re.compile(r"([^\s,]+) - ([^\s,]+)(?:, (clean|unseen noise))?")


class Record(
    namedtuple("Record", "id speaker seconds label conditions probabilities")
):
    """An utterance's predictions.

    `label`: index of the true class; `conditions`: a sequence of Condition;
    `probabilities` [conditions, classes].
    """


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
    return [*ROW, SECONDS, *[f"p_{label}" for label in labels]]


def prediction_table(records, labels):
    """Predictions as they are stored.

    Arguments
    ---------
    records : iterable of Record
        One per utterance.
    labels : sequence of str
        The classes.

    Returns
    -------
    pandas.DataFrame
        Columns as in `prediction_columns`; one row per utterance and condition,
        probabilities to six digits.

    Raises
    ------
    InputError
        If a probability is not finite.
    """
    rows = []
    for own in records:
        if not np.isfinite(own.probabilities).all():
            raise InputError(
                f"{own.id}: the network's output is NaN or infinite: its "
                "training has failed, or eval_precision is too low"
            )
        predicted = own.probabilities.argmax(-1).tolist()
        values = own.probabilities.tolist()
        for condition, best, p in zip(own.conditions, predicted, values):
            row = [own.id, own.speaker, *condition, labels[own.label]]
            row += [labels[best], round(own.seconds, 3)]
            rows.append(row + [round(value, 6) for value in p])
    return pd.DataFrame(rows, columns=prediction_columns(labels))


def describe_test(grid, manifest, noise_types, precision):
    """What a test depends on besides the model; its hash is `test_sha256`.

    Arguments
    ---------
    grid : list of mlkd_lobes.noise.add_noise.Condition
        The conditions.
    manifest : str or pathlib.Path
        Of the test speech.
    noise_types : dict
        From `mlkd_lobes.noise.add_noise.read_noise_csv`.
    precision : str
        Of the evaluation.

    Returns
    -------
    dict
        Values that JSON takes.
    """
    # 0 and 0.0 dB are one condition.
    conditions = [(n, None if snr is None else float(snr)) for n, snr in grid]
    return {
        "conditions": conditions,
        "manifest": file_sha256(manifest),
        "noise": noise_fingerprint(noise_types),
        "precision": precision,
    }


def split_hashes(splits, noisy):
    """Hashes of the speech of training and validation, and of its noise.

    Arguments
    ---------
    splits : dict
        Split to manifest and AddNoise.
    noisy : bool
        Whether noise is used.

    Returns
    -------
    dict
        Name to hash.
    """
    found = {}
    for split in ("train", "valid"):
        manifest, noise = splits[split]
        found[f"{split}_manifest"] = file_sha256(manifest)
        if noisy:
            found[f"{split}_noise"] = noise_fingerprint(noise.types)
    return found


def summarize(predictions, labels):
    """Metrics of every condition from the predictions.

    Arguments
    ---------
    predictions : pandas.DataFrame
        Columns as in `prediction_columns`.
    labels : sequence of str
        The classes, in order.

    Returns
    -------
    list of dict
        One per condition, in the order of the predictions: noise, snr_db, the
        metrics, and consistency with the clean predictions (None for clean
        itself, or without it).
    """
    by_condition = {
        Condition(noise, None if pd.isna(snr) else snr): rows.set_index("id")
        for (noise, snr), rows in predictions.groupby(
            ["noise", "snr_db"], dropna=False, sort=False
        )
    }
    clean = by_condition.get(CLEAN)
    summary = []
    for condition, rows in by_condition.items():
        entry = {"noise": condition.noise, "snr_db": condition.snr_db}
        entry.update(emotion_metrics(rows["true"], rows["predicted"], labels))
        entry["consistency"] = None
        if condition != CLEAN and clean is not None:
            same = clean.loc[rows.index, "predicted"]
            entry["consistency"] = float((rows["predicted"] == same).mean())
        summary.append(entry)
    return summary


def write_run(folder, header, predictions, cost):
    """Writes a run's three files, results.json last.

    Arguments
    ---------
    folder : str or pathlib.Path
        The run's folder.
    header : dict
        system, corpus, protocol, fold, seed, noise_corpus, labels, epoch,
        settings and the hashes.
    predictions : pandas.DataFrame
        Columns as in `prediction_columns`.
    cost : dict
        Whatever was measured.
    """
    folder, labels = pathlib.Path(folder), header["labels"]
    results = {"schema": SCHEMA, **header}
    results["conditions"] = summarize(predictions, labels)
    with contextlib.ExitStack() as stack:
        # All three are written before one gets its name, results.json last.
        parts = {
            name: stack.enter_context(atomic_path(folder / name))
            for name in (RESULTS, COST, PREDICTIONS)
        }
        table = predictions[prediction_columns(labels)]
        text = table.to_csv(index=False, lineterminator="\n")
        # Without a time, so that equal runs have equal files.
        parts[PREDICTIONS].write_bytes(gzip.compress(text.encode(), mtime=0))
        write_json(parts[COST], cost)
        write_json(parts[RESULTS], results)
        # New predictions never stand beside old results.
        (folder / RESULTS).resolve().unlink(missing_ok=True)


def read_results(folder):
    """A run's results.

    Arguments
    ---------
    folder : pathlib.Path or zipfile.Path
        The run's folder.

    Returns
    -------
    dict
        The content of results.json.

    Raises
    ------
    FileNotFoundError
        If the run has none.
    InputError
        If it is damaged or of another schema.
    """
    path = folder / RESULTS
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; is the run finished?")
    results = read_json(path)
    schema = results.get("schema") if isinstance(results, dict) else None
    if schema != SCHEMA:
        raise InputError(f"{path}: schema {schema}, expected {SCHEMA}")
    _check_keys(path, results, HEADER)
    conditions = results["conditions"]
    for entry in (isinstance(conditions, list) and conditions) or [None]:
        _check_keys(f"{path}: a condition", entry, CONDITION)
    return results


def _check_keys(where, found, expected):
    """Raises if a key is missing, or if there are no keys at all."""
    known = found if isinstance(found, dict) else ()
    missing = [key for key in expected if key not in known]
    if missing:
        raise InputError(f"{where} lacks {', '.join(missing)}")


def read_predictions(folder):
    """A run's predictions.

    Arguments
    ---------
    folder : pathlib.Path or zipfile.Path
        The run's folder.

    Returns
    -------
    pandas.DataFrame
        One row per utterance and condition.

    Raises
    ------
    InputError
        If they are missing or damaged.
    """
    path = folder / PREDICTIONS
    try:
        # A speaker may be called NA and a label 1; only an SNR may be missing.
        table = pd.read_csv(
            io.BytesIO(gzip.decompress(path.read_bytes())),
            dtype={name: str for name in ROW if name != "snr_db"},
            keep_default_na=False,
            na_values={"snr_db": [""]},
            # A name may hold a carriage return.
            lineterminator="\n",
        )
    except (*DAMAGED, KeyError) as error:
        raise InputError(f"{path}: cannot be read ({error})")
    _check_keys(path, dict.fromkeys(table.columns), ROW)
    return table


def read_cost(folder):
    """The cost of a run.

    Arguments
    ---------
    folder : pathlib.Path or zipfile.Path
        The run's folder.

    Returns
    -------
    dict
        The content of cost.json.

    Raises
    ------
    OSError, InputError
        If it is missing or damaged.
    """
    return read_json(folder / COST, dict)


def predictions_match(predictions, results):
    """Whether results were computed from these predictions.

    Arguments
    ---------
    predictions : pandas.DataFrame
        From `read_predictions`.
    results : dict
        The content of results.json.

    Returns
    -------
    bool
        Whether the confusions agree under every condition.
    """
    snrs = predictions["snr_db"].replace({np.nan: None})
    answers = predictions["true"], predictions["predicted"]
    counted = Counter(zip(predictions["noise"], snrs, *answers))
    stored = {
        (entry["noise"], entry["snr_db"], true, predicted): n
        for entry in results["conditions"]
        for true, row in zip(results["labels"], entry["confusion"])
        for predicted, n in zip(results["labels"], row)
        if n
    }
    return stored == counted


def is_complete(folder):
    """Whether a run is finished and all its files can be read.

    Arguments
    ---------
    folder : pathlib.Path
        The run's folder.

    Returns
    -------
    bool
        False if a file is missing, damaged or does not fit the others.
    """
    try:
        read_cost(folder)
        return predictions_match(read_predictions(folder), read_results(folder))
    # A file may be valid JSON and still lack entries.
    except (OSError, ValueError, KeyError, TypeError):
        return False


def code_version():
    """The commit of this code.

    Returns
    -------
    str or None
        Hash, with "-dirty" if files differ from it; None outside of git.
    """
    # An installed copy may lie in the repository of something else.
    file = pathlib.Path(__file__)
    git = ["git", "-C", str(file.parent)]
    tracked = [*git, "ls-files", "--error-unmatch", file.name]
    commit = [*git, "describe", "--always", "--dirty", "--abbrev=40"]
    options = {"stderr": subprocess.DEVNULL, "text": True}
    try:
        for command in (tracked, commit):
            found = subprocess.check_output(command, **options)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.strip()
