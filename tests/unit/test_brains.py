"""What a Brain keeps, and what it tells of an epoch."""

import pathlib

import pytest
import torch
from brains import EmotionBrain, TrainingPlan

import speechbrain as sb
from mlkd_lobes.checkpoints import SafeCheckpointer
from speechbrain.utils.epoch_loop import EpochCounter


@pytest.fixture
def brain(tmp_path):
    """With nothing to train."""
    modules = {"model": torch.nn.Linear(1, 1)}
    options = sb.core.RunOptions()
    brain = EmotionBrain(modules, {}, options, [], {}, [], 1.0)
    parts = {
        "draws": [],
        "distillation_epochs": 0,
        "epoch_counter": EpochCounter(3),
        "checkpointer": SafeCheckpointer(tmp_path / "save"),
    }
    brain.plan = TrainingPlan(
        **{**dict.fromkeys(TrainingPlan._fields), **parts}
    )
    return brain


def test_a_loss_that_is_no_number_is_not_counted(brain):
    brain.terms = {"features": [torch.tensor(x) for x in (1.0, 3.0)]}
    brain.snrs = [torch.tensor([5.0])]
    assert brain.training_statistics(2.0)["features"] == 2.0
    brain.terms["features"].append(torch.tensor(torch.inf))
    assert brain.training_statistics(2.0)["features"] == 2.0


def test_the_scale_of_gradients_is_kept(brain, tmp_path):
    """In fp16 on a GPU; else there is none."""
    brain.set_up_training(pathlib.Path("mlkd"), brain.plan)
    assert "scaler" not in brain.checkpointer.recoverables
    brain.scaler = torch.GradScaler("cpu", init_scale=8.0, enabled=True)
    brain.set_up_training(pathlib.Path("mlkd"), brain.plan)
    brain.scaler.scale(torch.ones(1))
    brain.checkpointer.save_checkpoint()
    brain.scaler.update(2.0)
    brain.checkpointer.recover_if_possible()
    assert brain.scaler.get_scale() == 8.0


def test_an_epoch_begins_at_its_first_step(brain):
    """Also behind a checkpoint that was written before steps were reset."""
    brain.set_up_training(pathlib.Path("mlkd"), brain.plan)
    brain.step, brain.avg_train_loss = 5, 0.7
    brain.on_stage_start(sb.Stage.TRAIN, 2)
    assert (brain.step, brain.avg_train_loss) == (0, 0.0)
