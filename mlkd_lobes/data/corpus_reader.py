"""Reads an emotion corpus by its entry in corpora.yml.

Files are found at any depth, in any case and audio format; the result is a row per
utterance. Missing, repeated and misnamed files are reported.
"""

import csv
import pathlib
import re
from collections import Counter, defaultdict

import pandas as pd

from mlkd_lobes.data import manifests
from mlkd_lobes.data.audio import list_audio, walk_audio
from mlkd_lobes.data.corpora import CORPORA, OTHER
from mlkd_lobes.errors import InputError, check_columns, listing
from mlkd_lobes.files import composed, file_sha256, refuse_lfs_pointer
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

# Spellings of tables and names.
UNNAMED = ("unknown", "none", "nan", "")
GENDERS = {"female": "f", "f": "f", "01": "f", "male": "m", "m": "m", "02": "m"}
SPLIT_OF = {"train": "train", "test": "test", "test1": "test"}
SPLIT_OF.update(dict.fromkeys(["dev", "development", "validation"], "valid"))


def read_corpus(
    name, data_folder, select, crowd_votes, partial_corpus, needed="speaker"
):
    """One row per utterance of a corpus in `CORPORA`.

    Arguments
    ---------
    name : str
        The corpus.
    data_folder : str
        A folder that holds it, at any depth.
    select : dict
        Fields of file names to the values that are used; changes the corpus'
        own choice.
    crowd_votes : bool
        Whether labels are those that most listeners gave.
    partial_corpus : bool
        Continues with a warning where files are missing.
    needed : str
        "speaker" or "split": utterances without it are left out.

    Returns
    -------
    list of dict
        id, path, speaker, emotion, gender, text, split, and `where` for
        messages.

    Raises
    ------
    InputError
        If nothing is named as in this corpus, if it is incomplete, or if an
        utterance occurs twice with different contents.
    """
    corpus, root = CORPORA[name], pathlib.Path(data_folder)
    rows = _chosen(corpus, _find(name, corpus, root), select)
    if crowd_votes and "votes" not in corpus:
        raise InputError(f"crowd_votes: {name} has no votes of listeners")
    if crowd_votes:
        rows = [{**row, "emotion": OTHER} for row in rows]
        _join(root, rows, corpus["votes"])
    _join(root, rows, corpus.get("extra"), optional=True)
    lacking = _join(root, rows, corpus.get("table")) - {
        *corpus.get("absent", ())
    }
    rows = [_row(corpus, row) for row in rows if "emotion" in row]
    rows = _without_repetitions(root, rows)
    differences = []
    if lacking and not select:
        title = "rows of tables have no audio file"
        differences.append(listing(title, sorted(lacking)))
    if "complete" in corpus and not select:
        differences += _shortfall(corpus["complete"], rows)
    manifests.report_differences(name, differences, partial_corpus)
    kept = [row for row in rows if row[needed]]
    if len(kept) < len(rows):
        n = len(rows) - len(kept)
        logger.warning(f"{n} utterances without {needed} are left out")
    return kept


def _find(name, corpus, root):
    """Fields of every file that is named as in the corpus."""
    pattern = re.compile(f"(?:.*/)?(?:{corpus['names']})", re.IGNORECASE)
    paths = [path.relative_to(root) for path in list_audio(root)]
    within = [p for p in paths if corpus.get("within", "") in p.as_posix()]
    found, others = [], []
    for path in (p for p in within or paths if p.suffix.lower() != ".mp4"):
        match = pattern.fullmatch(path.with_suffix("").as_posix())
        if match is None:
            others.append(path.as_posix())
            continue
        fields = {k: v and v.upper() for k, v in match.groupdict().items()}
        found.append({**fields, "path": path.as_posix(), "stem": path.stem})
    if not found:
        raise InputError(
            f"{root}: no file is named as in {name}, e.g. {corpus['example']}; "
            f"found: {', '.join(map(str, paths[:3])) or 'no audio at all'}. Of "
            "videos extract the audio first: ffmpeg -i video.mp4 audio.wav"
        )
    if others:
        title = f"audio files are not named as in {name} and left out"
        logger.warning(listing(title, others))
    return found


def _chosen(corpus, rows, select):
    """The files whose fields have the values that are used."""
    for field, values in {**corpus.get("select", {}), **select}.items():
        known = sorted({row[field] for row in rows if field in row})
        values = values if isinstance(values, list) else [values]
        values = {str(value).upper() for value in values}
        if not values <= set(known):
            fields = ", ".join(re.findall(r"\?P<(\w+)>", corpus["names"]))
            raise InputError(
                f"select: {field} {', '.join(sorted(values))} is unknown; found: "
                f"{', '.join(known) or f'no such field, but {fields}'}"
            )
        rows = [row for row in rows if row[field] in values]
    return rows


def _join(root, rows, table, optional=False):
    """Adds the fields of a table to rows; returns its lines without a row."""
    if table is None:
        return set()
    opened, used, missing = {}, defaultdict(set), []
    for row in rows:
        names = tuple(n.format(**row).lower() for n in table["files"])
        if names not in opened:
            opened[names] = _open_table(root, names, table, optional)
        key = table["of"].format(**row).lower()
        used[names].add(key)
        row.update(opened[names].get(key, {}))
        if key not in opened[names]:
            missing.append(f"{row['path']}: not in {names[0]}")
    if missing and not optional:
        logger.warning(listing("audio files are missing from tables", missing))
    return {
        f"{key} of {names[0]}"
        for names, lines in opened.items()
        for key in {*lines} - used[names]
    }


def _open_table(root, names, table, optional):
    """Fields by key of the first table of some names below a folder."""
    found = sorted(map(pathlib.Path, walk_audio(root, tuple(names))))
    paths = [path for path in found if path.name.lower() in names]
    if not paths and optional:
        return {}
    if not paths:
        raise FileNotFoundError(f"{root}: no {' or '.join(names)} below it")
    refuse_lfs_pointer(paths[0])
    frame = _read_table(paths[0])
    wanted = {*re.findall(r"\{(\w+)\}", table["key"]), *table["fields"]}
    check_columns(paths[0], sorted(wanted), [*frame])
    return {
        re.sub(r"\.wav$", "", table["key"].format(**line).lower()): {
            field: line[column].strip()
            for column, field in table["fields"].items()
        }
        for line in frame.to_dict("records")
    }


def _read_table(path):
    """A CSV, TSV or JSON table as text."""
    try:
        if path.suffix.lower() == ".json":
            frame = pd.read_json(path, orient="index", dtype=False)
            frame = frame.rename_axis("FileName").reset_index()
            return frame.astype(object).fillna("").astype(str)
        options = {"dtype": str, "keep_default_na": False}
        if path.suffix.lower() == ".tsv":
            options.update(sep="\t", quoting=csv.QUOTE_NONE)
        return pd.read_csv(path, encoding="utf-8-sig", **options)
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path}: cannot be read as a table ({error})")


def _row(corpus, fields):
    """An utterance from its fields."""
    speaker = composed(fields["speaker"])
    speaker = corpus.get("aliases", {}).get(speaker, speaker)
    gender = GENDERS.get((fields.get("gender") or "").lower())
    if "men" in corpus:
        gender = "m" if speaker in corpus["men"] else "f"
    return {
        "id": corpus.get("identity", "{stem}").format(**fields),
        "path": fields["path"],
        "speaker": None if speaker.lower() in UNNAMED else speaker,
        "emotion": corpus["emotions"].get(fields["emotion"].lower(), OTHER),
        "gender": gender,
        "text": fields.get("text"),
        "split": SPLIT_OF.get(fields.get("split", "").lower()),
        "where": fields["path"],
    }


def _without_repetitions(root, rows):
    """Every utterance once; one that comes twice must be the same file."""
    first, again, differ = {}, [], []
    for row in rows:
        other = first.setdefault(row["id"].lower(), row)
        if other is not row:
            again.append(row["path"])
            paths = [root / r["path"] for r in (other, row)]
            if file_sha256(paths[0]) != file_sha256(paths[1]):
                differ.append(f"{other['path']} and {row['path']}")
    if differ:
        raise InputError(
            listing("utterances occur twice with different contents", differ)
            + "\nGive the folder of one of the copies as --data_folder."
        )
    if again:
        title = "files repeat another one, name and content, and are left out"
        logger.warning(listing(title, again))
    return list(first.values())


def _shortfall(complete, rows):
    """Compares the counts with a complete copy's; a line of text if they differ."""
    speakers, (files, people) = Counter(r["speaker"] for r in rows), complete
    if len(rows) == files and len(speakers) == (people or len(speakers)):
        return []
    counts = ", ".join(f"{s} {n}" for s, n in sorted(speakers.items()))
    return [
        f"{len(rows)} utterances of {len(speakers)} speakers; a complete copy has "
        f"{files} of {people or 'several'}. By speaker: {counts}"
    ]
