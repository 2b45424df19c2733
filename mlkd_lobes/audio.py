"""Reading audio of any rate, width and number of channels, or saying why not.

SpeechBrain's soundfile layer does the decoding; this module adds what training
needs: resampling, mix-down, reading a part by time, and errors that name the
file.
"""

import functools
import math

import torch
import torchaudio

from mlkd_lobes.recordings import AudioError, audio_info
from speechbrain.dataio import audio_io


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
    # A sum is finite if its terms are, and takes a third of the time of asking.
    if not math.isfinite(wav.sum().item()):
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
