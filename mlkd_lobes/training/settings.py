"""Settings: one table with a row per key of the recipe's YAML file.

A row gives the values of a key and what depends on it. Everything else
derives from the rows: checks of values, whether a folder holds the requested
training, what systems compared with each other must share, what results.json
keeps. A new key is a line in the YAML file and a row here.
"""

import datetime
import json
import math
import re
from collections import namedtuple

from mlkd_lobes.data.unlabelled import fingerprint
from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.results import COMPARISON, split_hashes
from mlkd_lobes.models.distillation import needs_teacher
from mlkd_lobes.models.encoder import source_fingerprint
from mlkd_lobes.noise.add_noise import CLEAN, is_additive
from mlkd_lobes.noise.distortions import DISTORTIONS
from mlkd_lobes.training.checkpoints import n_processes


class Rule(namedtuple("Rule", ["holds", "expected"])):
    """A predicate of values, and its description for messages."""


class Key(namedtuple("Key", ["rule", "affects", "scope"], defaults=[None])):
    """A row of the table.

    `affects`: what depends on the value: "everything" (every trained network),
    "teacher", "student", "distillation" (students that distil), "noise" (networks
    trained on noisy speech), "content" (the contents of the files it names, kept as
    hashes), "evaluation" or "nothing". "system" marks keys that only a system sets.
    `scope`: "folder" if all runs of an output folder share it, "run" if it also
    differs between the runs of one system.
    """


# ---- Rules -------------------------------------------------------------------


def _is_integer(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value):
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value)


def _is_text(value):
    return isinstance(value, str) and value != ""


def _distinct(value, holds, least=1):
    """Whether a value is a list of different items that all satisfy a test."""
    if not isinstance(value, list) or len(value) < least:
        return False
    return all(map(holds, value)) and len(set(value)) == len(value)


def _is_noise(name):
    return _is_text(name) and is_additive(name)


def _is_folder_name(name):
    pattern = r"[A-Za-z0-9][\w.-]*"
    return isinstance(name, str) and bool(re.fullmatch(pattern, name))


def _mapping(value, holds_key, holds_value):
    return (
        isinstance(value, dict)
        and all(map(holds_key, value))
        and all(map(holds_value, value.values()))
    )


def _are_shares(value):
    values = value if isinstance(value, list) else [value]
    return bool(values) and all(_is_number(v) and 0 < v <= 1 for v in values)


def _integer(lowest):
    """Integers from a lowest one on."""
    return Rule(
        lambda value: _is_integer(value) and value >= lowest,
        f"an integer, at least {lowest}",
    )


def _optional(rule):
    """A rule's values, or null."""
    return Rule(
        lambda value: value is None or rule.holds(value),
        f"null or {rule.expected}",
    )


def _one_of(*known):
    """One of some words."""
    return Rule(
        lambda value: value in known, f"one of {', '.join(map(repr, known))}"
    )


SWITCH = Rule(lambda value: isinstance(value, bool), "True or False")
TEXT = Rule(_is_text, "text, quoted where YAML reads something else")
NUMBER = Rule(_is_number, "a number")
NOT_NEGATIVE = Rule(lambda v: _is_number(v) and v >= 0, "a number, at least 0")
POSITIVE = Rule(lambda v: _is_number(v) and v > 0, "a number above 0")
SHARE = Rule(lambda v: _is_number(v) and 0 <= v <= 1, "a number from 0 to 1")
MAPPING = Rule(lambda v: isinstance(v, dict), "a mapping, {} if empty")
SNRS = Rule(
    lambda v: _distinct(v, _is_number), "a list of different SNRs in dB"
)
SPEEDS = Rule(
    lambda v: _distinct(v, lambda s: _is_integer(s) and 50 <= s <= 200),
    "a list of different integer percentages from 50 to 200",
)
LABELS = Rule(
    lambda v: _distinct(v, _is_text, 2),
    "a list of at least two different names",
)
NOISE_TYPES = Rule(
    lambda v: _distinct(v, _is_noise),
    f"a list of different noise types, none of them '{CLEAN.noise}'",
)
UNSEEN_NOISE = Rule(
    lambda v: _mapping(v, lambda k: _is_noise(k) and "/" not in k, _is_text),
    f"a mapping of names without '/', none of them '{CLEAN.noise}', to folders",
)
WEIGHTS = Rule(
    lambda v: _mapping(v, _is_text, NOT_NEGATIVE.holds),
    "a mapping of losses to numbers, at least 0",
)
DISTORTED = Rule(
    lambda v: _distinct(v, lambda name: name in DISTORTIONS, 0),
    f"a list of different ones of {', '.join(DISTORTIONS)}",
)
FILES = Rule(
    lambda v: v is None or _is_text(v) or _distinct(v, _is_text),
    "a file or a list of files",
)
CHANNELS = Rule(
    lambda v: _mapping(v, lambda k: k == "channels", _are_shares) and v != {},
    "{channels: S}, S a number above 0, at most 1, or a list of such",
)
SYSTEMS = Rule(
    lambda v: _mapping(v, _is_folder_name, MAPPING.holds),
    "a mapping of names (of letters, digits, '_', '-' and '.', quoted where YAML "
    "reads something else) to mappings of keys to values, {} for none",
)
COMPARISONS = Rule(
    lambda v: _distinct(v, _is_text, 0) and all(map(COMPARISON.fullmatch, v)),
    "a list of different texts 'one - other', with ', clean' or ', unseen noise'",
)
ANY = Rule(lambda value: True, "")  # checked elsewhere, or an object

# ---- The table ---------------------------------------------------------------

TABLE = {
    "seed": Key(_integer(0), "everything", "run"),
    "__set_seed": Key(ANY, "everything"),
    "settings": Key(FILES, "nothing"),
    "system": Key(TEXT, "nothing"),
    "data_folder": Key(TEXT, "content"),
    "corpus": Key(TEXT, "everything", "folder"),
    "corpus_name": Key(TEXT, "everything", "folder"),
    "protocol": Key(TEXT, "everything", "folder"),
    "fold": Key(_integer(1), "everything", "run"),
    "partial_corpus": Key(SWITCH, "content"),
    "n_folds": Key(_integer(3), "everything", "folder"),
    "labels": Key(LABELS, "everything", "folder"),
    "columns": Key(MAPPING, "everything", "folder"),
    "label_map": Key(MAPPING, "everything", "folder"),
    "select": Key(MAPPING, "everything", "folder"),
    "crowd_votes": Key(SWITCH, "everything", "folder"),
    "cut_silence": Key(_optional(SWITCH), "everything", "folder"),
    "unlabelled": Key(_one_of(False, True, "corpus", "folder"), "distillation"),
    "unlabelled_folder": Key(FILES, "content"),
    "unlabelled_ratio": Key(NOT_NEGATIVE, "student"),
    "repeat_labelled": Key(SWITCH, "student"),
    "results_folder": Key(TEXT, "nothing"),
    "output_folder": Key(TEXT, "nothing"),
    "skip_prep": Key(SWITCH, "content"),
    "prepare_only": Key(SWITCH, "nothing"),
    "train_only": Key(SWITCH, "nothing"),
    "train_annotation": Key(TEXT, "content"),
    "valid_annotation": Key(TEXT, "content"),
    "test_annotation": Key(TEXT, "content"),
    "noise_corpus": Key(TEXT, "noise", "folder"),
    "noise_folder": Key(_optional(TEXT), "content"),
    "noise_types": Key(_optional(NOISE_TYPES), "noise", "folder"),
    "babble_folder": Key(_optional(TEXT), "content"),
    "unseen_noise": Key(UNSEEN_NOISE, "evaluation"),
    "noise_annotation": Key(TEXT, "content"),
    "noise_valid_annotation": Key(TEXT, "content"),
    "noise_test_annotation": Key(TEXT, "content"),
    "snr_low": Key(NUMBER, "noise"),
    "snr_high": Key(NUMBER, "noise"),
    "clean_share": Key(SHARE, "noise"),
    "valid_snrs": Key(SNRS, "noise"),
    "test_snrs": Key(SNRS, "evaluation"),
    "test_distortions": Key(DISTORTED, "evaluation"),
    "add_noise": Key(ANY, "everything"),
    "valid_noise": Key(ANY, "everything"),
    "test_noise": Key(ANY, "everything"),
    "speeds": Key(SPEEDS, "everything"),
    "speed_perturb": Key(ANY, "everything"),
    "wav2vec2_hub": Key(TEXT, "content"),
    "wav2vec2_folder": Key(TEXT, "nothing"),
    "teacher_folder": Key(_optional(TEXT), "content"),
    "teacher_freeze_cnn": Key(SWITCH, "teacher"),
    "student_freeze_cnn": Key(SWITCH, "student"),
    "student_layers": Key(_integer(1), "student"),
    "student_cnn": Key(CHANNELS, "student"),
    "mask_share": Key(SHARE, "student"),
    "head_projection": Key(_integer(1), "everything"),
    "teacher_dropout": Key(_optional(SHARE), "teacher"),
    "network": Key(_one_of("teacher", "student"), "system"),
    "speech": Key(_one_of("clean", "noisy", "none"), "system"),
    "teacher_encoder": Key(ANY, "everything"),
    "student_encoder": Key(ANY, "student"),
    "kd_levels": Key(ANY, "distillation"),
    "loss_weights": Key(WEIGHTS, "distillation"),
    "cosine_weight": Key(NOT_NEGATIVE, "distillation"),
    "temperature": Key(POSITIVE, "distillation"),
    "losses": Key(ANY, "student"),
    "projection": Key(ANY, "student"),
    "distillation_epochs": Key(_integer(0), "distillation"),
    "teacher_epochs": Key(_integer(1), "teacher"),
    # 0: a student before any training.
    "student_epochs": Key(_integer(0), "student"),
    "teacher_lr": Key(POSITIVE, "teacher"),
    "student_lr": Key(POSITIVE, "student"),
    "head_lr": Key(POSITIVE, "everything"),
    "warmup_share": Key(SHARE, "everything"),
    "precision": Key(_one_of("fp32", "fp16", "bf16"), "everything"),
    "max_grad_norm": Key(POSITIVE, "everything"),
    "max_batch_length": Key(POSITIVE, "everything"),
    "num_buckets": Key(_integer(1), "everything"),
    "train_sampler": Key(ANY, "everything"),
    "eval_batch_length": Key(POSITIVE, "nothing"),
    "cache_limit": Key(NOT_NEGATIVE, "nothing"),
    "num_workers": Key(_integer(0), "nothing"),
    "weight_decay": Key(NOT_NEGATIVE, "everything"),
    "opt_class": Key(ANY, "everything"),
    "lr_schedule": Key(ANY, "everything"),
    "epoch_counter": Key(ANY, "everything"),
    "checkpointer": Key(ANY, "everything"),
    "train_logger": Key(ANY, "nothing"),
    "comparisons": Key(COMPARISONS, "nothing"),
    "systems": Key(SYSTEMS, "nothing"),
}
# Keys of one's own YAML file.
OWN_KEY = Key(ANY, "everything")

# SpeechBrain's run options that training depends on; eval_precision because
# validation scores choose the epoch.
RUN_OPTIONS = (
    "auto_mix_prec",
    "bfloat16_mix_prec",
    "debug",
    "eval_precision",
    "debug_batches",
    "debug_epochs",
    "precision",
    "skip_nonfinite_grads",
    "max_grad_norm",
    "grad_accumulation_factor",
)


def row_of(key):
    """A key's row; keys of one's own YAML file affect everything.

    Arguments
    ---------
    key : str
        The key.

    Returns
    -------
    Key
        The row.
    """
    return TABLE.get(key, OWN_KEY)


def check_values(values):
    """Raises for values with which a run could only fail or mislead later.

    Arguments
    ---------
    values : dict
        Key to value.

    Raises
    ------
    InputError
        Naming key and value, and what is expected.

    Example
    -------
    >>> check_values({"fold": 1})
    >>> check_values({"fold": 0})
    Traceback (most recent call last):
    mlkd_lobes.errors.InputError: fold: 0 is not an integer, at least 1
    """
    for key, value in values.items():
        if isinstance(value, datetime.date):
            raise InputError(f"{key}: {value} is a date to YAML; quote it")
        rule = row_of(key).rule
        if not rule.holds(value):
            raise InputError(f"{key}: {value!r} is not {rule.expected}")


def run_options(values, run_opts):
    """SpeechBrain's run options that training depends on.

    Arguments
    ---------
    values : dict
        Values of the YAML file, which may set some of them.
    run_opts : speechbrain.core.RunOptions
        From `speechbrain.parse_arguments`; the command line wins.

    Returns
    -------
    dict
        Value of every option.
    """
    return {
        name: values[name]
        if name in values and name not in run_opts.overridden_args
        else getattr(run_opts, name)
        for name in RUN_OPTIONS
    }


def training_record(settings, run_opts):
    """The settings that a trained network depends on.

    Arguments
    ---------
    settings : mlkd_lobes.training.overrides.Settings
        Of the run.
    run_opts : speechbrain.core.RunOptions
        From `speechbrain.parse_arguments`.

    Returns
    -------
    dict
        Key to value, and "objects"; equal records mean equal trainings, apart
        from the contents of files.
    """
    values = settings.values
    chosen = {"everything", "system"}
    if values["network"] == "teacher":
        chosen.add("teacher")
    else:
        chosen.update(["student", "distillation"])
    if values["speech"] == "noisy":
        chosen.add("noise")
    record = {
        key: value
        for key, value in values.items()
        if key not in settings.objects and row_of(key).affects in chosen
    }
    record.update(run_options(values, run_opts))
    if run_opts["test_only"]:
        del record["eval_precision"]  # chooses no epoch then
    record["objects"] = {
        key: definition
        for key, definition in settings.objects.items()
        if row_of(key).affects in chosen
    }
    return json.loads(json.dumps(record))


def with_contents(record, splits, source, unlabelled, teacher_sha256):
    """Adds the hashes of the files that a training depends on.

    Arguments
    ---------
    record : dict
        From `training_record`.
    splits : dict
        Split to manifest and AddNoise.
    source : str
        Hub name or folder of the pre-trained encoder.
    unlabelled : pathlib.Path or None
        Database of the unlabelled speech of a folder, if it is used.
    teacher_sha256 : str or None
        Hash of the teacher's weights; None for a teacher.

    Returns
    -------
    dict
        The record; hashes that differ from run to run under "content".
    """
    content = {"teacher_sha256": teacher_sha256, "processes": n_processes()}
    content.update(split_hashes(splits, record["speech"] == "noisy"))
    if unlabelled:
        content["unlabelled_speech"] = fingerprint(unlabelled)
    if record["network"] == "teacher":
        record = {**record, "wav2vec2_hub": source_fingerprint(source)}
    return {**record, "content": content}


def comparable_keys(one, other, own):
    """The settings that two systems must share to be comparable.

    Arguments
    ---------
    one : dict
        From `training_record`.
    other : dict
        Of another system.
    own : collection of str
        The keys that the two systems set.

    Returns
    -------
    list of str
        Keys of both; none for networks of different kinds or an untrained one.
    """
    kinds = {
        (record["network"], record["speech"] == "none")
        for record in (one, other)
    }
    if len(kinds) > 1 or ("teacher", True) in kinds:
        return []
    # A changed object is meant to be compared with the unchanged one.
    keys = {*one} & {*other} - {"objects", *own}
    keys -= {key for key in keys if row_of(key).affects == "system"}
    weights = [record.get("loss_weights", {}) for record in (one, other)]
    if not all(map(needs_teacher, weights)):
        keys -= {k for k in keys if row_of(k).affects == "distillation"}
    return sorted(keys)
