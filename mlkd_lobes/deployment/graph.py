"""The ONNX graph: waveforms and lengths in, probabilities out.

Normalisation, masking and softmax are part of the graph, so a caller only needs
samples at 16 kHz; features do not depend on padding there either. The INT8 graph
is made from it by static quantisation, convolutions included: they are most of the
work of a small student.
"""

from __future__ import annotations

import copy
import json
import logging
import tempfile
import warnings

import numpy as np
import onnx
import torch
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

from mlkd_lobes.data.audio import SAMPLE_RATE
from mlkd_lobes.deployment.chunks import use_chunks
from mlkd_lobes.deployment.models import pad
from mlkd_lobes.files import atomic_path

OPSET = 20
# Computed in INT8. The rest stays in float32, among it the classifier's last
# product (a Gemm), which costs nothing and decides.
QUANTIZED = ["Conv", "MatMul"]
# Activations beyond this percentile are clipped: the few largest would otherwise
# leave too few of 256 steps for the others.
PERCENTILE = 99.99
CALIBRATION_SAMPLES = 2 * SAMPLE_RATE
# Calibration waveforms in memory at a time; one needs 100 MB at base size.
STRIDE = 8


class ProbabilityGraph(nn.Module):
    """A classifier with the inputs and outputs of the graph."""

    def __init__(self, classifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, waveforms, lengths):
        """Probabilities [batch, classes] of waveforms [batch, time] at 16 kHz
        with their true samples [batch]."""
        relative = lengths.double() / waveforms.shape[1]
        return self.classifier(waveforms, relative).logits.softmax(-1)


def write_onnx(classifier, path) -> None:
    """Writes the float32 graph of an EmotionClassifier."""
    classifier = copy.deepcopy(classifier).cpu().eval()
    encoder = classifier.encoder.model
    # Attention as plain products, and the positional convolution's weight
    # multiplied out: quantisation supports only these.
    encoder.set_attn_implementation("eager")
    use_chunks(classifier.encoder)
    positions = encoder.encoder.pos_conv_embed
    positions.conv = _with_plain_weight(positions.conv)
    dynamic = torch.export.Dim.DYNAMIC
    # Three waveforms: torch takes sizes of 0 and 1 for constants, and keeps any
    # two equal sizes equal.
    trial = torch.randn(3, SAMPLE_RATE), torch.tensor([16000, 12000, 8000])
    with warnings.catch_warnings(), atomic_path(path) as temporary:
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            ProbabilityGraph(classifier),
            trial,
            dynamo=True,
            dynamic_shapes={
                "waveforms": {0: dynamic, 1: dynamic},
                "lengths": {0: dynamic},
            },
            input_names=["waveforms", "lengths"],
            output_names=["probabilities"],
            opset_version=OPSET,
            verbose=False,
        )
        model = program.model_proto
        labels = json.dumps(list(classifier.labels))
        properties = {"labels": labels, "sample_rate": str(SAMPLE_RATE)}
        onnx.helper.set_model_props(model, properties)
        _remove_source_paths(model)
        onnx.save(model, str(temporary))


def _remove_source_paths(model):
    """Removes the code locations that torch stores with every node."""
    for part in (model.graph, *model.functions):
        for item in (part, *part.node, *part.value_info):
            del item.metadata_props[:]


def _with_plain_weight(conv):
    """A convolution whose weight is not a norm times a direction any more.

    A new one: removing the parametrisation would remove it from the original as
    well, which shares its class with a copy.
    """
    plain = nn.Conv1d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        padding=conv.padding,
        groups=conv.groups,
    )
    with torch.no_grad():
        plain.weight.copy_(conv.weight)
        plain.bias.copy_(conv.bias)
    return plain


class _CalibrationReader(quantization.CalibrationDataReader):
    """Waveforms of one length, as percentiles over several of them need."""

    def __init__(self, wavs):
        self.wavs, self.queue = wavs, iter(())

    def __len__(self):
        return len(self.wavs)

    def set_range(self, start_index, end_index):
        """Selects the next waveforms."""
        self.queue = iter(self.wavs[start_index:end_index])

    def get_next(self):
        """The inputs of the next waveform; None at the end."""
        wav = next(self.queue, None)
        if wav is None:
            return None
        wav = np.resize(wav, CALIBRATION_SAMPLES)
        return dict(zip(("waveforms", "lengths"), pad([wav])))


def write_int8(source, path, wavs) -> None:
    """Quantises a graph statically, with ranges measured on real speech.

    wavs: waveforms [time], a multiple of `STRIDE` of them, or fewer.
    """
    stride = min(STRIDE, len(wavs))
    with atomic_path(path) as temporary:
        with tempfile.TemporaryDirectory(dir=temporary.parent) as folder:
            simplified = f"{folder}/simplified.onnx"
            quant_pre_process(str(source), simplified, skip_symbolic_shape=True)
            quantization.quantize_static(
                simplified,
                str(temporary),
                _CalibrationReader(wavs),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=QUANTIZED,
                nodes_to_exclude=_first_nodes(simplified),
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=quantization.CalibrationMethod.Percentile,
                extra_options={
                    "CalibPercentile": PERCENTILE,
                    "CalibStridedMinMax": stride,
                },
            )


def _first_nodes(path):
    """Names of a graph's nodes before the second convolution of the front end.

    They stay in float32: the first convolution is cheap, and statistics of 8-bit
    samples would spoil everything after it.
    """
    nodes = onnx.load(path).graph.node
    second = ["conv_layers.1.conv.weight" in " ".join(n.input) for n in nodes]
    return [node.name for node in nodes[: second.index(True)]]
