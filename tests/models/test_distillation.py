"""The losses: their formulas, masks, and independence of the batch."""

import math

import pytest
import torch
from hypothesis import (
    given,
    settings,
    strategies as st,
)

from mlkd_lobes.models.distillation import (
    EmotionLoss,
    FeatureLoss,
    LogitLoss,
    MultiLevelProjection,
    Student,
    Targets,
    WeightedLosses,
    resolve_levels,
)

WEIGHTS = {"emotion": 1.0, "features": 2.0, "logits": 0.5}


def losses(weights=WEIGHTS):
    named = {
        "emotion": EmotionLoss(),
        "features": FeatureLoss(),
        "logits": LogitLoss(),
    }
    return WeightedLosses(named, weights)


def batch(lengths, seed=0, padding=0):
    """Random student and targets; utterance i is the same in every batch."""
    frames = max(lengths) + padding
    features, targets = torch.zeros(2, 2, len(lengths), frames, 5)
    logits, wanted = torch.zeros(2, len(lengths), 4)
    for i, n in enumerate(lengths):
        generator = torch.Generator().manual_seed(seed + 100 * i + n)
        features[:, i, :n] = torch.randn(2, n, 5, generator=generator)
        targets[:, i, :n] = torch.randn(2, n, 5, generator=generator)
        logits[i] = torch.randn(4, generator=generator)
        wanted[i] = torch.randn(4, generator=generator)
    labels = torch.tensor([i % 4 for i in range(len(lengths))])
    student = Student(logits, features, torch.tensor(lengths))
    return student, Targets(labels, targets, wanted)


def single(student, targets, i):
    n = student.n_frames[i]
    one = slice(i, i + 1)
    return (
        Student(
            student.logits[one],
            student.features[:, one, :n],
            student.n_frames[one],
        ),
        Targets(
            targets.labels[one],
            targets.features[:, one, :n],
            targets.logits[one],
        ),
    )


@settings(max_examples=50)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(0, 9))
def test_batch_loss_is_the_mean_over_utterances(lengths, padding):
    student, targets = batch(lengths, padding=padding)
    total, terms = losses()(student, targets)
    alone = [
        losses()(*single(student, targets, i)) for i in range(len(lengths))
    ]
    mean = sum(value for value, _ in alone) / len(alone)
    assert torch.allclose(total, mean, atol=1e-5)
    for name in WEIGHTS:
        mean = sum(one[name] for _, one in alone) / len(alone)
        assert torch.allclose(terms[name], mean, atol=1e-5)


@settings(max_examples=25)
@given(st.integers(1, 12))
def test_nothing_in_the_padding_reaches_loss_or_gradient(n):
    student, targets = batch([n, 20])
    reference, _ = losses()(student, targets)
    features = student.features.clone()
    features[:, 0, n:] = 1e4
    features.requires_grad_()
    spoiled, _ = losses()(student._replace(features=features), targets)
    spoiled.backward()
    assert torch.equal(reference, spoiled.detach())
    assert not features.grad[:, 0, n:].any()
    assert torch.isfinite(features.grad[:, :, :n]).all()


@pytest.mark.parametrize("weight", [1.0, 0.0, 2.5])
def test_feature_loss_is_the_formula(weight):
    student, targets = batch([3])
    expected = 0.0
    for level in range(2):
        for frame in range(3):
            p = student.features[level, 0, frame]
            z = targets.features[level, 0, frame]
            cosine = (p @ z / (p.norm() * z.norm())).item()
            distance = (p - z).abs().mean().item()
            expected += distance + weight * math.log(1 + math.exp(-cosine))
    value, known = FeatureLoss(weight)(student, targets)
    assert value.item() == pytest.approx(expected / 6, abs=1e-5)
    assert known.all()


def test_logit_loss_is_scaled_divergence():
    student, targets = batch([3, 4])
    value, _ = LogitLoss(temperature=3.0)(student, targets)
    p = (targets.logits / 3).softmax(-1)
    q = (student.logits / 3).softmax(-1)
    expected = 9 * (p * (p / q).log()).sum(-1)
    assert torch.allclose(value, expected, atol=1e-5)
    same, _ = LogitLoss()(student._replace(logits=targets.logits), targets)
    assert same.abs().max() < 1e-6


def test_unlabelled_utterances_count_for_distillation_only():
    student, targets = batch([5, 6, 7])
    _, everyone = losses()(student, targets)
    labels = torch.tensor([0, -1, -1])
    _, first = losses()(student, targets._replace(labels=labels))
    _, alone = losses()(*single(student, targets, 0))
    assert torch.allclose(first["emotion"], alone["emotion"])
    assert torch.allclose(first["features"], everyone["features"])
    none_known = targets._replace(labels=torch.full((3,), -1))
    total, terms = losses()(student, none_known)
    assert terms["emotion"] == 0 and torch.isfinite(total)


def test_weights_and_stages():
    student, targets = batch([5])
    _, terms = losses()(student, targets)
    total, _ = losses({"features": 3.0})(student, targets)
    assert torch.allclose(total, 3 * terms["features"])
    total, found = losses()(student, targets, only=("emotion",))
    assert list(found) == ["emotion"]
    assert torch.allclose(total, terms["emotion"])


def test_losses_without_weight_are_not_computed():
    student, targets = batch([5])
    alone = losses({"emotion": 1.0, "features": 0.0})
    _, terms = alone(student._replace(features=None), targets)
    assert list(terms) == ["emotion"]


def test_every_output_has_a_gradient_whatever_the_weights():
    """DDP waits for those of the projection."""
    student, targets = batch([5])
    projected = student.features.detach().requires_grad_()
    logits_only = losses({"emotion": 1.0, "features": 0.0, "logits": 1.0})
    total, _ = logits_only(student._replace(features=projected), targets)
    total.backward()
    assert torch.equal(projected.grad, torch.zeros_like(projected))


@pytest.mark.parametrize(
    "weights,message",
    [
        ({"feature": 1.0}, "emotion, features, logits"),
        ({"emotion": 0}, "every weight is 0"),
    ],
)
def test_wrong_weights_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        losses(weights)


def test_projection_has_a_head_per_level():
    projection = MultiLevelProjection(6, 5, [4, 8, 12])
    hidden = torch.randn(2, 3, 6)
    first = projection.heads["4"]
    expected = first[2](torch.nn.functional.gelu(first[0](hidden)))
    assert projection(hidden).shape == (3, 2, 3, 5)
    assert torch.equal(projection(hidden)[0], expected)


def test_default_levels():
    assert resolve_levels(None, 12) == [4, 8, 12]
    assert resolve_levels(None, 24) == [8, 16, 24]
    assert resolve_levels(None, 1) == [1]
    assert resolve_levels(None, 6) == [2, 4, 6]
    assert resolve_levels([-1, 0], 12) == [12, 0]


@pytest.mark.parametrize("levels", [[13], [-13], ["4"], [], 4, [12, -1], [1.5]])
def test_unknown_levels_are_refused_with_the_known_ones(levels):
    with pytest.raises(ValueError, match="levels 0 to 12"):
        resolve_levels(levels, 12)
