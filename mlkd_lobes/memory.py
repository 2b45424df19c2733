"""How much memory a process has had; needs nothing but Python."""

import pathlib
import resource
import sys


def peak_resident_mb():
    """Most resident memory of this process since its program began.

    Returns
    -------
    float
        In MiB.

    Example
    -------
    >>> peak_resident_mb() > 1
    True
    """
    status = pathlib.Path("/proc/self/status")
    if status.is_file():
        # Linux keeps the parent's `ru_maxrss` when a child starts a program.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
