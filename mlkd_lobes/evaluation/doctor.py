"""Checks speech and splits before training; preparation checks the noise.

What would spoil a result (broken or silent audio, a missing class, speech
shared by training and test) is an error; everything else worth knowing is a
warning. `examine` gathers facts and findings, `doctor_text` formats them.
"""

from __future__ import annotations

import hashlib
import math
import pathlib
from collections import Counter, defaultdict, namedtuple

import numpy as np

from mlkd_lobes.data import audio
from mlkd_lobes.data.leakage import (
    SPEECH_KEYS,
    describe_overlaps,
    find_overlaps,
    is_declared,
)
from mlkd_lobes.data.manifests import SPLITS, STAMP, read_entries, wav_path
from mlkd_lobes.errors import InputError, listing
from mlkd_lobes.files import composed, read_csv, read_json, spelled

# Below this RMS (-80 dBFS) a file is silent; from this peak a sample is clipped.
SILENT, CLIPPED = 1e-4, 0.999
MAX_CLIPPED, MAX_IMBALANCE = 0.01, 5
SHORT, LONG = 0.5, 30.0
# Read at a time, in seconds.
BLOCK_SECONDS = 60.0


class Finding(namedtuple("Finding", ["level", "where", "text"])):
    """ "error" or "warning", the file or split, the finding."""


def examine(target, data_folder=None) -> dict:
    """Facts ("speech") and "findings" of a folder, for JSON.

    target: the output folder of `train.py --prepare_only=True`, a folder with
    manifest.csv, or any folder of audio.
    """
    splits, declared = _read_splits(pathlib.Path(target), data_folder)
    speech, findings = {}, []
    for split, entries in splits.items():
        speech[split], found = examine_split(split, entries)
        findings += found
    findings += split_findings(speech) + overlap_findings(splits, declared)
    findings += copy_findings(splits)
    findings.sort(key=lambda finding: finding.level)
    return {
        "schema": 2,
        "speech": speech,
        "findings": [finding._asdict() for finding in findings],
    }


def _read_splits(target, data_folder):
    """Entries by split ("all" if nothing is split), and declared overlaps."""
    manifests = target / "manifests"
    if manifests.is_dir():
        stamp, declared = manifests / STAMP, []
        if stamp.is_file():
            declared = read_json(stamp, dict).get("declared", [])
        return {
            split: _entries(manifests / f"{split}.json", data_folder)
            for split in SPLITS
        }, declared
    if (target / "manifest.csv").is_file():
        rows = read_csv(target / "manifest.csv", required=["path"])
        entries = {
            f"line {number}": {
                **row,
                "wav": str(target / spelled(target, row["path"])),
                "speaker": composed(row.get("speaker")),
            }
            for number, row in enumerate(rows, start=2)
        }
        return {"all": entries}, []
    paths = audio.list_audio(target)
    if not paths:
        raise InputError(f"{target}: no audio and no manifests in it")
    return {"all": {str(path): {"wav": str(path)} for path in paths}}, []


def _entries(path, data_folder):
    """Entries of a manifest with the paths of their files."""
    entries = read_entries(path)
    for name, entry in entries.items():
        if "{data_root}" in entry["wav"] and data_folder is None:
            raise InputError(f"{path} names {{data_root}}: give --data_folder")
        where = f"{path}: utterance {name}"
        entry["wav"] = wav_path(entry["wav"], data_folder, where)
    return entries


def examine_audio(path, start=None, stop=None) -> dict:
    """Measures a file: seconds, sample_rate, level (RMS in dBFS), clipped (share
    of samples) and `audio`, a hash of its samples."""
    first, last, info = audio.frame_bounds(path, start, stop)
    samples, n, power, clipped = hashlib.sha256(), 0, 0.0, 0
    longest = BLOCK_SECONDS * info.sample_rate
    for begin, end in audio.equal_parts(first, last, longest):
        wav = audio.read_frames(path, begin, end - begin)
        samples.update(wav.tobytes())
        n += len(wav)
        power += np.square(wav, dtype=np.float64).sum()
        clipped += int((np.abs(wav) >= CLIPPED).sum())
    return {
        "seconds": n / audio.SAMPLE_RATE,
        "sample_rate": info.sample_rate,
        "level": 20 * math.log10(max(math.sqrt(power / n), 1e-9)),
        "clipped": clipped / n,
        "audio": samples.hexdigest(),
    }


def audio_findings(name, facts) -> list[Finding]:
    """Findings on a file that can be read.

    >>> facts = {
    ...     "seconds": 2.0,
    ...     "sample_rate": 16000,
    ...     "level": -120.0,
    ...     "clipped": 0.0,
    ... }
    >>> [(f.level, f.text) for f in audio_findings("a.wav", facts)]
    [('error', 'nothing but silence (-120 dBFS)')]
    """
    found = []
    if facts["level"] < 20 * math.log10(SILENT):
        text = f"nothing but silence ({facts['level']:.0f} dBFS)"
        found.append(Finding("error", name, text))
    for wrong, text in (
        (facts["sample_rate"] < 16000, f"only {facts['sample_rate']} Hz"),
        (facts["clipped"] > MAX_CLIPPED, f"{facts['clipped']:.0%} clipped"),
        (facts["seconds"] < SHORT, f"only {facts['seconds']:.2f} s"),
        (facts["seconds"] > LONG, f"as long as {facts['seconds']:.0f} s"),
    ):
        if wrong:
            found.append(Finding("warning", name, text))
    return found


def examine_split(split, entries) -> tuple[dict, list[Finding]]:
    """Reads every utterance of a split; stores the hash of its samples.

    Facts are counts, hours, and quantiles of durations and levels.
    """
    examined, findings = [], []
    for entry in entries.values():
        place = f"{split}: {entry['wav']}"
        bounds = entry.get("start"), entry.get("stop", entry.get("end"))
        try:
            bounds = [audio.to_seconds(t, "time") for t in bounds]
            facts = examine_audio(entry["wav"], *bounds)
        except InputError as error:
            text = str(error).replace(f"{entry['wav']}: ", "")
            findings.append(Finding("error", place, text))
            continue
        entry["audio"] = facts["audio"]
        examined.append(facts)
        findings += audio_findings(place, facts)
    labels = [e.get("emo", e.get("emotion")) for e in entries.values()]
    speakers = [e["speaker"] for e in entries.values() if e.get("speaker")]
    return {
        "utterances": len(entries),
        "unreadable": len(entries) - len(examined),
        "hours": sum(facts["seconds"] for facts in examined) / 3600,
        "seconds": _quantiles([facts["seconds"] for facts in examined]),
        "level_dbfs": _quantiles([facts["level"] for facts in examined]),
        "sample_rates": _counts(facts["sample_rate"] for facts in examined),
        "labels": _counts(label or "unlabelled" for label in labels),
        "speakers": _counts(speakers),
    }, findings


def _quantiles(values):
    """Lowest, median and highest."""
    if not values:
        return None
    found = np.quantile(values, [0, 0.5, 1])
    return [round(float(value), 2) for value in found]


def _counts(values):
    return {str(key): n for key, n in sorted(Counter(values).items())}


def split_findings(splits) -> list[Finding]:
    """Classes that are missing, rare or imbalanced in a split."""
    found = []
    classes = {c for facts in splits.values() for c in facts["labels"]}
    classes -= {"unlabelled"}
    for split, facts in splits.items():
        counts = {c: facts["labels"].get(c, 0) for c in sorted(classes)}
        missing = [c for c, n in counts.items() if not n]
        if missing:
            text = f"no utterance is labelled {', '.join(missing)}"
            level = "error" if split == "train" else "warning"
            found.append(Finding(level, split, text))
        elif counts:
            rare, most = min(counts, key=counts.get), max(counts.values())
            if most > MAX_IMBALANCE * counts[rare]:
                text = f"imbalanced: {counts[rare]} {rare}, {most} of another"
                found.append(Finding("warning", split, f"{text} class"))
    return found


def overlap_findings(splits, declared) -> list[Finding]:
    """What splits share: an error, or a warning if the protocol declares it."""
    listed = {split: entries.values() for split, entries in splits.items()}
    found = []
    for overlap in find_overlaps(listed, (*SPEECH_KEYS, "audio")):
        allowed = is_declared(overlap, declared)
        text = describe_overlaps([overlap])
        text += " (declared by the protocol)" if allowed else ""
        level = "warning" if allowed else "error"
        found.append(Finding(level, " and ".join(overlap.splits), text))
    spoken, tested = (
        [
            (entry.get("text") or "").casefold()
            for entry in listed.get(split, ())
        ]
        for split in ("train", "test")
    )
    shared = {*spoken} & {*tested} - {""}
    if shared:
        n = sum(text in shared for text in tested)
        text = f"{n} of {len(tested)} test utterances have a text that also "
        text += f"occurs in training ({len(shared)} texts)"
        found.append(Finding("warning", "train and test", text))
    return found


def copy_findings(splits) -> list[Finding]:
    """Recordings that come more than once in a split, under other names."""
    found = []
    for split, entries in splits.items():
        names = defaultdict(list)
        for entry in entries.values():
            names[entry.get("audio")].append(entry["wav"])
        names.pop(None, None)  # unreadable
        copies = [" = ".join(wavs) for wavs in names.values() if len(wavs) > 1]
        if copies:
            text = listing("recordings come more than once", copies)
            found.append(Finding("warning", split, text))
    return found


def doctor_text(report: dict, most: int = 8) -> str:
    """Facts and findings as text; most: findings of one kind that are listed."""
    lines = []
    for split, facts in report["speech"].items():
        lines.append(
            f"{split}: {facts['utterances']} utterances, "
            f"{facts['hours']:.2f} h, {len(facts['speakers'])} speakers: "
            f"{', '.join(facts['speakers'])}"
        )
        for key in ("seconds", "level_dbfs"):
            if facts[key]:
                text = "{0} to {2}, median {1}".format(*facts[key])
                lines.append(f"  {key.replace('_', ' ')}: {text}")
        for key in ("labels", "sample_rates"):
            shown = ", ".join(f"{k}: {n}" for k, n in facts[key].items())
            lines.append(f"  {key.replace('_', ' ')}: {shown}")
    return "\n".join([*lines, "", *_finding_lines(report["findings"], most)])


def _finding_lines(findings, most):
    """Findings, those of one kind together."""
    if not findings:
        return ["No findings."]
    groups = defaultdict(list)
    for finding in findings:
        # Numbers differ from file to file, the kind of finding does not.
        kind = "".join(c for c in finding["text"] if not c.isdigit())
        text = "{level}: {where}: {text}".format(**finding)
        groups[finding["level"], kind].append(text)
    lines = [
        listing("of a kind", g, most) if len(g) > 1 else g[0]
        for g in groups.values()
    ]
    counts = Counter(finding["level"] for finding in findings)
    advice = ": do not train on this yet." if counts["error"] else "."
    total = f"{counts['error']} errors, {counts['warning']} warnings"
    return [*lines, total + advice]
