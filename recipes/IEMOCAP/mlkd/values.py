"""What the values of settings may be.

Checked before anything is built or written: a wrong one would fail hours later,
or, worse, change results without a word.
"""

import datetime
import math
import numbers
from collections import namedtuple

from settings import SettingsError

from mlkd_lobes.noise import CLEAN

Rule = namedtuple("Rule", ["holds", "expected"])
Rule.__doc__ = """A predicate of values, and in words what it asks for."""


def whole(lowest):
    """A whole number from some on."""
    return Rule(
        lambda value: _is_whole(value) and value >= lowest,
        f"a whole number, at least {lowest}",
    )


def number(lowest=-math.inf, highest=math.inf):
    """A finite number between two."""
    bounds = {lowest: f"at least {lowest}", highest: f"at most {highest}"}
    words = [text for bound, text in bounds.items() if math.isfinite(bound)]
    return Rule(
        lambda value: _is_number(value) and lowest <= value <= highest,
        ", ".join(["a number", *words]),
    )


def optional(rule):
    """What a rule asks for, or null."""
    return Rule(
        lambda value: value is None or rule.holds(value),
        f"null or {rule.expected}",
    )


def one_of(*known):
    """One of some words."""
    return Rule(
        lambda value: value in known, f"one of {', '.join(map(repr, known))}"
    )


def _is_whole(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value):
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    return math.isfinite(value)


def _all_different(value, fit, fewest=1):
    """Whether a value is a list of different things that all fit."""
    return (
        isinstance(value, list)
        and len(value) >= fewest
        and all(map(fit, value))
        and len(set(value)) == len(value)
    )


def _is_text(value):
    return isinstance(value, str) and value != ""


def _is_noise(value):
    return _is_text(value) and value != CLEAN.noise


POSITIVE = Rule(lambda v: _is_number(v) and v > 0, "a number above 0")
SHARE = number(0, 1)
SWITCH = Rule(lambda value: isinstance(value, bool), "True or False")
SNRS = Rule(
    lambda value: _all_different(value, _is_number),
    "a list of different SNRs in dB",
)
TEXT = Rule(_is_text, "text; what YAML takes for something else needs quotes")
MAPPING = Rule(lambda value: isinstance(value, dict), "a mapping, {} if empty")
LABELS = Rule(
    lambda value: _all_different(value, lambda v: isinstance(v, str), 2),
    "a list of at least two different names",
)
NOISE_TYPES = Rule(
    lambda value: _all_different(value, _is_noise),
    f"a list of different noise types, none of them '{CLEAN.noise}'",
)
UNSEEN_NOISE = Rule(
    lambda value: isinstance(value, dict)
    and all(map(_is_noise, value))
    and all(map(_is_text, value.values())),
    f"a mapping of names, none of them '{CLEAN.noise}', to folders",
)
WEIGHTS = Rule(
    lambda value: isinstance(value, dict)
    and all(_is_number(weight) and weight >= 0 for weight in value.values()),
    "a mapping of losses to numbers, at least 0",
)

RULES = {
    "seed": whole(0),
    "fold": whole(1),
    "n_folds": whole(3),
    "labels": LABELS,
    "columns": MAPPING,
    "label_map": MAPPING,
    "noise_types": optional(NOISE_TYPES),
    "unseen_noise": UNSEEN_NOISE,
    "snr_low": number(),
    "snr_high": number(),
    "clean_share": SHARE,
    "valid_snrs": SNRS,
    "test_snrs": SNRS,
    "head_projection": whole(1),
    "student_layers": whole(1),
    "teacher_dropout": optional(SHARE),
    "network": one_of("teacher", "student"),
    "speech": one_of("clean", "noisy", "none"),
    "loss_weights": WEIGHTS,
    "cosine_weight": number(0),
    "temperature": POSITIVE,
    "distillation_epochs": whole(0),
    "teacher_epochs": whole(1),
    # None: what a student is before it learns.
    "student_epochs": whole(0),
    "teacher_lr": POSITIVE,
    "student_lr": POSITIVE,
    "head_lr": POSITIVE,
    "warmup_share": SHARE,
    "precision": one_of("fp32", "fp16", "bf16"),
    "max_grad_norm": POSITIVE,
    "max_batch_length": POSITIVE,
    "num_buckets": whole(1),
    "eval_batch_length": POSITIVE,
    "num_workers": whole(0),
    "weight_decay": number(0),
}
SWITCHES = (
    "partial_corpus",
    "unlabelled",
    "skip_prep",
    "prepare_only",
    "train_only",
    "teacher_freeze_cnn",
    "student_freeze_cnn",
)
RULES.update(dict.fromkeys(SWITCHES, SWITCH))
NAMES = (
    "corpus",
    "corpus_name",
    "protocol",
    "noise_corpus",
    "data_folder",
    "results_folder",
    "output_folder",
    "wav2vec2_hub",
    "wav2vec2_folder",
    "train_annotation",
    "valid_annotation",
    "test_annotation",
    "noise_annotation",
    "noise_valid_annotation",
    "noise_test_annotation",
)
RULES.update(dict.fromkeys(NAMES, TEXT))
MAYBE_FOLDERS = ("noise_folder", "babble_folder", "teacher_folder")
RULES.update(dict.fromkeys(MAYBE_FOLDERS, optional(TEXT)))


def check_values(values):
    """Refuses values with which a run could only fail later.

    Arguments
    ---------
    values : dict
        From `settings.resolved_values`.

    Raises
    ------
    settings.SettingsError
        Naming key and value, and what is expected.

    Example
    -------
    >>> check_values({"fold": 1})
    >>> check_values({"fold": 0})
    Traceback (most recent call last):
    settings.SettingsError: fold: 0 is not a whole number, at least 1
    """
    for key, value in values.items():
        if isinstance(value, datetime.date):
            raise SettingsError(f"{key}: {value} is a date to YAML; quote it")
    for key, rule in RULES.items():
        if key in values and not rule.holds(values[key]):
            raise SettingsError(
                f"{key}: {values[key]!r} is not {rule.expected}"
            )
