"""INT8 is compared with float32, and exported if it classifies as well."""

import types

import numpy as np
import pytest
import torch
from helpers import LABELS, seeded

from mlkd_lobes.deployment import (
    export as exporting,
    parity,
)
from mlkd_lobes.deployment.run_speech import Utterance
from mlkd_lobes.evaluation.metrics import emotion_metrics


class StubGraph:
    """Knows every label in float32, only the first in INT8."""

    def __init__(self, path):
        self.known = len(LABELS) if path.name == "model.onnx" else 1

    def __call__(self, wavs):
        printed = [int(wav[0]) if wav[0] < self.known else 0 for wav in wavs]
        return np.eye(len(LABELS))[printed]


def test_int8_is_measured_on_clean_noisy_and_untrimmed_speech(
    monkeypatch, tmp_path
):
    # Two utterances per label, under three conditions.
    utterances = [
        Utterance(str(i), "s", 1.0, i % 4, [np.full((3, 9), i % 4, np.float32)])
        for i in range(8)
    ]
    speech = types.SimpleNamespace(labels=LABELS, test=lambda: utterances)
    monkeypatch.setattr(parity, "OnnxModel", StubGraph)
    # The stub looks at one sample.
    monkeypatch.setattr(parity, "with_silence", lambda wav: wav)
    float32, int8 = (
        parity.predict_test(tmp_path / name, speech)
        for name in ("model.onnx", "model_int8.onnx")
    )
    assert float32["noisy"].tolist() == [[i % 4] * 2 for i in range(8)]
    found = parity.compare_int8(float32, int8)
    assert found["utterances"] == 8
    for part in ("clean", "noisy", "untrimmed"):
        assert found[part]["agreement"] == 0.25
        assert found[part]["UA_float32"] == 1
        assert found[part]["UA_int8"] == 0.25
    # Two labels, each worth an eighth; in noise a sixteenth.
    assert found["clean"]["loss_allowed"] == 2 / 8
    assert found["noisy"]["loss_allowed"] == 2 / 16
    assert parity.int8_failure(found).startswith(
        "INT8 loses 75.00 points of UA on clean test speech, more than 25.00"
    )


def test_classes_of_any_size_count_alike():
    """UA, of which two labels may be lost, one point where there are many."""
    generator = np.random.default_rng(0)
    for n, lost, accepted in (
        (60, 2, True),
        (60, 3, False),
        (6000, 25, True),
        (6000, 35, False),
    ):
        true = np.repeat([0, 1, 2], [n // 2, n // 3, n // 6])
        float32 = np.where(generator.random(n) < 0.3, 0, true)
        int8, right = (
            float32.copy(),
            np.flatnonzero((float32 == true) & (true > 1)),
        )
        int8[right[:lost]] = 0
        graphs = [
            dict.fromkeys(parity.PARTS, g[:, None]) for g in (float32, int8)
        ]
        found = parity.compare_int8({**graphs[0], "true": true}, graphs[1])
        for name, graph in (("float32", float32), ("int8", int8)):
            expected = emotion_metrics(true, graph, [0, 1, 2])["UA"]
            assert found["clean"][f"UA_{name}"] == pytest.approx(expected)
        assert (parity.int8_failure(found) is None) == accepted


def test_untrimmed_speech_is_half_silence():
    wav = torch.randn(8001, generator=seeded(1)).numpy()
    found = parity.with_silence(wav)
    assert np.array_equal(found[4000:12001], wav)
    assert not found[:4000].any() and len(found) == 16001
    assert {*np.unique(found[12001:] * 2**15)} == {-1, 0, 1}
    assert found.dtype == np.float32


@pytest.mark.parametrize("part", parity.PARTS)
def test_int8_may_lose_little_on_any_speech(part):
    kept = {"UA_float32": 0.7, "UA_int8": 0.71, "loss_allowed": 0.005}
    found = dict.fromkeys(parity.PARTS, kept)
    assert parity.int8_failure(found) is None
    found[part] = {**kept, "UA_int8": 0.69}
    reason = parity.int8_failure(found)
    assert f"loses 1.00 points of UA on {part} test" in reason
    found[part]["loss_allowed"] = 0.01
    assert parity.int8_failure(found) is None


def test_int8_is_compared_on_test_speech(monkeypatch, tmp_path):
    graphs = {"model.onnx": [[0], [1]], "model_int8.onnx": [[0], [0]]}

    def predict(path, _):
        labels = np.array(graphs[path.name] * 9)
        true = np.arange(18) % 2
        return {**dict.fromkeys(parity.PARTS, labels), "true": true}

    monkeypatch.setattr(parity, "predict_test", predict)
    monkeypatch.setattr(exporting.graph, "write_int8", lambda *_: None)
    speech = types.SimpleNamespace(training=lambda n: [np.zeros(9)] * 3)
    found = exporting.quantise(tmp_path, speech)
    assert "loses 50.00 points" in parity.int8_failure(found)
    graphs["model_int8.onnx"] = graphs["model.onnx"]
    assert exporting.quantise(tmp_path, speech)["untrimmed"]["agreement"] == 1
