"""Tables of finished runs, for the screen, a README and the HTML page."""

import math
from collections import namedtuple

from mlkd_lobes.evaluation.results import metric, noise_types, noisy_mean
from mlkd_lobes.evaluation.statistics import seeds_interval
from mlkd_lobes.evaluation.summary import (
    consistency_interval,
    contrasts,
    noise_kinds,
    score,
    seen_noise,
    ua_interval,
)
from mlkd_lobes.noise import CLEAN, Condition

Table = namedtuple("Table", ["header", "rows"])
Table.__doc__ = """Column names, and rows of cells, all text."""


def markdown(header, rows):
    """A Markdown table, columns aligned so that it reads as plain text too.

    Arguments
    ---------
    header : sequence of str
        Column names.
    rows : sequence of sequences of str
        The cells.

    Returns
    -------
    str
        Lines of text.

    Example
    -------
    >>> print(markdown(["a", "b"], [["1", "2"]]))
    | a |  b |
    |---|---:|
    | 1 |  2 |
    """
    table = [list(header), *[list(row) for row in rows]]
    widths = [max(2, *map(len, column)) for column in zip(*table)]
    widths[0] = max(len(row[0]) for row in table)

    def line(row):
        """A row of cells, padded."""
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(w) for cell, w in zip(row[1:], widths[1:])]
        return "| " + " | ".join(cells) + " |"

    rule = ["-" * (widths[0] + 2)] + ["-" * (w + 1) + ":" for w in widths[1:]]
    return "\n".join(
        [line(table[0]), "|" + "|".join(rule) + "|", *map(line, table[1:])]
    )


def run_table(results, name="UA"):
    """One run: noise types as rows, SNRs as columns.

    Arguments
    ---------
    results : dict
        The content of results.json.
    name : str
        Which metric, in percent.

    Returns
    -------
    str
        A Markdown table; its last row is the mean over the types seen.
    """
    snrs = list(
        dict.fromkeys(
            c["snr_db"] for c in results["conditions"] if c["noise"] != "clean"
        )
    )
    rows = [["clean"] + ["" for _ in snrs] + [_percent(results, CLEAN, name)]]
    seen, unseen = noise_types(results), noise_types(results, unseen=True)
    for kind in seen + unseen:
        cells = [_percent(results, Condition(kind, s), name) for s in snrs]
        rows.append(
            [kind, *cells, f"{100 * noisy_mean(results, name, kind):.1f}"]
        )
    if seen:
        cells = [f"{100 * noisy_mean(results, name, snr=s):.1f}" for s in snrs]
        mean = f"{100 * noisy_mean(results, name):.1f}"
        rows.append(["mean, seen types", *cells, mean])
    header = [f"{name} (%)"] + [f"{snr:g} dB" for snr in snrs] + ["mean"]
    return markdown(header, rows)


def _share(value):
    """A fraction in percent; a dash where nothing was tested."""
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def _percent(results, condition, name):
    return f"{100 * metric(results, condition, name):.1f}"


def between(low, high, form=".1f"):
    """An interval in percent.

    Arguments
    ---------
    low : float
        A fraction; NaN where nothing can be said.
    high : float
        Another.
    form : str
        How a number is written.

    Returns
    -------
    str
        Two numbers, or a dash.

    Example
    -------
    >>> between(0.25, 0.5), between(-0.01, 0.02, "+.1f"), between(math.nan, 0)
    ('25.0 to 50.0', '-1.0 to +2.0', '–')
    """
    if math.isnan(low) or math.isnan(high):
        return "–"
    return f"{100 * low:{form}} to {100 * high:{form}}"


def systems_table(systems, name="UA"):
    """Several systems: clean, noisy and every noise type as columns.

    Arguments
    ---------
    systems : sequence of mlkd_lobes.evaluation.pooling.System
        From `pool`.
    name : str
        Which metric, in percent.

    Returns
    -------
    Table
        A noise type's cell is the mean over its SNRs, "noisy" the mean over
        the types seen, for UA with its 95 % interval.
    """
    kinds = noise_kinds(systems[0]) + noise_kinds(systems[0], unseen=True)
    rows = []
    for system in systems:
        parts = [[CLEAN], seen_noise(system)]
        parts += [seen_noise(system, kind) for kind in kinds]
        cells = [_share(score(system, part, name)) for part in parts]
        if name == "UA":
            cells.insert(2, between(*ua_interval(system, seen_noise(system))))
        rows.append([system.name, str(len(system.seeds)), *cells])
    title = {"F1": "macro-F1"}.get(name, name)
    header = [f"{title} (%)", "seeds", "clean", "noisy", *kinds]
    if name == "UA":
        header.insert(4, "95 % interval")
    return Table(header, rows)


def contrasts_table(systems):
    """Differences of UA between systems, in points.

    Arguments
    ---------
    systems : sequence of mlkd_lobes.evaluation.pooling.System
        From `pool`.

    Returns
    -------
    Table
        Without rows if there is nothing to compare. A difference is taken over
        the seeds that both systems have; "over seeds" is the interval of their
        mean, "runs better" counts the folds and seeds in which the first system
        is ahead.
    """
    rows = []
    for asked in contrasts(systems):
        found = asked.found
        each = ", ".join(f"{100 * value:+.1f}" for value in found.per_seed)
        better = sum(value > 0 for value in asked.per_run)
        rows.append(
            [
                f"{asked.one} − {asked.other}",
                asked.under,
                str(len(asked.seeds)),
                f"{100 * found.difference:+.1f}",
                between(found.low, found.high, "+.1f"),
                "< 0.001" if found.p < 0.001 else f"{found.p:.3f}",
                each,
                between(*seeds_interval(found.per_seed), "+.1f"),
                f"{better} of {len(asked.per_run)}",
                str(found.n_speakers),
            ]
        )
    header = ["UA (points)", "under", "seeds", "difference", "95 % interval"]
    header += ["p", "each seed", "over seeds", "runs better", "speakers"]
    return Table(header, rows)


def recall_table(systems):
    """Recall of every class, on clean speech and in noise met in training.

    Arguments
    ---------
    systems : sequence of mlkd_lobes.evaluation.pooling.System
        From `pool`.

    Returns
    -------
    Table
        In percent.
    """
    rows = []
    for system in systems:
        cells = [
            _share(score(system, part, "recall", label))
            for part in ([CLEAN], seen_noise(system))
            for label in system.labels
        ]
        rows.append([system.name, *cells])
    labels = systems[0].labels
    header = ["recall (%)", *[f"{label}, clean" for label in labels]]
    return Table([*header, *[f"{label}, noisy" for label in labels]], rows)


def consistency_table(systems):
    """Predictions that noise leaves as they are without it.

    Arguments
    ---------
    systems : sequence of mlkd_lobes.evaluation.pooling.System
        From `pool`.

    Returns
    -------
    Table
        In percent, SNRs as columns, mean over the types seen; for the highest
        SNR with the 95 % interval. Without rows if there was no noise.
    """
    snrs = sorted({c.snr_db for c in seen_noise(systems[0])})
    if not snrs:
        return Table([], [])
    rows = []
    for system in systems:
        parts = [seen_noise(system, snr=snr) for snr in snrs]
        cells = [f"{100 * score(system, p, 'consistency'):.1f}" for p in parts]
        interval = between(*consistency_interval(system, parts[-1]))
        rows.append([system.name, *cells, interval])
    header = ["unchanged (%)", *[f"{snr:g} dB" for snr in snrs]]
    return Table([*header, f"95 % interval, {snrs[-1]:g} dB"], rows)
