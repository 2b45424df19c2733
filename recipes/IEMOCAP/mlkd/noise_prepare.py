"""Noise corpora: SpeechBrain noise CSVs for this recipe.

A corpus is read into recordings, each of a type; recordings (never segments of
one) are assigned to train, valid and test; the audible segments of each recording
are listed by start and stop. Nothing is copied or cut. Babble and white noise are
generated beside the CSVs.
"""

import pathlib

from mlkd_lobes import files
from mlkd_lobes.data import manifests
from mlkd_lobes.data.audio import audible_segments, audio_info, list_audio
from mlkd_lobes.data.leakage import refuse_overlaps
from mlkd_lobes.data.manifests import SPLITS, listing
from mlkd_lobes.errors import InputError, check_choice
from mlkd_lobes.noise import generated
from mlkd_lobes.noise.add_noise import UNSEEN_PREFIX
from mlkd_lobes.noise.corpora import NOISE_CORPORA, Recording, assign_splits
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

HEADER = ["ID", "duration", "wav", "wav_format", "wav_opts"]
HEADER += ["noise_type", "noise_type_format", "noise_type_opts"]
PATH, KIND = HEADER.index("wav"), HEADER.index("noise_type")

# Speech of a noise corpus, from which babble can be made.
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
        corpus has no such type; None: the corpus' usual types.
    babble_folder : str, optional
        Speech of several talkers, see `mlkd_lobes.noise.generated`. Default:
        speech of the noise corpus.
    unseen_noise : dict, optional
        Names to folders of noise used in the test only.
    corpus_files : collection of str
        The emotion corpus' audio files: none may be used for babble.
    corpus_speakers : collection of str
        Its speakers: likewise.

    Raises
    ------
    InputError
        If the corpus, a type or a folder is not as expected.
    """
    check_choice("noise_corpus", noise_corpus, NOISE_CORPORA)
    if noise_folder is None:
        raise InputError(
            "noise_folder: expected the folder of a noise corpus (or CSVs of "
            "your own: noise_annotation and the two keys beside it)"
        )
    corpus, save_folder = NOISE_CORPORA[noise_corpus], pathlib.Path(save_folder)
    found = corpus.read(noise_folder)
    noise_types = noise_types or corpus.types
    recordings = assign_splits(_of_types(found, noise_types, noise_folder))
    recordings += _unseen(unseen_noise or {})
    to_generate, talkers = _kinds_to_generate(found, noise_types), {}
    if "babble" in to_generate and babble_folder:
        talkers = generated.read_talkers(
            babble_folder, corpus_files, corpus_speakers
        )
    elif "babble" in to_generate:
        talkers = _talkers_of_corpus(found)
    stamp = _stamp(recordings, talkers, to_generate)
    made = _plan_generated(to_generate, save_folder, stamp["talkers"])
    if manifests.is_prepared(save_folder, stamp, ".csv") and all(
        recording.path.is_file() for recording in made
    ):
        logger.info(f"Noise: {save_folder} is prepared already.")
        return
    _check_splits(recordings + made)
    # From here to the end, nothing in the folder counts as prepared.
    (save_folder / manifests.STAMP).unlink(missing_ok=True)
    rows = _rows(recordings, {})
    for recording in made:
        generated.generate(recording, talkers)
    for split, added in _rows(made, generated.origins(talkers)).items():
        rows[split] += added
    _check_audible(rows, {r.kind for r in recordings + made})
    _write(save_folder, rows, stamp)


def _kinds_to_generate(recordings, noise_types):
    """Generated types that are wanted and that the corpus does not have."""
    kinds = {recording.kind for recording in recordings}
    return [
        k for k in generated.GENERATORS if k in noise_types and k not in kinds
    ]


def _unseen(unseen_noise):
    """Recordings that only the test uses."""
    recordings = []
    for name, folder in unseen_noise.items():
        paths = list_audio(folder)
        if not paths:
            raise InputError(f"unseen_noise: {name}: no audio in {folder}")
        kind = UNSEEN_PREFIX + name
        recordings += [Recording(p, kind, str(p), "test") for p in paths]
    return recordings


def _talkers_of_corpus(recordings):
    """The noise corpus' own speech as talkers, one per file."""
    speech = [r for r in recordings if r.kind == SPEECH]
    if not speech:
        raise InputError(
            "babble_folder: noise type 'babble' needs a folder with speech of "
            "several talkers"
        )
    talkers = {split: {} for split in SPLITS}
    for recording in assign_splits(speech):
        talkers[recording.split][str(recording.path)] = [recording.path]
    lacking = [split for split in SPLITS if not talkers[split]]
    if lacking:
        raise InputError(
            f"babble: {len(speech)} recordings of speech are too few, none is "
            f"left for {', '.join(lacking)}; give other people's speech as "
            "babble_folder"
        )
    return talkers


def _plan_generated(kinds, save_folder, talkers):
    """Recordings to generate; other talkers give another folder.

    So a file that a running training reads is never overwritten.
    """
    planned = []
    for kind in kinds:
        source = talkers if kind == "babble" else None
        key = files.text_sha256([generated.VERSION, source])
        folder = save_folder / kind / key[:8]
        planned += generated.plan_generated(kind, folder)
    return planned


def _stamp(recordings, talkers, to_generate):
    """What the CSVs are made from; a change of it makes them anew."""
    return {
        "version": generated.VERSION,
        "generated": to_generate,
        "recordings": [
            [str(r.path), r.kind, r.group, r.split] for r in recordings
        ],
        "audio": manifests.file_states(r.path for r in recordings),
        "talkers": {
            split: {
                name: manifests.file_states(paths) for name, paths in t.items()
            }
            for split, t in talkers.items()
        },
    }


def _of_types(recordings, noise_types, folder):
    """The recordings of the wanted types."""
    found = sorted({recording.kind for recording in recordings})
    known = [*found, *generated.GENERATORS]
    if not noise_types or not {*noise_types} <= {*known}:
        raise InputError(
            f"noise_types: {noise_types}; expected a list of types of {folder} "
            f"({', '.join(found)}) and of those generated "
            f"({', '.join(generated.GENERATORS)})"
        )
    return [r for r in recordings if r.kind in noise_types]


def _check_splits(recordings):
    """Raises for recordings in two splits, and without noise for training."""
    groups = {
        split: [
            {"noise recording": r.group} for r in recordings if r.split == split
        ]
        for split in SPLITS
    }
    refuse_overlaps(groups, ["noise recording"])
    if not groups["train"]:
        kinds = ", ".join(sorted({r.kind for r in recordings}))
        raise InputError(
            f"noise for the test only ({kinds}): training needs a type with at "
            "least three recordings. Give this corpus as unseen_noise and "
            "another one to train on; or give all its files one type, by "
            "putting them into one sub-folder"
        )


def _check_audible(rows, kinds):
    """Raises if a type has no audible recording in a split."""
    for kind in sorted(kinds):
        splits = ("test",) if kind.startswith(UNSEEN_PREFIX) else SPLITS
        for split in splits:
            if kind not in {row[KIND] for row in rows[split]}:
                raise InputError(
                    f"noise type {kind}: no audible recording for {split}"
                )


def _rows(recordings, origins):
    """CSV rows of recordings by split, without IDs."""
    rows, problems = {split: [] for split in SPLITS}, []
    for recording in sorted(recordings, key=lambda r: (r.kind, str(r.path))):
        path = recording.path.resolve()
        try:
            segments = audible_segments(path)
            rate = audio_info(path).sample_rate
        except InputError as error:
            problems.append(str(error))
            continue
        origin = origins.get((recording.kind, recording.split), "")
        origin = origin and f" origin:{origin}-{path.stem}"
        if not segments:
            logger.warning(f"{path}: silent, left out")
        for start, stop in segments:
            row = [None, round((stop - start) / rate, 4), str(path)]
            row += [path.suffix[1:], f"start:{start} stop:{stop}" + origin]
            rows[recording.split].append([*row, recording.kind, "string", ""])
    if problems:
        raise InputError(listing("unusable noise files", problems))
    return rows


def _write(save_folder, rows, stamp):
    """Writes a CSV per split, the stamp last."""
    for split in SPLITS:
        numbered = [
            [f"{row[KIND]}-{n}", *row[1:]] for n, row in enumerate(rows[split])
        ]
        files.write_csv(save_folder / f"{split}.csv", HEADER, numbered)
        count = len({row[PATH] for row in numbered})
        logger.info(
            f"Noise: {split} {count} recordings, {len(numbered)} audible "
            f"segments of {', '.join(sorted({row[KIND] for row in numbered}))}"
        )
    files.write_json(save_folder / manifests.STAMP, stamp)
