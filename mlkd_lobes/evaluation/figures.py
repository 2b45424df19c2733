"""Figures of finished runs: files of any format, and SVG for the HTML page.

All draw the systems of `mlkd_lobes.evaluation.pooling.pool`, each in a colour of
its own, legible on light and on dark ground.
"""

import html
import io
import itertools
import re

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.statistics import seeds_interval
from mlkd_lobes.evaluation.summary import (
    BASELINE,
    MULTI_LEVEL,
    TEACHER,
    contrast,
    contrasts,
    noise_kinds,
    score,
    seen_noise,
    ua_interval,
)
from mlkd_lobes.noise import CLEAN

# The recipe's systems look the same in every report, others take what is left.
KNOWN = {
    "random": "#8c939c",
    "student_clean": "#b07aa1",
    "teacher": "#9c755f",
    "student_noisy": "#4e79a7",
    "kd_last": "#c49c00",
    "teacher_noisy": "#59a14f",
    "mlkd": "#e15759",
    "mlkd_semi": "#e08214",
}
OTHERS = ("#2ca6a4", "#d37295", "#7b8fd4", "#7fa03c", "#b5892b", "#9d6bbf")
# Formats, and what each calls a description within the file.
FORMATS = {"svg": "Description", "png": "Description", "pdf": "Subject"}
# What those that say when they were made call it.
DATES = {"svg": "Date", "pdf": "CreationDate"}
# What never heard noise in training loses so much that no gain would be seen.
CLEAN_SYSTEMS = ("random", "student_clean", TEACHER)
# Stands for "the colour of the text", which an SVG file cannot know.
INK = "#565e67"
# Equal figures are equal files; text stays text.
STYLE = {
    "svg.hashsalt": "mlkd",
    "svg.fonttype": "none",
    # A dollar sign in a name is one.
    "text.parse_math": False,
    "font.size": 10,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "legend.labelcolor": INK,
    "grid.color": INK,
    "grid.alpha": 0.2,
}


def colours(systems):
    """A colour for each system.

    Arguments
    ---------
    systems : sequence of mlkd_lobes.evaluation.pooling.System
        From `pool`.

    Returns
    -------
    dict
        System name to colour.
    """
    others = itertools.cycle(OTHERS)
    return {s.name: KNOWN.get(s.name) or next(others) for s in systems}


def _drawn(width, height, draw):
    """A figure with one pair of axes on which `draw` is called."""
    with matplotlib.rc_context(STYLE):
        figure = Figure((width, height), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot(facecolor="none")
        draw(axes)
    return figure


def _over_snr(axes, systems, kind):
    """Lines over SNR, clean at the right end; the chance line."""
    snrs = sorted({c.snr_db for c in seen_noise(systems[0], kind)})
    ticks = [*snrs, snrs[-1] + 5]
    parts = [seen_noise(systems[0], kind, snr) for snr in snrs] + [[CLEAN]]
    for name, colour in colours(systems).items():
        system = next(s for s in systems if s.name == name)
        ua = np.array([100 * score(system, part) for part in parts])
        bounds = [100 * np.array(ua_interval(system, part)) for part in parts]
        low, high = np.array(bounds).T
        label = _with_seeds(name, system.seeds)
        style = {"color": colour, "markersize": 4}
        lines = axes.plot(ticks[:-1], ua[:-1], "o-", label=label, **style)
        lines += axes.plot(ticks[-2:], ua[-2:], "o:", **style)
        lines.append(
            axes.fill_between(
                ticks, low, high, color=colour, alpha=0.1, linewidth=0
            )
        )
        for i, line in enumerate(lines):
            line.set_gid(f"system:{name}:{i}")
    chance = 100 / len(systems[0].labels)
    axes.axhline(chance, color=INK, linestyle="--", linewidth=1)
    axes.annotate(
        "chance",
        (ticks[-1], chance),
        xytext=(0, -4),
        textcoords="offset points",
        horizontalalignment="right",
        verticalalignment="top",
    )
    # Room for that word below the line, where no curve is.
    axes.set_ylim(bottom=min(axes.get_ylim()[0], chance - 6))
    axes.set_xticks(ticks, [*[f"{snr:g}" for snr in snrs], "clean"])
    axes.grid(axis="y")


def ua_over_snr(systems):
    """UA over SNR, mean over the noise types seen, with a legend.

    Arguments
    ---------
    systems : sequence of mlkd_lobes.evaluation.pooling.System
        From `pool`.

    Returns
    -------
    matplotlib.figure.Figure
        With 95 % intervals and the chance line.

    Raises
    ------
    mlkd_lobes.errors.InputError
        If they were not tested in noise that was met in training.
    """
    if not seen_noise(systems[0]):
        raise InputError(
            "these runs were not tested in noise that was met in training: "
            "there is no UA over SNR to draw"
        )

    def draw(axes):
        """UA over SNR, all types together."""
        _over_snr(axes, systems, None)
        axes.set_xlabel("SNR (dB), mean over noise types met in training")
        axes.set_ylabel("UA (%)")
        # The best first, as the lines lie.
        handles, names = axes.get_legend_handles_labels()
        axes.figure.legend(
            handles[::-1],
            names[::-1],
            loc="outside right upper",
            frameon=False,
        )

    return _drawn(7.5, 4.4, draw)


def ua_in_words(systems):
    """What `ua_over_snr` draws, for those who cannot see it.

    Arguments
    ---------
    systems : sequence of mlkd_lobes.evaluation.pooling.System
        From `pool`.

    Returns
    -------
    str
        One line.
    """
    snrs = sorted({c.snr_db for c in seen_noise(systems[0])})
    words = []
    for system in systems:
        points = [
            f"{100 * score(system, seen_noise(system, snr=snr)):.1f} at {snr:g} dB"
            for snr in snrs
        ]
        clean = f"{100 * score(system, [CLEAN]):.1f} clean"
        words.append(f"{system.name} {', '.join([*points, clean])}")
    return "UA in percent, mean over noise types: " + "; ".join(words)


def ua_per_noise(systems):
    """UA over SNR, one small figure per noise type, to stand beside a legend.

    Arguments
    ---------
    systems : sequence of mlkd_lobes.evaluation.pooling.System
        From `pool`.

    Returns
    -------
    dict
        Noise type to matplotlib.figure.Figure; all have the same scale.
    """
    kinds = noise_kinds(systems[0]) + noise_kinds(systems[0], unseen=True)
    figures = {}
    for kind in kinds:

        def draw(axes, kind=kind):
            """UA over SNR, one type."""
            _over_snr(axes, systems, kind)
            axes.set_xlabel("SNR (dB)")
            axes.set_ylabel("UA (%)")

        figures[kind] = _drawn(4.6, 3.2, draw)
    bounds = [figure.axes[0].get_ylim() for figure in figures.values()]
    for figure in figures.values():
        figure.axes[0].set_ylim(
            min(low for low, _ in bounds), max(high for _, high in bounds)
        )
    return figures


def gains(systems):
    """Noisy UA of the systems that learned from noisy speech, as differences.

    Arguments
    ---------
    systems : sequence of mlkd_lobes.evaluation.pooling.System
        From `pool`.

    Returns
    -------
    matplotlib.figure.Figure, or None
        From the student without distillation: intervals over speakers (thick)
        and over seeds (thin), a small mark for every seed; None without it.
    """
    found = [c for c in contrasts(systems) if c.other == BASELINE]
    found = [
        c for c in found if c.under == "noisy" and c.one not in CLEAN_SYSTEMS
    ]
    if not found:
        return None
    found.sort(key=lambda contrast: contrast.found.difference)
    palette = colours(systems)

    def draw(axes):
        """A bar per system, the best on top."""
        for place, asked in enumerate(found):
            _gain(axes, place, asked, palette[asked.one])
        axes.axvline(0, color=INK, linewidth=1)
        names = [_with_seeds(asked.one, asked.seeds) for asked in found]
        axes.set_yticks(range(len(found)), names)
        axes.set_ylim(-0.6, len(found) - 0.4)
        axes.set_xlabel(f"noisy UA − that of {BASELINE} (points)")
        axes.grid(axis="x")

    return _drawn(5.2, 0.9 + 0.4 * len(found), draw)


def _with_seeds(name, seeds):
    """A system's name and its number of seeds."""
    return f"{name}, {len(seeds)} seed{'s' * (len(seeds) > 1)}"


def _gain(axes, place, asked, colour):
    """One row: both intervals, estimate, and the seeds above it."""
    found, bounds = asked.found, [((asked.found.low, asked.found.high), 4)]
    # Of two seeds it would be twelve times as wide as they lie apart.
    if len(found.per_seed) > 2:
        bounds.append((seeds_interval(found.per_seed), 1))
    for (low, high), linewidth in bounds:
        axes.plot(
            [100 * low, 100 * high],
            [place, place],
            color=colour,
            linewidth=linewidth,
            alpha=0.6,
        )
    axes.plot(100 * found.difference, place, "o", color=colour)
    seeds = 100 * np.array(found.per_seed)
    above = np.full(len(seeds), place + 0.24)
    axes.plot(seeds, above, "|", color=colour, markersize=6)


def gain_over_snr(systems):
    """What multi-level distillation brings at each SNR.

    Arguments
    ---------
    systems : sequence of mlkd_lobes.evaluation.pooling.System
        From `pool`.

    Returns
    -------
    matplotlib.figure.Figure, or None
        None without such a student, or without the one it is compared with.
    """
    named, palette = {s.name: s for s in systems}, colours(systems)
    students = [name for name in MULTI_LEVEL if name in named]
    snrs = sorted({c.snr_db for c in seen_noise(systems[0])})
    if BASELINE not in named or not students or not snrs:
        return None
    rows = []
    for name in students:
        pair = named[name], named[BASELINE]
        found = [
            contrast(*pair, f"{snr} dB", seen_noise(pair[0], snr=snr))
            for snr in snrs
        ]
        if None not in found:
            rows.append((name, [c.found for c in found]))

    def draw(axes):
        """A line per system."""
        for name, found in rows:
            low = [100 * f.low for f in found]
            high = [100 * f.high for f in found]
            mean = [100 * f.difference for f in found]
            colour = palette[name]
            axes.plot(snrs, mean, "o-", color=colour, label=name, markersize=4)
            axes.fill_between(
                snrs, low, high, color=colour, alpha=0.12, linewidth=0
            )
        axes.axhline(0, color=INK, linewidth=1)
        axes.set_xticks(snrs, [f"{snr:g}" for snr in snrs])
        axes.set_xlabel("SNR (dB), mean over noise types met in training")
        axes.set_ylabel(f"UA − {BASELINE} (points)")
        axes.grid(axis="y")
        # Above, where no line and no band can run through it.
        axes.legend(
            frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2
        )

    return _drawn(5.2, 3.3, draw) if rows else None


def cost_and_ua(systems):
    """What a second of audio costs, and what it buys.

    Arguments
    ---------
    systems : sequence of mlkd_lobes.evaluation.pooling.System
        From `pool`.

    Returns
    -------
    matplotlib.figure.Figure, or None
        Multiply-accumulates per second of audio against noisy UA; None if the
        runs have no costs, or were not tested in noise.
    """
    known = all(s.costs[0].get("macs_per_second") for s in systems)
    if not known or not seen_noise(systems[0]):
        return None
    palette = colours(systems)

    def draw(axes):
        """A point per system."""
        for system in systems:
            x = system.costs[0]["macs_per_second"] / 1e9
            y = 100 * score(system, seen_noise(system))
            low, high = ua_interval(system, seen_noise(system))
            bounds, colour = [100 * low, 100 * high], palette[system.name]
            axes.plot([x, x], bounds, color=colour, linewidth=3, alpha=0.35)
            axes.plot(x, y, "o", color=colour, label=system.name)
        axes.margins(x=0.15, y=0.1)
        axes.set_xlabel("GMAC per second of audio")
        axes.set_ylabel("noisy UA (%)")
        axes.grid()
        # Systems of one size lie upon each other: no room for names in there.
        handles, names = axes.get_legend_handles_labels()
        axes.figure.legend(
            handles[::-1], names[::-1], loc="outside right", frameon=False
        )

    return _drawn(5.2, 3.3, draw)


def save(figure, path, suffix, words):
    """Writes a figure as a file.

    Arguments
    ---------
    figure : matplotlib.figure.Figure
        What to write.
    path : str or pathlib.Path
        Where to.
    suffix : str
        One of `FORMATS`.
    words : str
        What it shows; kept in the file.
    """
    about = {FORMATS[suffix]: words}
    if suffix in DATES:
        about[DATES[suffix]] = None  # or equal figures would differ
    with matplotlib.rc_context(STYLE):
        figure.savefig(path, format=suffix, metadata=about, dpi=150,
                       facecolor="white")  # fmt: skip


def inline_svg(figure, title):
    """A figure as an element of an HTML page.

    Arguments
    ---------
    figure : matplotlib.figure.Figure
        What to draw.
    title : str
        What a screen reader says; also keeps its ids apart from those of the
        page's other figures.

    Returns
    -------
    str
        An <svg> whose text and axes have the page's text colour; what belongs
        to a system NAME has the attribute data-system="NAME".
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": title}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = svg.replace(INK, "currentColor")
    svg = re.sub(r'id="system:(.*?):\d+"', r'data-system="\1"', svg)
    # Groups such as "axes_1" have the same name in every figure.
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    label = f'role="img" aria-label="{html.escape(title)}"'
    return svg.replace("<svg ", f"<svg {label} ", 1)
