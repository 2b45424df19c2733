"""Files written atomically, and hashes that agree between processes.

Files are written beside their destination and renamed, so none is read half-written.
"""

import contextlib
import csv
import errno
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
import unicodedata
import uuid

from mlkd_lobes.errors import InputError, check_columns

PARTIAL_PREFIX = ".partial-"
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
# With less free space than this, in bytes, a disk counts as full.
MIN_FREE_BYTES = 1 << 16


@contextlib.contextmanager
def report_full_disk(path):
    """Replaces the errors a full disk causes by one that names the file and the cause.

    Arguments
    ---------
    path : pathlib.Path
        The file being written.

    Raises
    ------
    InputError
        If the block fails and the disk is full.
    """
    try:
        yield
    except Exception as error:
        existing = next(folder for folder in path.parents if folder.exists())
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if not full and shutil.disk_usage(existing).free >= MIN_FREE_BYTES:
            raise
        raise InputError(
            f"{path}: the disk is full; free some space and repeat the command"
        ) from error


@contextlib.contextmanager
def atomic_path(path):
    """Gives a temporary path that becomes `path` if the block succeeds.

    Arguments
    ---------
    path : str or pathlib.Path
        Destination, a file or a folder; its parent is created. A link is
        followed; a pipe or device is written to at the end.

    Yields
    ------
    pathlib.Path
        Where to write; it keeps the destination's suffix.

    Raises
    ------
    InputError
        If the disk is full.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> with atomic_path(folder / "a.txt") as temporary:
    ...     _ = temporary.write_text("complete")
    >>> (folder / "a.txt").read_text()
    'complete'
    """
    path = pathlib.Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        with tempfile.TemporaryDirectory() as folder:
            temporary = pathlib.Path(folder, path.name)
            yield temporary
            path.write_bytes(temporary.read_bytes())
        return
    path = pathlib.Path(os.path.realpath(path))
    name = f"{PARTIAL_PREFIX}{uuid.uuid4().hex[:8]}-{path.name}"
    temporary = path.with_name(name)
    try:
        with report_full_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
        if temporary.is_dir() and path.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        remove(temporary)


def remove(path):
    """Removes a file or a folder, if it exists.

    Arguments
    ---------
    path : pathlib.Path
        The file or folder.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def refuse_lfs_pointer(path):
    """Raises if a file is a pointer that Git LFS has not replaced yet.

    Arguments
    ---------
    path : str or pathlib.Path
        The file.

    Raises
    ------
    InputError
        Naming the file and the command that downloads it.
    """
    with open(path, "rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise InputError(
                f"{path}: is a Git LFS pointer, not the file itself; run "
                "`git lfs pull` in its folder"
            )


def write_json(path, content):
    """Writes JSON atomically, keys in the order given.

    Arguments
    ---------
    path : str or pathlib.Path
        Destination.
    content : dict or list
        Anything `json` takes; NaN is refused.
    """
    with atomic_path(path) as temporary:
        text = json.dumps(content, indent=1, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path, kind=None):
    """Reads JSON.

    Arguments
    ---------
    path : str or pathlib.Path
        The file; also inside a zip archive (zipfile.Path).
    kind : type, optional
        What the content must be, e.g. dict.

    Returns
    -------
    object
        Its content.

    Raises
    ------
    InputError
        If it is damaged, or of another kind.
    """
    path = pathlib.Path(path) if isinstance(path, str) else path
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        if isinstance(path, pathlib.Path):
            refuse_lfs_pointer(path)
        raise InputError(
            f"{path}: is not valid JSON ({error}); mend or delete it"
        )
    if kind and not isinstance(content, kind):
        raise InputError(f"{path}: expected a JSON {kind.__name__}; delete it")
    return content


def write_csv(path, header, rows):
    """Writes a CSV file atomically.

    Arguments
    ---------
    path : str or pathlib.Path
        Destination.
    header : sequence of str
        Column names.
    rows : iterable of sequences
        One sequence of values per row.
    """
    with atomic_path(path) as temporary:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            for row in [header, *rows]:
                write_row(file, row)


def write_row(file, row):
    """Writes a row of values as CSV.

    Arguments
    ---------
    file : io.TextIOBase
        Open for writing.
    row : sequence
        The values.

    Example
    -------
    >>> import sys
    >>> write_row(sys.stdout, ["a", 1])
    a,1
    """
    # A carriage return needs quotes, too.
    has_return = any("\r" in str(value) for value in row)
    quoting = csv.QUOTE_ALL if has_return else csv.QUOTE_MINIMAL
    csv.writer(file, lineterminator="\n", quoting=quoting).writerow(row)


def spelled(folder, name):
    """A file's name as on disk, whatever its Unicode form and separators.

    Arguments
    ---------
    folder : str or pathlib.Path
        The folder of a table.
    name : str
        The file's path in the table.

    Returns
    -------
    str
        The spelling of the file that exists, else the name unchanged.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "e\u0301.wav").touch()
    >>> spelled(folder, "\u00e9.wav") == "e\u0301.wav"
    True
    """
    forms = [name, name.replace("\\", "/")]
    forms += [
        unicodedata.normalize(f, n) for n in forms for f in ("NFC", "NFD")
    ]
    found = (f for f in forms if os.path.exists(os.path.join(folder, f)))
    return next(found, name)


def expand_home(value):
    """Expands a leading "~" in a setting or option, as a shell does.

    Arguments
    ---------
    value : object
        Text, or a list or dict that holds some.

    Returns
    -------
    object
        The value with all its strings expanded.
    """
    if isinstance(value, str) and value.startswith("~"):
        return os.path.expanduser(value)
    if isinstance(value, list):
        return [expand_home(item) for item in value]
    if isinstance(value, dict):
        return {key: expand_home(item) for key, item in value.items()}
    return value


def composed(text):
    """A name in composed Unicode (NFC), so that both spellings are one.

    Arguments
    ---------
    text : str or None
        Of a speaker, a session, an emotion, a noise type.

    Returns
    -------
    str or None
        Composed; None stays None.

    Example
    -------
    >>> composed("e\u0301") == "\u00e9"
    True
    """
    return text and unicodedata.normalize("NFC", text)


def read_csv(path, required=()):
    """A list of what `iterate_csv` yields, with the same arguments."""
    return list(iterate_csv(path, required))


def iterate_csv(path, required=()):
    """Reads a CSV file with a header into dictionaries, row by row.

    Arguments
    ---------
    path : str or pathlib.Path
        The file, UTF-8 (a byte order mark is skipped).
    required : sequence of str
        Columns that must exist.

    Yields
    ------
    dict
        Values of a row, stripped of white space.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    InputError
        If it is not CSV in UTF-8, a required column is missing, a column comes
        twice, or a row has more or fewer fields than the header.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such file")
    refuse_lfs_pointer(path)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True, strict=True)
            yield from _read_rows(path, reader, required)
    except (UnicodeDecodeError, csv.Error) as error:
        place = f"{path}, line {reader.line_num}"
        raise InputError(f"{place}: is not a CSV file in UTF-8 ({error})")


def _read_rows(path, reader, required):
    """Rows of a CSV file; spreadsheets add columns without a name."""
    header = [name.strip() for name in reader.fieldnames or []]
    reader.fieldnames = header
    check_columns(path, required, header)
    twice = sorted({n for n in header if n and header.count(n) > 1})
    if twice:
        raise InputError(f"{path}: column {', '.join(twice)} comes twice")
    for row in reader:
        if None in row or None in row.values():
            raise InputError(
                f"{path}, line {reader.line_num}: expected "
                f"{len(header)} fields, as in the header"
            )
        yield {key: value.strip() for key, value in row.items()}


def file_sha256(path):
    """Hash of a file's bytes.

    Arguments
    ---------
    path : str or pathlib.Path
        The file.

    Returns
    -------
    str
        SHA-256 in hexadecimal.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def sampled_sha256(path, block=1 << 16):
    """Hash of a file's size, beginning, middle and end.

    Distinguishes recordings without reading hundreds of hours.

    Arguments
    ---------
    path : str or pathlib.Path
        The file.
    block : int
        Bytes read at each of the three places.

    Returns
    -------
    str
        SHA-256 in hexadecimal.
    """
    size = os.path.getsize(path)
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        for start in (0, max(0, size // 2 - block // 2), max(0, size - block)):
            file.seek(start)
            digest.update(file.read(block))
    return digest.hexdigest()


def text_sha256(content):
    """Hash of anything JSON takes, independent of the order of its keys.

    Arguments
    ---------
    content : object
        What to hash.

    Returns
    -------
    str
        SHA-256 in hexadecimal.
    """
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def stable_seed(*key):
    """A seed that is the same in every process (Python's `hash` is not).

    Arguments
    ---------
    *key : str, int, float or None
        What the draw depends on.

    Returns
    -------
    int
        In [0, 2**63).

    Example
    -------
    >>> stable_seed(1, "utterance") == stable_seed(1, "utterance")
    True
    >>> stable_seed(1, "utterance") == stable_seed(2, "utterance")
    False
    """
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
