"""Tables and the figure of finished runs, for the screen and for a README."""

from mlkd_lobes.evaluation.results import metric, noise_types, noisy_mean
from mlkd_lobes.evaluation.summary import (
    BASELINE,
    comparisons,
    noise_kinds,
    noisy_interval,
    score,
    seen_noise,
)
from mlkd_lobes.noise import CLEAN, Condition


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


def _percent(results, condition, name):
    return f"{100 * metric(results, condition, name):.1f}"


def systems_table(systems, name="UA"):
    """Several systems: clean, noisy and every noise type as columns.

    Arguments
    ---------
    systems : sequence of mlkd_lobes.evaluation.summary.System
        From `pool`.
    name : str
        Which metric, in percent.

    Returns
    -------
    str
        A Markdown table; a noise type's cell is the mean over its SNRs,
        "noisy" the mean over the types seen, for UA with its 95 % interval.
    """
    kinds = noise_kinds(systems[0]) + noise_kinds(systems[0], unseen=True)
    rows = []
    for system in systems:
        parts = [[CLEAN], seen_noise(system)]
        parts += [seen_noise(system, kind) for kind in kinds]
        cells = [f"{100 * score(system, part, name):.1f}" for part in parts]
        if name == "UA":
            low, high = noisy_interval(system)
            cells.insert(2, f"{100 * low:.1f} to {100 * high:.1f}")
        rows.append([system.name, str(len(system.seeds)), *cells])
    header = [f"{name} (%)", "seeds", "clean", "noisy", *kinds]
    if name == "UA":
        header.insert(4, "95 % interval")
    return markdown(header, rows)


def comparisons_table(systems):
    """Differences of the noisy UA to the student without distillation.

    Arguments
    ---------
    systems : sequence of mlkd_lobes.evaluation.summary.System
        From `pool`.

    Returns
    -------
    str
        A Markdown table; empty without that student.
    """
    rows = []
    for name, seeds, found in comparisons(systems):
        each = ", ".join(f"{100 * value:+.1f}" for value in found.per_seed)
        rows.append(
            [
                f"{name} − {BASELINE}",
                f"{100 * found.difference:+.1f}",
                f"{100 * found.low:+.1f} to {100 * found.high:+.1f}",
                f"{found.p:.3f}",
                each,
                str(found.n_speakers),
            ]
        )
    if not rows:
        return ""
    header = ["noisy UA (points)", "difference", "95 % interval", "p"]
    return markdown([*header, "each seed", "speakers"], rows)


def plot_systems(systems, path, name="UA"):
    """A figure: a metric over SNR, mean over the noise types seen.

    Arguments
    ---------
    systems : sequence of mlkd_lobes.evaluation.summary.System
        From `pool`.
    path : str or pathlib.Path
        Where to write it; the suffix says the format.
    name : str
        Which metric.
    """
    import matplotlib

    matplotlib.use("Agg")
    # Equal figures are equal files.
    matplotlib.rcParams["svg.hashsalt"] = "mlkd"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    snrs = sorted({c.snr_db for c in seen_noise(systems[0])})
    ticks = [*snrs, snrs[-1] + 5]
    colours = plt.get_cmap("tab10")
    # The best first in the legend, as the lines lie.
    for i, system in enumerate(systems[::-1]):
        values = [
            100 * score(system, seen_noise(system, snr=snr), name)
            for snr in snrs
        ]
        values.append(100 * score(system, [CLEAN], name))
        axes.plot(
            ticks[:-1], values[:-1], "o-", color=colours(i), label=system.name
        )
        axes.plot(ticks[-2:], values[-2:], "o:", color=colours(i))
    chance = 100 / len(systems[0].labels)
    axes.axhline(chance, color="grey", linestyle="--", linewidth=1)
    axes.annotate("chance", (ticks[-1], chance), xytext=(0, 4), ha="right",
                  textcoords="offset points", color="grey")  # fmt: skip
    axes.set_xticks(ticks, [*[f"{snr:g}" for snr in snrs], "clean"])
    axes.set_xlabel("SNR (dB), mean over noise types seen in training")
    axes.set_ylabel(f"{name} (%)")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
