"""The model card of an export, from the run's own files."""

from __future__ import annotations

import pathlib

import jinja2

from mlkd_lobes.data.audio import SAMPLE_RATE
from mlkd_lobes.evaluation.metrics import (
    metric,
    noise_types,
    noisy_mean,
    run_table,
)
from mlkd_lobes.noise.add_noise import CLEAN

TEMPLATE = pathlib.Path(__file__).with_name("card.md")


def card_text(about: dict, cost: dict, training: dict, **measured) -> str:
    """The card: Markdown with metadata that model hubs read.

    about: results.json; training: from `describe_training`; measured: config,
    parity, int8 (or None), temperature, sizes of the files, and `shortest`, the
    fewest samples that plain Hugging Face code accepts.
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
        labels=about["labels"],
        sample_rate=SAMPLE_RATE,
        training=training,
        conditions=list(_scores(about)),
        n_test=about["conditions"][0]["n"],
        table=run_table(about),
        consistency={
            f"{snr:g}": noisy_mean(about, "consistency", snr=snr)
            for snr in sorted(snrs, reverse=True)
        },
        cost=cost,
        **measured,
    )


def _scores(about):
    """Clean, and the mean over SNRs of each noise type."""
    names = ("UA", "WA", "F1")
    clean = {name: metric(about, CLEAN, name) for name in names}
    yield {"caption": "clean", **clean}
    for kind in noise_types(about) + noise_types(about, unseen=True):
        means = {name: noisy_mean(about, name, noise=kind) for name in names}
        yield {"caption": f"in {kind}, mean over SNRs", **means}
