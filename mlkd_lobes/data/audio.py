"""Audio files: finding, probing and reading them, at any rate and format.

Needs no PyTorch, so that exported models run without it. Every error names the file.
"""

import contextlib
import io
import logging
import math
import os
import pathlib
import re
from collections import namedtuple

import soundfile
import soxr

from mlkd_lobes.data import mp3
from mlkd_lobes.data.shards import Member, open_file
from mlkd_lobes.errors import InputError
from mlkd_lobes.files import refuse_lfs_pointer

logger = logging.getLogger(__name__)

SAMPLE_RATE = 16000
# Audio in a folder; those from .m4a on cannot be read and are named in an error.
AUDIO_SUFFIXES = tuple(
    ".wav .flac .ogg .oga .opus .mp3 .aiff .aif .aifc .au .snd .w64 .rf64 "
    ".sph .nist .caf .voc "  # codespell:ignore caf
    ".m4a .m4b .mp4 .aac .wma .webm .mka .mkv .mov .avi .3gp .amr .ac3 .ape "
    ".wv .spx".split()
)
# Marks folders of manifests and noise that were prepared here.
OWN_OUTPUT = "preparation.json"
# libsndfile's number of frames where a header gives none.
UNKNOWN = 2**62
# From telephones to measurement microphones, in Hz.
LOWEST_RATE, HIGHEST_RATE = 4000, 384000
# Full scale is 1; programs that store integers as floats reach 2^31.
LARGEST_SAMPLE = 1e10
# No format stores more samples per byte, not even of silence.
MAX_PER_BYTE = 2**16
# A given end may exceed the file's by this many seconds: tables are rounded.
TOLERANCE = 0.02


class AudioInfo(namedtuple("AudioInfo", "frames sample_rate duration")):
    """Header of an audio file; `duration` in seconds."""


def list_audio(folder):
    """All audio files below a folder, sorted.

    Arguments
    ---------
    folder : str or pathlib.Path
        Where to look, see `walk_audio`.

    Returns
    -------
    list of pathlib.Path
        Paths below `folder`.
    """
    return sorted(map(pathlib.Path, walk_audio(folder)))


def walk_audio(folder, suffixes=AUDIO_SUFFIXES):
    """The audio files below a folder, one after the other.

    Hidden ones (`.*`) and own output are left out; broken ones with a warning.

    Arguments
    ---------
    folder : str or pathlib.Path
        Where to look; links to folders are followed, each folder once.
    suffixes : tuple of str
        Of the files.

    Yields
    ------
    str
        Paths below `folder`, in an order that does not change.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    """
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{folder}: no such folder")

    def warn(error):
        """Names a folder that may not be read."""
        logger.warning(f"{error.filename}: left out ({error.strerror})")

    root = os.path.realpath(folder)
    visited = {root}
    for place, folders, names in os.walk(
        folder, onerror=warn, followlinks=True
    ):
        if OWN_OUTPUT in names:
            folders[:] = []
            continue
        kept = []
        for name in folders:
            path = os.path.join(place, name)
            real = os.path.realpath(path)
            # A link into the folder itself leads to what is found anyway.
            inside = os.path.islink(path) and f"{real}/".startswith(f"{root}/")
            if not inside and real not in visited and name[0] != ".":
                kept.append(name)
                visited.add(real)
        folders[:] = sorted(kept)
        for name in sorted(names):
            path = os.path.join(place, name)
            wanted = name.lower().endswith(suffixes) and name[0] != "."
            if wanted and os.path.isfile(path):
                yield path
            elif wanted:
                logger.warning(f"{path}: left out (a broken link, or no file)")


def audio_info(path):
    """Length and rate of an audio file, from its header.

    Arguments
    ---------
    path : str or pathlib.Path
        The file.

    Returns
    -------
    AudioInfo
        `frames`, `sample_rate`, `duration` (seconds).

    Raises
    ------
    InputError
        If the file is missing, empty, truncated, not audio, or its sampling
        rate is out of range.
    """
    with _open(path) as (sound, size):
        return _info(sound, path, size)


def _info(sound, path, size):
    """The header of an open file; see `audio_info`."""
    if not 0 < sound.frames <= UNKNOWN:
        raise InputError(f"{path}: its header gives no length; convert it")
    most = MAX_PER_BYTE * size
    if sound.frames * sound.channels > most or _is_cut(sound, path, size):
        raise InputError(f"{path}: truncated, shorter than in its header")
    frames, rate = sound.frames, sound.samplerate
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise InputError(
            f"{path}: has a sampling rate of {rate} Hz, expected "
            f"{LOWEST_RATE} to {HIGHEST_RATE} Hz"
        )
    return AudioInfo(frames, rate, frames / rate)


@contextlib.contextmanager
def _open(path):
    """A file as libsndfile opens it, and its size in bytes."""
    if "\0" in str(path):
        raise InputError(f"{str(path)!r}: no file has a zero byte in its name")
    try:
        with open_file(path) as (file, size):
            with _sound(path, file, size) as sound:
                yield sound, size
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}")
    except UnicodeError:
        raise InputError(
            f"{ascii(str(path))}: its name is not UTF-8; rename it"
        )


def _sound(path, file, size):
    """An open file as a SoundFile."""
    str(path).encode()  # raises if the name is not UTF-8
    if size == 0:
        raise InputError(f"{path}: the file is empty (0 bytes), or a pipe")
    inside = isinstance(path, Member)
    # By its handle: by its name, `._name` beside it would be opened as well.
    source, start = file if inside else file.fileno(), file.read(3)
    if re.match(rb"ID3|\xff[\xe0-\xff]", start):
        time = os.path.getmtime(path.shard if inside else path)
        counted = mp3.with_frame_count(path, (size, time))
        source = io.BytesIO(counted) if counted else source
    file.seek(0)
    try:
        return soundfile.SoundFile(source, closefd=False)
    except RuntimeError as error:
        if not inside:
            refuse_lfs_pointer(path)
        reason = getattr(error, "error_string", error)
        raise InputError(f"{path}: not readable as audio ({reason})")


def _is_cut(sound, path, size):
    """Whether a file ends before its data do, which libsndfile only logs."""
    if sound.format == "NIST":
        with open_file(path) as (file, _):
            count = re.search(rb"sample_count -i (\d+)", file.read(1024))
        return bool(count) and sound.frames < int(count[1])
    sizes = re.findall(
        r"^\s*(?:data|SSND|Data [sS]ize) *: (\d+)(?: \(should be (\d+))?",
        sound.extra_info,
        re.MULTILINE,
    )
    for stated, found in sizes:
        stated, found = int(stated), int(found or size)
        # Programs that write to a pipe leave a size of 2 GiB, or 4.
        piped = 0x7FFF0000 <= stated <= 0x80000000
        if stated > found and not (piped or 0 <= 0xFFFFFFFF - stated < 4096):
            return True
    return False


def read_frames(path, start, n_frames, sample_rate=SAMPLE_RATE):
    """Reads a part of a file given in frames of the file's own rate.

    Arguments
    ---------
    path : str or pathlib.Path
        The file; several channels are averaged.
    start : int
        First frame.
    n_frames : int
        How many frames, -1 for all that follow.
    sample_rate : int
        Rate of the result, in Hz.

    Returns
    -------
    numpy.ndarray
        Waveform [time] in float32.

    Raises
    ------
    InputError
        If the file cannot be decoded, ends early, or holds NaN or infinity.
    """
    with _open(path) as (sound, _):
        return _read(sound, path, start, n_frames, sample_rate)


def _read(sound, path, start, n_frames, sample_rate):
    """A part of an open file; see `read_frames`."""
    try:
        lead = min(start, mp3.LEAD) if sound.format == "MP3" else 0
        if start and sound.seekable():
            sound.seek(start - lead)
        elif start:  # formats of telephones
            sound.read(start)
        n = n_frames + lead * (n_frames > 0)
        wav = sound.read(n, dtype="float32", always_2d=True)[lead:]
    except RuntimeError as error:
        audio_info(path)  # more precise where the file itself is at fault
        raise InputError(f"{path}: cannot be decoded ({error})")
    if len(wav) < max(1, n_frames):
        raise InputError(
            f"{path}: truncated, {len(wav)} of {n_frames} frames can be read"
        )
    # Not `>`, which is false for NaN.
    if not max(wav.max(), -wav.min()) <= LARGEST_SAMPLE:
        raise InputError(
            f"{path}: holds NaN, infinite or absurdly large samples"
        )
    # The mean of a single column takes longer than all checks.
    mono = wav.mean(1) if wav.shape[1] > 1 else wav[:, 0]
    wav = resample(mono, sound.samplerate, sample_rate)
    if not len(wav):
        raise InputError(f"{path}: too short, no sample at {sample_rate} Hz")
    return wav


def resample(wav, rate, sample_rate):
    """Converts the sampling rate with soxr.

    Arguments
    ---------
    wav : numpy.ndarray
        Waveform [time].
    rate : int
        Its rate in Hz.
    sample_rate : int
        The rate wanted, in Hz.

    Returns
    -------
    numpy.ndarray
        Waveform [time * sample_rate / rate] in float32.

    Example
    -------
    >>> import numpy as np
    >>> resample(np.zeros(8000, np.float32), 8000, 16000).shape
    (16000,)
    """
    same = rate == sample_rate
    return wav if same else soxr.resample(wav, rate, sample_rate)


def to_seconds(value, where):
    """A time from a table or manifest.

    Arguments
    ---------
    value : float, str or None
        Seconds, or their text; None or "": not given.
    where : str
        Of the value, for a message.

    Returns
    -------
    float or None
        The time; None if there is none.

    Raises
    ------
    InputError
        If it is not a number of seconds.

    Example
    -------
    >>> to_seconds("1.5", "start")
    1.5
    """
    if value in (None, ""):
        return None
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise InputError(f"{where} is {value!r}, expected seconds")
    return seconds


def frame_bounds(path, start, stop):
    """Turns two times of a file into frames.

    Arguments
    ---------
    path : str or pathlib.Path
        The file.
    start : float or None
        Beginning in seconds; None: the file's.
    stop : float or None
        End in seconds; None: the file's.

    Returns
    -------
    first : int
        First frame.
    last : int
        Frame behind the last one.
    info : AudioInfo
        Of the file.

    Raises
    ------
    InputError
        If there is nothing between the two times.
    """
    info = audio_info(path)
    return *_bounds(path, info, start, stop), info


def equal_parts(first, last, longest):
    """Splits a span of frames into equal parts, so that none is very short.

    Arguments
    ---------
    first : int
        First frame.
    last : int
        Frame behind the last one.
    longest : float
        Frames that a part may have.

    Returns
    -------
    iterator of tuple
        First frame of a part and the frame behind it.

    Example
    -------
    >>> list(equal_parts(0, 10, 4))
    [(0, 3), (3, 6), (6, 10)]
    """
    count = math.ceil((last - first) / longest)
    edges = [first + (last - first) * i // count for i in range(count + 1)]
    return zip(edges, edges[1:])


def _bounds(path, info, start, stop):
    """Two times in frames; see `frame_bounds`."""
    first = round((start or 0.0) * info.sample_rate)
    last = info.frames if stop is None else round(stop * info.sample_rate)
    if last <= info.frames + TOLERANCE * info.sample_rate:
        last = min(last, info.frames)
    if not 0 <= first < last <= info.frames:
        raise InputError(
            f"{path}: start {start} and end {stop} are not within its "
            f"{info.duration:.3f} s"
        )
    return first, last


def read_audio(path, start=None, stop=None, sample_rate=SAMPLE_RATE):
    """Reads a file, or the part of it between two times.

    Arguments
    ---------
    path : str or pathlib.Path
        The file; several channels are averaged.
    start : float, optional
        Beginning in seconds; default: the file's.
    stop : float, optional
        End in seconds; default: the file's.
    sample_rate : int
        Rate of the result, in Hz.

    Returns
    -------
    numpy.ndarray
        Waveform [time] in float32.

    Raises
    ------
    InputError
        If the file cannot be read, is shorter than in its header, or has
        nothing between the two times.

    Example
    -------
    >>> import numpy as np
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> soundfile.write(path, np.zeros((8000, 2)), 8000)
    >>> read_audio(path, start=0.5).shape
    (8000,)
    """
    with _open(path) as (sound, size):
        first, last = _bounds(path, _info(sound, path, size), start, stop)
        return _read(sound, path, first, last - first, sample_rate)
