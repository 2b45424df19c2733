"""Which setting wins, and what is refused."""

import pytest
from helpers import RECIPE
from runs import claim_folder
from settings import SettingsError, resolve_overrides, stage_settings

YAML = str(RECIPE / "hparams/mlkd.yaml")
SYSTEMS = [
    "random",
    "teacher",
    "teacher_noisy",
    "student_clean",
    "student_noisy",
    "kd_last",
    "mlkd",
    "mlkd_semi",
]


def resolve(text, **options):
    return resolve_overrides(YAML, text, **options)


def test_systems_are_overrides():
    assert resolve("")["system"] == "mlkd"
    noisy = resolve("system: student_noisy")
    assert noisy["loss_weights"] == {"features": 0.0, "logits": 0.0}
    assert resolve("system: kd_last")["kd_levels"] == [-1]
    assert resolve("system: mlkd", system="teacher")["network"] == "teacher"


def test_the_command_line_wins(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("seed: 5\nspeech: noisy\nstudent_epochs: 3\n")
    text = f"settings: {path}\nsystem: student_clean"
    found = resolve(text)
    assert (found["seed"], found["speech"]) == (5, "clean")
    found = resolve(text + "\nspeech: noisy\nseed: 6")
    assert (found["seed"], found["speech"]) == (6, "noisy")
    assert found["student_epochs"] == 3


def test_partial_weights_keep_the_others():
    from hyperpyyaml import load_hyperpyyaml

    overrides = resolve("data_folder: x\nloss_weights: {logits: 0.5}")
    with open(YAML) as file:
        hparams = load_hyperpyyaml(file, overrides)
    assert hparams["loss_weights"] == {
        "emotion": 1.0,
        "features": 1.0,
        "logits": 0.5,
    }


def test_settings_may_add_systems(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("systems: {big: {student_layers: 3}}\n")
    found = resolve(f"settings: {path}\nsystem: big")
    assert found["student_layers"] == 3


@pytest.mark.parametrize(
    "text,message",
    [
        (
            "student_layer: 2",
            "the command line: no key 'student_layer'.*student_layers",
        ),
        ("system: best", f"no system 'best'.*{', '.join(SYSTEMS)}"),
        ("- a list", "expected 'key: value' pairs"),
    ],
)
def test_unknown_things_are_refused_with_the_known_ones(text, message):
    with pytest.raises(SettingsError, match=message):
        resolve(text)


def test_unknown_keys_in_files_and_systems(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("sead: 5\n")
    with pytest.raises(SettingsError, match="own.yaml: no key 'sead'"):
        resolve(f"settings: {path}")
    path.write_text("systems: {mine: {layers: 3}}\n")
    with pytest.raises(SettingsError, match="system mine: no key 'layers'"):
        resolve(f"settings: {path}\nsystem: mine")
    with pytest.raises(FileNotFoundError, match="nowhere.yaml"):
        resolve("settings: nowhere.yaml")


def hparams(**changes):
    base = {"network": "student", "speech": "noisy", "seed": 1, "snr_low": -5}
    base.update({"student_lr": 0.1, "teacher_lr": 0.2, "num_workers": 1})
    return {**base, "module": object(), **changes}


def test_a_training_depends_on_what_it_uses():
    student = stage_settings(hparams(), {"teacher_sha256": "a"})
    assert student == {
        "network": "student",
        "speech": "noisy",
        "seed": 1,
        "snr_low": -5,
        "student_lr": 0.1,
        "teacher_sha256": "a",
    }
    teacher = stage_settings(hparams(network="teacher", speech="clean"), {})
    assert teacher["teacher_lr"] == 0.2
    assert "snr_low" not in teacher and "student_lr" not in teacher


def test_a_folder_belongs_to_one_training(tmp_path):
    claim_folder(tmp_path, {"seed": 1, "lr": 0.1})
    claim_folder(tmp_path, {"seed": 1, "lr": 0.1})
    with pytest.raises(SettingsError, match="seed: 1 there, 2 now"):
        claim_folder(tmp_path, {"seed": 2, "lr": 0.1})
