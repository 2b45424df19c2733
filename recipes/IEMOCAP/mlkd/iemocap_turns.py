"""IEMOCAP's files: the turns, their labels and texts, wherever they lie."""

import pathlib
import re
from collections import namedtuple

from manifests import UNLABELLED, CorpusError

SESSIONS = ("Session1", "Session2", "Session3", "Session4", "Session5")
# Every emotion an EmoEvaluation file may name.
LABEL_MAP = {
    "neu": "neu",
    "hap": "hap",
    "exc": "hap",
    "sad": "sad",
    "ang": "ang",
    "fru": UNLABELLED,
    "sur": UNLABELLED,
    "fea": UNLABELLED,
    "dis": UNLABELLED,
    "oth": UNLABELLED,
    "xxx": UNLABELLED,
}
# [6.2901 - 8.2357]<TAB>Ses01F_impro01_F000<TAB>neu<TAB>[2.5, 2.5, 2.5]
TURN_LINE = re.compile(
    r"^\[(?P<start>[\d.]+) - (?P<end>[\d.]+)\]\s+(?P<turn>\w+)\s+(?P<emo>\w+)\s+"
    r"\[.*\]$"
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

Turn = namedtuple(
    "Turn", ["name", "dialog", "session", "gender", "emo", "time"]
)
Turn.__doc__ = (
    """A line of an EmoEvaluation file; `time` is its duration in s."""
)


def find_release(data_folder):
    """The corpus' folder, checked to be one.

    Arguments
    ---------
    data_folder : str
        What the user gave.

    Returns
    -------
    pathlib.Path
        The same.

    Raises
    ------
    CorpusError
        If it has no session; names the folder below it that has.
    """
    root = pathlib.Path(data_folder)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    if any((root / session).is_dir() for session in SESSIONS):
        return root
    message = (
        f"{root}: is not IEMOCAP: expected the folders Session1 to Session5 "
        "right in it"
    )
    inner = [p.parent for p in sorted(root.glob("*/Session[1-5]"))]
    inner += [p.parent for p in sorted(root.glob("*/*/Session[1-5]"))]
    if inner:
        message += f"; give {inner[0]} as --data_folder"
    raise CorpusError(message)


def wav_path(turn):
    """Where a turn's audio lies below the release.

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
    >>> turn = Turn("Ses05M_script01_1b_F003", "Ses05M_script01_1b", "Session5",
    ...             "F", "neu", 1.5)
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
        for path in sorted(folder.glob("*.txt")):
            # Copies made on a Mac hold ._ files beside the real ones.
            if path.name.startswith("."):
                continue
            for number, line in _lines(path):
                where = f"{path}, line {number}"
                turn, problem = parse_turn(line, session, path.stem)
                if problem is None and turn.name in seen:
                    problem = f"{turn.name} stands already in {seen[turn.name]}"
                if problem:
                    problems.append(f"{where}: {problem}")
                    continue
                seen[turn.name] = where
                turns.append(turn)
    return turns, problems


def _lines(path):
    """Number and text of the lines that speak of a turn."""
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
        In whose folder the file lies.
    dialog : str
        After which it is named.

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
        return None, f"'{match['turn']}' is no turn's name"
    if f"Session{name['session']}" != session:
        return None, f"{match['turn']} is a turn of another session"
    if name["dialog"] != dialog:
        return None, f"{match['turn']} is a turn of another dialog"
    if match["emo"] not in LABEL_MAP:
        known = ", ".join(LABEL_MAP)
        return None, f"label '{match['emo']}' is none of {known}"
    try:
        time = float(match["end"]) - float(match["start"])
    except ValueError:
        return None, f"malformed times: {line!r}"
    turn = Turn(
        match["turn"], dialog, session, name["gender"], match["emo"], time
    )
    return turn, None


def read_texts(root):
    """What is said, where the copy holds transcriptions.

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
    for path in sorted(
        root.glob("Session[1-5]/dialog/transcriptions/Ses*.txt")
    ):
        content = path.read_text(encoding="utf-8", errors="replace")
        for match in TEXT_LINE.finditer(content):
            texts[match["turn"]] = match["text"].strip()
    return texts
