"""Noise corpora: SpeechBrain noise CSVs for this recipe.

A corpus is read into recordings, each of a type; recordings (never segments of
one) are assigned to train, valid and test; the audible segments of each recording
are listed by start and stop. Nothing is copied or cut. Babble and white noise are
generated beside the CSVs.

Authors
 * The MLKD recipe's authors 2026
"""

import itertools
import os
import pathlib

from mlkd_lobes import files
from mlkd_lobes.data import manifests
from mlkd_lobes.data.activity import audible_segments
from mlkd_lobes.data.audio import audio_info, list_audio
from mlkd_lobes.data.leakage import refuse_overlaps
from mlkd_lobes.data.manifests import SPLITS
from mlkd_lobes.errors import InputError, check_choice, listing
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
            "noise_folder: expected the folder of a noise corpus (or CSVs as "
            "noise_annotation, noise_valid_annotation, noise_test_annotation)"
        )
    corpus, save_folder = NOISE_CORPORA[noise_corpus], pathlib.Path(save_folder)
    unseen_noise = unseen_noise or {}
    places = _places(save_folder, noise_folder, babble_folder, unseen_noise)
    found = corpus.read(noise_folder)
    found = [r._replace(kind=files.composed(r.kind)) for r in found]
    noise_types = [*map(files.composed, noise_types or corpus.types or ())]
    recordings = assign_splits(_of_types(found, noise_types, noise_folder))
    recordings += _unseen(unseen_noise)
    lacking, talkers = {*noise_types} - {r.kind for r in found}, {}
    to_generate = [kind for kind in generated.GENERATORS if kind in lacking]
    if "babble" in to_generate:
        emotional = corpus_files, corpus_speakers
        talkers = _talkers(found, babble_folder, *emotional)
    stamp = _stamp(recordings, talkers, to_generate, places)
    made = _plan_generated(to_generate, save_folder, stamp["talkers"])
    _check_splits(recordings + made, talkers)
    if manifests.is_prepared(save_folder, stamp, ".csv") and all(
        recording.path.is_file() for recording in made
    ):
        return
    # Until the end the folder is not prepared, nor is it searched for noise.
    files.write_json(save_folder / manifests.STAMP, {})
    rows = _rows(recordings, {}, places)
    for recording in made:
        generated.generate(recording, talkers)
    sources = generated.origins(talkers)
    for split, added in _rows(made, sources, places).items():
        rows[split] += added
    _check_audible(rows, {r.kind for r in recordings + made})
    _write(save_folder, rows, stamp)


def _places(save_folder, noise_folder, babble_folder, unseen_noise):
    """The folders that paths in the CSVs may begin with, by name."""
    found = {"noise_folder": noise_folder, "babble_folder": babble_folder}
    found.update((f"unseen_noise/{k}", f) for k, f in unseen_noise.items())
    found = {name: folder for name, folder in found.items() if folder}
    if os.path.realpath(save_folder) in map(os.path.realpath, found.values()):
        raise InputError(f"{save_folder}: holds noise; prepare it elsewhere")
    return {"csv_folder": save_folder, **found}


def _place(path, places):
    """A path for the CSVs, relative to a named folder, which may be moved."""
    for name, folder in places.items():
        if pathlib.Path(folder) in path.parents:
            return f"${name}/{path.relative_to(folder).as_posix()}"
    return os.path.abspath(path)


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


def _talkers(recordings, babble_folder, *emotional):
    """Talkers of a folder, or the noise corpus' own speech, one per file."""
    if babble_folder:
        return generated.read_talkers(babble_folder, *emotional)
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
        for split, count in generated.GENERATED.items():
            paths = [folder / f"{split}_{n:02d}.flac" for n in range(count)]
            planned += [Recording(p, kind, str(p), split) for p in paths]
    return planned


def _stamp(recordings, talkers, to_generate, places):
    """Inputs of the CSVs; if they change, the CSVs are written again."""

    def states(paths):
        """Sizes and times of files."""
        found = manifests.file_states(paths)
        return {_place(pathlib.Path(p), places): s for p, s in found.items()}

    return {
        "version": generated.VERSION,
        "generated": to_generate,
        "recordings": [
            [_place(r.path, places), r.kind, r.split] for r in recordings
        ],
        "audio": states(r.path for r in recordings),
        "talkers": {
            split: [states(paths) for paths in found.values()]
            for split, found in talkers.items()
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


def _check_splits(recordings, talkers):
    """Raises for recordings or voices of babble in two splits, and without noise for
    training."""
    groups = {split: [] for split in SPLITS}
    for recording in recordings:
        file = os.path.realpath(recording.path)
        found = {"noise recording": recording.group, "file": file}
        groups[recording.split].append(found)
    for split, found in talkers.items():
        for path in itertools.chain(*found.values()):
            groups[split].append({"file": os.path.realpath(path)})
    refuse_overlaps(groups, ["noise recording", "file"])
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


def _rows(recordings, origins, places):
    """CSV rows of recordings by split, without IDs."""
    # babble_folder is not known when the CSVs are read.
    places = {k: f for k, f in places.items() if k != "babble_folder"}
    rows, problems = {split: [] for split in SPLITS}, []
    for recording in sorted(recordings, key=lambda r: (r.kind, str(r.path))):
        path = recording.path
        try:
            segments = audible_segments(path)
            rate = audio_info(path).sample_rate
        except InputError as error:
            problems.append(str(error))
            continue
        origin = origins.get((recording.kind, recording.split), "")
        origin = origin and f" origin:{origin}-{path.stem}"
        if not segments:
            logger.warning(f"{path}: nothing audible, left out")
        for start, stop in segments:
            seconds = round((stop - start) / rate, 4)
            row = [None, seconds, _place(path, places)]
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
