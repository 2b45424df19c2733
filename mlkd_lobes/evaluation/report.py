"""The report of several runs as text: setting and tables."""

from __future__ import annotations

import math
from collections import defaultdict, namedtuple

from mlkd_lobes.evaluation.comparison import CLEAN_SPEECH, Pooled
from mlkd_lobes.evaluation.metrics import markdown
from mlkd_lobes.evaluation.statistics import seeds_interval
from mlkd_lobes.noise.add_noise import CLEAN
from mlkd_lobes.noise.distortions import DISTORTIONS


class Table(namedtuple("Table", ["header", "rows"])):
    """Column names, and rows of cells, all text."""


# Bounds of durations, in seconds.
DURATIONS = (1, 2, 4)
DURATION_NAMES = ("< 1 s", "1 to 2 s", "2 to 4 s", "≥ 4 s")
# Required in noise by audEERING's tests; see also `DISTORTIONS`.
NOISE_SNR, NOISE_UNCHANGED = 20, 0.9
# Shares of predictions that are kept, the most confident ones.
SHARES = (1.0, 0.8, 0.6, 0.4, 0.2)
# With fewer, an interval over speakers is unreliable.
FEW_SPEAKERS = 8
METHOD = (
    "Folds are pooled, seeds averaged. A noise type's column is the mean over its "
    'SNRs, "noisy" the mean over all types but unseen ones. Intervals '
    "resample speakers, p flips signs per speaker: both hold for these trained models. "
    '"Over seeds" is the interval of the mean over seeds, for another training. A '
    'difference uses the seeds that both systems have; "runs better" counts folds '
    "and seeds."
)


def percent(value: float) -> str:
    """A fraction in percent; a dash where nothing was tested."""
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def _p_value(p):
    if math.isnan(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


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
    n, speakers = table["id"].nunique(), {*table["speaker"]}
    seeds = max(len(system.seeds) for system in pooled.systems)
    text = (
        f"{about['corpus']}, {about['protocol']}, fold(s) "
        f"{', '.join(map(str, system.folds))}: {n} test utterances of "
        f"{len(speakers - {''})} speakers under every condition, {seeds} seed(s); "
        f"{_classes(about)}; chance is {100 / len(about['labels']):.1f} % UA. "
    )
    if "split_sha256" in about:
        sha256, fold = about["split_sha256"][:8], about["fold"]
        text += f"The split of fold {fold} has the hash {sha256}. "
    if "note" in about:
        text += f"{about['note']} "
    text += _chosen_on(pooled.systems) + METHOD
    if seeds := _seeds_of_several_teachers(pooled.systems):
        text += f" Students of seed(s) {seeds} have different teachers."
    if pooled.left_out:
        left_out = "; ".join(pooled.left_out)
        text += f" Left out, so that all have the same folds: {left_out}."
    tested = (system.counts.total.sum(1) > 0).sum(0)
    rare = [c for c, n in zip(system.labels, tested) if 0 < n < FEW_SPEAKERS]
    if "" in speakers:
        text += " Some utterances have no speaker: no intervals, no p."
    elif rare:
        text += (
            f" Intervals are unreliable: fewer than {FEW_SPEAKERS} speakers "
            f"were tested on {', '.join(rare)}."
        )
    return text


def _seeds_of_several_teachers(systems):
    """Seeds in which students of a fold do not share their teacher, as text."""
    teachers = defaultdict(set)
    for system in systems:
        for place, run in system.runs.items():
            if run.get("settings", {}).get("network") == "student":
                teachers[place].add(run["teacher_sha256"])
    seeds = {seed for (seed, _), own in teachers.items() if len(own) > 1}
    return ", ".join(map(str, sorted(seeds)))


def _classes(about):
    """The classes, and which emotions were merged."""
    merged = {label: [] for label in about["labels"]}
    for emotion, label in about.get("label_map", {}).items():
        merged.get(label, []).append(emotion)
    named = [
        f"{label} ({', '.join(emotions)})" if len(emotions) > 1 else label
        for label, emotions in merged.items()
    ]
    return f"classes {', '.join(named)}"


def _chosen_on(systems):
    """The speech on which epochs were chosen, and models trained elsewhere."""
    chosen, outside = {}, ""
    for system in systems:
        run = next(iter(system.runs.values()))
        speech = run.get("settings", {}).get("speech")
        chosen.setdefault(speech, []).append(system.name)
        if "model" in run:
            outside += f"{system.name}: {run['model']['source']}, trained "
            left_out = ", ".join(run["model"]["left_out"]) or "none"
            outside += f"elsewhere, its classes left out: {left_out}. "
    chosen_on = [
        f"{kind} ({', '.join(chosen[kind])})"
        for kind in ("clean", "noisy")
        if kind in chosen
    ]
    text = f"Epochs were chosen on validation speech, {', '.join(chosen_on)}. "
    return text * bool(chosen_on) + outside


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
        reference = under == CLEAN_SPEECH and other.score([CLEAN], seeds=seeds)
        if reference:
            share = one.score([CLEAN], seeds=seeds) / reference
            sentences.append(
                f"On clean speech the UA of {one.name} is {percent(share)} % "
                f"of that of {other.name}."
            )
    return sentences


def systems_table(systems, name="UA") -> Table:
    """A metric of several systems: clean, noisy and every noise type."""
    kinds = systems[0].noise_types() + systems[0].noise_types(unseen=True)
    distorted = systems[0].distortions()
    rows = []
    for system in systems:
        parts = [[CLEAN], system.conditions()]
        parts += [system.conditions(kind) for kind in kinds]
        parts += [[condition] for condition in distorted.values()]
        cells = [percent(system.score(part, name)) for part in parts]
        if name == "UA":
            cells.insert(2, between(*system.ua_interval(parts[1])))
        rows.append([system.name, str(len(system.seeds)), *cells])
    title = {"F1": "macro-F1"}.get(name, name)
    header = [f"{title} (%)", "seeds", "clean", "noisy", *kinds, *distorted]
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
            _p_value(found.p),
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


def robustness_table(systems) -> Table:
    """Shares of unchanged predictions beside the least that they should be."""
    parts = {name: [c] for name, c in systems[0].distortions().items()}
    if not parts:
        return Table([], [])
    least = {name: DISTORTIONS[name].unchanged for name in parts}
    if NOISE_SNR in systems[0].snrs():
        noise = f"noise, {NOISE_SNR} dB"
        parts[noise] = systems[0].conditions(snr=NOISE_SNR)
        least[noise] = NOISE_UNCHANGED
    wanted = {
        n: f" (≥ {100 * share:.0f})" for n, share in least.items() if share
    }

    def cell(system, name):
        """A share, and whether it is enough."""
        share = system.score(parts[name], "consistency")
        verdict = " pass" if share >= (least[name] or 0) else " FAIL"
        return percent(share) + verdict * (name in wanted)

    rows = [[s.name, *[cell(s, name) for name in parts]] for s in systems]
    header = [name + wanted.get(name, "") for name in parts]
    return Table(["unchanged (%)", *header], rows)


def calibration_table(systems) -> Table:
    """Calibration errors, without and with a temperature, clean and by SNR."""
    snrs, rows = systems[0].snrs(), []
    for system in systems:
        parts = [[CLEAN], *(system.conditions(snr=snr) for snr in snrs)]
        pairs = [system.calibration(part) for part in parts]
        if not any(map(math.isnan, pairs[0])):
            cells = [f"{percent(a)} → {percent(b)}" for a, b in pairs]
            rows.append([system.name, *cells])
    header = ["calibration error (%)", "clean", *[f"{s:g} dB" for s in snrs]]
    return Table(header, rows)


def coverage_table(systems) -> Table:
    """Accuracy in noise where the least confident predictions are left out."""
    if not systems[0].snrs():
        return Table([], [])
    rows = [[s.name, *map(percent, s.over_coverage(SHARES))] for s in systems]
    header = [f"{share:.0%} kept" for share in SHARES]
    kept = "kept at 90 % accuracy (%)"
    return Table(["noisy accuracy (%), most confident", *header, kept], rows)


def durations_table(systems) -> Table:
    """UA in noise by the duration of utterances."""
    found = {
        system.name: system.ua_by_duration(DURATIONS) for system in systems
    }
    if any(values is None for values in found.values()):
        return Table([], [])
    rows = [[name, *map(percent, values)] for name, values in found.items()]
    return Table(["noisy UA (%), by duration", *DURATION_NAMES], rows)


def tables(systems, wanted) -> list[Table]:
    """All tables of a report that have rows."""
    found = [
        systems_table(systems),
        comparisons_table(wanted),
        systems_table(systems, "WA"),
        systems_table(systems, "F1"),
        consistency_table(systems),
        calibration_table(systems),
        coverage_table(systems),
        durations_table(systems),
        robustness_table(systems),
    ]
    return [table for table in found if table.rows]


def report_text(pooled: Pooled, wanted, short: bool = False) -> str:
    """Setting and tables as Markdown; short: only UA and its differences.

    wanted: from `comparisons`, the main one first.
    """
    chosen = tables(pooled.systems, wanted)[: 2 if short else None]
    parts = [setting(pooled), *[markdown(*table) for table in chosen]]
    if not wanted and len(pooled.systems) > 1:
        parts.append(
            "No configured difference is between these systems; `python -m "
            'mlkd_lobes report … --compare="one - other"` shows others.'
        )
    return "\n\n".join(parts + kept_shares(wanted))
