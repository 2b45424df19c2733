"""How many threads PyTorch computes on, for a while."""

import contextlib

import torch


@contextlib.contextmanager
def torch_threads(number):
    """Computes on so many threads within, on as many as before afterwards.

    The last bits of a long sum depend on the number of threads.

    Arguments
    ---------
    number : int
        Of threads, at least 1.

    Yields
    ------
    None

    Example
    -------
    >>> with torch_threads(1):
    ...     torch.get_num_threads()
    1
    """
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
