"""The ONNX graph of every kind of encoder: length-exact, of any size."""

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from helpers import seeded

from mlkd_lobes.deployment.graph import write_int8, write_onnx
from mlkd_lobes.deployment.models import OnnxModel
from mlkd_lobes.models.classifier import EmotionClassifier

KINDS = [
    ("wav2vec2", "group"),
    ("wav2vec2", "layer"),
    pytest.param("hubert", "group", marks=pytest.mark.slow),
    pytest.param("wavlm", "group", marks=pytest.mark.slow),
]
LENGTHS = (9000, 400, 100, 24000, 9000)


def speech():
    return [0.1 * torch.randn(n, generator=seeded(n)).numpy() for n in LENGTHS]


def odd():
    """Silence, an offset, and clipped noise."""
    clipped = (9 * torch.randn(8000, generator=seeded(1))).clamp(-1, 1)
    return [np.zeros(8000, "f"), np.full(8000, 0.7, "f"), clipped.numpy()]


@pytest.mark.parametrize("kind,norm", KINDS)
def test_graph_equals_the_model(make_encoder, tmp_path, kind, norm):
    torch.manual_seed(0)
    # A layer norm divides the rounding errors of silence by nearly nothing.
    wavs = speech() + (odd() if norm == "group" else [])
    model = EmotionClassifier(make_encoder(kind, norm, 2), ["a", "b"], 8).eval()
    path = tmp_path / "model.onnx"
    # A large, centred head: small differences of the features are seen.
    with torch.no_grad():
        model.head.classifier.weight.mul_(20)
        printed = model(torch.from_numpy(speech()[3])[None]).logits[0]
        model.head.classifier.bias.sub_(printed)
        expected = [
            model(torch.from_numpy(wav)[None]).logits.softmax(-1)[0].numpy()
            for wav in wavs
        ]
    before = copy.deepcopy(model).state_dict()
    write_onnx(model, path)
    # Neither its weights nor its convolutions have changed.
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert np.isfinite(expected).all()
    assert np.ptp(expected, axis=0).min() > 0.01
    whole = OnnxModel(path)
    assert whole.labels == ["a", "b"]
    alone = np.concatenate([whole([wav]) for wav in wavs])
    assert np.abs(alone - expected).max() < 1e-4
    assert np.abs(whole(wavs) - expected).max() < 1e-4
    write_int8(path, tmp_path / "int8.onnx", speech())
    small = OnnxModel(tmp_path / "int8.onnx")
    assert small.labels == ["a", "b"]
    assert np.abs(small(speech()) - expected[:5]).mean() < 0.2
    nodes = onnx.load(tmp_path / "int8.onnx").graph.node
    made_by = {name: node.op_type for node in nodes for name in node.output}
    (first, *others) = [node for node in nodes if node.op_type == "Conv"]
    assert "DequantizeLinear" not in {made_by.get(n) for n in first.input}
    assert len(others) == 7
    for node in others:
        assert {made_by[name] for name in node.input} == {"DequantizeLinear"}
    names = {p.name for p in tmp_path.glob("*.onnx*")}
    assert names == {"model.onnx", "int8.onnx"}


def test_int8_is_as_precise_in_quiet_frames(make_encoder, tmp_path):
    """What leaves the front end where speech is 60 dB below the loudest: a layer
    norm follows, which amplifies what quiet frames lose."""
    torch.manual_seed(0)
    encoder = make_encoder("wav2vec2", "group", 2)
    for name, parameter in encoder.model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    model = EmotionClassifier(encoder, ["a", "b"], 8).eval()
    write_onnx(model, tmp_path / "model.onnx")
    write_int8(tmp_path / "model.onnx", tmp_path / "int8.onnx", speech())
    loud, quiet = speech()[0], 1e-3 * speech()[3]
    wav = np.concatenate([loud, quiet, np.zeros_like(loud)])
    float32, int8 = (
        features(tmp_path / name, wav) for name in ("model.onnx", "int8.onnx")
    )
    lost = np.abs(float32 - int8).mean(1) / float32.std(1)
    # Without the frames on a border between the parts.
    parts = lost[:26], lost[30:100], lost[104:]
    assert 1e-4 < min(map(np.mean, parts))
    assert max(map(np.mean, parts)) < 0.1


def features(path, wav):
    """What enters the layer norm behind the front end, [frames, channels]."""
    graph = onnx.load(path)
    (last,) = [
        node.input[0]
        for node in graph.graph.node
        if node.op_type == "LayerNormalization"
        and any("feature_projection" in name for name in node.input)
    ]
    graph.graph.output.append(onnx.helper.make_empty_tensor_value_info(last))
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    inputs = {"waveforms": wav[None], "lengths": np.array([len(wav)])}
    return session.run([last], inputs)[0][0]
