"""Noise corpora: SpeechBrain noise CSVs for this recipe.

A corpus is read into recordings, each of a type; recordings (never segments of
one) are dealt to train, valid and test; of every recording the audible segments
are listed by start and stop. Nothing is copied or cut. Babble and white noise
are generated beside the CSVs.
"""

import functools
import pathlib
from collections import defaultdict

from manifests import (
    SPLITS,
    STAMP,
    CorpusError,
    file_states,
    is_prepared,
    listing,
)
from noise_corpora import NOISE_CORPORA, Recording, shares
from noise_generated import (
    GENERATORS,
    VERSION,
    babble,
    generate,
    origins,
    plan_generated,
    read_talkers,
    white,
)
from settings import check_choices

from mlkd_lobes.audibility import audible_segments
from mlkd_lobes.evaluation.leakage import refuse_overlaps
from mlkd_lobes.files import text_sha256, write_csv, write_json
from mlkd_lobes.noise import UNSEEN_PREFIX
from mlkd_lobes.recordings import AudioError, audio_info, list_audio
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

HEADER = ["ID", "duration", "wav", "wav_format", "wav_opts"]
HEADER += ["noise_type", "noise_type_format", "noise_type_opts"]
PATH, KIND = HEADER.index("wav"), HEADER.index("noise_type")

# Speech of a noise corpus, of which babble can be made.
SPEECH = "speech"


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
        One of `NOISE_CORPORA`.
    noise_folder : str
        The corpus.
    save_folder : str
        Where CSVs and generated noise go.
    noise_types : list of str, or None
        Types of the corpus, and "babble" or "white" to generate where the
        corpus has no such type; None: those usual for the corpus.
    babble_folder : str, optional
        Speech of several talkers, see `read_talkers`. Default: speech of the noise corpus.
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
    check_choices("noise_corpus", noise_corpus, NOISE_CORPORA)
    corpus = NOISE_CORPORA[noise_corpus]
    found = corpus.read(noise_folder)
    noise_types = noise_types or corpus.types
    recordings = _deal(_of_types(found, noise_types, noise_folder))
    recordings += [
        Recording(path, UNSEEN_PREFIX + name, str(path), "test")
        for name, folder in (unseen_noise or {}).items()
        for path in list_audio(folder)
    ]
    for name, folder in (unseen_noise or {}).items():
        if UNSEEN_PREFIX + name not in {r.kind for r in recordings}:
            raise CorpusError(f"unseen_noise: {name}: no audio in {folder}")
    kinds = {recording.kind for recording in found}
    generated = [k for k in GENERATORS if k in noise_types and k not in kinds]
    talkers = {}
    if "babble" in generated and babble_folder:
        talkers = read_talkers(babble_folder, corpus_files, corpus_speakers)
    elif "babble" in generated:
        talkers = _talkers_of_corpus(found)
    save_folder = pathlib.Path(save_folder)
    stamp = _stamp(recordings, talkers, generated)
    made = [
        r
        for k in generated
        for r in plan_generated(k, _folder_of(k, save_folder, stamp))
    ]
    if is_prepared(save_folder, stamp, ".csv") and all(
        recording.path.is_file() for recording in made
    ):
        logger.info(f"Noise: {save_folder} is prepared already.")
        return
    _check_splits(recordings + made)
    # From here to the end nothing in the folder passes for prepared.
    (save_folder / STAMP).unlink(missing_ok=True)
    lines = _lines(recordings, {})
    makers = {"babble": functools.partial(babble, talkers), "white": white}
    for recording in made:
        generate(recording, makers[recording.kind])
    for split, rows in _lines(made, origins(talkers)).items():
        lines[split] += rows
    _check_heard(lines, {r.kind for r in recordings + made})
    _write(save_folder, lines, stamp)


def _talkers_of_corpus(recordings):
    """The noise corpus' own speech as talkers, a file each."""
    speech = [r for r in recordings if r.kind == SPEECH]
    if not speech:
        raise CorpusError(
            "babble_folder: noise type 'babble' needs a folder with speech of "
            "several talkers"
        )
    talkers = {split: {} for split in SPLITS}
    for recording in _deal(speech):
        talkers[recording.split][str(recording.path)] = [recording.path]
    if not all(talkers.values()):
        lacking = [split for split in SPLITS if not talkers[split]]
        raise CorpusError(
            f"babble: {len(speech)} recordings of speech are too few to make "
            f"it of, none is left for {', '.join(lacking)}; give other "
            "people's speech as babble_folder"
        )
    return talkers


def _folder_of(kind, save_folder, stamp):
    """Where generated noise goes: what is made of other speech lies elsewhere.

    So what a training may be reading is never overwritten by anything else.
    """
    made_of = [VERSION, stamp["talkers"] if kind == "babble" else None]
    return save_folder / kind / text_sha256(made_of)[:8]


def _stamp(recordings, talkers, generated):
    """From what the CSVs are made; a change of it makes them anew."""
    return {
        "version": VERSION,
        "generated": generated,
        "recordings": [
            [str(r.path), r.kind, r.group, r.split] for r in recordings
        ],
        "audio": file_states(r.path for r in recordings),
        "talkers": {
            split: {name: file_states(paths) for name, paths in t.items()}
            for split, t in talkers.items()
        },
    }


def _of_types(recordings, noise_types, folder):
    """The recordings of the types asked for."""
    found = sorted({recording.kind for recording in recordings})
    if not noise_types:
        raise CorpusError(
            f"noise_types: names none; {folder} has: {', '.join(found)}"
        )
    for kind in noise_types:
        if kind not in found and kind not in GENERATORS:
            raise CorpusError(
                f"noise_types: no type '{kind}'; {folder} has: "
                f"{', '.join(found)}; generated are: {', '.join(GENERATORS)}"
            )
    return [r for r in recordings if r.kind in noise_types]


def _deal(recordings):
    """Gives every recording a split, those of one origin the same one."""
    by_kind = defaultdict(list)
    for recording in recordings:
        by_kind[recording.kind].append(recording)
    return [r for members in by_kind.values() for r in _deal_kind(members)]


def _deal_kind(members):
    """Splits that the corpus gives are kept, the other origins are dealt."""
    kind = members[0].kind
    splits = {m.group: m.split for m in members if m.split}
    free = sorted({m.group for m in members} - set(splits))
    if len(free) >= 3:
        splits.update(shares(free, 0.2))
    elif free and splits:
        raise CorpusError(
            f"noise type {kind}: the corpus gives a split to some recordings "
            f"and to {', '.join(free)} none; give it to all"
        )
    if set(splits.values()) <= {"test"}:
        logger.warning(
            f"noise type {kind}: {len(members)} recording(s) of "
            f"{len(splits) + len(free)} origin(s) cannot train, validate and "
            "test; it is for testing only, as unseen noise"
        )
        kind, splits = UNSEEN_PREFIX + kind, defaultdict(lambda: "test")
    # A split that stands in the corpus stays: the check for leaks sees it.
    return [
        m._replace(kind=kind, split=m.split or splits[m.group]) for m in members
    ]


def _check_splits(recordings):
    """Refuses recordings in two splits, and a training without noise."""
    by_split = {
        split: [r for r in recordings if r.split == split] for split in SPLITS
    }
    refuse_overlaps(
        {
            split: [{"noise recording": r.group} for r in members]
            for split, members in by_split.items()
        },
        ["noise recording"],
    )
    if not by_split["train"]:
        kinds = ", ".join(sorted({r.kind for r in recordings}))
        raise CorpusError(
            f"noise for testing only ({kinds}): training needs a type with at "
            "least three recordings. Give this corpus as unseen_noise and "
            "another one to train on; or give all its files one type, by "
            "putting them into one sub-folder"
        )


def _check_heard(lines, kinds):
    """Refuses a type that cannot be heard where it should be."""
    for kind in sorted(kinds):
        splits = ("test",) if kind.startswith(UNSEEN_PREFIX) else SPLITS
        silent = [
            split
            for split in splits
            if kind not in {row[KIND] for row in lines[split]}
        ]
        if silent:
            raise CorpusError(
                f"noise type {kind}: no audible recording for "
                f"{', '.join(silent)}"
            )


def _write(save_folder, lines, stamp):
    """Writes a CSV per split, the stamp last."""
    for split in SPLITS:
        rows = [
            [f"{row[KIND]}-{n}", *row[1:]] for n, row in enumerate(lines[split])
        ]
        write_csv(save_folder / f"{split}.csv", HEADER, rows)
        count = len({row[PATH] for row in rows})
        logger.info(
            f"Noise: {split} {count} recordings, {len(rows)} audible "
            f"segments of {', '.join(sorted({row[KIND] for row in rows}))}"
        )
    write_json(save_folder / STAMP, stamp)


def _lines(recordings, made_of):
    """CSV rows of recordings by split, their IDs still open."""
    lines, problems = {split: [] for split in SPLITS}, []
    for recording in sorted(recordings, key=lambda r: (r.kind, str(r.path))):
        path = recording.path.resolve()
        try:
            segments = audible_segments(path)
            rate = audio_info(path).sample_rate
        except AudioError as error:
            problems.append(str(error))
            continue
        origin = made_of.get((recording.kind, recording.split), "")
        origin = origin and f" origin:{origin}-{path.stem}"
        if not segments:
            logger.warning(f"{path}: silent, left out")
        for start, stop in segments:
            lines[recording.split].append(
                [
                    None,
                    round((stop - start) / rate, 4),
                    str(path),
                    path.suffix[1:],
                    f"start:{start} stop:{stop}" + origin,
                    recording.kind,
                    "string",
                    "",
                ]
            )
    if problems:
        raise CorpusError(listing("unusable noise files", problems))
    return lines
