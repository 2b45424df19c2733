"""From a YAML file, a settings file, a system and a command line to one run.

Later ones win: the YAML's defaults, then `--settings=FILE` (or a list of files),
then the entry of the chosen system, then the command line. A key that the YAML
does not know is an error, wherever it comes from, and so is one whose value is an
object: what may be set of an object is a key of its own.
"""

import datetime
import json
import pathlib
import re

from hyperpyyaml.core import recursive_update, resolve_references
from ruamel.yaml import YAML, YAMLError

from mlkd_lobes.errors import InputError

# What makes a system: no other source may set it.
SYSTEM_KEYS = ("network", "speech")
# What the teacher on clean speech does not depend on.
STUDENT_KEYS = (
    "unlabelled",
    "student_freeze_cnn",
    "student_layers",
    "kd_levels",
    "loss_weights",
    "cosine_weight",
    "temperature",
    "distillation_epochs",
    "student_epochs",
    "student_lr",
    "student_encoder",
    "losses",
    "projection",
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
# Losses that need a teacher, and no label.
DISTILLATION = ("features", "logits")
# What a student depends on through its teacher alone.
TEACHER_KEYS = (
    "teacher_epochs",
    "teacher_lr",
    "teacher_freeze_cnn",
    "teacher_dropout",
)
# Run options that training depends on.
TRAINING_OPTIONS = (
    "auto_mix_prec",
    "bfloat16_mix_prec",
    "debug",
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
# What students do not depend on where no loss asks for a teacher.
DISTILLATION_KEYS = (
    "unlabelled",
    "kd_levels",
    "loss_weights",
    "cosine_weight",
    "temperature",
    "distillation_epochs",
)
# What only evaluation depends on, or nothing but time and place.
OTHER_KEYS = (
    "settings",
    "systems",
    "system",
    "data_folder",
    "results_folder",
    "output_folder",
    "skip_prep",
    "prepare_only",
    "train_only",
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
    "wav2vec2_folder",
    "teacher_folder",
    "unseen_noise",
    "test_snrs",
    "eval_batch_length",
    "num_workers",
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


class SettingsError(InputError):
    """A setting that is unknown, or differs from that of an earlier run."""


def resolve_overrides(hparams_file, command_line, system=None):
    """All overrides of a run, as one mapping.

    Arguments
    ---------
    hparams_file : str
        The recipe's YAML file.
    command_line : str
        Overrides in YAML, as `speechbrain.parse_arguments` returns them.
    system : str, optional
        Instead of the one that these choose.

    Returns
    -------
    dict
        What to load the YAML file with.

    Raises
    ------
    SettingsError
        If a key or the system is not known.
    """
    defaults, merged, typed, systems = _sources(hparams_file, command_line)
    for source in (typed, merged, defaults):
        system = system or source.get("system")
    if system not in systems:
        raise SettingsError(
            f"system: no system '{system}'; the known ones are: "
            f"{', '.join(systems)}"
        )
    for key in SYSTEM_KEYS:
        if key in typed or key in merged:
            raise SettingsError(
                f"{key}: is set by the system; choose one with --system: "
                f"{', '.join(systems)}"
            )
    for source, where in (
        (systems[system], f"system {system}"),
        (typed, "the command line"),
    ):
        recursive_update(merged, _check_keys(source, defaults, where))
    merged["system"] = system
    return merged


def command_line_keys(command_line):
    """The keys that a command line sets.

    Arguments
    ---------
    command_line : str
        Overrides in YAML.

    Returns
    -------
    list of str
        Their names.
    """
    return list(_parse(command_line, "the command line"))


def keys_of_system(hparams_file, command_line, system):
    """What a system is: the keys that its entry sets.

    Arguments
    ---------
    hparams_file : str
        The recipe's YAML file.
    command_line : str
        Overrides in YAML.
    system : str
        A known system.

    Returns
    -------
    list of str
        Their names.
    """
    return list(_sources(hparams_file, command_line)[3][system])


def _sources(hparams_file, command_line):
    """Defaults, settings files, command line, and the systems of all three."""
    defaults = _load(pathlib.Path(hparams_file))
    typed, merged = _parse(command_line, "the command line"), {}
    for file in _settings_files({**defaults, **typed}.get("settings")):
        content = _check_keys(_load(pathlib.Path(file)), defaults, file)
        _refuse_settings(content, file)
        recursive_update(merged, content)
    systems = dict(defaults["systems"])
    for source in (merged, typed):
        recursive_update(systems, _checked_systems(source.get("systems", {})))
    return defaults, merged, typed, systems


def _settings_files(value):
    """The files that `settings` names: one, several or none."""
    files = [value] if isinstance(value, str) else value or []
    if not isinstance(files, list) or not all(
        isinstance(f, str) for f in files
    ):
        raise SettingsError(
            f"settings: {value!r} is neither a file nor a list of files"
        )
    return files


def _refuse_settings(content, where):
    """Settings are not read from where they would come too late."""
    if "settings" in content:
        raise SettingsError(
            f"{where}: settings: names files of settings on the command line "
            "or in the YAML file alone; several are a list"
        )


def _checked_systems(systems):
    """Systems of a user's own: names that can be folders, and overrides."""
    if not isinstance(systems, dict):
        raise SettingsError(
            f"systems: {systems!r} is no mapping of names to overrides"
        )
    for name, overrides in systems.items():
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", str(name)):
            raise SettingsError(
                f"systems: '{name}' is no name of letters, digits, '_', '-' "
                "and '.'"
            )
        if not isinstance(overrides, dict):
            raise SettingsError(
                f"systems: {name}: {overrides!r} is no mapping of keys to "
                "values; {} for none"
            )
        _refuse_settings(overrides, f"systems: {name}")
    return systems


def resolved_values(hparams_file, overrides):
    """The plain values of a YAML file with overrides; no object is built.

    Arguments
    ---------
    hparams_file : str
        The recipe's YAML file.
    overrides : dict
        From `resolve_overrides`.

    Returns
    -------
    dict
        Key to value, references resolved.

    Raises
    ------
    SettingsError
        If a key that has no default is not given.
    """
    with open(hparams_file, encoding="utf-8") as file:
        try:
            text = resolve_references(file, overrides)
        # A key that has to be given is not, or a reference leads nowhere.
        except ValueError as error:
            raise SettingsError(f"{hparams_file}: {error}")
    return _parse(text.getvalue(), hparams_file)


def _load(path):
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such settings file")
    try:
        return _parse(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: is no text in UTF-8 ({error})")


def _parse(text, where):
    # Only the structure is needed: tags such as !ref stay unread.
    try:
        content = YAML().load(text or "{}")
    except YAMLError as error:
        raise SettingsError(
            f"{where}: is no YAML ({' '.join(str(error).split())})"
        )
    if not isinstance(content, dict):
        raise SettingsError(f"{where}: expected 'key: value' pairs")
    return content


def _check_keys(source, defaults, where):
    for key in source:
        if key not in defaults:
            known = [name for name in defaults if not name.startswith("__")]
            raise SettingsError(
                f"{where}: no key '{key}'; the known ones are: "
                f"{', '.join(known)}"
            )
        if _holds_object(defaults[key]):
            raise SettingsError(
                f"{where}: {key} is an object of the YAML file; set the keys "
                "it refers to, or change a copy of that file"
            )
    return {
        key: _json(value, f"{where}: {key}") for key, value in source.items()
    }


def _json(value, where):
    """A value as JSON has it; a day, which YAML takes for a date, as text."""
    try:
        return json.loads(json.dumps(value, default=_day))
    except TypeError:
        raise SettingsError(
            f"{where}: {value!r} is no text, number, list or mapping; text that "
            "YAML takes for something else needs quotes"
        )


def _day(value):
    """What was typed for a date, such as a folder's name."""
    if type(value) is datetime.date:
        return value.isoformat()
    raise TypeError


def _tag(node):
    """The YAML tag of a node, None for plain ones."""
    return getattr(getattr(node, "tag", None), "value", None)


def _holds_object(node):
    """Whether a node, or one in it, is built from a class or a function."""
    if (_tag(node) or "").startswith(("!new:", "!name:", "!apply:")):
        return True
    return isinstance(node, dict) and any(map(_holds_object, node.values()))


def object_definitions(hparams_file):
    """What a YAML file says of its objects, references left as they are.

    Arguments
    ---------
    hparams_file : str
        The recipe's YAML file.

    Returns
    -------
    dict
        Key to tag and arguments, as plain values.
    """
    content = _load(pathlib.Path(hparams_file))
    return {
        key: _plain(node)
        for key, node in content.items()
        if _holds_object(node)
    }


def _plain(node):
    """A YAML node with its tag, in values that JSON takes."""
    if isinstance(node, dict):
        content = {key: _plain(value) for key, value in node.items()}
    elif isinstance(node, list):
        content = [_plain(value) for value in node]
    else:
        content = getattr(node, "value", node)
    return [_tag(node), content] if _tag(node) else content


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


def needs_teacher(weights):
    """Whether a loss asks for a teacher.

    Arguments
    ---------
    weights : dict
        Weight of each named loss.

    Returns
    -------
    bool
        True if one of `DISTILLATION` has a weight.
    """
    return any(weights.get(name) for name in DISTILLATION)


def _is_plain(value):
    if isinstance(value, dict):
        return all(_is_plain(v) for v in value.values())
    if isinstance(value, (list, tuple)):
        return all(_is_plain(v) for v in value)
    return value is None or isinstance(value, (bool, int, float, str))


def check_choices(key, value, known):
    """Refuses a value that is none of the known ones.

    Arguments
    ---------
    key : str
        The setting.
    value : str
        Its value.
    known : sequence of str
        The known values.

    Raises
    ------
    SettingsError
        Listing them.
    """
    if value not in known:
        raise SettingsError(
            f"{key}: no {key} '{value}'; the known ones are: {', '.join(known)}"
        )
