"""Curves go on where an interrupted training left them."""

from tensorboard.backend.event_processing.event_accumulator import (
    EventAccumulator,
)

from mlkd_lobes.train_logger import EpochTensorboardLogger


def test_steps_are_epochs_also_after_an_interruption(tmp_path):
    for epochs in ((1, 2), (3,)):
        logger = EpochTensorboardLogger(str(tmp_path))
        for epoch in epochs:
            meta, train = {"epoch": epoch, "lr": 0.1}, {"loss": 1 / epoch}
            logger.log_stats(
                meta, train, {"UA": epoch / 10} if epoch > 1 else {}
            )
        logger.writer.close()
    found = EventAccumulator(str(tmp_path)).Reload()
    steps = {
        tag: [event.step for event in found.Scalars(tag)]
        for tag in ("lr", "loss/train", "UA/valid")
    }
    assert steps == {
        "lr": [1, 2, 3],
        "loss/train": [1, 2, 3],
        "UA/valid": [2, 3],
    }
