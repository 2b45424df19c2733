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
    if not isinstance(system, str) or system not in systems:
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
        _update(merged, _check_keys(source, defaults, where))
    merged["system"] = system
    return merged


def check_arguments(argv, run_opts, command_line):
    """Refuses what SpeechBrain's command line would take for something else.

    It splits a value at every "=", and takes the beginning of an option's name
    for the option.

    Arguments
    ---------
    argv : list of str
        What was typed.
    run_opts : speechbrain.utils.run_opts.RunOptions
        The options read from it.
    command_line : str
        The overrides read from it, in YAML.

    Raises
    ------
    SettingsError
        Naming the argument.
    """
    options = run_opts.as_dict()
    words = [
        (word, *_name_and_value(word))
        for word in argv
        if word != run_opts.param_file
    ]
    for word, name, value in words:
        if name not in options and _is_cut(value):
            raise SettingsError(
                f"{word}: on the command line a value may hold neither '=' nor "
                "' #'; put it into a settings file (--settings=FILE)"
            )
    known = {None, "", *options, *command_line_keys(command_line)}
    for _, name, _ in words:
        for option in options:
            if name not in known and option.startswith(name):
                raise SettingsError(
                    f"--{name}: give the option's full name, --{option}"
                )


def _name_and_value(word):
    """Of --NAME=VALUE; a word of another kind is a value."""
    if not word.startswith("--"):
        return None, word
    name, _, value = word[2:].partition("=")
    return name, value


def _is_cut(value):
    """Whether SpeechBrain splits a value, or YAML takes its end for a comment."""
    return "=" in value or (
        " #" in f" {value}" and not value.startswith(("'", '"'))
    )


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
        _update(merged, content)
    systems = dict(defaults["systems"])
    for source in (merged, typed):
        recursive_update(systems, _checked_systems(source.get("systems", {})))
    return defaults, merged, typed, systems


def _update(merged, source):
    """Later settings over earlier ones: mappings entry by entry.

    {} takes back what earlier ones set, not what the YAML file itself says.
    """
    emptied = [key for key, value in source.items() if value == {}]
    merged.update({key: {} for key in emptied if key != "systems"})
    recursive_update(merged, source)


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
    if not isinstance(value, str) or value not in known:
        raise SettingsError(
            f"{key}: no {key} '{value}'; the known ones are: {', '.join(known)}"
        )
