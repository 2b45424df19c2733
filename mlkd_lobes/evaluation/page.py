"""One self-contained HTML page of finished runs: figures and tables.

It needs no network and no other file, and follows the reader's light or dark
theme. All text can be searched and copied.
"""

from __future__ import annotations

import pathlib

import jinja2
from markupsafe import Markup

from mlkd_lobes.evaluation import figures, report
from mlkd_lobes.evaluation.comparison import Pooled
from mlkd_lobes.noise.add_noise import CLEAN

TEMPLATE = pathlib.Path(__file__).with_name("page.html")
# Confusions in noise are shown at this SNR, in dB, if it was tested.
NOISY_SNR = 0


def page_html(pooled: Pooled, wanted) -> str:
    """The page as HTML.

    wanted: from `comparisons`, the main one first.
    """
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    systems, about = pooled.systems, pooled.about
    conditions = _confusion_conditions(systems[0])
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=f"Emotion recognition in noise: {about['corpus']}",
        answer=report.answer(wanted),
        kept=report.kept_shares(wanted),
        setting=report.setting(pooled),
        labels=about["labels"],
        colours=dict(reversed(figures.colours(systems).items())),
        noises={
            kind: _svg(figure, f"UA in {kind}")
            for kind, figure in figures.ua_per_noise(systems).items()
        },
        coverage=systems[0].snrs()
        and _svg(
            figures.accuracy_over_coverage(systems), "Accuracy over coverage"
        ),
        confusions={
            system.name: {
                caption: system.confusion(part).tolist()
                for caption, part in conditions.items()
            }
            for system in reversed(systems)
        },
        tables=report.tables(systems, wanted),
    )


def _confusion_conditions(system):
    """Captions and conditions of confusions: clean, and noise at 0 dB or the
    lowest SNR."""
    snrs = system.snrs()
    shown = {"clean": [CLEAN]}
    if snrs:
        snr = NOISY_SNR if NOISY_SNR in snrs else snrs[0]
        shown[f"noise at {snr:g} dB"] = system.conditions(snr=snr)
    return shown


def _svg(figure, title):
    return Markup(figures.inline_svg(figure, title))
