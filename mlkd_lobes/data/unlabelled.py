"""Unlabelled speech of any length and amount, cut into crops.

Recordings and their crops are listed in a database on disk: a thousand hours need no
more memory than ten. Preparation reads headers only. Crops are as long as labelled
utterances, so that they fit into their batches.
"""

import contextlib
import hashlib
import itertools
import json
import math
import os
import pathlib
import random
import sqlite3
from collections import Counter

import torch
from torch.utils.data import Dataset

from mlkd_lobes import files
from mlkd_lobes.data import audio, shards
from mlkd_lobes.data.batches import torch_threads
from mlkd_lobes.data.leakage import HeldOut
from mlkd_lobes.errors import InputError
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)
# Recordings tried in place of a damaged one.
MAX_DAMAGED = 20

RECORDED = (*audio.AUDIO_SUFFIXES, shards.SUFFIX)
TABLES = """
create table recordings (name, shard, path, offset, size);
create table cut (recording, start, stop);
create table about (digest);
"""
# Numbered by length, so that the crops up to a length are a range.
SORT = """
create table crops as select * from cut order by round(stop - start, 4), rowid;
drop table cut;
"""
CROP = """
select name, shard, path, offset, size, start, stop
from crops join recordings on recordings.rowid = crops.recording
where crops.rowid = ?
"""
COUNT = "select count(*) from crops where round(stop - start, 4) <= ?"


def database_path(folder, sources, lengths, held_out):
    """The path of the database of these sources, crop lengths and held-out speech.

    Other inputs, or a changed table, shard or folder, give another path: the
    database that a running training reads is never overwritten.

    Arguments
    ---------
    folder : str or pathlib.Path
        Where databases are kept.
    sources, lengths, held_out
        See `prepare_unlabelled`.

    Returns
    -------
    pathlib.Path
        Its path.
    """
    speakers = [[entry["wav"], entry["speaker"]] for entry in held_out]
    digest = hashlib.sha256(files.text_sha256([lengths, speakers]).encode())
    for source in _as_list(sources):
        for path in _source_files(source):
            state = os.stat(path)
            about = f"{path} {state.st_size} {state.st_mtime_ns} "
            digest.update(about.encode(errors="surrogateescape"))
    return pathlib.Path(folder, f"unlabelled-{digest.hexdigest()[:8]}.db")


def _as_list(sources):
    return [sources] if isinstance(sources, str) else sources


def _table_of(source):
    """The table of a source, the shard it is, or the folder itself."""
    table = source / "manifest.csv"
    return table if table.is_file() else source


def _source_files(source):
    """Paths of the table or shard that a source is, or of all files in it."""
    table = _table_of(pathlib.Path(source).absolute())
    if not table.is_dir():
        return [table] if table.is_file() else []
    return audio.walk_audio(table, RECORDED)


def prepare_unlabelled(database, sources, lengths, held_out):
    """Lists unlabelled recordings and cuts them, unless that is done.

    The lengths of crops are drawn from those of the labelled utterances; a
    recording no longer than the length drawn for it is not cut. Left out, with a
    warning: recordings and named speakers that are held out, and what cannot be
    read.

    Arguments
    ---------
    database : pathlib.Path
        From `database_path`.
    sources : str or list of str
        Folders with audio or shards at any depth, or with a manifest.csv (path,
        and optionally speaker, start, end in seconds); or the path of such a
        table or of a shard.
    lengths : list of float
        Seconds of the labelled utterances.
    held_out : list of dict
        Entries of validation and test, and of what their noise is made of:
        `wav`, a path, and `speaker`.

    Raises
    ------
    InputError
        If a source cannot be read, or nothing is left.
    """
    if database.exists():
        logger.info(f"{database}: prepared already.")
        return
    left_out = Counter()
    rows = _usable(sources, HeldOut(held_out), left_out)
    with files.atomic_path(database) as temporary:
        try:
            with contextlib.closing(sqlite3.connect(temporary)) as db:
                db.executescript("pragma journal_mode = off;" + TABLES)
                n, seconds = _fill(db, rows, sorted(lengths))
                db.executescript(SORT)
                db.commit()
        except sqlite3.Error as error:
            raise InputError(f"{database}: cannot be written ({error})")
        for reason, number in left_out.items():
            logger.warning(f"unlabelled_folder: {number} left out: {reason}")
        if not n:
            raise InputError(f"unlabelled_folder: no speech in {sources}")
    logger.info(f"Unlabelled: {n} recordings, {seconds / 3600:.2f} h")


def _fill(db, rows, lengths):
    """Writes recordings and crops; number and seconds of the recordings."""
    digest, n, total = hashlib.sha256(), 0, 0.0
    for n, (name, path, size, start, stop) in enumerate(rows, start=1):
        place = (None, str(path), None, None)
        if isinstance(path, shards.Member):
            place = tuple(path)
        db.execute("insert into recordings values (?,?,?,?,?)", (name, *place))
        crops = ((n, *crop) for crop in cut(name, start, stop, lengths))
        db.executemany("insert into cut values (?,?,?)", crops)
        digest.update(json.dumps([name, size, start, stop]).encode())
        total += stop - start
    db.execute("insert into about values (?)", [digest.hexdigest()])
    return n, total


def cut(name, start, stop, lengths):
    """Crops of a recording, which cover it; the last may overlap with another.

    Arguments
    ---------
    name : str
        Of the recording, the key of all draws.
    start : float
        Its beginning in seconds.
    stop : float
        Its end.
    lengths : list of float
        Seconds, of which one is drawn for each crop.

    Yields
    ------
    start : float
        Of a crop, in seconds.
    stop : float
        Its end.

    Example
    -------
    >>> list(cut("a", 1.0, 2.5, [2.0]))
    [(1.0, 2.5)]
    >>> list(cut("a", 0.0, 5.0, [2.0]))
    [(0.0, 2.0), (2.0, 4.0), (3.0, 5.0)]
    """
    generator, begin = random.Random(files.stable_seed("crops", name)), start
    length = generator.choice(lengths)
    if stop - start <= length:
        yield start, stop
        return
    while start < stop:
        # The last ones are no longer than the recording.
        length = min(length, stop - begin)
        first = min(start, stop - length)
        yield round(first, 4), round(first + length, 4)
        start, length = start + length, generator.choice(lengths)


def _usable(sources, held_out, left_out):
    """Name, path, size, start and stop of what may be used; counts the rest."""
    for number, source in enumerate(_as_list(sources)):
        for name, path, row in _recordings(pathlib.Path(source).absolute()):
            try:
                times = _times(row, path)
                first, last, info = audio.frame_bounds(path, *times)
                with shards.open_file(path) as (_, size):
                    known = held_out.has(path, size, row.get("speaker"))
            except InputError as error:
                left_out[str(error) if len(left_out) < 9 else "…"] += 1
                continue
            if known:
                left_out["of validation, test or their noise"] += 1
                continue
            times = (round(b / info.sample_rate, 4) for b in (first, last))
            yield f"{number}/{name}", path, size, *times


def _times(row, path):
    """Start and end of a recording, if its table names them."""
    keys = "start", "end"
    return [audio.to_seconds(row.get(k), f"{path}: {k}") for k in keys]


def _recordings(source):
    """Name, path and row of the recordings of a source, one by one."""
    table = _table_of(source)
    kind = table.suffix.lower() if table.is_file() else None
    if kind == ".csv":
        for row in files.iterate_csv(table, ["path"]):
            # Not a pathlib.Path, which keeps the names of all files in memory.
            path = files.spelled(table.parent, row["path"])
            yield row["path"], os.path.join(table.parent, path), row
    elif kind == shards.SUFFIX:
        yield from _members(table.name, table)
    elif not table.is_dir():
        raise InputError(
            f"unlabelled_folder: {table} is neither a folder nor a table (.csv) "
            f"or shard ({shards.SUFFIX})"
        )
    else:
        for path in audio.walk_audio(source, RECORDED):
            name = os.path.relpath(path, source)
            if path.lower().endswith(shards.SUFFIX):
                yield from _members(name, path)
            else:
                yield name, path, {}


def _members(name, shard):
    """The recordings of a shard; of samples other files are skipped."""
    for member in shards.members(shard):
        hidden = os.path.basename(member.name).startswith(".")
        if member.name.lower().endswith(audio.AUDIO_SUFFIXES) and not hidden:
            # Some archives hold several files of one name.
            yield f"{name}/{member.offset}/{member.name}", member, {}


def fingerprint(database):
    """Hash of the recordings' names, sizes and lengths, not of their folder.

    Arguments
    ---------
    database : str or pathlib.Path
        From `prepare_unlabelled`.

    Returns
    -------
    str
        Hexadecimal.
    """
    return _query(database, "select digest from about")[0]


def _query(database, text, *values):
    """The first row of a query."""
    uri = f"{pathlib.Path(database).absolute().as_uri()}?mode=ro&immutable=1"
    # A connection each: none may be shared by processes.
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as db:
            return db.execute(text, values).fetchone()
    except sqlite3.Error as error:
        raise InputError(f"{database}: cannot be read ({error})")


class Crops(Dataset):
    """Crops of unlabelled recordings as training items, from short to long.

    Arguments
    ---------
    database : str or pathlib.Path
        From `prepare_unlabelled`.
    noise : mlkd_lobes.noise.add_noise.KeyedAddNoise or None
        Makes them noisy; None: they stay clean.
    """

    def __init__(self, database, noise):
        self.database, self.noise = database, noise
        (self.number,) = _query(database, "select count(*) from crops")

    def __len__(self):
        return self.number

    def count_up_to(self, seconds):
        """Number of crops that are at most this long.

        Arguments
        ---------
        seconds : float
            Their length.

        Returns
        -------
        int
            They are the first ones.
        """
        return _query(self.database, COUNT, seconds)[0]

    def __getitem__(self, i):
        """A crop; if its recording is damaged, the next shorter one of another or,
        where there is none, the beginning of the next longer one."""
        damaged, longest = set(), None
        shorter = range(i, -1, -1)
        for place in itertools.chain(shorter, range(i + 1, self.number)):
            name, *row, start, stop = _query(self.database, CROP, place + 1)
            longest = longest or stop - start
            try:
                if name not in damaged:
                    stop = min(stop, start + longest)
                    return self._item(name, *row, start, stop)
            except InputError as error:
                damaged.add(name)
                logger.warning(f"unlabelled_folder: {error}")
                if len(damaged) == MAX_DAMAGED:
                    break
        raise InputError(f"unlabelled_folder: damaged: {sorted(damaged)}")

    def _item(self, name, shard, path, *rest):
        *place, start, stop = rest
        if shard:
            path = shards.Member(shard, path, *place)
        key, noise = f"{name}@{start}-{stop}", self.noise
        with torch_threads(1):
            clean = torch.from_numpy(audio.read_audio(path, start, stop))
            mixed = noise.corrupt(clean, key) if noise else (clean, math.inf)
        return {
            "key": key,
            "clean": clean,
            "sig": mixed[0],
            "snr": mixed[1],
            "label": -1,
        }
