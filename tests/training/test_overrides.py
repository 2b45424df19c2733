"""Which setting wins, and what is refused."""

import pathlib

import pytest
from helpers import RECIPE

import speechbrain as sb
from mlkd_lobes.errors import InputError
from mlkd_lobes.training.overrides import (
    check_arguments,
    check_run_options,
    read_settings,
)

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


def resolve(text, yaml=YAML, **options):
    text = text if "data_folder" in text else f"data_folder: x\n{text}"
    return read_settings(str(yaml), text, **options).overrides


def test_systems_are_overrides():
    assert resolve("")["system"] == "mlkd_semi"
    noisy = resolve("system: student_noisy")
    assert noisy["loss_weights"] == {
        "features": 0.0,
        "logits": 0.0,
    }
    assert resolve("system: kd_last")["kd_levels"] == [-1]
    assert resolve("system: mlkd", system="teacher")["network"] == "teacher"


@pytest.mark.parametrize("value", ["0.5", "[0.5]", "{width: 0.5}", "null"])
def test_a_mapping_that_others_refer_into_stays_one(value):
    with pytest.raises(
        InputError, match="student_cnn: .* is not {channels: S}"
    ):
        resolve(f"student_cnn: {value}")


def test_a_yaml_file_without_a_system_is_refused(tmp_path):
    copy = tmp_path / "own.yaml"
    text = pathlib.Path(YAML).read_text(encoding="utf-8")
    copy.write_text(text.replace("\nsystem: mlkd_semi\n", "\n"))
    with pytest.raises(InputError, match="no system ''; .* student_noisy"):
        resolve("", copy)
    copy.write_text(text.replace("    mlkd: {}\n", "    mlkd:\n"))
    with pytest.raises(InputError, match="'mlkd': None.* is not a mapping"):
        resolve("", copy)


def test_a_mapping_replaces_what_is_none(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("loss_weights:\nstudent_cnn: 0.5\n")
    text = "student_cnn: {channels: 0.25}\nsystem: student_noisy"
    found = resolve(f"settings: {path}\n{text}")
    assert found["student_cnn"] == {"channels": 0.25}
    assert found["loss_weights"] == {"features": 0.0, "logits": 0.0}
    # In a system, too.
    path.write_text("systems: {own: {student_cnn: 0.5}}\n")
    text = "systems: {own: {student_cnn: {channels: 0.25}}}\nsystem: own"
    found = resolve(f"settings: {path}\n{text}")
    assert found["student_cnn"] == {"channels": 0.25}


def test_the_command_line_wins(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("seed: 5\nunlabelled: False\nstudent_epochs: 3\n")
    text = f"settings: {path}\nsystem: mlkd_semi"
    found = resolve(text)
    assert (found["seed"], found["unlabelled"]) == (5, "corpus")
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
        (
            "--data_folder=a=b",
            "--data_folder=a=b: .* a value may contain neither",
        ),
        ("--results_folder=a #2", "neither '=' nor ' #'; put such a"),
        ("--teacher_folder=#1", "neither '=' nor ' #'; put such a"),
        ("data_folder=a", "^data_folder=a: .* a key begins with '--'"),
    ],
)
def test_values_that_speechbrain_would_cut_are_refused(argument, message):
    with pytest.raises(InputError, match=message):
        check(argument)
    with pytest.raises(InputError, match="^a=b: on the command line"):
        check("--data_folder", "a=b")
    check("--data_folder=a b", "--debug", "--device", "cpu", "--seed=3")
    check("--noise_types=[rain, wind]", "--unseen_noise={rooms: a}")
    check("--jit_module_keys", "a", "b", "--log_config=a=b.yaml", "--1=2")
    check("--data_folder='a #b'", "--seed", "3")


def check(*arguments):
    arguments = [YAML, *arguments]
    _, run_opts, _ = sb.parse_arguments(arguments)
    check_arguments(arguments, run_opts)


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
        (
            "noise_types: '[rain'\nkd_levels: [1",
            "the command line: is not valid YAML",
        ),
        ("speech: noisy", "speech: is set by the system.*student_noisy"),
        ("network: student", "network: is set by the system"),
        ("opt_class: {weight_decay: 9}", "opt_class is an object"),
        ("losses: {logits: {temperature: 9}}", "losses is an object"),
    ],
)
def test_unknown_things_are_refused_with_the_known_ones(text, message):
    with pytest.raises(InputError, match=message):
        resolve(text)


def test_unknown_keys_in_files_and_systems(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("sead: 5\n")
    with pytest.raises(InputError, match="own.yaml: no key 'sead'"):
        resolve(f"settings: {path}")
    path.write_text("systems: {mine: {layers: 3}}\n")
    with pytest.raises(InputError, match="system mine: no key 'layers'"):
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
    assert resolve("", yaml)["seed"] == 5
    yaml.write_text(text.replace("settings: null", ""))
    assert "seed" not in resolve("", yaml)
    yaml.write_text(text.replace("settings: null", f"settings: {own}"))
    other = tmp_path / "other.yaml"
    other.write_text("seed: 6\n")
    assert resolve(f"settings: {other}", yaml)["seed"] == 6


def test_settings_name_no_settings(tmp_path):
    """They would not be read."""
    own = tmp_path / "own.yaml"
    own.write_text("settings: other.yaml\n")
    with pytest.raises(InputError, match="own.yaml: no key 'settings'"):
        resolve(f"settings: {own}")
    with pytest.raises(InputError, match="system big: no key 'settings'"):
        resolve("systems: {big: {settings: other.yaml}}\nsystem: big")


def test_yaml_date_parsed_as_string():
    found = resolve("results_folder: 2026-01-31\ncorpus_name: 2026-01-31")
    assert found["results_folder"] == found["corpus_name"] == "2026-01-31"
    values = read_settings(
        YAML,
        "data_folder: x\nresults_folder: 2026-01-31\ncorpus_name: 2026-01-31",
    ).values
    assert values["output_folder"].startswith("2026-01-31/2026-01-31/")


@pytest.mark.parametrize(
    "value", ["2026-01-31 12:00:00", "!!binary aGVsbG8=", "{2026-01-31: 1}"]
)
def test_types_of_yaml_alone_are_refused(value):
    message = "the command line: label_map: .* is not text, number, list"
    with pytest.raises(InputError, match=message):
        resolve(f"label_map: {value}")


def test_definitions_of_objects_are_kept(tmp_path):
    found = read_settings(YAML, "data_folder: x").objects
    assert found["opt_class"] == [
        "!name:torch.optim.AdamW",
        {"weight_decay": ["!ref", "<weight_decay>"]},
    ]
    assert {"losses", "projection", "add_noise"} < {*found}
    assert not {"seed", "systems", "noise_annotation"} & {*found}
    other = tmp_path / "other.yaml"
    other.write_text(pathlib.Path(YAML).read_text().replace("AdamW", "Adam"))
    assert read_settings(str(other), "data_folder: x").objects != found


def test_impossible_values_name_the_system(tmp_path):
    text = "systems: {bad: {student_lr: -1}}\nsystem: bad"
    with pytest.raises(InputError, match="student_lr: -1 .*system bad"):
        resolve(text)


@pytest.mark.parametrize(
    "values,message",
    [
        ({"ckpt_interval_minutes": 5}, "--ckpt_interval_minutes: training"),
        ({"remove_vector_weight_decay": True}, "all weights decay"),
        ({"precision": "fp16"}, "fp16 needs a GPU"),
    ],
)
def test_contradicting_options_are_refused(values, message):
    values = {"prepare_only": False, **values}
    options = sb.core.RunOptions()
    with pytest.raises(InputError, match=message):
        check_run_options(values, options, "cpu")


@pytest.mark.parametrize(
    "text,message",
    [
        ("systems: {mine: }", "'mine': None.* is not a mapping"),
        ("systems: [mine]", "is not a mapping of names"),
        (
            "systems: {../mine: {}}",
            "../mine.* is not a mapping of names .of letters",
        ),
        (
            "systems: {_mine: {}}",
            "_mine.* is not a mapping of names .of letters",
        ),
        ("settings: 3", "settings: 3 is not a file or a list"),
        ("settings: [3]", "settings: .3. is not a file or a list"),
    ],
)
def test_settings_of_another_shape_are_refused(text, message):
    with pytest.raises(InputError, match=message):
        resolve(text)
