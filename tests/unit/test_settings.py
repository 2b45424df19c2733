"""Which setting wins, and what is refused."""

import pathlib

import pytest
from helpers import RECIPE
from settings import (
    SettingsError,
    check_arguments,
    object_definitions,
    resolve_overrides,
    resolved_values,
)

import speechbrain as sb

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
    assert noisy["loss_weights"] == {
        "features": 0.0,
        "logits": 0.0,
    }
    assert resolve("system: kd_last")["kd_levels"] == [-1]
    assert resolve("system: mlkd", system="teacher")["network"] == "teacher"


def test_the_command_line_wins(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("seed: 5\nunlabelled: False\nstudent_epochs: 3\n")
    text = f"settings: {path}\nsystem: mlkd_semi"
    found = resolve(text)
    assert (found["seed"], found["unlabelled"]) == (5, True)
    found = resolve(text + "\nunlabelled: False\nseed: 6")
    assert (found["seed"], found["unlabelled"]) == (6, False)
    assert found["student_epochs"] == 3


def test_partial_weights_keep_the_others():
    from hyperpyyaml import load_hyperpyyaml

    overrides = resolve("data_folder: x\nloss_weights: {logits: 0.5}")
    with open(YAML) as file:
        hparams = load_hyperpyyaml(file, overrides)
    assert hparams["loss_weights"] == {
        "emotion": 1.0,
        "features": 5.0,
        "logits": 0.5,
    }


def test_an_empty_mapping_empties(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("unseen_noise: {rooms: a}\nlabel_map: {joy: hap}\n")
    text = f"settings: {path}\nunseen_noise: {{}}\nlabel_map: {{fear: null}}"
    found = resolve(text)
    assert found["unseen_noise"] == {}
    assert found["label_map"] == {"joy": "hap", "fear": None}


@pytest.mark.parametrize(
    "argument,message",
    [
        ("--eval_prec=bf16", "--eval_prec: give .*full name, --eval_precision"),
        ("--grad_acc=4", "full name, --grad_accumulation_factor"),
        ("--data_folder=a=b", "--data_folder=a=b: .* a value may hold neither"),
        ("--results_folder=a #2", "neither '=' nor ' #'; put it into"),
        ("--teacher_folder=#1", "neither '=' nor ' #'; put it into"),
    ],
)
def test_what_would_be_taken_for_something_else(argument, message):
    with pytest.raises(SettingsError, match=message):
        check(argument)
    with pytest.raises(SettingsError, match="^a=b: on the command line"):
        check("--data_folder", "a=b")
    check("--data_folder=a b", "--debug", "--device", "cpu", "--seed=3")
    check("--noise_types=[rain, wind]", "--unseen_noise={rooms: a}")
    check("--jit_module_keys", "a", "b", "--log_config=a=b.yaml", "--1=2")
    check("--data_folder='a #b'", "--seed", "3")


def check(*arguments):
    arguments = [YAML, *arguments]
    _, run_opts, command_line = sb.parse_arguments(arguments)
    check_arguments(arguments, run_opts, command_line)


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
        ("noise_types: '[rain'\nkd_levels: [1", "the command line: is no YAML"),
        ("speech: noisy", "speech: is set by the system.*student_noisy"),
        ("network: student", "network: is set by the system"),
        ("opt_class: {weight_decay: 9}", "opt_class is an object"),
        ("losses: {logits: {temperature: 9}}", "losses is an object"),
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


def test_of_several_files_the_later_wins(tmp_path):
    (tmp_path / "a.yaml").write_text("seed: 5\nloss_weights: {logits: 2.0}\n")
    (tmp_path / "b.yaml").write_text("seed: 6\nloss_weights: {features: 3.0}\n")
    files = f"settings: [{tmp_path}/a.yaml, {tmp_path}/b.yaml]"
    found = resolve(files)
    assert found["seed"] == 6
    assert found["loss_weights"] == {"logits": 2.0, "features": 3.0}
    assert resolve(files + "\nseed: 7")["seed"] == 7


def test_the_yaml_file_may_name_settings(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("seed: 5\n")
    text = pathlib.Path(YAML).read_text()
    yaml = tmp_path / "mine.yaml"
    yaml.write_text(text.replace("settings: null", f"settings: {own}"))
    assert resolve_overrides(str(yaml), "")["seed"] == 5
    yaml.write_text(text.replace("settings: null", ""))
    assert "seed" not in resolve_overrides(str(yaml), "")
    yaml.write_text(text.replace("settings: null", f"settings: {own}"))
    other = tmp_path / "other.yaml"
    other.write_text("seed: 6\n")
    assert resolve_overrides(str(yaml), f"settings: {other}")["seed"] == 6


def test_settings_name_no_settings(tmp_path):
    """They would not be read."""
    own = tmp_path / "own.yaml"
    own.write_text("settings: other.yaml\n")
    with pytest.raises(SettingsError, match="own.yaml: settings: names files"):
        resolve(f"settings: {own}")
    with pytest.raises(SettingsError, match="systems: big: settings: names"):
        resolve("systems: {big: {settings: other.yaml}}\nsystem: big")


def test_a_day_is_a_name_like_others():
    found = resolve("results_folder: 2026-01-31\ncorpus_name: 2026-01-31")
    assert found["results_folder"] == found["corpus_name"] == "2026-01-31"
    values = resolved_values(YAML, {**found, "data_folder": "x"})
    assert values["output_folder"].startswith("2026-01-31/2026-01-31/")


@pytest.mark.parametrize(
    "value", ["2026-01-31 12:00:00", "!!binary aGVsbG8=", "{2026-01-31: 1}"]
)
def test_what_only_yaml_knows_is_refused(value):
    message = "the command line: label_map: .* is no text, number, list"
    with pytest.raises(SettingsError, match=message):
        resolve(f"label_map: {value}")


def test_objects_of_the_yaml_file_are_known(tmp_path):
    found = object_definitions(YAML)
    assert found["opt_class"] == [
        "!name:torch.optim.AdamW",
        {"weight_decay": ["!ref", "<weight_decay>"]},
    ]
    assert {"losses", "projection", "add_noise"} < set(found)
    assert not {"seed", "systems", "noise_annotation"} & set(found)
    other = tmp_path / "other.yaml"
    text = open(YAML).read().replace("AdamW", "Adam")
    other.write_text(text)
    assert object_definitions(other) != found


@pytest.mark.parametrize(
    "text,message",
    [
        ("systems: {mine: }", "systems: mine: None is no mapping"),
        ("systems: [mine]", "is no mapping of names to overrides"),
        ("systems: {../mine: {}}", "'../mine' is no name of letters"),
        ("systems: {_mine: {}}", "'_mine' is no name of letters"),
        ("settings: 3", "settings: 3 is neither a file nor a list"),
        ("settings: [3]", "settings: .3. is neither a file nor a list"),
    ],
)
def test_settings_of_another_shape_are_refused(text, message):
    with pytest.raises(SettingsError, match=message):
        resolve(text)
