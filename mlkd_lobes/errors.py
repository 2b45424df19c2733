"""The error that is shown to users as one line."""


class InputError(ValueError):
    """A file, key or value that is not as expected; the message names it.

    Commands print the message without a traceback and exit with code 1.
    """


def check_choice(key, value, known):
    """Raises if a value is none of the known ones.

    Arguments
    ---------
    key : str
        The setting.
    value : object
        Its value.
    known : collection of str
        The known values.

    Raises
    ------
    InputError
        Listing the known values.
    """
    if not isinstance(value, str) or value not in known:
        raise InputError(
            f"{key}: no {key} '{value}'; the known ones are: {', '.join(known)}"
        )
