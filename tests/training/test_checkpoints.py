"""A checkpoint is complete or absent; an unreadable one is skipped."""

import pytest
import torch

from mlkd_lobes.errors import InputError
from mlkd_lobes.training.checkpoints import (
    History,
    SafeCheckpointer,
    epoch_statistics,
)


class Breaks:
    """Something whose saving is interrupted."""


def save_epochs(folder, values):
    model, history = torch.nn.Linear(1, 1), History()
    checkpointer = SafeCheckpointer(
        folder, {"model": model, "history": history}
    )
    for value in values:
        torch.nn.init.constant_(model.weight, value)
        history.epochs.append({"UA": value})
        checkpointer.save_and_keep_only(
            meta={"UA": value},
            num_to_keep=2,
            max_keys=["UA"],
            importance_keys=[],
        )
    return checkpointer, model, history


def reopen(folder):
    model, history = torch.nn.Linear(1, 1), History()
    checkpointer = SafeCheckpointer(
        folder, {"model": model, "history": history}
    )
    return checkpointer, model, history


def test_best_and_latest_are_kept(tmp_path):
    save_epochs(tmp_path, [0.1, 0.9, 0.8, 0.2, 0.3])
    checkpointer, model, history = reopen(tmp_path)
    assert len(checkpointer.list_checkpoints()) == 4
    checkpointer.recover_if_possible(max_key="UA")
    assert model.weight.item() == pytest.approx(0.9)
    checkpointer.recover_if_possible()
    assert model.weight.item() == pytest.approx(0.3)
    assert [epoch["UA"] for epoch in history.epochs] == [
        0.1,
        0.9,
        0.8,
        0.2,
        0.3,
    ]


def test_interrupted_save_leaves_no_checkpoint(tmp_path):
    checkpointer, model, _ = save_epochs(tmp_path, [0.5])

    def interrupt(obj, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    checkpointer.add_recoverable("breaks", Breaks(), custom_save_hook=interrupt)
    with pytest.raises(KeyboardInterrupt):
        checkpointer.save_checkpoint(meta={"UA": 0.6})
    assert any(p.name.startswith("partial-") for p in tmp_path.iterdir())
    again, model, _ = reopen(tmp_path)
    assert again.recover_if_possible().meta["UA"] == 0.5
    assert not any(p.name.startswith("partial-") for p in tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["model.ckpt", "CKPT.yaml", "history.ckpt"])
def test_checkpoint_before_a_damaged_one_is_used(tmp_path, damage):
    # The logger does not pass messages on to pytest, so its records are
    # caught where they are made.
    import mlkd_lobes.training.checkpoints as checkpoints

    save_epochs(tmp_path, [0.4, 0.5])
    checkpointer, model, _ = reopen(tmp_path)
    latest = checkpointer.find_checkpoint().path
    (latest / damage).write_bytes(b"\x00damaged")
    printed = []
    original = checkpoints.logger.warning
    checkpoints.logger.warning = printed.append
    try:
        assert checkpointer.recover_if_possible().meta["UA"] == 0.4
    finally:
        checkpoints.logger.warning = original
    assert model.weight.item() == pytest.approx(0.4)
    assert any(latest.name in message for message in printed)


def test_nothing_readable_is_an_error(tmp_path):
    save_epochs(tmp_path, [0.4])
    checkpointer, _, _ = reopen(tmp_path)
    (checkpointer.find_checkpoint().path / "model.ckpt").write_bytes(b"")
    with pytest.raises(InputError, match="none of its checkpoints"):
        checkpointer.recover_if_possible()


def test_nothing_to_recover_is_none(tmp_path):
    assert reopen(tmp_path)[0].recover_if_possible() is None


def test_a_loss_that_is_not_finite_is_not_averaged():
    terms = {"features": [torch.tensor(x) for x in (1.0, 3.0)]}
    snrs = [torch.tensor([5.0, torch.inf])]
    stats = epoch_statistics(2.0, terms, snrs)
    assert stats["features"] == 2.0 and stats["clean_share"] == 0.5
    terms["features"].append(torch.tensor(torch.inf))
    assert epoch_statistics(2.0, terms, snrs)["features"] == 2.0
