"""Tables and the figure of finished runs, for the screen and for a README."""

from mlkd_lobes.evaluation.results import metric, noise_types, noisy_mean
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


def systems_table(runs, name="UA"):
    """Several runs: systems as rows, clean and noise types as columns.

    Arguments
    ---------
    runs : sequence of dict
        Their results, of one fold, seed and set of conditions.
    name : str
        Which metric, in percent.

    Returns
    -------
    str
        A Markdown table; a noise type's cell is the mean over its SNRs,
        "noisy" the mean over the types seen.
    """
    seen = noise_types(runs[0])
    unseen = noise_types(runs[0], unseen=True)
    rows = []
    for results in runs:
        cells = [100 * metric(results, CLEAN, name)]
        cells.append(100 * noisy_mean(results, name))
        cells += [100 * noisy_mean(results, name, k) for k in seen + unseen]
        rows.append([results["system"], *[f"{cell:.1f}" for cell in cells]])
    header = [f"{name} (%)", "clean", "noisy", *seen, *unseen]
    return markdown(header, rows)


def plot_systems(runs, path, name="UA"):
    """A figure: a metric over SNR, mean over the noise types seen.

    Arguments
    ---------
    runs : sequence of dict
        Their results.
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
    snrs = sorted(
        {
            c["snr_db"]
            for r in runs
            for c in r["conditions"]
            if c["noise"] != "clean"
        }
    )
    ticks = [*snrs, snrs[-1] + 5]
    colours = plt.get_cmap("tab10")
    for i, results in enumerate(runs):
        values = [100 * noisy_mean(results, name, snr=snr) for snr in snrs]
        values.append(100 * metric(results, CLEAN, name))
        label, colour = results["system"], colours(i)
        axes.plot(ticks[:-1], values[:-1], "o-", color=colour, label=label)
        axes.plot(ticks[-2:], values[-2:], "o:", color=colour)
    chance = 100 / len(runs[0]["labels"])
    axes.axhline(chance, color="grey", linestyle="--", linewidth=1)
    axes.annotate("chance", (snrs[0], chance), xytext=(0, 4),
                  textcoords="offset points", color="grey")  # fmt: skip
    axes.set_xticks(ticks, [*[f"{snr:g}" for snr in snrs], "clean"])
    axes.set_xlabel("SNR (dB), mean over noise types seen in training")
    axes.set_ylabel(f"{name} (%)")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
