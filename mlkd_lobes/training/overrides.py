"""How the settings of a run are put together.

Later sources win: the YAML file, `--settings=FILE` (or a list of files), the entry
of the chosen system, the command line. A key that the YAML file does not have is
an error in any of them, and so is one that holds an object.
"""

import datetime
import json
import pathlib
from collections import namedtuple

import torch
from hyperpyyaml.core import resolve_references
from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.constructor import DuplicateKeyError

from mlkd_lobes.errors import InputError, check_choice
from mlkd_lobes.files import expand_home
from mlkd_lobes.training.settings import check_values, row_of, run_options


class Settings(
    namedtuple(
        "Settings",
        ["values", "overrides", "objects", "command_line_keys", "system_keys"],
    )
):
    """Settings of one run.

    `values` of all keys, references resolved; `overrides` to load the YAML file with;
    `objects`, the YAML definitions of the keys that hold objects; `command_line_keys`
    and `system_keys`, the keys that the command line and the system set.
    """


EXACT_RESUME = "training resumes exactly at the end of an epoch only"
# Options of SpeechBrain that contradict this recipe.
REFUSED_OPTIONS = {
    "ckpt_interval_minutes": EXACT_RESUME,
    "ckpt_interval_steps": EXACT_RESUME,
    "data_parallel_backend": "several GPUs need torchrun",
    "remove_vector_weight_decay": "all weights decay; give --weight_decay",
    "optimizer_step_limit": "the learning rate falls over all epochs; give "
    "--teacher_epochs and --student_epochs",
}


def read_settings(hparams_file, command_line, system=None):
    """Puts the settings of a run together and checks them.

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
    Settings
        Of the run.

    Raises
    ------
    InputError
        If a key or the system is unknown, or a value impossible.
    """
    defaults = _load(hparams_file)
    # Elsewhere than on the command line, `settings` would be ignored.
    known = {k: node for k, node in defaults.items() if k != "settings"}
    typed, merged = _parse(command_line, "the command line"), {}
    chosen = expand_home({**defaults, **typed}.get("settings"))
    check_values({"settings": chosen})
    for file in [chosen] if isinstance(chosen, str) else chosen or []:
        _update(merged, _check_keys(_load(file), known, file))
    systems = {}
    for source in (defaults, merged, typed):
        check_values({"systems": source.get("systems", {})})
        _merge(systems, source.get("systems", {}))
    if system is None:
        system = {**defaults, **merged, **typed}.get("system")
    system = "" if system is None else str(system)
    check_choice("system", system, systems)
    for key in {*typed, *merged}:
        if row_of(key).affects == "system":
            raise InputError(
                f"{key}: is set by the system; choose one with --system: "
                f"{', '.join(systems)}"
            )
    _update(merged, _check_keys(systems[system], known, f"system {system}"))
    _update(merged, _check_keys(typed, defaults, "the command line"))
    merged["system"] = system
    for key, value in {**defaults, **merged}.items():
        if expand_home(value) != value:
            merged[key] = expand_home(value)
    objects = {
        key: _plain(node)
        for key, node in defaults.items()
        if _holds_object(node)
    }
    try:
        # Other keys may refer into a mapping: first the values given.
        check_values({k: v for k, v in merged.items() if v != {}})
        values = read_values(hparams_file, merged)
        check_values(values)
    except InputError as error:
        raise InputError(f"{error} (system {system})")
    return Settings(values, merged, objects, list(typed), list(systems[system]))


def read_values(hparams_file, overrides):
    """The plain values of a YAML file with overrides; no object is built.

    Arguments
    ---------
    hparams_file : str
        The recipe's YAML file.
    overrides : dict
        Key to value.

    Returns
    -------
    dict
        Key to value, references resolved.

    Raises
    ------
    InputError
        If a key without default is not given.
    """
    with open(hparams_file, encoding="utf-8") as file:
        try:
            text = resolve_references(file, overrides)
        # A required key is not given, or a reference is broken.
        except ValueError as error:
            raise InputError(f"{hparams_file}: {error}")
    return _parse(text.getvalue(), hparams_file)


def check_arguments(argv, run_opts):
    """Raises for arguments that SpeechBrain's command line would misread.

    It splits a value at every "=".

    Arguments
    ---------
    argv : list of str
        The arguments.
    run_opts : speechbrain.core.RunOptions
        The options read from them.

    Raises
    ------
    InputError
        Naming the argument.
    """
    options = run_opts.as_dict()
    for word in argv:
        if word == run_opts.param_file:
            continue
        name, value = "", word
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
        comment = " #" in f" {value}" and not value.startswith(("'", '"'))
        if name not in options and ("=" in value or comment):
            raise InputError(
                f"{word}: on the command line a key begins with '--' and a value "
                "may contain neither '=' nor ' #'; put such a value into a "
                "settings file (--settings=FILE)"
            )


def check_run_options(values, run_opts, device):
    """Raises for SpeechBrain's options that contradict this recipe.

    Arguments
    ---------
    values : dict
        Of the YAML file, which may set some of them.
    run_opts : speechbrain.core.RunOptions
        From `speechbrain.parse_arguments`.
    device : str
        Where the run computes.

    Raises
    ------
    InputError
        Naming the option.
    """
    for name, reason in REFUSED_OPTIONS.items():
        if run_opts.get(name) or values.get(name):
            raise InputError(f"--{name}: {reason}")
    options = run_options(values, run_opts)
    used = {options["precision"], options["eval_precision"]}
    try:
        torch.empty(0, device=device)
    # PyTorch without support of GPUs raises an AssertionError.
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device={device}: {str(error).splitlines()[0]}")
    half = options["auto_mix_prec"] or "fp16" in used
    if half and device.startswith("cpu") and not values["prepare_only"]:
        raise InputError("precision: fp16 needs a GPU; bf16 does not")


def _update(merged, source):
    """Updates settings, mappings entry by entry.

    {} removes what earlier sources set, but not the YAML file's own entries.
    """
    emptied = [key for key, value in source.items() if value == {}]
    merged.update({key: {} for key in emptied if key != "systems"})
    _merge(merged, source)


def _merge(mapping, source):
    """Updates a mapping; mappings in both entry by entry.

    hyperpyyaml's `recursive_update` raises where only the new value is a mapping.
    """
    for key, value in source.items():
        if isinstance(value, dict) and isinstance(mapping.get(key), dict):
            _merge(mapping[key], value)
        else:
            mapping[key] = value


def _load(path):
    return _parse(pathlib.Path(path).read_bytes(), path)


def _parse(text, where):
    # Only the structure is needed: tags such as !ref are not resolved.
    try:
        content = YAML().load(text or "{}")
    except DuplicateKeyError as error:
        raise InputError(f"{where}: {error.problem}; give it once")
    except YAMLError as error:
        raise InputError(
            f"{where}: is not valid YAML ({' '.join(str(error).split())})"
        )
    if not isinstance(content, dict):
        raise InputError(f"{where}: expected 'key: value' pairs")
    return content


def _check_keys(source, defaults, where):
    """A source's values as JSON has them; raises for unknown keys and objects."""
    for key in source:
        check_choice(where, key, defaults, "key")
        if _holds_object(defaults[key]):
            raise InputError(
                f"{where}: {key} is an object of the YAML file; set the keys "
                "it refers to, or change a copy of that file"
            )
    return {k: _json(v, f"{where}: {k}") for k, v in source.items()}


def _json(value, where):
    """A value as JSON has it; what YAML takes for a date is text."""
    try:
        return json.loads(json.dumps(value, default=_date_as_text))
    except TypeError:
        raise InputError(
            f"{where}: {value!r} is not text, number, list or mapping; text "
            "that YAML reads as something else needs quotes"
        )


def _date_as_text(value):
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


def _plain(node):
    """A YAML node with its tag, in values that JSON takes."""
    if isinstance(node, dict):
        content = {key: _plain(value) for key, value in node.items()}
    elif isinstance(node, list):
        content = [_plain(value) for value in node]
    else:
        content = getattr(node, "value", node)
    return [_tag(node), content] if _tag(node) else content
