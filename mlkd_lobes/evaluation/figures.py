"""Figures of pooled runs: files of several formats, and SVG for the HTML page.

Every system has a colour of its own, legible on light and on dark ground.
"""

from __future__ import annotations

import html
import io
import itertools
import re

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from mlkd_lobes.errors import InputError
from mlkd_lobes.noise.add_noise import CLEAN

PALETTE = ("#8c939c", "#b07aa1", "#9c755f", "#4e79a7", "#c49c00", "#59a14f")
PALETTE += ("#e15759", "#e08214", "#2ca6a4", "#d37295", "#7b8fd4", "#7fa03c")
# Formats, and the name of a file's creation date in them.
FORMATS = {"svg": "Date", "png": "Creation Time", "pdf": "CreationDate"}
# Replaced by the colour of the text, which an SVG file does not have.
INK = "#565e67"
COLOURED = ("axes.edgecolor", "axes.labelcolor", "grid.color", "text.color")
COLOURED += ("xtick.color", "ytick.color")
STYLE = {
    # Equal figures are equal files; text stays text.
    "svg.hashsalt": "mlkd",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.alpha": 0.2,
    **dict.fromkeys(COLOURED, INK),
}


def colours(systems) -> dict[str, str]:
    """A colour for each system, by name."""
    return dict(zip((s.name for s in systems), itertools.cycle(PALETTE)))


def new_figure(width, height):
    """A figure with one pair of axes."""
    figure = Figure((width, height), layout="constrained")
    figure.patch.set_alpha(0)
    return figure, figure.add_subplot(facecolor="none")


def _draw_over_snr(axes, systems, kind=None):
    """Lines over SNR, clean at the right end, and the chance line."""
    snrs, palette = systems[0].snrs(kind), colours(systems)
    ticks = [*snrs, snrs[-1] + 5]
    parts = [systems[0].conditions(kind, snr) for snr in snrs] + [[CLEAN]]
    for system in systems:
        ua = np.array([100 * system.score(part) for part in parts])
        bounds = [100 * np.array(system.ua_interval(part)) for part in parts]
        low, high = np.array(bounds).T
        colour = palette[system.name]
        style = {"color": colour, "markersize": 4}
        n = len(system.seeds)
        label = f"{system.name}, {n} seed{'s' * (n > 1)}"
        drawn = axes.plot(ticks[:-1], ua[:-1], "o-", label=label, **style)
        drawn += axes.plot(ticks[-2:], ua[-2:], "o:", **style)
        band = {"color": colour, "alpha": 0.1, "linewidth": 0}
        drawn.append(axes.fill_between(ticks, low, high, **band))
        for i, part in enumerate(drawn):
            part.set_gid(f"system:{system.name}:{i}")
    chance = 100 / len(systems[0].labels)
    axes.axhline(chance, color=INK, linestyle="--", linewidth=1)
    axes.text(ticks[-1], chance - 1, "chance", ha="right", va="top")
    # Room for that word below the line.
    axes.set_ylim(bottom=min(axes.get_ylim()[0], chance - 6))
    axes.set_xticks(ticks, [*[f"{snr:g}" for snr in snrs], "clean"])
    axes.set_ylabel("UA (%)")
    axes.grid(axis="y")


@matplotlib.rc_context(STYLE)
def ua_over_snr(systems) -> Figure:
    """UA over SNR, mean over the noise types but unseen ones."""
    if not systems[0].snrs():
        raise InputError(
            "these runs were tested in no noise but unseen noise: there is "
            "no UA over SNR to draw"
        )
    figure, axes = new_figure(7.5, 4.4)
    _draw_over_snr(axes, systems)
    axes.set_xlabel("SNR (dB), mean over noise types but unseen ones")
    # The best first, in the order of the lines.
    handles, names = axes.get_legend_handles_labels()
    place = {"loc": "outside right upper", "frameon": False}
    figure.legend(handles[::-1], names[::-1], **place)
    return figure


@matplotlib.rc_context(STYLE)
def ua_per_noise(systems) -> dict[str, Figure]:
    """UA over SNR for every noise type, all with the same scale."""
    figures = {}
    kinds = systems[0].noise_types() + systems[0].noise_types(unseen=True)
    for kind in kinds:
        figures[kind], axes = new_figure(4.6, 3.2)
        _draw_over_snr(axes, systems, kind)
        axes.set_xlabel("SNR (dB)")
    limits = [figure.axes[0].get_ylim() for figure in figures.values()]
    for figure in figures.values():
        low, high = zip(*limits)
        figure.axes[0].set_ylim(min(low), max(high))
    return figures


@matplotlib.rc_context(STYLE)
def accuracy_over_coverage(systems) -> Figure:
    """Accuracy in noise of the most confident share of predictions."""
    figure, axes = new_figure(4.6, 3.2)
    shares, palette = np.linspace(0.1, 1, 19), colours(systems)
    for system in systems:
        values = 100 * system.over_coverage(shares)[:-1]
        (drawn,) = axes.plot(100 * shares, values, color=palette[system.name])
        drawn.set_gid(f"system:{system.name}:0")
    axes.set_xlabel("predictions kept, the most confident (%)")
    axes.set_ylabel("accuracy (%)")
    axes.grid(axis="y")
    return figure


@matplotlib.rc_context(STYLE)
def save(figure: Figure, path, suffix: str) -> None:
    """Writes a figure to a file of one of `FORMATS`; equal figures, equal files."""
    options = {"metadata": {FORMATS[suffix]: None}, "dpi": 150}
    figure.savefig(path, format=suffix, facecolor="white", **options)


def inline_svg(figure: Figure, title: str) -> str:
    """A figure as an <svg> element with the page's text colour.

    The title is for screen readers. What belongs to a system NAME has the
    attribute data-system="NAME".
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
