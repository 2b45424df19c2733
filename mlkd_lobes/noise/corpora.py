"""Noise corpora as their owners ship them: recordings, each of a type.

A reader takes a corpus' folder and lists its recordings, with their origin and
split where known. No audio is opened, copied or cut.
"""

import pathlib
import re
from collections import defaultdict, namedtuple

from mlkd_lobes.data.audio import list_audio, walk_audio
from mlkd_lobes.data.corpora import find_root
from mlkd_lobes.data.manifests import SPLITS
from mlkd_lobes.errors import InputError, check_choice, listing
from mlkd_lobes.files import read_csv, spelled, stable_seed
from mlkd_lobes.noise.add_noise import UNSEEN_PREFIX
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)


class Recording(namedtuple("Recording", ["path", "kind", "group", "split"])):
    """A noise file.

    Recordings of one `group` have one origin and stay in one split; `split` where
    the corpus gives it, else None.
    """


class NoiseCorpus(namedtuple("NoiseCorpus", ["read", "types"])):
    """A reader, and the types used where none are named."""


MUSAN_FILES = {"music": 660, "noise": 930, "speech": 426}


def read_musan(folder):
    """MUSAN: folders noise, music and speech, files in sub-folders of those.

    Music of one artist stays together, where the file ANNOTATIONS beside it
    names one. Speech has no speaker names: every file is its own group.

    Arguments
    ---------
    folder : str
        The corpus, usually called "musan".

    Returns
    -------
    list of Recording
        One per file, of the type of its top folder.

    Raises
    ------
    InputError
        If the three folders are not there.
    """
    folder, recordings = find_root(folder, "MUSAN", MUSAN_FILES), []
    artists = _artists(folder / "music")
    for kind, expected in MUSAN_FILES.items():
        paths = list_audio(folder / kind)
        if len(paths) != expected:
            logger.warning(
                f"{folder / kind}: {len(paths)} recordings, MUSAN has {expected}"
            )
        recordings += [
            Recording(path, kind, artists.get(path.stem, str(path)), None)
            for path in paths
        ]
    return recordings


def _artists(folder):
    """Artist of each recording of MUSAN's music."""
    lines = [
        line.split()
        for path in sorted(folder.glob("*/ANNOTATIONS"))
        for line in path.read_text(errors="replace").splitlines()
    ]
    # Name, genres, vocals (Y or N), artist; some lines end earlier.
    return {
        words[0]: f"musan-{words[3]}"
        for words in lines
        if len(words) > 3 and words[2] in ("Y", "N")
    }


DEMAND = {
    "domestic": ("DKITCHEN", "DLIVING", "DWASHING"),
    "nature": ("NFIELD", "NPARK", "NRIVER"),
    "office": ("OHALLWAY", "OMEETING", "OOFFICE"),
    "public": ("PCAFETER", "PRESTO", "PSTATION"),
    "street": ("SCAFE", "SPSQUARE", "STRAFFIC"),
    "transport": ("TBUS", "TCAR", "TMETRO"),
}
DEMAND_KIND = {name: kind for kind, names in DEMAND.items() for name in names}
DEMAND_FILE = re.compile(r"^ch(0[1-9]|1[0-6])\.(wav|flac)$")


def read_demand(folder):
    """DEMAND: a folder per place, in it up to 16 channels ch01 to ch16.

    Every category has three places, hence one each for training, validation
    and test. All channels of a place are one recording's, at 16 kHz and at
    48 kHz alike, and stay together. The 16 kHz edition lacks SCAFE: there,
    "street" is for testing only.

    Arguments
    ---------
    folder : str
        The corpus, or a folder of its unpacked archives.

    Returns
    -------
    list of Recording
        One per channel, of the type of its place's category.

    Raises
    ------
    InputError
        If a file is not one of DEMAND, or there is none.
    """
    folder, recordings, strange = pathlib.Path(folder), [], []
    for path in list_audio(folder):
        parts = path.relative_to(folder.parent).parts
        # The archives are called DKITCHEN_16k and DKITCHEN_48k.
        names = [re.sub(r"_(16|48)k$", "", part) for part in parts]
        place = next((n for n in names[::-1] if n in DEMAND_KIND), None)
        if place is None or not DEMAND_FILE.match(path.name):
            strange.append(str(path))
            continue
        kind = DEMAND_KIND[place]
        recordings.append(Recording(path, kind, f"demand-{place}", None))
    if strange or not recordings:
        raise InputError(
            listing(f"files in {folder} that are not DEMAND's", strange)
            + "\nexpected <place>/ch01.wav … ch16.wav with the places "
            + ", ".join(DEMAND_KIND)
        )
    return recordings


def read_folder(folder):
    """A folder with a sub-folder per type, or the type in the files' names.

    Arguments
    ---------
    folder : str
        The corpus.

    Returns
    -------
    list of Recording
        Each file its own origin; files right in the folder are of the type
        their name begins with, without its number: factory1.wav (NOISEX-92)
        and AirConditioner_3.wav (MS-SNSD) are of types factory and
        AirConditioner. One letter is no type: f16.wav is of type f16.
    """
    folder = pathlib.Path(folder)
    recordings = []
    for path in list_audio(folder):
        parts = path.relative_to(folder).parts
        plain = re.sub(r"[\W_]*\d.*$", "", path.stem)
        kind = plain if len(plain) > 1 else path.stem
        kind = parts[0] if len(parts) > 1 else kind
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
        path = folder / spelled(folder, row["path"])
        split = row.get("split") or None
        if split:
            check_choice(manifest, split, SPLITS, "split")
        group = row.get("group") or str(path)
        recordings.append(Recording(path, row["noise_type"], group, split))
    return recordings


ESC_NAME = re.compile(r"^(?:(?P<kind>.*)_)?(?P<fold>[1-5])-(?P<source>\d+)-")
ESC_SPLITS = dict(zip("12345", ["train", "train", "train", "valid", "test"]))


def read_esc(folder):
    """ESC-50 or ESC-10: folds 1 to 3 train, 4 valid, 5 test.

    The type is the category in esc50.csv, or what precedes the fold in
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
    category = {}
    for meta in walk_audio(folder, ("esc50.csv",)):
        for row in read_csv(meta, required=["filename", "category"]):
            category[pathlib.Path(row["filename"]).stem] = row["category"]
    recordings, strange = [], []
    for path in list_audio(folder):
        match = ESC_NAME.match(path.name)
        if not match:
            strange.append(str(path))
            continue
        place = re.sub(r"^[\d\s-]*", "", path.parent.name).lower()
        kind = category.get(path.stem) or match["kind"] or place
        origin = f"esc-{match['source']}", ESC_SPLITS[match["fold"]]
        recordings.append(Recording(path, kind.replace(" ", "_"), *origin))
    if strange:
        raise InputError(
            listing("files that are not named like ESC clips", strange)
        )
    return recordings


NOISE_CORPORA = {
    "musan": NoiseCorpus(
        read_musan, ["babble", "speech", "music", "noise", "white"]
    ),
    "demand": NoiseCorpus(
        read_demand, ["domestic", "office", "public", "street", "transport"]
    ),
    "esc": NoiseCorpus(read_esc, None),
    "folder": NoiseCorpus(read_folder, None),
    "csv": NoiseCorpus(read_csv_corpus, None),
}


def assign_by_hash(names, share):
    """Assigns names to splits, the same way on every machine.

    Arguments
    ---------
    names : sequence of str
        Recordings, origins or talkers; of a path only the file name counts.
    share : float
        Of validation and of test, at least one name each; the rest is training.

    Returns
    -------
    dict
        Name to split.

    Example
    -------
    >>> sorted(assign_by_hash(["a", "b", "c"], 0.2).values())
    ['test', 'train', 'valid']
    """
    # Sorted by hash: a fixed random order.
    names = sorted(names, key=lambda n: stable_seed(pathlib.Path(n).name))
    n = max(1, round(share * len(names)))
    order = ["valid"] * n + ["test"] * n
    order += ["train"] * (len(names) - len(order))
    return dict(zip(names, order))


def assign_splits(recordings):
    """Gives every recording a split, those of one origin the same one.

    Arguments
    ---------
    recordings : sequence of Recording
        Of any types.

    Returns
    -------
    list of Recording
        With a split. A type with fewer than three origins, or given for testing
        only, is renamed to unseen-<type> and used in the test only.

    Raises
    ------
    InputError
        If the corpus gives a split to some recordings of a type only.
    """
    by_kind = defaultdict(list)
    for recording in recordings:
        by_kind[recording.kind].append(recording)
    return [r for members in by_kind.values() for r in _assign_kind(members)]


def _assign_kind(members):
    """Keeps splits that the corpus gives, and assigns the other origins."""
    kind = members[0].kind
    splits = {m.group: m.split for m in members if m.split}
    free = sorted({m.group for m in members} - set(splits))
    if len(free) >= 3:
        splits.update(assign_by_hash(free, 0.2))
    elif free and splits:
        raise InputError(
            f"noise type {kind}: the corpus assigns some recordings to splits, "
            f"but not {', '.join(free)}; assign all or none"
        )
    if set(splits.values()) <= {"test"}:
        logger.warning(
            f"noise type {kind}: {len(members)} recording(s) of "
            f"{len(splits) + len(free)} origin(s): fewer than three, or all "
            "given for testing; it is used in the test only, as unseen noise"
        )
        kind, splits = UNSEEN_PREFIX + kind, defaultdict(lambda: "test")
    # A split given by the corpus stays: the check for overlaps sees it.
    return [
        m._replace(kind=kind, split=m.split or splits[m.group]) for m in members
    ]
