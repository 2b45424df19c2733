"""The model card of an export."""

import json
import types

import pytest
from ruamel.yaml import YAML

from mlkd_lobes.deployment.card import card_text
from mlkd_lobes.deployment.models import TorchModel
from mlkd_lobes.deployment.run_speech import describe_training
from mlkd_lobes.evaluation.results import read_cost
from mlkd_lobes.files import read_json


def test_the_card_holds_the_runs_figures(exported, finished):
    text = (exported / "README.md").read_text()
    clean, rain = finished.results["mlkd"]["conditions"][:2]
    for name in ("UA", "WA", "F1"):
        assert f"value: {clean[name]:.4f}" in text
    assert f" {100 * rain['UA']:.1f} " in text
    assert "16 labelled utterances of 2 speakers" in text
    assert "rain, wind at -5 to 20 dB" in text
    metadata = text.split("---\n")[1]
    results = YAML().load(metadata)["model-index"][0]["results"]
    assert len(results) == 3 and results[0]["dataset"]["type"] == "tiny"
    prose = "".join(text.split("```")[::2])
    assert "sad" in prose and "{{" not in text and "None" not in prose
    assert "calibrated by one temperature, " in " ".join(prose.split())


@pytest.fixture
def card(exported, run_folder, finished):
    """Writes the card of a run with another description of its data."""
    summary = json.loads((exported / "export.json").read_text())
    config = TorchModel.open(run_folder / "model").model.encoder.config

    def write(corpus="tiny", note=None, **changes):
        about = {**finished.results["mlkd"], "corpus": corpus}
        if note:
            about["note"] = note
        speech = types.SimpleNamespace(
            manifests={"train": {}},
            noise={"train": types.SimpleNamespace(types={"rain": {}})},
            about={**read_json(run_folder / "data.json"), **changes},
        )
        training = describe_training(speech)
        cost = read_cost(run_folder)
        return card_text(about, cost, training, config, summary)

    return write


def test_card_describes_model_and_data(card):
    usual = card(encoder="facebook/wav2vec2-base")
    assert 'base_model: "facebook/wav2vec2-base"' in usual
    assert "none of them used in training" in usual
    given = card(teacher="/somewhere/my-hubert")
    assert "base_model" not in given and "/somewhere" not in given
    assert "from a given teacher, `my-hubert`" in given
    # Seen from another folder than the run's.
    relative = card(encoder="../../private/my-encoder")
    assert "private" not in relative and "my-encoder" in relative
    unchecked = card(checked=False)
    assert "none of them used" not in unchecked and "is unknown" in unchecked
    note = "Speaker-dependent: the split shares speakers."
    dependent = card(note=note)
    assert "none of them used" not in dependent
    assert "is unknown" in card(note=note, checked=False)
    assert f"utterances. {note} The noise recordings were not" in " ".join(
        dependent.split()
    )
    unlabelled = "Speech without labels was used as well, of the same speakers."
    assert unlabelled in card(unlabelled="corpus")
    assert unlabelled not in usual


def test_card_is_valid_for_any_corpus_name(card):
    metadata = YAML().load(card(corpus="my corpus: v2").split("---\n")[1])
    assert metadata["model-index"][0]["name"] == "my corpus: v2-mlkd"
