"""The model card of an export, from the run's own files."""

from __future__ import annotations

import pathlib

import jinja2

from mlkd_lobes.evaluation.metrics import (
    metric,
    noise_types,
    noisy_mean,
    run_table,
)
from mlkd_lobes.noise.add_noise import CLEAN

TEMPLATE = pathlib.Path(__file__).with_name("card.md")


def card_text(about, cost, training, config, summary) -> str:
    """The card: Markdown with metadata that model hubs read.

    about: results.json; training: from `describe_training`; config: the encoder's;
    summary: export.json.
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    kinds = noise_types(about)
    snrs = {c["snr_db"] for c in about["conditions"] if c["noise"] in kinds}
    return template.render(
        name=f"{about['corpus']}-{about['system']}",
        about=about,
        training=training,
        conditions=list(_scores(about)),
        table=run_table(about),
        consistency={
            f"{snr:g}": noisy_mean(about, "consistency", snr=snr)
            for snr in sorted(snrs, reverse=True)
        },
        cost=cost,
        config=config,
        **summary,
    )


def _scores(about):
    """Clean, and the mean over SNRs of each noise type."""
    names = ("UA", "WA", "F1")
    clean = {name: metric(about, CLEAN, name) for name in names}
    yield {"caption": "clean", **clean}
    for kind in noise_types(about) + noise_types(about, unseen=True):
        means = {name: noisy_mean(about, name, noise=kind) for name in names}
        yield {"caption": f"in {kind}, mean over SNRs", **means}
