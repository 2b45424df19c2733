"""Adds noise whose draws are keyed by utterance rather than sequential.

`KeyedAddNoise` is an `AddNoise` that reads SpeechBrain's CSV format and mixes as
the original does, but chooses the noise otherwise: called per unpadded utterance,
it draws noise type, recording, position and SNR from a generator seeded by (seed,
epoch, utterance) in training and by (noise type, utterance) in evaluation. So the
noise does not depend on the number of workers, the order of batches or the
process, and in evaluation not on the system, seed or SNR.
"""

import functools
import math
import os
from collections import namedtuple

import torch

from mlkd_lobes.data.activity import audible_segments
from mlkd_lobes.data.audio import audio_info, read_frames, resample
from mlkd_lobes.errors import InputError
from mlkd_lobes.files import (
    composed,
    read_csv,
    sampled_sha256,
    stable_seed,
    text_sha256,
)
from mlkd_lobes.noise.mixing import mix
from speechbrain.augment.time_domain import AddNoise

UNSEEN_PREFIX, DISTORTED = "unseen-", "distorted-"


class Segment(namedtuple("Segment", "path start stop rate origin")):
    """A part of a recording, in frames; `origin` if generated."""


class Condition(namedtuple("Condition", ["noise", "snr_db"])):
    """A noise type and an SNR in dB; without SNR "clean", or a
    distortion."""


CLEAN = Condition("clean", None)

# A draw of silence is repeated this often before it is an error.
MAX_DRAWS = 20
# Below this RMS (-100 dBFS) a stretch of noise is silence.
SILENCE = 1e-5
# Noise is kept decoded up to this many samples, 200 MB, if no segment is longer than a
# minute at 48 kHz. Otherwise every draw is read anew.
MAX_KEPT, LONGEST_KEPT = 50_000_000, 3_000_000


def read_noise_csv(csv_file, places=None):
    """Reads a SpeechBrain noise CSV.

    Arguments
    ---------
    csv_file : str
        Columns ID, duration, wav, wav_format, wav_opts, as for AddNoise. The
        options may hold "start:N stop:M" in frames of the file (without them,
        the audible segments of the file are searched), and "origin:X", what a
        generated file was made from. A further column noise_type names the
        type (without it every row is of type "noise").
    places : dict, optional
        Folders, or dicts of them: a path may begin with the name of one,
        "$noise_folder/…" or "$unseen_noise/rooms/…". "$csv_folder" is the CSV's
        own.

    Returns
    -------
    dict
        Per noise type a dict of recording path to its segments, both ordered.

    Raises
    ------
    FileNotFoundError
        If the CSV does not exist.
    InputError
        If the CSV is malformed or empty, or a file in it is silent or cannot be
        used.
    """
    rows = read_csv(csv_file, required=["ID", "wav"])
    if not rows:
        raise InputError(f"{csv_file}: has no rows")
    places = {**(places or {}), "csv_folder": os.path.dirname(csv_file) or "."}
    types, info_of = {}, functools.lru_cache(maxsize=None)(audio_info)
    for row in rows:
        where = f"{csv_file}, row {row['ID']}"
        path, options = locate(row["wav"], places, where), row.get("wav_opts")
        kind = composed(row.get("noise_type", "noise"))
        if not is_additive(kind):
            raise InputError(f"{where}: '{kind}' cannot name a type of noise")
        recordings = types.setdefault(kind, {})
        for segment in _segments(path, options or "", where, info_of):
            recordings.setdefault(path, []).append(segment)
    return dict(sorted(types.items()))


def locate(path, places, where):
    """Replaces a leading `$NAME` by the folder of that name; other `$` stay.

    Arguments
    ---------
    path : str
        E.g. "$noise_folder/a.wav", or "$unseen_noise/rooms/a.wav".
    places : dict
        Names to folders, or to further names and folders.
    where : str or pathlib.Path
        What a message names.

    Returns
    -------
    str
        The path.

    Raises
    ------
    InputError
        If no folder has that name.
    """
    name, _, rest = path.partition("/")
    place = places.get(name[1:]) if name.startswith("$") else None
    if isinstance(place, dict):
        return locate(f"${rest}", place, where)
    if place is not None:
        return os.path.join(place, rest)
    if path.startswith("$"):
        raise InputError(
            f"{where}: {name} in {path} is none of the folders given: "
            f"{', '.join(k for k, v in places.items() if v)}"
        )
    return path


def _segments(path, options, where, info_of):
    """The segments of a CSV entry."""
    try:
        info = info_of(path)
        options = dict(part.split(":") for part in options.split())
        start = int(options.get("start", 0))
        bounds = [(start, int(options.get("stop", info.frames)))]
        if not {"start", "stop"} & {*options}:
            bounds = audible_segments(path)
    except ValueError as error:
        raise InputError(f"{where}: {error}")
    if not bounds:
        raise InputError(f"{where}: {path} is silent; leave it out")
    for start, stop in bounds:
        if not 0 <= start < stop <= info.frames:
            raise InputError(
                f"{where}: start {start} and stop {stop} are not within "
                f"{path}, which has {info.frames} frames"
            )
        origin = options.get("origin")
        yield Segment(path, start, stop, info.sample_rate, origin)


def noise_fingerprint(types):
    """Hash of types, segments and audio of a noise CSV, not of its paths.

    Arguments
    ---------
    types : dict
        From `read_noise_csv`.

    Returns
    -------
    str
        Hexadecimal.
    """
    content = []
    for kind, recordings in types.items():
        for path, segments in recordings.items():
            source = segments[0].origin or sampled_sha256(path)
            content.append([kind, source, [s[1:] for s in segments]])
    return text_sha256(content)


def conditions(noise_types, snrs, distorted=()):
    """The grid a system is evaluated on: clean, then every type at every SNR.

    Arguments
    ---------
    noise_types : sequence of str
        Noise types.
    snrs : sequence of float
        SNRs in dB.
    distorted : sequence of str
        Distortions, from `mlkd_lobes.noise.distortions`.

    Returns
    -------
    list of Condition
        In a fixed order.

    Example
    -------
    >>> [tuple(c) for c in conditions(["rain"], [0, 10])]
    [('clean', None), ('rain', 0), ('rain', 10)]
    """
    noisy = [Condition(kind, snr) for kind in noise_types for snr in snrs]
    return [CLEAN, *noisy, *(Condition(DISTORTED + n, None) for n in distorted)]


def is_additive(noise):
    """Whether a condition's noise was added, seen in training or not.

    Arguments
    ---------
    noise : str
        Of a `Condition`.

    Returns
    -------
    bool
        False for clean speech and distortions.
    """
    return noise != CLEAN.noise and not noise.startswith(DISTORTED)


class KeyedAddNoise(AddNoise):
    """AddNoise with draws keyed by seed, epoch and utterance.

    Arguments
    ---------
    csv_file : str
        See `read_noise_csv`; read on first use.
    snr_low : float
        Lowest SNR in dB of a training draw.
    snr_high : float
        Highest SNR in dB; drawn uniformly in between.
    clean_share : float
        Share of training draws without noise; all types are equally likely.
    seed : int
        Part of the key of every training draw.
    replacements : dict
        Folders that the CSV's paths begin with, see `read_noise_csv`.
    """

    def __init__(
        self,
        csv_file,
        snr_low=0,
        snr_high=0,
        clean_share=0.0,
        seed=0,
        replacements={},
    ):
        # Speech is at 16 kHz, the default; noise of any rate is resampled to it.
        super().__init__(csv_file, snr_low=snr_low, snr_high=snr_high)
        self.replacements = replacements
        if snr_low > snr_high:
            raise InputError(f"snr_low {snr_low} is above snr_high {snr_high}")
        self.clean_share = clean_share
        self.seed = seed
        # In shared memory: workers live on from epoch to epoch.
        self.epoch = torch.tensor(0).share_memory_()
        self.kept = {}

    @functools.cached_property
    def types(self):
        """Per noise type its recordings; read once, on first use."""
        return read_noise_csv(self.csv_file, self.replacements)

    @functools.cached_property
    def is_small(self):
        """Whether the noise is short enough to be kept decoded."""
        owners = [r for kind in self.types.values() for r in kind.values()]
        lengths = [s.stop - s.start for segments in owners for s in segments]
        return sum(lengths) <= MAX_KEPT and max(lengths) <= LONGEST_KEPT

    def set_epoch(self, epoch):
        """Sets the epoch of the draws; call it before a loader's iteration.

        Arguments
        ---------
        epoch : int
            The epoch that begins.
        """
        self.epoch.fill_(epoch)

    def draw(self, utterance, n_samples):
        """Draws noise [n_samples] and SNR in the current epoch, or neither.

        Arguments
        ---------
        utterance : str
            Its ID.
        n_samples : int
            Its length.

        Returns
        -------
        noise : torch.Tensor or None
            Noise [n_samples]; None: the utterance stays clean.
        snr : float
            In dB; infinite without noise.
        """
        epoch = int(self.epoch)
        generator = _generator("train", self.seed, epoch, utterance)
        # Always the same numbers in the same order, used or not, so that
        # changing one setting leaves the draws of the others unchanged.
        clean, level = torch.rand(2, generator=generator).tolist()
        if clean < self.clean_share:
            return None, math.inf
        kinds = list(self.types)
        kind = kinds[pick(len(kinds), generator)]
        noise = self._draw_noise(kind, n_samples, generator)
        snr = self.snr_low + level * (self.snr_high - self.snr_low)
        return noise, snr

    def corrupt(self, wav, utterance):
        """Adds noise to a training utterance, as drawn for the current epoch.

        Arguments
        ---------
        wav : torch.Tensor
            Clean waveform [time], unpadded.
        utterance : str
            Its ID.

        Returns
        -------
        wav : torch.Tensor
            Noisy waveform [time].
        snr : float
            Its SNR in dB; infinite without noise.
        """
        noise, snr = self.draw(utterance, len(wav))
        return (wav if noise is None else mix(wav, noise, [snr])[0]), snr

    def apply_conditions(self, wav, utterance, wanted):
        """An evaluation utterance under several conditions.

        Arguments
        ---------
        wav : torch.Tensor
            Clean waveform [time], unpadded.
        utterance : str
            Its ID.
        wanted : sequence of Condition
            The conditions.

        Returns
        -------
        torch.Tensor
            Waveforms [conditions, time].
        """
        noisy = {}
        for kind in {c.noise for c in wanted} - {CLEAN.noise}:
            rows = [i for i, c in enumerate(wanted) if c.noise == kind]
            generator = _generator("evaluation", kind, utterance)
            noise = self._draw_noise(kind, len(wav), generator)
            snrs = [wanted[i].snr_db for i in rows]
            noisy.update(zip(rows, mix(wav, noise, snrs)))
        return torch.stack([noisy.get(i, wav) for i in range(len(wanted))])

    def forward(self, waveforms, lengths):
        """AddNoise's call: draws follow torch's global generator.

        Arguments
        ---------
        waveforms : torch.Tensor
            Waveforms [batch, time].
        lengths : torch.Tensor
            True lengths [batch] relative to the longest.

        Returns
        -------
        torch.Tensor
            Noisy waveforms [batch, time], silent where padded.
        """
        noisy = torch.zeros_like(waveforms)
        for i, wav in enumerate(waveforms):
            n = int(torch.round(lengths[i] * waveforms.shape[1]))
            key = str(torch.randint(2**62, ()).item())
            noisy[i, :n] = self.corrupt(wav[:n], key)[0]
        return noisy

    def _draw_noise(self, kind, n_samples, generator):
        """Noise [n_samples] of a type, at a random place of a recording."""
        recordings = self.types[kind]
        for _ in range(MAX_DRAWS):
            path = list(recordings)[pick(len(recordings), generator)]
            segment = _pick_segment(recordings[path], generator)
            noise = self._read(segment, n_samples, generator)
            if noise.square().mean().sqrt() > SILENCE:
                return noise
        raise InputError(
            f"{path}: silent in {MAX_DRAWS} draws; leave it out of "
            f"{self.csv_file}"
        )

    def _read(self, segment, n_samples, generator):
        """A stretch of a segment, repeated where it is too short."""
        rate = self.clean_sample_rate
        needed = math.ceil(n_samples * segment.rate / rate) + 1
        length = segment.stop - segment.start
        position = torch.rand((), generator=generator).item()
        offset = int(position * max(0, length - needed))
        first, n = segment.start + offset, min(needed, length)
        if self.is_small:
            part = self._decoded(segment)[offset : offset + n]
            noise = torch.from_numpy(resample(part, segment.rate, rate))
        else:
            noise = torch.from_numpy(read_frames(segment.path, first, n, rate))
        if len(noise) < n_samples:
            noise = noise.repeat(math.ceil(n_samples / max(1, len(noise))))
        return noise[:n_samples]

    def _decoded(self, segment):
        """A complete segment at its own rate, decoded once."""
        if segment not in self.kept:
            path, start, stop, rate = segment[:4]
            self.kept[segment] = read_frames(path, start, stop - start, rate)
        return self.kept[segment]


def _generator(*key):
    return torch.Generator().manual_seed(stable_seed(*key))


def pick(n, generator):
    """A number below n.

    Arguments
    ---------
    n : int
        How many there are, each equally likely.
    generator : torch.Generator
        Draws it.

    Returns
    -------
    int
        From 0.
    """
    return torch.randint(n, (), generator=generator).item()


def _pick_segment(segments, generator):
    """A segment of a recording, long ones more often."""
    lengths = torch.tensor([float(s.stop - s.start) for s in segments])
    return segments[torch.multinomial(lengths, 1, generator=generator).item()]
