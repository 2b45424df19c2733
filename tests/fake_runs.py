"""Finished runs with chosen predictions, without any training."""

import pandas as pd

from mlkd_lobes.evaluation.results import (
    prediction_columns,
    read_predictions,
    read_results,
    write_run,
)
from mlkd_lobes.noise.add_noise import CLEAN, Condition

LABELS = ["neu", "ang"]
GRID = [CLEAN, Condition("rain", 0.0), Condition("rain", 10.0)]
GRID += [Condition("unseen-room", 0.0)]
HEADER = {
    "corpus": "tiny",
    "protocol": "groups",
    "noise_corpus": "folder",
    "labels": LABELS,
    "comparisons": [
        "mlkd - student_noisy",
        "kd_last - student_noisy",
        "mlkd_semi - mlkd",
        "mlkd - teacher",
        "mlkd - teacher, clean",
        "mlkd - student_noisy, clean",
        "mlkd - student_noisy, unseen noise",
    ],
}


def write(folder, system, fold, seed, right, grid=GRID, **header):
    """Two speakers a fold; the first `right` of 10 predictions are right,
    two fewer in noise."""
    rows = []
    for speaker in (f"s{2 * fold}", f"s{2 * fold + 1}"):
        for n in range(10):
            true = LABELS[n % 2]
            for condition in grid:
                worse = 0 if condition == CLEAN else 2
                label = true if n < right - worse else LABELS[1 - n % 2]
                row = [f"{speaker}-{n}", speaker, *condition, true, label]
                rows.append([*row, 0.5 + n / 2, 0.5, 0.5])
    table = pd.DataFrame(rows, columns=prediction_columns(LABELS))
    names = {**HEADER, "system": system, "fold": fold, "seed": seed, **header}
    place = folder / f"{system}-{fold}-{seed}"
    write_run(place, names, table, {})
    return place


def rewrite(place, change, **header):
    """Changes the predictions of a run, and its results with them."""
    table = change(read_predictions(place))
    write_run(place, {**read_results(place), **header}, table, {})
