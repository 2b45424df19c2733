#!/usr/bin/env python3
"""What all folds of IEMOCAP cost with wav2vec2-base, by calculation.

It was never run here: this is a calculation. Multiply-accumulates come from PyTorch's
counter on the real architecture with random weights; what backward keeps, from
its saved tensors in one training step; sizes of corpus, folds and epochs from
mlkd.yaml and from what is known of IEMOCAP. Time assumes a GPU that sustains a
stated share of its peak.

> python benchmarks/estimate.py results/estimate/iemocap.json
"""

import pathlib
import sys
import tempfile

import torch
import transformers
from ruamel.yaml import YAML

from mlkd_lobes.evaluation.metrics import macs_per_second
from mlkd_lobes.files import write_json
from mlkd_lobes.models.classifier import EmotionClassifier
from mlkd_lobes.models.distillation import MultiLevelProjection, resolve_levels
from mlkd_lobes.models.encoder import SSLEncoder

ROOT = pathlib.Path(__file__).parents[1]
LABELS = ["neu", "hap", "sad", "ang"]

# IEMOCAP: 5,531 utterances of the four classes of 4.5 s on average; loso5
# trains on three of five sessions, validates on one, tests on one.
UTTERANCES, SECONDS, FOLDS = 5531, 4.5, 5
TRAIN_SHARE, EVAL_SHARE = 3 / 5, 1 / 5
FRAMES_PER_SECOND = 50
# A card of 16 to 24 GB: 60 TFLOP/s in bf16, of which a quarter is sustained.
PEAK_TFLOPS, SUSTAINED = 60, 0.25
# Evaluation is in single precision (SpeechBrain's `eval_precision`), in which
# such cards multiply (as TF32) half as fast.
EVALUATION = 0.5
# The README's cross-validation: so many seeds of the teacher and of students.
SEEDS, STUDENTS = 3, 4


def n_parameters(module):
    """Number of parameters, trained or not."""
    return sum(parameter.numel() for parameter in module.parameters())


def build(folder, n_layers=None):
    """A classifier of the real shape."""
    encoder = SSLEncoder(folder, folder, n_layers)
    return EmotionClassifier(encoder, LABELS)


def saved_megabytes(model, projection, seconds):
    """What backward keeps of a batch, beside the parameters, in MiB."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    wavs = torch.randn(round(seconds / 4.5), 72000)
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        with torch.autocast("cpu", torch.bfloat16):
            logits, encoded = model(wavs)
            loss = logits.sum()
            if projection is not None:
                loss = loss + projection(encoded.last_hidden).sum()
            loss.detach()
    return sum(kept.values()) / 2**20


def head_macs(projection):
    """Multiply-accumulates of the projection heads per second of audio."""
    weights = [p for p in projection.parameters() if p.dim() > 1]
    return FRAMES_PER_SECOND * sum(p.numel() for p in weights)


def stage(
    model,
    projection,
    macs,
    epochs,
    batch_seconds,
    cache_macs=0.0,
    teacher_parameters=0,
):
    """Time and memory of training a network on one fold."""
    train_seconds = UTTERANCES * SECONDS * TRAIN_SHARE
    # Backward costs twice forward of what is trained: all but the CNN, which
    # is a third (12 layers) to two thirds (2 layers) of it.
    cnn = macs_per_second(CnnOnly(model))
    heads = head_macs(projection) if projection else 0
    per_epoch = train_seconds * (macs + 2 * (macs - cnn) + 3 * heads)
    total = epochs * per_epoch + train_seconds * cache_macs
    kept = saved_megabytes(model, projection, batch_seconds)
    # The first convolution's output in float32, and what normalising it needs.
    front_end = 5 * 4 * batch_seconds * 3200 * 512 / 2**20
    trained = n_parameters(model) + (
        n_parameters(projection) if projection else 0
    )
    # Weights, gradients and AdamW's two moments in float32; of a teacher that
    # fills the cache the weights.
    states = (16 * trained + 4 * teacher_parameters) / 2**20
    return {
        "parameters": n_parameters(model.encoder),
        "gmacs_per_second": round(macs / 1e9, 2),
        "gmacs_per_second_cnn": round(cnn / 1e9, 2),
        "epochs": epochs,
        "hours_per_fold": round(hours(total), 2),
        "states_mb": round(states),
        "activations_mb": round(kept),
        "front_end_mb": round(front_end),
        "memory_gb": round((states + kept + front_end) / 1024, 1),
    }


class CnnOnly(torch.nn.Module):
    """The convolutional front end of a classifier."""

    def __init__(self, model):
        super().__init__()
        self.encoder = model.encoder

    def forward(self, wavs):
        """Features of waveforms."""
        return self.encoder.convolve(wavs, torch.tensor([wavs.shape[1]]))


def hours(macs):
    """Time for so many multiply-accumulates."""
    return 2 * macs / (PEAK_TFLOPS * 1e12 * SUSTAINED) / 3600


def estimate(settings):
    """All figures of the estimate in docs/performance.md."""
    with tempfile.TemporaryDirectory() as folder:
        config = transformers.Wav2Vec2Config()
        transformers.Wav2Vec2Model(config).save_pretrained(folder)
        transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
        teacher = build(folder)
        student = build(folder, settings["student_layers"])
    width = teacher.encoder.width
    levels = resolve_levels(None, teacher.encoder.n_layers)
    projection = MultiLevelProjection(width, width, levels)
    macs = {
        "teacher": macs_per_second(teacher),
        "mlkd": macs_per_second(student),
    }
    batch = settings["max_batch_length"]
    result = {
        "assumes": {
            "utterances": UTTERANCES,
            "seconds_per_utterance": SECONDS,
            "folds": FOLDS,
            "sustained_tflops": PEAK_TFLOPS * SUSTAINED,
            "sustained_tflops_in_evaluation": PEAK_TFLOPS
            * SUSTAINED
            * EVALUATION,
            "batch_seconds": batch,
        },
        "teacher": stage(
            teacher, None, macs["teacher"], settings["teacher_epochs"], batch
        ),
        "mlkd": stage(
            student,
            projection,
            macs["mlkd"],
            settings["student_epochs"],
            batch,
            cache_macs=macs["teacher"],
            teacher_parameters=n_parameters(teacher),
        ),
    }
    # A student's validation is noisy, five types at two SNRs, the teacher's is
    # clean; the test is at all SNRs.
    for name, conditions in (
        ("teacher", settings["teacher_epochs"]),
        ("mlkd", settings["student_epochs"] * 5 * len(settings["valid_snrs"])),
    ):
        for part, n in (
            ("validation", conditions),
            ("test", 1 + 5 * len(settings["test_snrs"])),
        ):
            seconds = n * UTTERANCES * SECONDS * EVAL_SHARE
            result[name][f"{part}_hours_per_fold"] = round(
                hours(seconds * macs[name]) / EVALUATION, 2
            )
    # Half precision, 50 frames per second, one value per level and dimension.
    per_second = 2 * FRAMES_PER_SECOND * len(levels) * width
    frames = UTTERANCES * SECONDS * TRAIN_SHARE
    result["cache_gb_per_run"] = round(per_second * frames / 1e9, 1)
    of_teacher, of_student = (
        sum(v for k, v in result[name].items() if k.endswith("per_fold"))
        for name in ("teacher", "mlkd")
    )
    # Of a student alone its teacher is not tested.
    untested = of_teacher - result["teacher"]["test_hours_per_fold"]
    result["hours_all_folds"] = round(FOLDS * (untested + of_student), 1)
    result["hours_cross_validation"] = round(
        SEEDS * FOLDS * (of_teacher + STUDENTS * of_student), 1
    )
    return result


def main(path):
    """Writes the estimate."""
    yaml = ROOT / "recipes/IEMOCAP/mlkd/hparams/mlkd.yaml"
    result = estimate(YAML().load(yaml.read_text()))
    write_json(path, result)
    print(pathlib.Path(path).read_text())


if __name__ == "__main__":
    main(sys.argv[1])
