"""The ONNX graph of every kind of encoder: length-exact, of any size."""

import numpy as np
import pytest
import torch
from helpers import seeded

from mlkd_lobes.classifier import EmotionClassifier
from mlkd_lobes.deployment.backends import OnnxBackend
from mlkd_lobes.deployment.graph import write_int8, write_onnx

KINDS = [
    ("wav2vec2", "group"),
    ("wav2vec2", "layer"),
    ("hubert", "group"),
    ("wavlm", "group"),
]
LENGTHS = (9000, 400, 100, 24000, 9000)


def speech():
    return [0.1 * torch.randn(n, generator=seeded(n)).numpy() for n in LENGTHS]


@pytest.mark.parametrize("kind,norm", KINDS)
def test_the_graph_says_what_the_model_says(make_encoder, tmp_path, kind, norm):
    torch.manual_seed(0)
    model = EmotionClassifier(make_encoder(kind, norm, 2), ["a", "b"], 8).eval()
    path = tmp_path / "model.onnx"
    # A large, centred head: small differences of the features are seen.
    with torch.no_grad():
        model.head.classifier.weight.mul_(20)
        said = model(torch.from_numpy(speech()[3])[None]).logits[0]
        model.head.classifier.bias.sub_(said)
        write_onnx(model, path)
        expected = [
            model(torch.from_numpy(wav)[None]).logits.softmax(-1)[0].numpy()
            for wav in speech()
        ]
    assert np.ptp(expected, axis=0).min() > 0.01
    graph = OnnxBackend(path)
    assert graph.labels == ["a", "b"]
    alone = np.concatenate([graph([wav]) for wav in speech()])
    assert np.abs(alone - expected).max() < 1e-4
    assert np.abs(graph(speech()) - expected).max() < 1e-4
    write_int8(path, tmp_path / "int8.onnx", speech())
    small = OnnxBackend(tmp_path / "int8.onnx")
    assert small.labels == ["a", "b"]
    assert np.abs(small(speech()) - expected).mean() < 0.2
    names = {p.name for p in tmp_path.glob("*.onnx*")}
    assert names == {"model.onnx", "int8.onnx"}
