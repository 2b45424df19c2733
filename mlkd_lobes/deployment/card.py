"""The model card of an export, written from the run's own files."""

import pathlib

import jinja2

from mlkd_lobes.encoders import SAMPLE_RATE
from mlkd_lobes.evaluation.results import (
    metric,
    noise_types,
    noisy_mean,
    read_cost,
)
from mlkd_lobes.evaluation.tables import run_table
from mlkd_lobes.noise import CLEAN, Condition

TEMPLATE = pathlib.Path(__file__).with_name("card.md")


def card_text(run, about, config, training, measured):
    """The card: Markdown with metadata that model hubs read.

    Arguments
    ---------
    run : pathlib.Path
        The run's folder.
    about : dict
        Its results.json.
    config : transformers.PretrainedConfig
        Of the exported model.
    training : dict
        What it was trained on, from `describe_training`.
    measured : dict
        parity, int8 (or None), sizes of the files, and the fewest samples that
        plain Hugging Face code takes, `shortest`.

    Returns
    -------
    str
        The text of README.md.
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        name=f"{about['corpus']}-{about['system']}",
        about=about,
        config=config,
        labels=about["labels"],
        sample_rate=SAMPLE_RATE,
        training=training,
        conditions=list(_scores(about)),
        n_test=about["conditions"][0]["n"],
        table=run_table(about),
        consistency=_consistency(about),
        cost=read_cost(run),
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


def _consistency(about):
    """Per SNR, from the highest down."""
    kinds = noise_types(about)
    snrs = {c["snr_db"] for c in about["conditions"] if c["noise"] in kinds}
    return {
        f"{snr:g}": sum(
            metric(about, Condition(kind, snr), "consistency") for kind in kinds
        )
        / len(kinds)
        for snr in sorted(snrs, reverse=True)
    }
