"""IEMOCAP as its owners ship it: manifests for this recipe.

Data source: https://sail.usc.edu/iemocap

Four classes (happy and excited are one), every other turn unlabelled. The turns
are counted per session and class before anything is written, and compared with
what the corpus is known to hold.
"""

from collections import Counter

from iemocap_turns import (
    LABEL_MAP,
    SESSIONS,
    find_release,
    read_texts,
    read_turns,
    wav_path,
)
from manifests import (
    UNLABELLED,
    CorpusError,
    Protocol,
    check_label_map,
    file_states,
    is_prepared,
    listing,
    measure,
    relative_wav,
    split_entries,
    write_manifests,
)
from settings import check_choices

from mlkd_lobes.files import stable_seed, text_sha256
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

SPEAKERS = tuple(
    f"Ses0{number}{gender}" for number in range(1, 6) for gender in "FM"
)
# 5,531 turns: what the literature's four classes have in a whole copy.
COUNTS = {
    "Session1": {"neu": 384, "hap": 278, "sad": 194, "ang": 229},
    "Session2": {"neu": 362, "hap": 327, "sad": 197, "ang": 137},
    "Session3": {"neu": 320, "hap": 286, "sad": 305, "ang": 240},
    "Session4": {"neu": 258, "hap": 303, "sad": 143, "ang": 327},
    "Session5": {"neu": 384, "hap": 442, "sad": 245, "ang": 170},
}
# Share of the training sessions that s3prl's rule takes for validation.
S3PRL_SHARE = 0.2
# A turn's file should last as long as its evaluation says, up to this (s).
DURATION_TOLERANCE = 0.25
# A larger share of files that do not is refused.
MOST_OFF = 0.01


def prepare_iemocap(
    data_folder,
    save_folder,
    labels,
    label_map,
    protocol,
    fold,
    partial_corpus=False,
):
    """Writes train.json, valid.json and test.json of a fold.

    Arguments
    ---------
    data_folder : str
        IEMOCAP_full_release, with the folders Session1 to Session5.
    save_folder : str
        Where the manifests go.
    labels : list of str
        The classes.
    label_map : dict
        Changes of `LABEL_MAP`: an emotion of the corpus to one of the classes,
        to "unlabelled" or to null (left out).
    protocol : str
        One of `PROTOCOLS`.
    fold : int
        From 1; what is tested, see `PROTOCOLS`.
    partial_corpus : bool
        Goes on where turns are missing or not as expected, with a warning.

    Raises
    ------
    CorpusError
        If the corpus is not as expected; says what differs and what to do.
    """
    check_choices("protocol", protocol, PROTOCOLS)
    root = find_release(data_folder)
    turns, problems = read_turns(root)
    stamp = {
        "corpus": "iemocap",
        "turns": text_sha256(turns),
        "audio": file_states(root / wav_path(turn) for turn in turns),
        "settings": [labels, label_map, protocol, fold, partial_corpus],
        "declared": PROTOCOLS[protocol].declared,
    }
    if is_prepared(save_folder, stamp):
        logger.info(f"Corpus: {save_folder} is prepared already.")
        return
    differences, turns = check_corpus(root, turns)
    if problems:
        what = "lines of EmoEvaluation files are not as expected"
        differences.insert(0, listing(what, problems))
    _refuse(differences, partial_corpus)
    entries = _entries(turns, _mapping(label_map, labels), read_texts(root))
    splits = PROTOCOLS[protocol].split(entries, fold)
    used = {name: e for split in splits.values() for name, e in split.items()}
    measure(used, data_folder)
    _check_durations(turns, used, partial_corpus)
    write_manifests(
        save_folder, splits, labels, stamp, PROTOCOLS[protocol].declared
    )


def check_corpus(root, turns):
    """Compares a copy with what the whole corpus holds.

    Arguments
    ---------
    root : pathlib.Path
        The release.
    turns : list of Turn
        From `read_turns`.

    Returns
    -------
    differences : list of str
        What is missing or too much; empty for a whole copy.
    turns : list of Turn
        Those with audio.
    """
    differences = []
    present = [t for t in turns if (root / wav_path(t)).is_file()]
    missing = sorted({wav_path(t) for t in turns} - set(map(wav_path, present)))
    if missing:
        differences.append(listing("turns have no audio file", missing))
    evaluated = {turn.dialog for turn in turns}
    silent = [
        str(path.relative_to(root))
        for path in sorted(root.glob("Session[1-5]/sentences/wav/Ses*"))
        if path.is_dir() and path.name not in evaluated
    ]
    if silent:
        differences.append(
            listing("folders of audio have no EmoEvaluation file", silent)
        )
    found = Counter((t.session, LABEL_MAP[t.emo]) for t in present)
    wrong = [
        f"{session} {label}: {found[session, label]}, expected {count}"
        for session, counts in COUNTS.items()
        for label, count in counts.items()
        if found[session, label] != count
    ]
    if wrong:
        differences.append(
            listing("counts of utterances differ", wrong, most=len(wrong))
        )
    return differences, present


def _refuse(differences, partial_corpus):
    """Stops where a copy is not whole, unless the user knows."""
    if not differences:
        return
    report = "IEMOCAP is not as its owners ship it.\n" + "\n".join(differences)
    if not partial_corpus:
        raise CorpusError(
            report + "\nComplete the copy from the corpus' archive, or go on "
            "with what there is by --partial_corpus=True; results are then "
            "not comparable with others."
        )
    logger.warning(report)


def _mapping(label_map, labels):
    """Emotions of the corpus to classes, with the user's changes."""
    for emotion in label_map:
        if emotion not in LABEL_MAP:
            raise CorpusError(
                f"label_map: IEMOCAP has no emotion '{emotion}'; it has: "
                f"{', '.join(LABEL_MAP)}"
            )
    mapping = {**LABEL_MAP, **label_map}
    check_label_map(mapping, labels)
    return mapping


def _entries(turns, mapping, texts):
    """Manifest entries by turn; left-out emotions are not among them."""
    return {
        turn.name: {
            "wav": relative_wav(wav_path(turn)),
            "start": None,
            "stop": None,
            "length": None,
            "emo": None if label == UNLABELLED else label,
            "speaker": f"Ses0{turn.session[-1]}{turn.gender}",
            "session": turn.session,
            "gender": turn.gender.lower(),
            "dialog": turn.dialog,
            "text": texts.get(turn.name),
        }
        for turn, label in ((t, mapping[t.emo]) for t in turns)
        if label is not None
    }


def _check_durations(turns, entries, partial_corpus):
    """Warns of files that last otherwise than their evaluation says.

    Many of them mean that speakers, sessions or whole dialogs are exchanged.
    """
    wrong = [
        f"{turn.name}: {entries[turn.name]['length']:.2f} s, its evaluation "
        f"says {turn.time:.2f} s"
        for turn in turns
        if turn.name in entries
        and abs(entries[turn.name]["length"] - turn.time) > DURATION_TOLERANCE
    ]
    if not wrong:
        return
    text = (
        listing("audio files are not those of their turns", wrong)
        + "\nSpeakers or turns may be exchanged: compare these files and "
        "their EmoEvaluation lines with the corpus' archive."
    )
    if len(wrong) > MOST_OFF * len(entries) and not partial_corpus:
        raise CorpusError(text + " --partial_corpus=True goes on regardless.")
    logger.warning(text)


def split_loso5(entries, fold):
    """Tests a session, validates on the next, trains on the other three.

    Arguments
    ---------
    entries : dict of str to dict
        Entries by ID.
    fold : int
        The session that is tested, 1 to 5.

    Returns
    -------
    dict
        train, valid and test, each entries by ID.
    """
    test = _member(SESSIONS, fold)
    valid = SESSIONS[fold % len(SESSIONS)]
    return split_entries(entries, lambda e: e["session"], test, valid)


def split_s3prl(entries, fold):
    """Tests a session; a fifth of the other four, at random, validates.

    SUPERB's rule: speakers are shared between training and validation.

    Arguments
    ---------
    entries : dict of str to dict
        Entries by ID.
    fold : int
        The session that is tested, 1 to 5.

    Returns
    -------
    dict
        train, valid and test, each entries by ID.
    """
    test = _member(SESSIONS, fold)
    splits = split_entries(entries, lambda e: e["session"], test)
    labelled = [name for name, e in splits["train"].items() if e["emo"]]
    drawn = sorted(labelled, key=lambda name: stable_seed("s3prl", name))
    for name in sorted(drawn[: round(S3PRL_SHARE * len(drawn))]):
        splits["valid"][name] = splits["train"].pop(name)
    return splits


def split_speaker10(entries, fold):
    """Tests a speaker, validates on the other of the session.

    Arguments
    ---------
    entries : dict of str to dict
        Entries by ID.
    fold : int
        1 to 10: Ses01F, Ses01M, Ses02F, …

    Returns
    -------
    dict
        train, valid and test, each entries by ID.
    """
    test = _member(SPEAKERS, fold)
    valid = SPEAKERS[(fold - 1) ^ 1]
    return split_entries(entries, lambda e: e["speaker"], test, valid)


def _member(members, fold):
    """The session or speaker that a fold tests."""
    if not isinstance(fold, int) or not 1 <= fold <= len(members):
        raise CorpusError(f"fold: {fold} is not between 1 and {len(members)}")
    return members[fold - 1]


PROTOCOLS = {
    "loso5": Protocol(split_loso5, (), 5),
    "s3prl": Protocol(
        split_s3prl,
        (("speaker", "train", "valid"), ("session", "train", "valid")),
        5,
    ),
    "speaker10": Protocol(split_speaker10, (("session", "valid", "test"),), 10),
}
