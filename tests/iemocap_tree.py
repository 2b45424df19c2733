"""A tree with IEMOCAP's exact layout, of any size, with noise instead of speech."""

import itertools
import random

import torch
from helpers import write_wav

OTHER_LABELS = ["fru", "xxx", "sur", "fea", "dis", "oth"]
VOTES = "C-E2:\tNeutral;\t()\nA-E3:\tval 3; act 2; dom  2;\t(a, b)\n"


def dialogs_of(session):
    """Both kinds of dialogs, by either actor, letters at the end included."""
    prefix = f"Ses0{session}"
    return [
        f"{prefix}F_impro01",
        f"{prefix}M_impro02",
        f"{prefix}F_script01_1",
        f"{prefix}M_script01_1b",
        f"{prefix}F_script02_2a",
    ]


def turns_of(session, counts, others):
    """Names and labels of a session's turns.

    `counts` gives turns per class; every other "hap" is "exc", as in IEMOCAP;
    `others` is the number of turns with other labels.
    """
    labels = []
    for label, count in counts.items():
        for i in range(count):
            labels.append("exc" if label == "hap" and i % 2 else label)
    labels += list(itertools.islice(itertools.cycle(OTHER_LABELS), others))
    random.Random(session).shuffle(labels)
    dialogs = dialogs_of(session)
    turns = {dialog: [] for dialog in dialogs}
    for i, label in enumerate(labels):
        dialog = dialogs[i % len(dialogs)]
        # The letter after the last underscore is the speaker, whichever the
        # dialog is named after; letters may stand before its number.
        gender = "FM"[i // len(dialogs) % 2]
        extra = "XX" if i % 17 == 0 else ""
        number = len(turns[dialog])
        turns[dialog].append((f"{dialog}_{gender}{extra}{number:03d}", label))
    return turns


def write_iemocap(root, counts, others=12, seconds=0.1, newline="\n"):
    """Writes the release; `counts` is per session ("Session1", …) and class.

    Returns turn to label of all that was written.
    """
    written = {}
    wav = 0.1 * torch.randn(round(16000 * seconds))
    for session, per_label in counts.items():
        turns = turns_of(int(session[-1]), per_label, others)
        for dialog, lines in turns.items():
            evaluation = [
                "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n"
            ]
            printed, time = [], 6.2901
            for name, label in lines:
                end = time + seconds
                evaluation.append(
                    f"[{time:.4f} - {end:.4f}]\t{name}\t{label}\t"
                    f"[2.5000, 2.5000, 2.5000]\n{VOTES}"
                )
                printed.append(
                    f"{name} [{time:08.4f}-{end:08.4f}]: So, {label}."
                )
                place = root / session / "sentences/wav" / dialog
                write_wav(place / f"{name}.wav", wav)
                written[name] = label
                time = end + 0.5
            for folder, text in (
                ("EmoEvaluation", "\n".join(evaluation)),
                ("transcriptions", "\n".join(printed) + "\n"),
            ):
                path = root / session / "dialog" / folder / f"{dialog}.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text.replace("\n", newline), newline="")
    return written
