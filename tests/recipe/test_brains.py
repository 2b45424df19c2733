"""Brains: state of an epoch."""

import types

import pytest
import torch
from helpers import LABELS
from train import EmotionBrain

import speechbrain as sb
from mlkd_lobes.data.batches import KeyedSpeedPerturb
from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.results import prediction_table
from mlkd_lobes.models.distillation import Student, Targets
from mlkd_lobes.noise.add_noise import CLEAN, Condition
from mlkd_lobes.training.checkpoints import SafeCheckpointer
from speechbrain.utils.epoch_loop import EpochCounter


def test_an_epoch_begins_at_its_first_step(tmp_path):
    """Also after a checkpoint that was written before steps were reset."""
    hparams = {
        "system": "mlkd",
        "epochs": [0, 3],
        "epoch_counter": EpochCounter(3),
        "speed_perturb": KeyedSpeedPerturb(16000),
        "add_noise": KeyedSpeedPerturb(16000),
    }
    modules = {"model": torch.nn.Linear(1, 1)}
    checkpointer = SafeCheckpointer(tmp_path)
    options = sb.core.RunOptions()
    brain = EmotionBrain(modules, hparams, options, checkpointer)
    brain.step, brain.avg_train_loss = 5, 0.7
    brain.on_stage_start(sb.Stage.TRAIN, 2)
    assert (brain.step, brain.avg_train_loss) == (0, 0.0)


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
