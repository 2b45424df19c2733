"""What is said to a user whose input is not as expected."""


class InputError(ValueError):
    """A file, key or value that is not as expected; the message names it.

    Commands end with the message alone: a traceback would tell a user nothing.
    """
