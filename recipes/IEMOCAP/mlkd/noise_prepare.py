"""Noise corpora: SpeechBrain noise CSVs for this recipe.

A corpus is read into recordings, each of a type; recordings (never segments of
one) are dealt to train, valid and test; of every recording the audible segments
are listed by start and stop. Nothing is copied or cut. Babble and white noise
are generated beside the CSVs.
"""

import pathlib
import re
from collections import defaultdict, namedtuple

import torch
from manifests import (
    SPLITS,
    STAMP,
    CorpusError,
    file_states,
    is_prepared,
    listing,
)

from mlkd_lobes.audio import AudioError, audio_info, list_audio, read_frames
from mlkd_lobes.evaluation.leakage import refuse_overlaps
from mlkd_lobes.files import (
    atomic_path,
    read_csv,
    stable_seed,
    write_csv,
    write_json,
)
from mlkd_lobes.noise import UNSEEN_PREFIX
from speechbrain.dataio import audio_io
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

HEADER = ["ID", "duration", "wav", "wav_format", "wav_opts"]
HEADER += ["noise_type", "noise_type_format", "noise_type_opts"]

Recording = namedtuple("Recording", ["path", "kind", "group", "split"])
Recording.__doc__ = """A noise file.

`group`: recordings of one origin, which stay together; `split` where the corpus
says it, else None.
"""

# Audible: within 40 dB of the recording's loudest 50 ms, above -80 dBFS.
WINDOW = 0.05
AUDIBLE_RANGE_DB = 40
AUDIBLE_FLOOR = 1e-4
SHORTEST_SEGMENT = 0.2
LONGEST_GAP = 0.25

GENERATED = {"train": 30, "valid": 10, "test": 10}
GENERATED_SECONDS = 20
BABBLE_VOICES = (5, 7)


def prepare_noise(
    noise_corpus,
    noise_folder,
    save_folder,
    noise_types,
    babble_folder=None,
    unseen_noise=None,
    corpus_files=(),
    corpus_speakers=(),
):
    """Writes train.csv, valid.csv and test.csv.

    Arguments
    ---------
    noise_corpus : str
        One of `READERS`.
    noise_folder : str
        The corpus.
    save_folder : str
        Where CSVs and generated noise go.
    noise_types : list of str
        Types of the corpus, and "babble" or "white" to generate.
    babble_folder : str, optional
        Speech of several talkers: a manifest.csv with path and speaker, or
        audio files of one talker each.
    unseen_noise : dict, optional
        Names to folders of noise that only the test meets.
    corpus_files : collection of str
        The emotion corpus' audio files: none may be in the babble.
    corpus_speakers : collection of str
        Its speakers: likewise.

    Raises
    ------
    CorpusError
        If the corpus, a type or a folder is not as expected.
    """
    if noise_corpus not in READERS:
        raise CorpusError(
            f"noise_corpus: no corpus '{noise_corpus}'; the known ones are: "
            f"{', '.join(READERS)}"
        )
    recordings = _of_types(READERS[noise_corpus](noise_folder), noise_types)
    recordings += [
        Recording(path, UNSEEN_PREFIX + name, str(path), "test")
        for name, folder in (unseen_noise or {}).items()
        for path in list_audio(folder)
    ]
    talkers = {}
    if "babble" in noise_types:
        talkers = _talkers(babble_folder, corpus_files, corpus_speakers)
    stamp = _stamp(recordings, talkers, noise_types)
    save_folder = pathlib.Path(save_folder)
    if is_prepared(save_folder, stamp, ".csv"):
        logger.info(f"Noise: {save_folder} is prepared already.")
        return
    rows = _deal(recordings)
    if "babble" in noise_types:
        rows += _generate("babble", save_folder, _babble(talkers))
    if "white" in noise_types:
        rows += _generate("white", save_folder, _white)
    _write(save_folder, rows, stamp)


def _stamp(recordings, talkers, noise_types):
    """From what the CSVs are made; a change of it makes them anew."""
    rows = [[str(r.path), r.kind, r.group, r.split] for r in recordings]
    voices = {name: [str(p) for p in paths] for name, paths in talkers.items()}
    files = [r.path for r in recordings]
    files += [path for paths in talkers.values() for path in paths]
    return {
        "noise_types": noise_types,
        "recordings": rows,
        "talkers": voices,
        "audio": file_states(files),
    }


def read_folder(folder):
    """A folder with a sub-folder per type (NOISEX-92, MS-SNSD, WHAM, …).

    Arguments
    ---------
    folder : str
        The corpus.

    Returns
    -------
    list of Recording
        Each file its own origin; files right in the folder are of the type
        their name begins with, up to the first digit.
    """
    folder = pathlib.Path(folder)
    recordings = []
    for path in list_audio(folder):
        parts = path.relative_to(folder).parts
        kind = parts[0] if len(parts) > 1 else path.stem
        kind = re.sub(r"[\W_]*\d.*$", "", kind) or kind
        recordings.append(Recording(path, kind, str(path), None))
    return recordings


def read_csv_corpus(folder):
    """A folder with a manifest.csv: path, noise_type, optionally group, split.

    Arguments
    ---------
    folder : str
        The corpus.

    Returns
    -------
    list of Recording
        One per row.
    """
    folder = pathlib.Path(folder)
    manifest = folder / "manifest.csv"
    recordings = []
    for row in read_csv(manifest, required=["path", "noise_type"]):
        path, split = folder / row["path"], row.get("split") or None
        if split not in (None, *SPLITS):
            raise CorpusError(
                f"{manifest}: split '{split}' is none of {', '.join(SPLITS)}"
            )
        group = row.get("group") or str(path)
        recordings.append(Recording(path, row["noise_type"], group, split))
    return recordings


ESC_NAME = re.compile(r"^(?:(?P<kind>.*)_)?(?P<fold>[1-5])-(?P<source>\d+)-")
ESC_SPLITS = dict(zip("12345", ["train", "train", "train", "valid", "test"]))


def read_esc(folder):
    """ESC-50 or ESC-10: folds 1 to 3 train, 4 valid, 5 test.

    The type is the category in meta/esc50.csv, or what precedes the fold in
    the file's name, or the name of its folder. Clips cut from one source share
    the fold.

    Arguments
    ---------
    folder : str
        The corpus.

    Returns
    -------
    list of Recording
        One per clip.
    """
    folder = pathlib.Path(folder)
    meta = folder / "meta" / "esc50.csv"
    category = {}
    if meta.is_file():
        rows = read_csv(meta, required=["filename", "category"])
        category = {row["filename"]: row["category"] for row in rows}
    recordings, strange = [], []
    for path in list_audio(folder):
        match = ESC_NAME.match(path.name)
        if not match:
            strange.append(str(path))
            continue
        place = re.sub(r"^[\d\s-]*", "", path.parent.name).lower()
        kind = category.get(path.name) or match["kind"] or place
        source = f"esc-{match['source']}"
        split = ESC_SPLITS[match["fold"]]
        recordings.append(
            Recording(path, kind.replace(" ", "_"), source, split)
        )
    if strange:
        raise CorpusError(
            listing("files that are not named like ESC clips", strange)
        )
    return recordings


READERS = {"folder": read_folder, "csv": read_csv_corpus, "esc": read_esc}
GENERATORS = ("babble", "white")


def _of_types(recordings, noise_types):
    """The recordings of the types asked for."""
    found = sorted({recording.kind for recording in recordings})
    if not noise_types:
        raise CorpusError(
            f"noise_types: names none; this corpus has: {', '.join(found)}"
        )
    for kind in noise_types:
        if kind not in found and kind not in GENERATORS:
            raise CorpusError(
                f"noise_types: no type '{kind}'; this corpus has: "
                f"{', '.join(found)}; generated are: {', '.join(GENERATORS)}"
            )
    wanted = set(noise_types) - set(GENERATORS)
    return [r for r in recordings if r.kind in wanted]


def _deal(recordings):
    """Gives every recording a split, those of one origin the same one."""
    by_kind = defaultdict(list)
    for recording in recordings:
        by_kind[recording.kind].append(recording)
    dealt = []
    for kind, members in by_kind.items():
        if all(member.split for member in members):
            dealt += members
            continue
        groups = sorted({m.group for m in members})
        if len(groups) < 3:
            logger.warning(
                f"noise type {kind}: {len(groups)} recording(s) cannot be "
                "split in three; it is for testing only, as unseen noise"
            )
            dealt += [
                m._replace(kind=UNSEEN_PREFIX + kind, split="test")
                for m in members
            ]
            continue
        splits = _shares(groups, 0.2)
        dealt += [m._replace(split=splits[m.group]) for m in members]
    return dealt


def _shares(names, share):
    """Names to splits: a share for valid and test each, the rest for train."""
    # Sorted by hash: random to the eye, the same on every machine.
    names = sorted(names, key=lambda n: stable_seed(pathlib.Path(n).name))
    n = max(1, round(share * len(names)))
    order = ["valid"] * n + ["test"] * n
    order += ["train"] * (len(names) - len(order))
    return dict(zip(names, order))


def _talkers(folder, corpus_files, corpus_speakers):
    """Talkers to their files; nobody of the emotion corpus among them."""
    if not folder:
        raise CorpusError(
            "babble_folder: noise type 'babble' needs a folder with speech of "
            "several talkers"
        )
    folder = pathlib.Path(folder)
    talkers = defaultdict(list)
    if (folder / "manifest.csv").is_file():
        for row in read_csv(folder / "manifest.csv", ["path", "speaker"]):
            talkers[row["speaker"]].append(folder / row["path"])
    else:
        for path in list_audio(folder):
            talkers[str(path)].append(path)
    corpus_files = {pathlib.Path(file).resolve() for file in corpus_files}
    for talker, paths in talkers.items():
        if talker in corpus_speakers or any(
            path.resolve() in corpus_files for path in paths
        ):
            raise CorpusError(
                f"babble_folder: {folder}: talker {talker} is also a speaker "
                "of the emotion corpus; take other people's speech, or rename "
                "the talker in manifest.csv if it is somebody else"
            )
    if len(talkers) < 3:
        raise CorpusError(
            f"babble_folder: {folder}: {len(talkers)} talker(s); at least 3 "
            "are needed, since no talker is heard in two splits"
        )
    return talkers


def _babble(talkers):
    """A generator of babble from talkers, disjoint between splits."""
    shares = _shares(sorted(talkers), 0.3)

    def babble(split, number):
        generator = torch.Generator()
        generator.manual_seed(stable_seed("babble", split, number))
        names = [name for name in talkers if shares[name] == split]
        low, high = BABBLE_VOICES
        n = low + _pick(high - low + 1, generator)
        # Everybody speaks before anybody speaks with two voices.
        order = torch.randperm(len(names), generator=generator).tolist()
        voices = [names[order[i % len(names)]] for i in range(n)]
        return sum(_voice(talkers[v], generator) for v in voices)

    return babble


def _voice(paths, generator):
    """One talker, utterance after utterance, each at the same level."""
    n_samples, parts, total = GENERATED_SECONDS * 16000, [], 0
    while total < n_samples:
        wav = read_frames(paths[_pick(len(paths), generator)], 0, -1)
        level = wav.square().mean().sqrt()
        parts.append(wav / level.clamp(min=1e-6))
        total += len(wav)
    return torch.cat(parts)[:n_samples]


def _white(split, number):
    generator = torch.Generator()
    generator.manual_seed(stable_seed("white", split, number))
    return torch.randn(GENERATED_SECONDS * 16000, generator=generator)


def _pick(n, generator):
    return torch.randint(n, (), generator=generator).item()


def _generate(kind, save_folder, make):
    """Writes generated recordings and lists them."""
    recordings = []
    for split, count in GENERATED.items():
        for number in range(count):
            path = save_folder / kind / f"{split}_{number:02d}.flac"
            wav = make(split, number)
            with atomic_path(path) as temporary:
                scaled = 0.5 * wav / wav.abs().max()
                audio_io.save(str(temporary), scaled[None], 16000)
            recordings.append(Recording(path, kind, str(path), split))
    return recordings


def audible_segments(path):
    """The parts of a recording that hold noise.

    Arguments
    ---------
    path : str or pathlib.Path
        The recording; read in blocks, whatever its length.

    Returns
    -------
    list of (int, int)
        Start and stop in frames of the file; empty if it is silent.

    Raises
    ------
    AudioError
        If it cannot be read.
    """
    info = audio_info(path)
    window = max(1, round(WINDOW * info.sample_rate))
    block, levels = 1200 * window, []
    for start in range(0, info.frames, block):
        n = min(block, info.frames - start)
        wav = read_frames(path, start, n, info.sample_rate)
        padded = torch.nn.functional.pad(wav, (0, -len(wav) % window))
        levels.append(padded.view(-1, window).square().mean(1).sqrt())
    levels = torch.cat(levels)
    threshold = levels.max() / 10 ** (AUDIBLE_RANGE_DB / 20)
    audible = levels > max(threshold.item(), AUDIBLE_FLOOR)
    return _runs(audible.tolist(), window, info)


def _runs(audible, window, info):
    """Runs of audible windows, short gaps closed, short runs left out."""
    runs = []
    for i, loud in enumerate(audible):
        if not loud:
            continue
        if runs and (i - runs[-1][1]) * WINDOW <= LONGEST_GAP:
            runs[-1][1] = i + 1
        else:
            runs.append([i, i + 1])
    shortest = min(SHORTEST_SEGMENT, info.duration / 2) * info.sample_rate
    bounds = [(a * window, min(b * window, info.frames)) for a, b in runs]
    return [(a, b) for a, b in bounds if b - a >= shortest]


def _write(save_folder, recordings, stamp):
    """Checks recordings and writes a CSV per split, the stamp last."""
    by_split = {split: [] for split in SPLITS}
    for recording in recordings:
        by_split[recording.split].append(recording)
    refuse_overlaps(
        {
            split: [{"noise recording": r.group} for r in members]
            for split, members in by_split.items()
        },
        ["noise recording"],
    )
    problems = []
    lines = {s: _lines(m, problems) for s, m in by_split.items()}
    if problems:
        raise CorpusError(listing("unusable noise files", problems))
    heard = {split: {row[5] for row in lines[split]} for split in SPLITS}
    for kind in sorted({r.kind for r in recordings}):
        splits = ("test",) if kind.startswith(UNSEEN_PREFIX) else SPLITS
        silent = [split for split in splits if kind not in heard[split]]
        if silent:
            raise CorpusError(
                f"noise type {kind}: no audible recording for "
                f"{', '.join(silent)}"
            )
    for split in SPLITS:
        write_csv(save_folder / f"{split}.csv", HEADER, lines[split])
        count = len(by_split[split])
        logger.info(
            f"Noise: {split} {count} recordings, {len(lines[split])} audible "
            f"segments of {', '.join(sorted(heard[split]))}"
        )
    write_json(save_folder / STAMP, stamp)


def _lines(recordings, problems):
    """CSV rows of a split's recordings; what cannot be read is a problem."""
    rows = []
    for recording in sorted(recordings, key=lambda r: (r.kind, str(r.path))):
        path = recording.path.resolve()
        try:
            segments, rate = (
                audible_segments(path),
                audio_info(path).sample_rate,
            )
        except AudioError as error:
            problems.append(str(error))
            continue
        if not segments:
            logger.warning(f"{path}: silent, left out")
        for start, stop in segments:
            rows.append(
                [
                    f"{recording.kind}-{len(rows)}",
                    round((stop - start) / rate, 4),
                    str(path),
                    "wav" if path.suffix == ".wav" else path.suffix[1:],
                    f"start:{start} stop:{stop}",
                    recording.kind,
                    "string",
                    "",
                ]
            )
    return rows
