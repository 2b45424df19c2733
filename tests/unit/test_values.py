"""Values of settings: right ones pass, wrong ones are named at once."""

import datetime

import pytest
from helpers import RECIPE
from settings import SettingsError, resolved_values
from values import RULES, check_values

YAML = str(RECIPE / "hparams/mlkd.yaml")
DEFAULTS = resolved_values(YAML, {"data_folder": "corpus"})


def test_the_defaults_pass():
    assert set(RULES) <= set(DEFAULTS)
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
def test_right_values_pass(key, value):
    check_values({**DEFAULTS, key: value})


@pytest.mark.parametrize(
    "key,value,expected",
    [
        ("teacher_epochs", -1, "a whole number, at least 1"),
        ("student_epochs", 2.5, "a whole number, at least 0"),
        ("student_epochs", True, "a whole number"),
        ("distillation_epochs", -1, "a whole number, at least 0"),
        ("student_layers", "two", "a whole number, at least 1"),
        ("n_folds", "x", "a whole number, at least 3"),
        ("num_workers", -1, "a whole number, at least 0"),
        ("teacher_lr", -1, "a number above 0"),
        ("student_lr", "fast", "a number above 0"),
        ("student_lr", float("nan"), "a number above 0"),
        ("snr_low", "x", "a number"),
        ("snr_high", float("inf"), "a number"),
        ("clean_share", 1.5, "a number, at least 0, at most 1"),
        ("teacher_dropout", "none", "null or a number, at least 0"),
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
        ("labels", ["sad"], "a list of at least two"),
        ("labels", ["sad", "sad"], "a list of at least two different"),
        ("skip_prep", "yes", "True or False"),
        ("speech", "loud", "one of 'clean', 'noisy', 'none'"),
        ("network", "both", "one of 'teacher', 'student'"),
        ("data_folder", None, "text"),
        ("results_folder", "", "text"),
        ("corpus_name", 2026, "text; what YAML takes for something else"),
        ("protocol", ["loso5"], "text"),
        ("noise_folder", "", "null or text"),
        ("babble_folder", ["a", "b"], "null or text"),
        ("unseen_noise", {"rooms": None}, "a mapping of names"),
        ("precision", "fp8", "one of 'fp32', 'fp16', 'bf16'"),
    ],
)
def test_wrong_values_are_named(key, value, expected):
    with pytest.raises(SettingsError, match=f"{key}: .* is not {expected}"):
        check_values({**DEFAULTS, key: value})


def test_a_date_of_the_yaml_file_is_refused():
    """Text is expected there, and files are named by it."""
    message = "corpus_name: 2026-01-31 is a date to YAML; quote it"
    with pytest.raises(SettingsError, match=message):
        check_values({"corpus_name": datetime.date(2026, 1, 31)})
