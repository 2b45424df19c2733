"""One self-contained HTML page of finished runs: figures, tables, examples.

It needs no network and no other file, follows the reader's light or dark theme
and holds everything as text, so that it can be searched and copied from.
"""

import pathlib

import jinja2
from markupsafe import Markup

from mlkd_lobes.evaluation import figures
from mlkd_lobes.evaluation.report import aims, answer, setting, tables
from mlkd_lobes.evaluation.summary import confusion, seen_noise
from mlkd_lobes.noise import CLEAN

TEMPLATE = pathlib.Path(__file__).with_name("page.html")
# At which SNR, in dB, confusions in noise are shown if it was tested.
NOISY_SNR = 0


def page_html(systems, about, examples=(), left_out=()):
    """The page.

    Arguments
    ---------
    systems : sequence of mlkd_lobes.evaluation.pooling.System
        From `pool`.
    about : dict
        results.json of one of their runs.
    examples : sequence of dict
        From `mlkd_lobes.evaluation.listen.examples`.
    left_out : sequence of str
        Runs that were left out, in words.

    Returns
    -------
    str
        HTML.
    """
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    noises = figures.ua_per_noise(systems)
    conditions = confusion_conditions(systems[0])
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=f"Emotion recognition in noise: {about['corpus']}",
        answer=answer(systems),
        setting=setting(systems, about, left_out),
        aims=aims(systems),
        labels=about["labels"],
        colours=dict(reversed(figures.colours(systems).items())),
        noises={kind: _svg(f, f"UA in {kind}") for kind, f in noises.items()},
        gains=_svg(figures.gains(systems), "Gain of every system"),
        gain_over_snr=_svg(figures.gain_over_snr(systems), "Gain over SNR"),
        cost=_svg(figures.cost_and_ua(systems), "Cost and UA"),
        worst=list(conditions)[1] if len(conditions) > 1 else None,
        confusions={
            system.name: {
                caption: confusion(system, part).tolist()
                for caption, part in conditions.items()
            }
            for system in reversed(systems)
        },
        examples=examples,
        tables=tables(systems),
    )


def confusion_conditions(system):
    """Under what confusions are shown: clean, and noise at 0 dB.

    Arguments
    ---------
    system : mlkd_lobes.evaluation.pooling.System
        From `pool`.

    Returns
    -------
    dict
        Caption to conditions; noise at the lowest SNR if not at 0 dB.
    """
    snrs = sorted({c.snr_db for c in seen_noise(system)})
    shown = {"clean": [CLEAN]}
    if snrs:
        snr = NOISY_SNR if NOISY_SNR in snrs else snrs[0]
        shown[f"noise at {snr:g} dB"] = seen_noise(system, snr=snr)
    return shown


def _svg(figure, title):
    if figure is None:
        return None
    return Markup(figures.inline_svg(figure, title))
