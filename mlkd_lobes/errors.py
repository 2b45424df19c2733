"""The error that is shown to users as one line, and how commands end."""

import os
import sys


class InputError(ValueError):
    """A file, key or value that is not as expected; the message names it.

    Commands print the message without a traceback and exit with code 1.
    """


# Most messages of one kind that an error lists.
MAX_LISTED = 10


def check_choice(key, value, known, kind=None):
    """Raises if a value is none of the known ones.

    Arguments
    ---------
    key : str
        The setting, or where the value stands.
    value : object
        Its value.
    known : collection of str
        The known values.
    kind : str, optional
        What they are; default: the setting's name.

    Raises
    ------
    InputError
        Listing the known values.
    """
    if not isinstance(value, str) or value not in known:
        raise InputError(
            f"{key}: no {kind or key} '{value}'; the known ones are: "
            f"{', '.join(known)}"
        )


def check_columns(path, required, header):
    """Raises if a table lacks columns.

    Arguments
    ---------
    path : str or pathlib.Path
        The table.
    required : iterable of str
        Columns that must exist.
    header : collection of str
        Those it has.

    Raises
    ------
    InputError
        Naming both.
    """
    missing = [name for name in required if name not in header]
    if missing:
        raise InputError(
            f"{path}: column {', '.join(missing)} is missing; it has: "
            f"{', '.join(map(str, header)) or 'nothing'}"
        )


def listing(title, problems, most=MAX_LISTED):
    """A count and the first of many messages.

    Arguments
    ---------
    title : str
        What the messages have in common.
    problems : sequence of str
        The messages.
    most : int
        How many are shown.

    Returns
    -------
    str
        Text of several lines.
    """
    lines = [f"{len(problems)} {title}:"]
    lines += [f"  {problem}" for problem in problems[:most]]
    if len(problems) > most:
        lines.append(f"  … and {len(problems) - most} more")
    return "\n".join(lines)


def run_command(command, report=None):
    """Runs a command line; an error that a user can mend ends in one line.

    Arguments
    ---------
    command : callable
        Returns the exit code, or None for 0.
    report : callable, optional
        Takes the message of an error; default: to the standard error.

    Returns
    -------
    int
        The exit code: 1 for such an error, 130 after Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        # Names may hold what the terminal's encoding cannot show; files are UTF-8.
        if hasattr(stream, "reconfigure"):
            encoding = None if stream.isatty() else "utf-8"
            stream.reconfigure(encoding=encoding, errors="backslashreplace")
    report = report or (lambda message: print(message, file=sys.stderr))
    try:
        code = command()
        if sys.stdout is not None:
            sys.stdout.flush()
        return code or 0
    except BrokenPipeError:
        # The reader has closed the pipe, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        report("interrupted")
        return 130
    # Also a full disk, or a package that a YAML file of one's own needs.
    except (OSError, ImportError, InputError) as error:
        # What a loader's worker raises begins with its traceback.
        report(f"error: {str(error).rpartition('InputError: ')[2].strip()}")
    return 1
