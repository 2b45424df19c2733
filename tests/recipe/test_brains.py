"""Brains: state of an epoch."""

import types

import pytest
import torch
from helpers import LABELS
from train import EmotionBrain

import speechbrain as sb
from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.results import prediction_table
from mlkd_lobes.models.distillation import Student, Targets
from mlkd_lobes.noise.add_noise import CLEAN, Condition


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_every_logit_must_be_finite(value):
    """Minus infinity alone would become a probability of 0."""
    logits = torch.zeros(2, 4)
    logits[1, 2] = value
    batch = types.SimpleNamespace(
        id=["u7"],
        speaker=["s"],
        length=torch.ones(1),
        label=torch.tensor([1]),
        conditions=[[CLEAN, Condition("rain", 0.0)]],
    )
    brain = EmotionBrain(
        {"model": torch.nn.Linear(1, 1)}, {}, sb.core.RunOptions()
    )
    brain.records = []
    predictions = (
        Student(logits, None, None),
        Targets(torch.tensor([1, 1]), None, None),
    )
    brain.compute_objectives(predictions, batch, sb.Stage.TEST)
    with pytest.raises(InputError, match="u7: the network's output is NaN"):
        prediction_table(brain.records, LABELS)
