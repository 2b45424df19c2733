"""INT8 is compared with float32; the fastest graph that agrees is exported."""

import types

import numpy as np
import pytest
import torch
from helpers import seeded

from mlkd_lobes.deployment import (
    export as exporting,
    parity,
)
from mlkd_lobes.deployment.run_speech import Utterance
from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.metrics import emotion_metrics

LABELS = ["neu", "hap", "sad", "ang"]


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
    """UA, of which two labels may be lost, half a point where there are many."""
    generator = np.random.default_rng(0)
    for n, lost, accepted in ((60, 2, True), (60, 3, False), (6000, 60, False)):
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


def test_int8_may_lose_little():
    kept = {"UA_float32": 0.7, "UA_int8": 0.71, "loss_allowed": 0.005}
    lost = {**kept, "UA_int8": 0.69}
    assert parity.int8_failure({"clean": kept, "noisy": kept}) is None
    reason = parity.int8_failure({"clean": kept, "noisy": lost})
    assert "loses 1.00 points of UA on noisy" in reason
    lost = {**lost, "loss_allowed": 0.01}
    assert parity.int8_failure({"clean": lost, "noisy": kept}) is None


@pytest.mark.parametrize(
    "agreements,losses,chosen",
    [
        ([0.98], [0], 1),
        ([0.9, 0.98], [0, 0], 5),
        ([0.98, 0.98], [0.1, 0], 5),
        ([0.9, 0.95, 0.94], [0, 0, 0], 5),
        ([0.9, 0.9, 0.9], [0, 0, 0], 1),
        ([0.9, 0.94, 0.98], [0, 0, 0.1], 5),
        ([0.98, 0.98, 0.98], [0.1, 0.1, 0.1], None),
    ],
)
def test_the_fastest_int8_that_passes_is_exported(
    monkeypatch, tmp_path, agreements, losses, chosen
):
    """Else the one with the most equal labels; none if UA is lost everywhere."""
    queue = iter(zip(agreements, losses))

    def compare(*_):
        agreement, loss = next(queue)
        part = {"UA_float32": 0.7, "UA_int8": 0.7 - loss, "loss_allowed": 0.01}
        untrimmed = {**part, "agreement": agreement}
        return {"clean": part, "noisy": part, "untrimmed": untrimmed}

    written = []

    def write(source, target, wavs, n_float32):
        written.append(1 + n_float32)

    monkeypatch.setattr(exporting.graph, "write_int8", write)
    monkeypatch.setattr(parity, "predict_test", lambda *_: None)
    monkeypatch.setattr(parity, "compare_int8", compare)
    speech = types.SimpleNamespace(labels=LABELS, training=lambda n: [])
    if chosen is None:
        with pytest.raises(InputError, match="loses 10.00 .* --without_int8"):
            exporting._quantise(tmp_path, speech)
        return
    found = exporting._quantise(tmp_path, speech)
    assert found["float32_convolutions"] == written[-1] == chosen
    assert not list(queue)
