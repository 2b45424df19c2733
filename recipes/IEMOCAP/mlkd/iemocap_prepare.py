"""IEMOCAP as its owners ship it: manifests for this recipe.

Data source: https://sail.usc.edu/iemocap

Four classes (happy and excited merged); turns with other labels are unlabelled.
Turns are counted per session and class and compared with the complete corpus
before anything is written.

Authors
 * The MLKD recipe's authors 2026
"""

import re
from collections import Counter, namedtuple

from mlkd_lobes.data import manifests
from mlkd_lobes.data.corpora import find_root
from mlkd_lobes.data.manifests import UNLABELLED
from mlkd_lobes.data.protocols import Protocol, by_speakers
from mlkd_lobes.errors import InputError, listing
from mlkd_lobes.files import stable_seed, text_sha256
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

SESSIONS = ("Session1", "Session2", "Session3", "Session4", "Session5")
# The speakers of each session.
PAIRS = [f"Ses0{number}F Ses0{number}M" for number in range(1, 6)]
SPEAKERS = " ".join(PAIRS).split()
# Every emotion an EmoEvaluation file may name.
LABEL_MAP = {
    "neu": "neu",
    "hap": "hap",
    "exc": "hap",
    "sad": "sad",
    "ang": "ang",
    **dict.fromkeys(["fru", "sur", "fea", "dis", "oth", "xxx"], UNLABELLED),
}
# 5,531 turns: the literature's four classes in a complete copy.
COUNTS = {
    "Session1": {"neu": 384, "hap": 278, "sad": 194, "ang": 229},
    "Session2": {"neu": 362, "hap": 327, "sad": 197, "ang": 137},
    "Session3": {"neu": 320, "hap": 286, "sad": 305, "ang": 240},
    "Session4": {"neu": 258, "hap": 303, "sad": 143, "ang": 327},
    "Session5": {"neu": 384, "hap": 442, "sad": 245, "ang": 170},
}
# Share of the training sessions that s3prl's rule uses for validation.
S3PRL_SHARE = 0.2
# Largest difference of a file's duration from its evaluation's, in seconds.
DURATION_TOLERANCE = 0.25
# Largest share of files that may differ by more.
MAX_OFF = 0.01
# [6.2901 - 8.2357]<TAB>Ses01F_impro01_F000<TAB>neu<TAB>[2.5, 2.5, 2.5]
TURN_LINE = re.compile(
    r"^\[(?P<start>\d+(?:\.\d+)?) - (?P<end>\d+(?:\.\d+)?)\]\s+(?P<turn>\w+)\s+"
    r"(?P<emo>\w+)\s+\[.*\]$"
)
# The speaker is in the last field: dialogs may end in a letter of their own.
TURN_NAME = re.compile(
    r"^(?P<dialog>Ses0(?P<session>[1-5])[FM]_(?:impro|script)\w+)"
    r"_(?P<gender>[FM])\w*\d+$"
)
# Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me.
TEXT_LINE = re.compile(
    r"^(?P<turn>Ses0\w+) \[[\d.]+-[\d.]+\]:(?P<text>.*)$", re.MULTILINE
)


class Turn(namedtuple("Turn", "name dialog session gender emo time")):
    """A line of an EmoEvaluation file; `time`: duration in s."""


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
        From 1; which session or speaker is tested.
    partial_corpus : bool
        Continues with a warning where turns are missing or unexpected.

    Raises
    ------
    InputError
        If the corpus is not as expected; the message lists the differences.
    """
    root = find_root(data_folder, "IEMOCAP", SESSIONS, any)
    turns, problems = read_turns(root)
    mapping = manifests.emotion_map("IEMOCAP", LABEL_MAP, label_map, labels)
    stamp = {
        "corpus": "iemocap",
        "turns": text_sha256(turns),
        "audio": manifests.file_states(root / wav_path(turn) for turn in turns),
        "settings": [labels, protocol, fold, partial_corpus],
        "label_map": mapping,
        "declared": PROTOCOLS[protocol].declared,
    }
    if manifests.is_prepared(save_folder, stamp):
        return
    differences, turns = check_corpus(root, turns)
    if problems:
        title = "lines of EmoEvaluation files are not as expected"
        differences.insert(0, listing(title, problems))
    manifests.report_differences("IEMOCAP", differences, partial_corpus)
    entries = _entries(turns, mapping, read_texts(root))
    manifests.check_fold(fold, PROTOCOLS[protocol].n_folds)
    splits = PROTOCOLS[protocol].split(entries, fold)
    used = {name: e for split in splits.values() for name, e in split.items()}
    manifests.measure(used, data_folder)
    _check_durations(turns, used, partial_corpus)
    manifests.write_manifests(save_folder, splits, labels, stamp)


def wav_path(turn):
    """Path of a turn's audio below the release.

    Arguments
    ---------
    turn : Turn
        The turn.

    Returns
    -------
    str
        Relative path.

    Example
    -------
    >>> turn = Turn(
    ...     "Ses05M_script01_1b_F003",
    ...     "Ses05M_script01_1b",
    ...     "Session5",
    ...     "F",
    ...     "neu",
    ...     1.5,
    ... )
    >>> wav_path(turn)
    'Session5/sentences/wav/Ses05M_script01_1b/Ses05M_script01_1b_F003.wav'
    """
    return f"{turn.session}/sentences/wav/{turn.dialog}/{turn.name}.wav"


def read_turns(root):
    """All turns of the EmoEvaluation files.

    Arguments
    ---------
    root : pathlib.Path
        The release.

    Returns
    -------
    turns : list of Turn
        In the order of files and lines.
    problems : list of str
        File, line and what is wrong with it.
    """
    turns, problems, seen = [], [], {}
    for session in SESSIONS:
        folder = root / session / "dialog" / "EmoEvaluation"
        # Copies made on a Mac hold ._ files beside the real ones.
        for path in sorted(folder.glob("[!.]*.txt")):
            for number, line in _lines(path):
                where = f"{path}, line {number}"
                turn, problem = parse_turn(line, session, path.stem)
                if problem is None and turn.name in seen:
                    problem = f"{turn.name} is also in {seen[turn.name]}"
                if problem:
                    problems.append(f"{where}: {problem}")
                    continue
                seen[turn.name] = where
                turns.append(turn)
    return turns, problems


def _lines(path):
    """Number and text of the lines that describe a turn."""
    text = path.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        # Others are the header and single evaluators' votes.
        if line.startswith("[") or re.search(r"Ses0\d[FM]_", line):
            yield number, line.rstrip()


def parse_turn(line, session, dialog):
    """A line of an EmoEvaluation file.

    Arguments
    ---------
    line : str
        The line.
    session : str
        The session of the file's folder.
    dialog : str
        The file's name without suffix.

    Returns
    -------
    turn : Turn
        None if there is a problem.
    problem : str
        None if there is none.

    Example
    -------
    >>> line = "[6.2901 - 8.2357]\\tSes01F_impro01_F000\\tneu\\t[2.5, 2.5, 2.5]"
    >>> turn, problem = parse_turn(line, "Session1", "Ses01F_impro01")
    >>> turn.gender, turn.emo, problem
    ('F', 'neu', None)
    """
    match = TURN_LINE.match(line)
    if not match:
        return None, f"malformed: {line!r}"
    name = TURN_NAME.match(match["turn"])
    if not name:
        return None, f"'{match['turn']}' is not the name of a turn"
    if (f"Session{name['session']}", name["dialog"]) != (session, dialog):
        return None, f"{match['turn']} is a turn of another session or dialog"
    if match["emo"] not in LABEL_MAP:
        known = ", ".join(LABEL_MAP)
        return None, f"label '{match['emo']}' is none of {known}"
    time = float(match["end"]) - float(match["start"])
    turn = Turn(
        match["turn"], dialog, session, name["gender"], match["emo"], time
    )
    return turn, None


def read_texts(root):
    """Transcriptions, where the copy holds them.

    Arguments
    ---------
    root : pathlib.Path
        The release.

    Returns
    -------
    dict
        Turn to text.
    """
    texts = {}
    pattern = "Session[1-5]/dialog/transcriptions/Ses*.txt"
    for path in sorted(root.glob(pattern)):
        content = path.read_text(encoding="utf-8", errors="replace")
        for match in TEXT_LINE.finditer(content):
            texts[match["turn"]] = match["text"].strip()
    return texts


def check_corpus(root, turns):
    """Compares a copy with the complete corpus.

    Arguments
    ---------
    root : pathlib.Path
        The release.
    turns : list of Turn
        From `read_turns`.

    Returns
    -------
    differences : list of str
        What is missing or too much; empty for a complete copy.
    turns : list of Turn
        Those with audio.
    """
    differences = []
    present = [t for t in turns if (root / wav_path(t)).is_file()]
    missing = sorted({wav_path(t) for t in turns} - set(map(wav_path, present)))
    if missing:
        differences.append(listing("turns have no audio file", missing))
    evaluated = {turn.dialog for turn in turns}
    others = [
        str(path.relative_to(root))
        for path in sorted(root.glob("Session[1-5]/sentences/wav/Ses*"))
        if path.is_dir() and path.name not in evaluated
    ]
    if others:
        title = "folders of audio have no EmoEvaluation file"
        differences.append(listing(title, others))
    found = Counter((t.session, LABEL_MAP[t.emo]) for t in present)
    wrong = [
        f"{session} {label}: {found[session, label]}, expected {count}"
        for session, counts in COUNTS.items()
        for label, count in counts.items()
        if found[session, label] != count
    ]
    if wrong:
        title = "counts of utterances differ"
        differences.append(listing(title, wrong, most=len(wrong)))
    return differences, present


def _entries(turns, mapping, texts):
    """Manifest entries by turn, without emotions that are mapped to null."""
    return {
        turn.name: {
            "wav": manifests.relative_wav(wav_path(turn)),
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
    """Warns of files whose duration differs from their evaluation's.

    Many of them mean that speakers, sessions or dialogs are mixed up.
    """
    wrong = [
        f"{turn.name}: {entries[turn.name]['length']:.2f} s, its evaluation "
        f"gives {turn.time:.2f} s"
        for turn in turns
        if turn.name in entries
        and abs(entries[turn.name]["length"] - turn.time) > DURATION_TOLERANCE
    ]
    if not wrong:
        return
    text = (
        listing("audio files differ in duration from their turns", wrong)
        + "\nSpeakers or turns may be mixed up: compare these files and "
        "their EmoEvaluation lines with the corpus' archive."
    )
    if len(wrong) > MAX_OFF * len(entries) and not partial_corpus:
        raise InputError(text + " --partial_corpus=True continues anyway.")
    logger.warning(text)


def _split_s3prl(entries, fold):
    """Tests a session; a random fifth of the other four validates (SUPERB)."""
    splits = by_speakers([[pair, ""] for pair in PAIRS])(entries, fold)
    labelled = [name for name, e in splits["train"].items() if e["emo"]]
    drawn = sorted(labelled, key=lambda name: stable_seed("s3prl", name))
    for name in sorted(drawn[: round(S3PRL_SHARE * len(drawn))]):
        splits["valid"][name] = splits["train"].pop(name)
    return splits


# Each speaker is tested; the other one of the session validates.
COUPLES = [(name, SPEAKERS[i ^ 1]) for i, name in enumerate(SPEAKERS)]
PROTOCOLS = {
    # Tests a session, validates on the next, trains on the other three.
    "loso5": Protocol(by_speakers(PAIRS), (), 5),
    "s3prl": Protocol(
        _split_s3prl,
        (("speaker", "train", "valid"), ("session", "train", "valid")),
        5,
    ),
    "speaker10": Protocol(
        by_speakers(COUPLES), (("session", "valid", "test"),), 10
    ),
}
