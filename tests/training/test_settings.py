"""The table of settings: a row per key, values, and what depends on them."""

import datetime
import pathlib

import pytest
from helpers import RECIPE
from ruamel.yaml import YAML as Parser

import speechbrain as sb
from mlkd_lobes.errors import InputError
from mlkd_lobes.training.overrides import read_settings, read_values
from mlkd_lobes.training.run_folder import same_for_all_runs
from mlkd_lobes.training.settings import (
    TABLE,
    check_values,
    comparable_keys,
    training_record,
)

YAML = str(RECIPE / "hparams/mlkd.yaml")
DEFAULTS = read_values(YAML, {"data_folder": "corpus"})


def test_every_key_has_a_row_and_every_row_a_key():
    keys = Parser().load(pathlib.Path(YAML)).keys()
    assert {*TABLE} == {*keys}
    known = {"everything", "teacher", "student", "distillation", "noise"}
    known |= {"content", "evaluation", "nothing", "system"}
    assert {row.affects for row in TABLE.values()} == known
    assert {row.scope for row in TABLE.values()} == {None, "folder", "run"}


def test_the_defaults_pass():
    check_values(DEFAULTS)


@pytest.mark.parametrize(
    "key,value",
    [
        ("teacher_dropout", 0.1),
        ("noise_types", ["rain", "wind"]),
        ("unseen_noise", {"rooms": "/rooms"}),
        ("babble_folder", "/speech"),
        ("test_snrs", [-5, 2.5]),
        ("max_grad_norm", 5),
        ("num_workers", 0),
    ],
)
def test_possible_values_pass(key, value):
    check_values({**DEFAULTS, key: value})


@pytest.mark.parametrize(
    "key,value,expected",
    [
        ("teacher_epochs", -1, "an integer, at least 1"),
        ("student_epochs", 2.5, "an integer, at least 0"),
        ("student_epochs", True, "an integer"),
        ("distillation_epochs", -1, "an integer, at least 0"),
        ("student_layers", "two", "an integer, at least 1"),
        ("n_folds", "x", "an integer, at least 3"),
        ("num_workers", -1, "an integer, at least 0"),
        ("teacher_lr", -1, "a number above 0"),
        ("student_lr", "fast", "a number above 0"),
        ("student_lr", float("nan"), "a number above 0"),
        ("snr_low", "x", "a number"),
        ("snr_high", float("inf"), "a number"),
        ("clean_share", 1.5, "a number from 0 to 1"),
        ("teacher_dropout", "none", "null or a number from 0"),
        ("max_batch_length", "x", "a number above 0"),
        ("label_map", ["a"], "a mapping"),
        ("loss_weights", {"emotion": "high"}, "a mapping of losses"),
        ("loss_weights", 5.0, "a mapping of losses"),
        ("valid_snrs", [], "a list of different SNRs"),
        ("test_snrs", 0, "a list of different SNRs"),
        ("test_snrs", [0, "loud"], "a list of different SNRs"),
        ("test_snrs", [0, 0], "a list of different SNRs"),
        ("noise_types", ["rain", "clean"], "null or a list .* 'clean'"),
        ("noise_types", "rain", "null or a list of different noise types"),
        ("unseen_noise", {"clean": "/rooms"}, "a mapping of names"),
        ("speeds", [90.5], "a list of different integer percentages"),
        ("speeds", [], "a list of different integer percentages"),
        ("speeds", [20], "a list of different integer percentages"),
        ("labels", ["sad"], "a list of at least two"),
        ("labels", ["sad", "sad"], "a list of at least two different"),
        ("skip_prep", "yes", "True or False"),
        ("speech", "loud", "one of 'clean', 'noisy', 'none'"),
        ("network", "both", "one of 'teacher', 'student'"),
        ("data_folder", None, "text"),
        ("results_folder", "", "text"),
        ("corpus_name", 2026, "text, quoted where YAML"),
        ("protocol", ["loso5"], "text"),
        ("noise_folder", "", "null or text"),
        ("babble_folder", ["a", "b"], "null or text"),
        ("unseen_noise", {"rooms": None}, "a mapping of names"),
        ("precision", "fp8", "one of 'fp32', 'fp16', 'bf16'"),
        ("comparisons", ["mlkd vs kd_last"], "a list of .* 'one - other'"),
        ("comparisons", [["mlkd - kd_last"]], "a list of"),
        ("comparisons", ["mlkd - kd_last, loud"], "a list of .* ', clean'"),
    ],
)
def test_impossible_values_are_named(key, value, expected):
    with pytest.raises(InputError, match=f"{key}: .* is not {expected}"):
        check_values({**DEFAULTS, key: value})


def test_a_date_of_the_yaml_file_is_refused():
    message = "corpus_name: 2026-01-31 is a date to YAML; quote it"
    with pytest.raises(InputError, match=message):
        check_values({"corpus_name": datetime.date(2026, 1, 31)})


def record(system, text=""):
    """What a training of a system depends on."""
    settings = read_settings(YAML, f"data_folder: x\n{text}", system)
    return training_record(settings, sb.core.RunOptions())


@pytest.mark.parametrize(
    "system,text,changes",
    [
        ("teacher", "student_lr: 9", False),
        ("teacher", "snr_low: -9", False),
        ("teacher", "temperature: 9", False),
        ("teacher", "teacher_lr: 9", True),
        ("teacher", "seed: 9", True),
        ("teacher_noisy", "snr_low: -9", True),
        ("mlkd", "student_lr: 9", True),
        ("mlkd", "temperature: 9", True),
        ("mlkd", "teacher_lr: 9", False),
        ("mlkd", "test_snrs: [9]", False),
        ("mlkd", "num_workers: 9", False),
        ("mlkd", "noise_folder: y", False),
        ("student_clean", "snr_low: -9", False),
    ],
)
def test_a_training_depends_on_the_settings_it_uses(system, text, changes):
    assert (record(system) != record(system, text)) == changes


def test_students_share_everything_but_what_their_systems_set():
    one, other = record("mlkd"), record("student_noisy")
    keys = comparable_keys(one, other, {"loss_weights"})
    assert {"student_lr", "snr_low", "seed"} <= {*keys}
    # Without distillation, its settings do not matter.
    assert not {"temperature", "loss_weights", "network"} & {*keys}
    assert "temperature" in comparable_keys(one, record("kd_last"), ())
    assert comparable_keys(one, record("teacher"), ()) == []


def test_results_keep_what_all_runs_of_a_system_share():
    found = same_for_all_runs(record("mlkd"))
    assert found == same_for_all_runs(record("mlkd", "fold: 2\nseed: 3"))
    assert found["student_lr"] == DEFAULTS["student_lr"]
    assert found["opt_class"][0] == "!name:torch.optim.AdamW"
