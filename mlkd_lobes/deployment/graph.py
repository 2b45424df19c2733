"""The ONNX graph: waveforms and lengths in, probabilities out.

Normalisation, masking and softmax are part of the graph, so a caller needs
nothing but samples at 16 kHz; features do not depend on the padding there
either. The INT8 graph is made from it by static quantisation, convolutions
included: they are most of the work of a small student.
"""

import copy
import itertools
import json
import logging
import warnings

import numpy as np
import onnx
import torch
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

from mlkd_lobes.deployment.backends import pad
from mlkd_lobes.encoders import SAMPLE_RATE
from mlkd_lobes.files import atomic_path

OPSET = 20
# What is computed in INT8; the rest stays in float32, the classifier's last
# product (the one Gemm) among it: it costs nothing and decides.
QUANTIZED = ("Conv", "MatMul")
# So does what comes before this weight, the first convolution: it is cheap, and
# statistics of 8-bit samples would spoil all that follows.
SECOND_CONVOLUTION = "feature_extractor.conv_layers.1.conv.weight"
# Activations beyond this percentile are clipped: with their whole range the
# few largest would leave too few of 256 steps to the others.
PERCENTILE = 99.99
CALIBRATION_SAMPLES = 2 * SAMPLE_RATE
# So many stretches are looked at together: all that a base-sized model computes
# from one takes 100 MB.
STRIDE = 8


class ProbabilityGraph(nn.Module):
    """A classifier as the graph calls it.

    Arguments
    ---------
    classifier : mlkd_lobes.classifier.EmotionClassifier
        The trained model.
    """

    def __init__(self, classifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, waveforms, lengths):
        """Probabilities of a batch.

        Arguments
        ---------
        waveforms : torch.Tensor
            [batch, time] at 16 kHz.
        lengths : torch.Tensor
            True samples [batch], integers.

        Returns
        -------
        torch.Tensor
            Probabilities [batch, classes].
        """
        relative = lengths.double() / waveforms.shape[1]
        return self.classifier(waveforms, relative).logits.softmax(-1)


def write_onnx(classifier, path):
    """Writes the float32 graph of a classifier.

    Arguments
    ---------
    classifier : mlkd_lobes.classifier.EmotionClassifier
        The trained model; it is left as it was.
    path : str or pathlib.Path
        Destination.
    """
    classifier = copy.deepcopy(classifier).cpu().eval()
    encoder = classifier.encoder.model
    # Attention in plain products, and the positional convolution's weight
    # multiplied out: what quantisation knows how to handle.
    encoder.set_attn_implementation("eager")
    positions = encoder.encoder.pos_conv_embed
    positions.conv = _with_plain_weight(positions.conv)
    dynamic = torch.export.Dim.DYNAMIC
    with warnings.catch_warnings(), atomic_path(path) as temporary:
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            ProbabilityGraph(classifier),
            # Three of them: torch takes sizes of 0 and 1 for constants, and
            # keeps any two equal sizes equal.
            (torch.randn(3, SAMPLE_RATE), torch.tensor([16000, 12000, 8000])),
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
        describe(model, classifier.labels)
        _forget_places(model)
        onnx.save(model, str(temporary))


def _forget_places(model):
    """Where the code lay that a node comes from: much, and nobody's business."""
    for part in (model.graph, *model.functions):
        for node in part.node:
            del node.metadata_props[:]
        for value in part.value_info:
            del value.metadata_props[:]
        del part.metadata_props[:]


def _with_plain_weight(conv):
    """A convolution whose weight is no longer a norm times a direction.

    A new one: taking the parametrisation off would take it off the original
    too, with which a copy shares its class.
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


def describe(model, labels):
    """Writes into a graph what its caller must know.

    Arguments
    ---------
    model : onnx.ModelProto
        The graph.
    labels : sequence of str
        The emotions, in order.
    """
    onnx.helper.set_model_props(
        model,
        {
            "labels": json.dumps(list(labels)),
            "sample_rate": str(SAMPLE_RATE),
        },
    )


class _Speech(quantization.CalibrationDataReader):
    """Stretches of one length each, as percentiles over several ask for."""

    def __init__(self, wavs):
        self.wavs, self.turn = wavs, iter(())

    def __len__(self):
        return len(self.wavs)

    def set_range(self, start_index, end_index):
        """Which of them come next."""
        self.turn = iter(self.wavs[start_index:end_index])

    def get_next(self):
        """The inputs of the next stretch; None: there are no more."""
        wav = next(self.turn, None)
        if wav is None:
            return None
        stretch = np.resize(wav, CALIBRATION_SAMPLES)
        return dict(zip(("waveforms", "lengths"), pad([stretch])))


def write_int8(source, path, wavs):
    """Quantises a graph statically, by what it does to real speech.

    Arguments
    ---------
    source : str or pathlib.Path
        The float32 graph.
    path : str or pathlib.Path
        Destination.
    wavs : sequence of numpy.ndarray
        Waveforms [time] that activations are measured on, a multiple of
        `STRIDE` of them, or fewer.
    """
    stride = min(STRIDE, len(wavs))
    with atomic_path(path) as temporary:
        simplified = temporary.with_name(temporary.stem + "-fp32.onnx")
        try:
            quant_pre_process(
                str(source), str(simplified), skip_symbolic_shape=True
            )
            quantization.quantize_static(
                str(simplified),
                str(temporary),
                _Speech(wavs),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=list(QUANTIZED),
                nodes_to_exclude=_first_layer(simplified),
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=quantization.CalibrationMethod.Percentile,
                extra_options={
                    "CalibPercentile": PERCENTILE,
                    "CalibStridedMinMax": stride,
                },
            )
        finally:
            simplified.unlink(missing_ok=True)


def _first_layer(path):
    """Names of a graph's nodes before the second convolution."""
    nodes = onnx.load(path).graph.node
    before = itertools.takewhile(
        lambda node: not any(
            name.endswith(SECOND_CONVOLUTION) for name in node.input
        ),
        nodes,
    )
    return [node.name for node in before]
