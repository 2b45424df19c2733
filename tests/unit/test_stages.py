"""What a training depends on."""

from stages import stage_settings


def hparams(**changes):
    base = {"network": "student", "speech": "noisy", "seed": 1, "snr_low": -5}
    base.update({"student_lr": 0.1, "teacher_lr": 0.2, "num_workers": 1})
    objects = {"opt_class": 1, "losses": 2}
    return {**base, "objects": objects, "module": object(), **changes}


def test_a_training_depends_on_what_it_uses():
    assert stage_settings(hparams()) == {
        "network": "student",
        "speech": "noisy",
        "seed": 1,
        "snr_low": -5,
        "student_lr": 0.1,
        "objects": {"opt_class": 1, "losses": 2},
    }
    teacher = stage_settings(hparams(network="teacher", speech="clean"))
    assert teacher["teacher_lr"] == 0.2
    assert "snr_low" not in teacher and "student_lr" not in teacher
    # Another loss leaves trained teachers what they are.
    assert teacher["objects"] == {"opt_class": 1}
