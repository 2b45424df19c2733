"""The report of several runs as text: setting and tables."""

from __future__ import annotations

import math
from collections import namedtuple

from mlkd_lobes.evaluation.comparison import CLEAN_SPEECH, Pooled, comparisons
from mlkd_lobes.evaluation.metrics import markdown
from mlkd_lobes.evaluation.statistics import seeds_interval
from mlkd_lobes.noise.add_noise import CLEAN

Table = namedtuple("Table", ["header", "rows"])
Table.__doc__ = """Column names, and rows of cells, all text."""

# With fewer, an interval over speakers is unreliable.
FEW_SPEAKERS = 8
METHOD = (
    "Folds are pooled, seeds averaged. A noise type's column is the mean over its "
    'SNRs, "noisy" the mean over the types used in training. Intervals and p '
    "resample speakers: they hold for these trained models. "
    '"Over seeds" is the interval of the mean over seeds, for another training. A '
    'difference uses the seeds that both systems have; "runs better" counts folds '
    "and seeds."
)


def percent(value: float) -> str:
    """A fraction in percent; a dash where nothing was tested."""
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def between(low: float, high: float, form: str = ".1f") -> str:
    """An interval in percent.

    >>> between(0.25, 0.5), between(-0.01, 0.02, "+.1f"), between(math.nan, 0)
    ('25.0 to 50.0', '-1.0 to +2.0', '–')
    """
    if math.isnan(low) or math.isnan(high):
        return "–"
    return f"{100 * low:{form}} to {100 * high:{form}}"


def setting(pooled: Pooled) -> str:
    """Corpus, folds and number of utterances that the figures are based on."""
    system, about = pooled.systems[-1], pooled.about
    table = next(iter(system.tables.values()))
    n, speakers = table["id"].nunique(), table["speaker"].nunique()
    text = (
        f"{about['corpus']}, {about['protocol']}, fold(s) "
        f"{', '.join(map(str, system.folds))}: {n} test utterances of "
        f"{speakers} speakers under every condition; chance is "
        f"{100 / len(about['labels']):.1f} % UA. {METHOD}"
    )
    if pooled.left_out:
        left_out = "; ".join(pooled.left_out)
        text += f" Left out, so that all have the same folds: {left_out}."
    tested = (system.counts.total.sum(1) > 0).sum(0)
    rare = [c for c, n in zip(system.labels, tested) if 0 < n < FEW_SPEAKERS]
    if rare:
        text += (
            f" Intervals are unreliable: fewer than {FEW_SPEAKERS} speakers "
            f"were tested on {', '.join(rare)}."
        )
    return text


def answer(wanted) -> str | None:
    """The main comparison in a sentence; None if there is none."""
    if not wanted:
        return None
    main = wanted[0]
    found, ahead = main.found, sum(gain > 0 for gain in main.per_run)
    return (
        f"{main.one.name} − {main.other.name}, {main.under}: "
        f"{100 * found.mean:+.1f} points of UA (95 % interval over speakers "
        f"{between(found.low, found.high, '+.1f')}, over seeds "
        f"{between(*seeds_interval(found.per_seed), '+.1f')}), ahead in "
        f"{ahead} of {len(main.per_run)} runs."
    )


def kept_shares(wanted) -> list[str]:
    """What the main system keeps in noise, and of other systems' clean UA."""
    if not wanted or not wanted[0].one.snrs():
        return []
    system = wanted[0].one
    snr = system.snrs()[-1]
    part = system.conditions(snr=snr)
    sentences = [
        f"At {snr:g} dB {system.name} keeps its clean-speech prediction for "
        f"{percent(system.score(part, 'consistency'))} % of utterances (95 % "
        f"interval {between(*system.consistency_interval(part))})."
    ]
    for one, other, under, seeds, _, _ in wanted:
        if under == CLEAN_SPEECH:
            share = one.score([CLEAN], seeds=seeds)
            share /= other.score([CLEAN], seeds=seeds)
            sentences.append(
                f"On clean speech the UA of {one.name} is {percent(share)} % "
                f"of that of {other.name}."
            )
    return sentences


def systems_table(systems, name="UA") -> Table:
    """A metric of several systems: clean, noisy and every noise type."""
    kinds = systems[0].noise_types() + systems[0].noise_types(unseen=True)
    rows = []
    for system in systems:
        parts = [[CLEAN], system.conditions()]
        parts += [system.conditions(kind) for kind in kinds]
        cells = [percent(system.score(part, name)) for part in parts]
        if name == "UA":
            cells.insert(2, between(*system.ua_interval(parts[1])))
        rows.append([system.name, str(len(system.seeds)), *cells])
    title = {"F1": "macro-F1"}.get(name, name)
    header = [f"{title} (%)", "seeds", "clean", "noisy", *kinds]
    if name == "UA":
        header.insert(4, "95 % interval")
    return Table(header, rows)


def comparisons_table(wanted) -> Table:
    """Differences of UA between systems, in points."""
    rows = []
    for one, other, under, seeds, found, per_run in wanted:
        better = sum(value > 0 for value in per_run)
        cells = [
            f"{one.name} − {other.name}",
            under,
            str(len(seeds)),
            f"{100 * found.mean:+.1f}",
            between(found.low, found.high, "+.1f"),
            "< 0.001" if found.p < 0.001 else f"{found.p:.3f}",
            ", ".join(f"{100 * value:+.1f}" for value in found.per_seed),
            between(*seeds_interval(found.per_seed), "+.1f"),
            f"{better} of {len(per_run)}",
            str(found.n_speakers),
        ]
        rows.append(cells)
    header = ["UA (points)", "under", "seeds", "difference", "95 % interval"]
    header += ["p", "each seed", "over seeds", "runs better", "speakers"]
    return Table(header, rows)


def consistency_table(systems) -> Table:
    """Share of predictions that equal those without noise, by SNR."""
    snrs, rows = systems[0].snrs(), []
    if not snrs:
        return Table([], [])
    for system in systems:
        parts = [system.conditions(snr=snr) for snr in snrs]
        cells = [percent(system.score(p, "consistency")) for p in parts]
        interval = between(*system.consistency_interval(parts[-1]))
        rows.append([system.name, *cells, interval])
    header = ["unchanged (%)", *[f"{snr:g} dB" for snr in snrs]]
    return Table([*header, f"95 % interval, {snrs[-1]:g} dB"], rows)


def tables(systems, wanted) -> list[Table]:
    """All tables of a report that have rows."""
    found = [
        systems_table(systems),
        comparisons_table(wanted),
        systems_table(systems, "WA"),
        systems_table(systems, "F1"),
        consistency_table(systems),
    ]
    return [table for table in found if table.rows]


def report_text(pooled: Pooled, compared, short: bool = False) -> str:
    """Setting and tables as Markdown; short: only UA and its differences.

    compared: the comparisons wanted, as text, the main one first.
    """
    wanted = comparisons(pooled.systems, compared)
    chosen = tables(pooled.systems, wanted)[: 2 if short else None]
    parts = [setting(pooled), *[markdown(*table) for table in chosen]]
    return "\n\n".join(parts + kept_shares(wanted))
