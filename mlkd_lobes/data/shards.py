"""Recordings inside tar archives, as WebDataset ships large collections.

They are read in place and in any order: a crop is a seek in its shard, so that a
resumed training gets the same crops.
"""

import contextlib
import os
import tarfile
from collections import namedtuple

from mlkd_lobes.errors import InputError

SUFFIX = ".tar"


class Member(namedtuple("Member", ["shard", "name", "offset", "size"])):
    """A file in a shard: its name, and where its bytes are."""

    def __str__(self):
        return f"{self.shard}/{self.name}"


def members(shard):
    """Files of a shard, one after the other.

    Arguments
    ---------
    shard : str or pathlib.Path
        A tar archive that is not compressed.

    Yields
    ------
    Member
        In their order.

    Raises
    ------
    InputError
        If it is not such an archive, or ends early.
    """
    try:
        with tarfile.open(shard, "r:") as tar:
            while (info := tar.next()) is not None:
                # Otherwise tarfile keeps all members that it has read.
                tar.members = []
                if info.isfile():
                    place = info.offset_data, info.size
                    yield Member(str(shard), info.name, *place)
    except (tarfile.TarError, EOFError) as error:
        raise InputError(f"{shard}: is not a complete tar archive ({error})")


@contextlib.contextmanager
def open_file(path):
    """Opens a file, or one in a shard, for reading bytes.

    Arguments
    ---------
    path : str, pathlib.Path or Member
        The file.

    Yields
    ------
    file : io.RawIOBase or io.BufferedReader
        Open, at its beginning.
    size : int
        In bytes.
    """
    if not isinstance(path, Member):
        with open(path, "rb", buffering=0) as file:
            yield file, os.fstat(file.fileno()).st_size
        return
    info = tarfile.TarInfo(path.name)
    info.offset_data, info.size = path.offset, path.size
    try:
        with tarfile.open(path.shard, "r:") as tar:
            with tar.extractfile(info) as file:
                yield file, path.size
    except tarfile.TarError as error:
        raise InputError(f"{path}: cannot be read ({error})")
