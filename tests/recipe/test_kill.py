"""Killed at any moment, the same command goes on and ends the same."""

import signal
import time

import pytest
import yaml


def wait_for(process, pattern, folder, seconds=120):
    """Waits until a file like the pattern exists while the process runs."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if any(folder.glob(pattern)):
            return
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)
    raise AssertionError(f"nothing like {pattern} in {folder}")


def kill_when(experiment, pattern, out, **changes):
    process = experiment.start("mlkd", output_folder=out, **changes)
    try:
        wait_for(process, pattern, out)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


# The teacher between its epochs and while it saves, the student while the
# cache is filled, between its epochs, also those of a stage without labels, and
# before its evaluation.
MOMENTS = [
    ("mlkd/save/CKPT*", {"distillation_epochs": 4}),
    *[
        pytest.param(moment, {}, marks=pytest.mark.slow)
        for moment in (
            "mlkd/targets/*/*/*.safetensors",
            "teacher/save/CKPT*",
            "teacher/save/partial-*",
            "mlkd/save/CKPT*",
            "mlkd/stage.json",
        )
    ],
]


@pytest.mark.parametrize("moment,changes", MOMENTS)
def test_killed_run_resumes_to_equal_results(experiment, moment, changes):
    changes = {"teacher_epochs": 3, "student_epochs": 4, **changes}
    whole, torn = experiment.folder / "whole", experiment.folder / "torn"
    experiment.run("mlkd", output_folder=whole, **changes)
    kill_when(experiment, moment, torn, **changes)
    assert not (torn / "mlkd/results.json").exists()
    experiment.run("mlkd", output_folder=torn, **changes)
    for name in ("results.json", "predictions.csv.gz"):
        expected = (whole / "mlkd" / name).read_bytes()
        assert (torn / "mlkd" / name).read_bytes() == expected
    for system in ("teacher", "mlkd"):
        model = f"{system}/model/model.safetensors"
        assert (torn / model).read_bytes() == (whole / model).read_bytes()


def test_damaged_checkpoint_is_skipped(experiment, monkeypatch):
    import train

    out = experiment.folder / "out"
    changes = {"teacher_epochs": 1, "student_epochs": 20}
    process = experiment.start("mlkd", output_folder=out, **changes)
    try:
        for _ in range(3):
            before = len(list(out.glob("mlkd/save/CKPT*")))
            while len(list(out.glob("mlkd/save/CKPT*"))) == before < 3:
                assert process.poll() is None, process.stdout.read()
                time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    epochs = {
        yaml.safe_load((path / "CKPT.yaml").read_text())["epoch"]: path
        for path in out.glob("mlkd/save/CKPT*")
    }
    last = max(epochs)
    for path in epochs[last].glob("*.ckpt"):
        path.write_bytes(path.read_bytes()[:10])
    trained = []
    original = train.MLKDBrain.on_stage_start

    def watch(self, stage, epoch=None):
        trained.append(epoch)
        original(self, stage, epoch)

    monkeypatch.setattr(train.MLKDBrain, "on_stage_start", watch)
    experiment.run("mlkd", output_folder=out, **changes)
    # Neither from the beginning nor behind the damaged one.
    assert last > 1 and trained[0] == last and max(trained[:-1]) == 20
