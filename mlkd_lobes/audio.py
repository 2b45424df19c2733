"""Reading audio of any rate, width and number of channels, or saying why not.

SpeechBrain's soundfile layer does the decoding; this module adds what a corpus
needs: resampling, mix-down, reading a part by time, and errors that name the
file.
"""

import functools
import math
import pathlib
import struct

import torch
import torchaudio

from mlkd_lobes.errors import InputError
from speechbrain.dataio import audio_io

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif", ".opus")


class AudioError(InputError):
    """An audio file that cannot be used; the message names file and reason."""


def list_audio(folder):
    """All audio files below a folder, sorted, hidden ones (`._*`) left out.

    Arguments
    ---------
    folder : str or pathlib.Path
        Where to look.

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
        for path in folder.rglob("*")
        if path.suffix.lower() in AUDIO_SUFFIXES
        and not path.name.startswith(".")
        and path.is_file()
    )


def audio_info(path):
    """Length and rate of an audio file, from its header.

    Arguments
    ---------
    path : str or pathlib.Path
        The file.

    Returns
    -------
    speechbrain.dataio.audio_io.AudioInfo
        `frames`, `sample_rate`, `channels`, `duration` (seconds).

    Raises
    ------
    AudioError
        If the file is missing, empty, truncated, or no audio.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise AudioError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise AudioError(f"{path}: the file is empty (0 bytes)")
    try:
        info = audio_io.info(str(path))
    except RuntimeError as error:
        raise AudioError(f"{path}: not readable as audio ({error.__cause__})")
    if info.frames <= 0:
        raise AudioError(f"{path}: holds a header but no samples")
    if info.format == "WAV" and _is_cut(path):
        raise AudioError(f"{path}: truncated, shorter than its header says")
    return info


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
                # Programs that write to a pipe leave the size at its maximum.
                left = path.stat().st_size - file.tell()
                return left < size < 0xFFFFFFFF - 4096
            file.seek(size + size % 2, 1)


@functools.lru_cache(maxsize=16)
def _resampler(rate, sample_rate):
    return torchaudio.transforms.Resample(rate, sample_rate)


def read_frames(path, start, n_frames, sample_rate=16000):
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
    torch.Tensor
        Waveform [time] in float32.

    Raises
    ------
    AudioError
        If the file cannot be read, or holds no or non-finite samples there.
    """
    try:
        wav, rate = audio_io.load(
            str(path),
            frame_offset=start,
            num_frames=n_frames,
            dtype=torch.float32,
        )
    except RuntimeError as error:
        audio_info(path)  # says more where the whole file is at fault
        raise AudioError(f"{path}: cannot be decoded ({error.__cause__})")
    wav = wav.mean(0)
    if wav.numel() == 0:
        raise AudioError(f"{path}: holds no samples from frame {start} on")
    if not torch.isfinite(wav).all():
        raise AudioError(f"{path}: holds NaN or infinite samples")
    if rate != sample_rate:
        wav = _resampler(rate, sample_rate)(wav)
    return wav


def read_audio(path, start=None, stop=None, sample_rate=16000):
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
    torch.Tensor
        Waveform [time] in float32.

    Raises
    ------
    AudioError
        If the file cannot be read, is shorter than its header says, or has
        nothing between the two times.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> audio_io.save(str(path), torch.zeros(2, 8000), 8000)
    >>> read_audio(path, start=0.5).shape
    torch.Size([8000])
    """
    info = audio_info(path)
    first = round((start or 0.0) * info.sample_rate)
    last = info.frames if stop is None else round(stop * info.sample_rate)
    if not 0 <= first < last:
        raise AudioError(
            f"{path}: start {start} and end {stop} bound no samples "
            f"(the file lasts {info.duration:.3f} s)"
        )
    if last > info.frames + 0.02 * info.sample_rate:
        raise AudioError(
            f"{path}: end {stop} lies behind the end of the file "
            f"({info.duration:.3f} s)"
        )
    last = min(last, info.frames)
    wav = read_frames(path, first, last - first, sample_rate)
    expected = (last - first) * sample_rate / info.sample_rate
    if wav.numel() < math.floor(expected) - 1:
        raise AudioError(
            f"{path}: truncated, {wav.numel() / sample_rate:.3f} s could be "
            f"read of {expected / sample_rate:.3f} s"
        )
    return wav
