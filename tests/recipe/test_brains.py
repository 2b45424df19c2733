"""Brains: state of an epoch."""

import torch
from train import EmotionBrain

import speechbrain as sb
from mlkd_lobes.data.batches import KeyedSpeedPerturb
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
