"""facebook/wav2vec2-base's architecture goes through the recipe as it is."""

import json

import pytest
import transformers
from helpers import save_encoder


@pytest.mark.slow
def test_base_architecture_trains_and_evaluates(experiment, tmp_path):
    # The defaults of Wav2Vec2Config are those of facebook/wav2vec2-base.
    config = transformers.Wav2Vec2Config(layerdrop=0.0)
    encoder = save_encoder(tmp_path / "base", config)
    # One step of teacher and student each; bf16 takes minutes on many CPUs.
    results = experiment.run(
        "mlkd",
        wav2vec2_hub=encoder,
        precision="fp32",
        teacher_epochs=1,
        student_epochs=1,
        max_batch_length=30,
        num_buckets=1,
        noise_types="[rain]",
        test_snrs="[0]",
        valid_snrs="[0]",
    )
    out = experiment.arguments["output_folder"] / "mlkd"
    cost = json.loads((out / "cost.json").read_text())
    assert round(cost["parameters"] / 1e6, 2) == 23.49
    assert 3.2e9 < cost["macs_per_second"] < 3.6e9
    stage = json.loads((out / "stage.json").read_text())
    assert {"emotion", "features"} <= set(stage["history"][0])
    assert results["conditions"][0]["n"] == 16
