"""What a training depends on, as far as its settings say."""

import json

from settings import SYSTEM_KEYS

from mlkd_lobes.distillation import needs_teacher

# What students do not depend on where no loss asks for a teacher.
DISTILLATION_KEYS = (
    "unlabelled",
    "kd_levels",
    "loss_weights",
    "cosine_weight",
    "temperature",
    "distillation_epochs",
)
# What the teacher on clean speech does not depend on.
STUDENT_KEYS = (
    *DISTILLATION_KEYS,
    "student_freeze_cnn",
    "student_layers",
    "student_epochs",
    "student_lr",
    "student_encoder",
    "losses",
    "projection",
)
# What a student depends on through its teacher alone.
TEACHER_KEYS = (
    "teacher_epochs",
    "teacher_lr",
    "teacher_freeze_cnn",
    "teacher_dropout",
)
# What systems trained on clean speech do not depend on.
NOISE_KEYS = (
    "noise_corpus",
    "noise_types",
    "snr_low",
    "snr_high",
    "clean_share",
    "valid_snrs",
)
# Run options that training depends on.
TRAINING_OPTIONS = (
    "auto_mix_prec",
    "bfloat16_mix_prec",
    "debug",
    # Scores of validation speech choose the epoch.
    "eval_precision",
    "debug_batches",
    "debug_epochs",
    "precision",
    "skip_nonfinite_grads",
    "max_grad_norm",
    "grad_accumulation_factor",
)
# What all runs of an output folder have in common, as far as they have it.
SHARED_KEYS = (
    "label_map",
    "columns",
    "noise_corpus",
    "noise_types",
    "corpus",
    "corpus_name",
    "protocol",
    "fold",
    "n_folds",
    "seed",
    "labels",
)
# What neither a network nor its results depend on, whatever it is.
PLACE_KEYS = (
    "settings",
    "systems",
    "system",
    "results_folder",
    "output_folder",
    "prepare_only",
    "train_only",
    "wav2vec2_folder",
    "eval_batch_length",
    "num_workers",
)
# Who writes down what a training does.
LOGGER_KEYS = ("train_logger", "tensorboard_logger")
# What only evaluation depends on, or nothing but time and place.
OTHER_KEYS = (
    *PLACE_KEYS,
    *LOGGER_KEYS,
    "data_folder",
    "skip_prep",
    "partial_corpus",
    "train_annotation",
    "valid_annotation",
    "test_annotation",
    "noise_folder",
    "babble_folder",
    "noise_annotation",
    "noise_valid_annotation",
    "noise_test_annotation",
    "wav2vec2_hub",
    "teacher_folder",
    "unseen_noise",
    "test_snrs",
)


def training_options(values, run_opts):
    """SpeechBrain's run options, as far as training depends on them.

    Arguments
    ---------
    values : dict
        Values of the YAML file, which may hold some of them.
    run_opts : speechbrain.core.RunOptions
        From `speechbrain.parse_arguments`; what stands on the command line wins.

    Returns
    -------
    dict
        Value of every option.
    """
    return {
        name: values[name]
        if name in values and name not in run_opts.overridden_args
        else getattr(run_opts, name)
        for name in TRAINING_OPTIONS
    }


def stage_settings(hparams):
    """What a trained network depends on, as far as settings say it.

    Arguments
    ---------
    hparams : dict
        Loaded hyperparameters of a system.

    Returns
    -------
    dict
        Plain values; two equal ones mean the same training.
    """
    ignored = set(OTHER_KEYS)
    if hparams["network"] == "teacher":
        ignored.update(STUDENT_KEYS)
    else:
        ignored.update(TEACHER_KEYS)
    if hparams["speech"] != "noisy":
        ignored.update(NOISE_KEYS)
    settings = {
        key: value
        for key, value in hparams.items()
        if key not in ignored and _is_plain(value)
    }
    settings["objects"] = {
        key: definition
        for key, definition in hparams["objects"].items()
        if key not in ignored
    }
    return json.loads(json.dumps(settings))


def common_keys(one, other, own):
    """What two trainings must have in common to be compared.

    Arguments
    ---------
    one : dict
        From `stage_settings`.
    other : dict
        Of another system.
    own : collection of str
        The keys that make the two systems what they are.

    Returns
    -------
    list of str
        Keys that both have; none of a teacher and a student.
    """
    kinds = {
        (run.get("network"), run.get("speech") == "none")
        for run in (one, other)
    }
    if len(kinds) > 1 or ("teacher", True) in kinds:
        return []
    # A changed object is for comparing with what the unchanged one gave.
    keys = {*one} & {*other} - {*SYSTEM_KEYS, "objects", *own}
    weights = [run.get("loss_weights", {}) for run in (one, other)]
    if not all(map(needs_teacher, weights)):
        keys -= {*DISTILLATION_KEYS}
    return sorted(keys)


def _is_plain(value):
    if isinstance(value, dict):
        return all(_is_plain(v) for v in value.values())
    if isinstance(value, (list, tuple)):
        return all(_is_plain(v) for v in value)
    return value is None or isinstance(value, (bool, int, float, str))
