"""Audio files: which there are, how long they are, what is wrong with them.

Needs NumPy and soundfile alone, so that exported models can be run without
PyTorch; `mlkd_lobes.audio` reads the same files for training.
"""

import functools
import logging
import math
import pathlib
import struct
from collections import namedtuple

import numpy as np
import soundfile

from mlkd_lobes.errors import InputError

logger = logging.getLogger(__name__)

SAMPLE_RATE = 16000
# What counts as audio in a folder. The last three cannot be read, and are named
# rather than overlooked.
AUDIO_SUFFIXES = (
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif"),
    *(".aifc", ".au", ".snd", ".w64", ".rf64", ".sph", ".nist"),
    ".caf",  # codespell:ignore caf
    *(".m4a", ".aac", ".wma"),
)
# libsndfile's number of frames where a header does not tell.
UNKNOWN = 2**62
# From telephones to measuring microphones, in Hz.
LOWEST_RATE, HIGHEST_RATE = 4000, 384000
# Elements of the filters that bring a rate to `SAMPLE_RATE`: odd pairs need
# gigabytes (44,101 Hz would), all usual ones far less.
MOST_FILTERS = 2**24
# Even silence needs more than a byte for so many samples in any format.
MOST_PER_BYTE = 2**16

AudioInfo = namedtuple("AudioInfo", "frames sample_rate channels duration")
AudioInfo.__doc__ = """What a header says; `duration` in seconds."""


class AudioError(InputError):
    """An audio file that cannot be used; the message names file and reason."""


def list_audio(folder):
    """All audio files below a folder, sorted, hidden ones (`._*`) left out.

    Arguments
    ---------
    folder : str or pathlib.Path
        Where to look; links to folders elsewhere are followed. What may not
        be read is left out, with a warning.

    Returns
    -------
    list of pathlib.Path
        Paths below `folder`.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    return sorted(
        path
        for path in _walk(folder)
        if path.suffix.lower() in AUDIO_SUFFIXES
        and not path.name.startswith(".")
    )


def _walk(folder, above=()):
    """All files below a folder, each once; links go round in no circle."""
    real = folder.resolve()
    try:
        paths = list(folder.iterdir())
    except OSError as error:
        logger.warning(f"{folder}: left out ({error.strerror})")
        return
    above = (*above, real)
    for path in paths:
        if path.is_file():
            yield path
        elif path.is_dir() and not (path.is_symlink() and _met(path, above)):
            yield from _walk(path, above)


def _met(link, above):
    """Whether a folder is met anyway: below the first, or one of the others."""
    target = link.resolve()
    return target.is_relative_to(above[0]) or target in above


def audio_info(path):
    """Length and rate of an audio file, from its header.

    Arguments
    ---------
    path : str or pathlib.Path
        The file.

    Returns
    -------
    AudioInfo
        `frames`, `sample_rate`, `channels`, `duration` (seconds).

    Raises
    ------
    AudioError
        If the file is missing, empty, truncated, no audio, or of a sampling
        rate that nobody uses.
    """
    path = pathlib.Path(path)
    try:
        size = path.stat().st_size if path.is_file() else None
    except OSError as error:
        raise AudioError(f"{path}: {error.strerror}")
    if size is None:
        raise AudioError(f"{path}: no such file")
    if size == 0:
        raise AudioError(f"{path}: the file is empty (0 bytes)")
    try:
        info = soundfile.info(str(path))
    except (RuntimeError, UnicodeError) as error:
        raise AudioError(f"{path}: not readable as audio ({error})")
    if info.frames <= 0:
        raise AudioError(f"{path}: its header tells of no samples")
    if info.frames > UNKNOWN:
        raise AudioError(
            f"{path}: its header does not say how long it is, as in streams; "
            "write it anew, by ffmpeg or flac for example"
        )
    cut = info.format == "WAV" and _is_cut(path)
    if cut or info.frames * info.channels > MOST_PER_BYTE * size:
        raise AudioError(f"{path}: truncated, shorter than its header says")
    if not _is_usual(info.samplerate):
        raise AudioError(
            f"{path}: has a sampling rate of {info.samplerate} Hz, expected a "
            f"usual one between {LOWEST_RATE} and {HIGHEST_RATE} Hz"
        )
    return AudioInfo(info.frames, info.samplerate, info.channels, info.duration)


def _is_usual(rate):
    """Whether a sampling rate can be brought to `SAMPLE_RATE` at little cost."""
    divisor = math.gcd(rate, SAMPLE_RATE)
    filters = (rate // divisor) * (SAMPLE_RATE // divisor)
    return LOWEST_RATE <= rate <= HIGHEST_RATE and filters <= MOST_FILTERS


def _is_cut(path):
    """Whether a WAV file ends before its data do; libsndfile does not tell."""
    with open(path, "rb") as file:
        if file.read(12)[:4] != b"RIFF":
            return False
        while True:
            chunk = file.read(8)
            if len(chunk) < 8:
                return False
            name, size = struct.unpack("<4sI", chunk)
            if name == b"data":
                # Programs that write to a pipe leave a size of 2 GiB, or 4.
                left = path.stat().st_size - file.tell()
                whole = 0x7FFF0000 <= size <= 0x80000000 or size >= 0xFFFFEFFF
                return left < size and not whole
            file.seek(size + size % 2, 1)


def wav_path(wav, data_folder, where):
    """The file that an entry of a manifest speaks of.

    Arguments
    ---------
    wav : str
        A path with {data_root} for the corpus' folder; other braces are
        written twice.
    data_folder : str
        That folder.
    where : str
        What to call the entry in a message.

    Returns
    -------
    str
        The path.

    Raises
    ------
    mlkd_lobes.errors.InputError
        If something else stands in braces.

    Example
    -------
    >>> wav_path("{data_root}/a.wav", "corpus", "train.json: utterance a")
    'corpus/a.wav'
    """
    try:
        return wav.format(data_root=data_folder)
    except (AttributeError, LookupError, ValueError):
        raise InputError(
            f"{where} has '{wav}' as 'wav', in which {{data_root}} alone may "
            "stand in braces; other braces are written twice"
        )


def resample(wav, rate, sample_rate=SAMPLE_RATE):
    """Another sampling rate, by a Hann-windowed sinc.

    The formula of `torchaudio.transforms.Resample`, which training uses, with
    its usual width of 6 zero crossings and roll-off of 0.99.

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
        Waveform [ceil(time * sample_rate / rate)] in float32.

    Example
    -------
    >>> resample(np.zeros(8000, np.float32), 8000).shape
    (16000,)
    """
    if rate == sample_rate:
        return wav
    divisor = math.gcd(rate, sample_rate)
    old, new = rate // divisor, sample_rate // divisor
    kernels, width = _sinc_kernels(old, new)
    padded = np.pad(wav, (width, width + old))
    frames = np.lib.stride_tricks.sliding_window_view(padded, kernels.shape[1])
    length = -(-len(wav) * new // old)
    return (frames[::old] @ kernels.T).reshape(-1)[:length]


@functools.lru_cache(maxsize=16)
def _sinc_kernels(old, new, crossings=6, rolloff=0.99):
    """One kernel [2 width + old] per phase [new], and the width."""
    base = min(old, new) * rolloff
    width = math.ceil(crossings * old / base)
    times = np.arange(-width, width + old) / old
    times = times - np.arange(new)[:, None] / new
    times = np.clip(times * base, -crossings, crossings)
    window = np.cos(times * np.pi / crossings / 2) ** 2
    kernels = np.sinc(times) * window * base / old
    return kernels.astype(np.float32), width


def read_part(path, start, stop, sample_rate=SAMPLE_RATE):
    """A part of a recording, mixed down and resampled.

    Arguments
    ---------
    path : str or pathlib.Path
        The file.
    start : int
        First frame, at the file's own rate.
    stop : int
        Frame behind the last one.
    sample_rate : int
        Rate of the result, in Hz.

    Returns
    -------
    numpy.ndarray
        Waveform [time] in float32.

    Raises
    ------
    AudioError
        If it cannot be decoded, ends early, or holds non-finite samples.
    """
    try:
        wav, rate = soundfile.read(
            str(path), start=start, stop=stop, dtype="float32", always_2d=True
        )
    except RuntimeError as error:
        raise AudioError(f"{path}: cannot be decoded ({error})")
    if len(wav) < stop - start:
        raise AudioError(
            f"{path}: truncated, ends {stop - start - len(wav)} samples early"
        )
    wav = wav.mean(1)
    if not np.isfinite(wav).all():
        raise AudioError(f"{path}: holds NaN or infinite samples")
    return resample(wav, rate, sample_rate)
