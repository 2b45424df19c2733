"""Looks at speech, noise and splits before anybody trains on them.

What would spoil a result (audio that is broken or silent, a class that is
missing, speech or noise that training and test share) is an error; what is
merely worth knowing is a warning. `examine` gathers facts and findings,
`doctor_text` writes them for a person.
"""

import pathlib
from collections import Counter, defaultdict

import numpy as np

from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.audio_checks import (
    Finding,
    audio_findings,
    examine_audio,
)
from mlkd_lobes.evaluation.leakage import describe_overlaps, find_overlaps
from mlkd_lobes.files import read_csv, read_json
from mlkd_lobes.manifest_reader import read_manifest_entries
from mlkd_lobes.noise import SILENCE, UNSEEN_PREFIX, read_noise_csv
from mlkd_lobes.recordings import AudioError, list_audio, wav_path

SPLITS = ("train", "valid", "test")
SPEECH_KEYS = ("speaker", "session", "wav", "audio")
MOST_IMBALANCE, FEW = 5, 30
# Of a noise recording so many seconds are listened to.
NOISE_SECONDS = 30


def read_splits(target, data_folder=None):
    """Utterances to look at.

    Arguments
    ---------
    target : str
        What `train.py --prepare_only=True` leaves (a folder with manifests);
        or a csv corpus (a folder with manifest.csv); or any folder of audio.
    data_folder : str, optional
        What {data_root} stands for in manifests.

    Returns
    -------
    splits : dict
        Split ("all", where nothing is split yet) to utterance to entry.
    declared : list of (str, str, str)
        Overlaps that the protocol declares.
    """
    target = pathlib.Path(target)
    manifests = target / "manifests"
    if manifests.is_dir():
        splits = {
            split: read_manifest_entries(manifests / f"{split}.json")
            for split in SPLITS
        }
        stamp = manifests / "preparation.json"
        content = read_json(stamp) if stamp.is_file() else {}
        if not isinstance(content, dict):
            raise InputError(f"{stamp}: is damaged; prepare the corpus again")
        declared = [tuple(names) for names in content.get("declared", [])]
        return _resolve(splits, data_folder), declared
    if (target / "manifest.csv").is_file():
        rows = read_csv(target / "manifest.csv", required=["path"])
        entries = {
            f"line {number}": {**row, "wav": str(target / row["path"])}
            for number, row in enumerate(rows, start=2)
        }
        return {"all": entries}, []
    paths = list_audio(target)
    if not paths:
        raise InputError(f"{target}: no audio and no manifests in it")
    return {"all": {str(path): {"wav": str(path)} for path in paths}}, []


def _resolve(splits, data_folder):
    """Entries whose paths are those of files."""
    for split, entries in splits.items():
        for name, entry in entries.items():
            if "{data_root}" in entry["wav"] and data_folder is None:
                raise InputError(
                    "the manifests speak of {data_root}: give --data_folder"
                )
            where = f"{split}.json: utterance {name}"
            entry["wav"] = wav_path(entry["wav"], data_folder, where)
    return splits


def examine_split(split, entries):
    """Reads every utterance of a split.

    Arguments
    ---------
    split : str
        Its name.
    entries : dict of str to dict
        Its utterances; gets the hash of their samples as `audio`.

    Returns
    -------
    facts : dict
        Counts, hours, and quantiles of durations and levels.
    findings : list of Finding
        What is wrong with single files.
    """
    heard, findings = [], []
    for name, entry in entries.items():
        place = f"{split}: {entry['wav']}"
        bounds = entry.get("start"), entry.get("stop", entry.get("end"))
        try:
            bounds = [None if t in (None, "") else float(t) for t in bounds]
            facts = examine_audio(entry["wav"], *bounds)
        except ValueError as error:  # AudioError is one
            text = str(error).replace(f"{entry['wav']}: ", "")
            findings.append(Finding("error", place, text))
            continue
        entry["audio"] = facts["audio"]
        heard.append(facts)
        findings += audio_findings(place, facts)
    labels = Counter(
        entry.get("emo", entry.get("emotion")) or "unlabelled"
        for entry in entries.values()
    )
    return {
        "utterances": len(entries),
        "unreadable": len(entries) - len(heard),
        "hours": sum(facts["seconds"] for facts in heard) / 3600,
        "seconds": _quantiles([facts["seconds"] for facts in heard]),
        "level_dbfs": _quantiles([facts["level"] for facts in heard]),
        "sample_rates": _counts(facts["sample_rate"] for facts in heard),
        "channels": _counts(facts["channels"] for facts in heard),
        "labels": _counts(labels.elements()),
        "speakers": _counts(
            e["speaker"] for e in entries.values() if e.get("speaker")
        ),
    }, findings


def _quantiles(values):
    """Lowest, median and highest."""
    if not values:
        return None
    found = np.quantile(values, [0, 0.5, 1])
    return [round(float(value), 2) for value in found]


def _counts(values):
    return {str(key): n for key, n in sorted(Counter(values).items())}


def split_findings(splits):
    """What is wrong with the splits as such.

    Arguments
    ---------
    splits : dict
        Split to facts, from `examine_split`.

    Returns
    -------
    list of Finding
        Classes that are missing, rare or lopsided.
    """
    found = []
    classes = {c for facts in splits.values() for c in facts["labels"]}
    classes -= {"unlabelled"}
    for split, facts in splits.items():
        counts = {c: facts["labels"].get(c, 0) for c in sorted(classes)}
        missing = [c for c, n in counts.items() if not n]
        if missing:
            text = f"no utterance is labelled {', '.join(missing)}"
            found.append(Finding("error", split, text))
            continue
        if not counts:
            continue
        rare = min(counts, key=counts.get)
        most = max(counts.values())
        if most > MOST_IMBALANCE * counts[rare]:
            text = f"lopsided: {counts[rare]} {rare}, {most} of another class"
            found.append(Finding("warning", split, text))
        if split == "test" and counts[rare] < FEW:
            text = (
                f"{counts[rare]} utterances of {rare}: a difference of "
                f"{100 / counts[rare] / len(counts):.1f} UA points is one of them"
            )
            found.append(Finding("warning", split, text))
    return found


def overlap_findings(splits, declared):
    """What splits share: refused, or declared by the protocol.

    Arguments
    ---------
    splits : dict
        Split to utterance to entry.
    declared : collection of (str, str, str)
        Overlaps that are meant.

    Returns
    -------
    list of Finding
        An error for each that is not meant, a warning for others.
    """
    listed = {split: entries.values() for split, entries in splits.items()}
    found = []
    for overlap in find_overlaps(listed, SPEECH_KEYS):
        meant = (overlap.key, *overlap.splits) in declared
        meant = meant and overlap.splits != ("train", "test")
        text = describe_overlaps([overlap])
        text += " (declared by the protocol)" if meant else ""
        level = "warning" if meant else "error"
        found.append(Finding(level, " and ".join(overlap.splits), text))
    texts = [
        {e["text"].casefold() for e in listed.get(split, ()) if e.get("text")}
        for split in ("train", "test")
    ]
    shared = sum(
        (e.get("text") or "").casefold() in texts[0]
        for e in listed.get("test", ())
    )
    if shared:
        text = (
            f"{shared} of {len(listed['test'])} test utterances say what is "
            f"also said in training ({len(texts[0] & texts[1])} texts)"
        )
        found.append(Finding("warning", "train and test", text))
    return found


def examine_noise(folder, noise_folder=None):
    """Listens to the noise of prepared CSVs.

    Arguments
    ---------
    folder : pathlib.Path
        With train.csv, valid.csv and test.csv.
    noise_folder : str, optional
        What $noise_folder stands for in them.

    Returns
    -------
    facts : dict
        Split to noise type to recordings and audible hours.
    findings : list of Finding
        What is wrong.
    """
    facts, findings, listed = {}, [], {}
    for split in SPLITS:
        csv_file = str(folder / f"{split}.csv")
        try:
            kinds = read_noise_csv(csv_file, {"noise_folder": noise_folder})
        except AudioError as error:
            findings.append(Finding("error", f"noise {split}", str(error)))
            continue
        facts[split] = {}
        for kind, recordings in kinds.items():
            segments = [s for found in recordings.values() for s in found]
            seconds = sum((s.stop - s.start) / s.rate for s in segments)
            facts[split][kind] = {
                "recordings": len(recordings),
                "hours": seconds / 3600,
            }
            for path, found in recordings.items():
                findings += _noise_findings(split, path, found[0])
        listed[split] = [
            {"noise recording": path}
            for found in kinds.values()
            for path in found
        ]
    for overlap in find_overlaps(listed, ["noise recording"]):
        text = describe_overlaps([overlap])
        findings.append(Finding("error", "noise", text))
    seen = {k for kinds in facts.values() for k in kinds}
    for split, kinds in facts.items():
        missing = [
            kind
            for kind in sorted(seen - set(kinds))
            if not kind.startswith(UNSEEN_PREFIX)
        ]
        if missing:
            text = f"no noise of type {', '.join(missing)}"
            findings.append(Finding("error", f"noise {split}", text))
    return facts, findings


def _noise_findings(split, path, segment):
    """What is wrong with the beginning of a recording's first segment."""
    start = segment.start / segment.rate
    stop = min(segment.stop / segment.rate, start + NOISE_SECONDS)
    place = f"noise {split}: {path}"
    try:
        found = audio_findings(place, examine_audio(path, start, stop), SILENCE)
    except AudioError as error:
        text = str(error).replace(f"{path}: ", "")
        return [Finding("error", place, text)]
    # Short noise is repeated: its length is no defect.
    return [f for f in found if not f.text.startswith("only 0.")]


def examine(target, data_folder=None, noise_folder=None):
    """Looks at everything that a folder holds.

    Arguments
    ---------
    target : str
        See `read_splits`; noise is looked at where there is a folder "noise"
        with CSVs in it.
    data_folder : str, optional
        What {data_root} stands for.
    noise_folder : str, optional
        What $noise_folder stands for.

    Returns
    -------
    dict
        "speech", "noise" and "findings", in values that JSON takes.
    """
    splits, declared = read_splits(target, data_folder)
    speech, findings = {}, []
    for split, entries in splits.items():
        speech[split], found = examine_split(split, entries)
        findings += found
    findings += split_findings(speech) + overlap_findings(splits, declared)
    noise, folder = {}, pathlib.Path(target) / "noise"
    if (folder / "train.csv").is_file():
        noise, found = examine_noise(folder, noise_folder)
        findings += found
    findings.sort(key=lambda finding: finding.level)
    return {
        "schema": 1,
        "speech": speech,
        "noise": noise,
        "findings": [finding._asdict() for finding in findings],
    }


def doctor_text(report, most=8):
    """A report for a person.

    Arguments
    ---------
    report : dict
        From `examine`.
    most : int
        How many findings of one text are listed by name.

    Returns
    -------
    str
        Lines of text.
    """
    lines = []
    for split, facts in report["speech"].items():
        lines += [
            f"{split}: {facts['utterances']} utterances, {facts['hours']:.2f} h"
        ]
        if facts["speakers"]:
            names = list(facts["speakers"])
            shown = ", ".join(names[:12]) + (" …" if len(names) > 12 else "")
            lines.append(f"  {len(names)} speakers: {shown}")
        for key, title, unit in (
            ("seconds", "duration", "s"),
            ("level_dbfs", "level", "dBFS"),
        ):
            if facts[key]:
                low, middle, high = facts[key]
                lines.append(
                    f"  {title}: {low} to {high} {unit}, median {middle}"
                )
        for key in ("labels", "sample_rates", "channels"):
            shown = ", ".join(f"{k}: {n}" for k, n in facts[key].items())
            lines.append(f"  {key.replace('_', ' ')}: {shown}")
    for split, kinds in report["noise"].items():
        shown = ", ".join(
            f"{kind} {facts['recordings']} ({facts['hours']:.2f} h)"
            for kind, facts in kinds.items()
        )
        lines.append(f"noise {split}: {shown}")
    return "\n".join(lines + [""] + _finding_lines(report["findings"], most))


def _finding_lines(findings, most):
    """Findings, those of one kind together."""
    if not findings:
        return ["Nothing to complain of."]
    groups = defaultdict(list)
    for finding in findings:
        # Numbers differ from file to file, the kind of finding does not.
        kind = "".join(c for c in finding["text"] if not c.isdigit())
        groups[finding["level"], kind].append(finding)
    lines = []
    for (level, _), members in groups.items():
        for finding in members[:most]:
            lines.append(f"{level}: {finding['where']}: {finding['text']}")
        if len(members) > most:
            lines.append(
                f"{level}: … and {len(members) - most} more like these"
            )
    counts = Counter(finding["level"] for finding in findings)
    lines.append(
        f"{counts['error']} errors, {counts['warning']} warnings"
        + (": do not train on this yet." if counts["error"] else ".")
    )
    return lines
