"""Manifests: entries read, damage named, splits checked when written."""

import re

import pytest

from mlkd_lobes.data.manifests import (
    measure,
    read_entries,
    split_entries,
    wav_path,
    write_manifests,
)
from mlkd_lobes.errors import InputError


@pytest.mark.parametrize(
    "text,message",
    [
        ("{", "is not valid JSON"),
        ("[" * 100000, "is not valid JSON"),
        ("[]", "has no utterances"),
        ("{}", "has no utterances"),
        ('{"a": "b.wav"}', "utterance a is 'b.wav', expected keys"),
        ('{"a": {"emo": "sad"}}', "utterance a has None as 'wav'"),
        ('{"a": {"wav": 3}}', "utterance a has 3 as 'wav'"),
    ],
)
def test_a_damaged_manifest_is_named(tmp_path, text, message):
    path = tmp_path / "train.json"
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(f"{path}: {message}")):
        read_entries(path)


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such manifest"):
        read_entries(tmp_path / "train.json")


def test_entries_are_read_unchanged(tmp_path):
    path = tmp_path / "train.json"
    path.write_text('{"a": {"wav": "a.wav", "emo": null, "own": [1]}}')
    entry = {"wav": "a.wav", "emo": None, "own": [1]}
    assert read_entries(path) == {"a": entry}


def test_speakers_may_be_numbers(tmp_path):
    path = tmp_path / "train.json"
    path.write_text('{"a": {"wav": "a.wav", "speaker": 12, "session": null}}')
    entry = {"wav": "a.wav", "speaker": "12", "session": None}
    assert read_entries(path) == {"a": entry}


def test_braces_in_a_wav_are_refused():
    assert wav_path("{data_root}/a.wav", "corpus", "a") == "corpus/a.wav"
    with pytest.raises(InputError, match="utterance a has .* may stand"):
        wav_path("{other}/a.wav", "corpus", "utterance a")


def entries(**emotions):
    parts = {"start": None, "stop": None}
    return {
        name: {
            "wav": f"{name}.wav",
            "emo": emo,
            "speaker": name,
            "sha256": name,
            **parts,
        }
        for name, emo in emotions.items()
    }


def test_splits_without_a_class_or_utterance_are_refused(tmp_path):
    known = entries(a="neu", b="neu", c="hap", d="hap")
    part = {"a": "test", "b": "valid"}
    splits = split_entries(known, lambda e: part.get(e["speaker"]))
    write_manifests(tmp_path, splits, ["hap"], {})
    with pytest.raises(
        InputError, match="no training utterance is labelled neu"
    ):
        write_manifests(tmp_path, splits, ["neu", "hap"], {})
    with pytest.raises(InputError, match="test split has no labelled"):
        write_manifests(tmp_path, {**splits, "test": {}}, ["hap"], {})
    with pytest.raises(InputError, match="valid and test share 1 speaker"):
        same = {**splits, "test": splits["valid"]}
        write_manifests(tmp_path, same, ["hap"], {})


def test_all_unusable_files_are_named(tmp_path):
    missing = {
        n: {"wav": f"{n}.wav", "start": None, "stop": None} for n in "ab"
    }
    with pytest.raises(InputError, match="2 unusable audio files") as error:
        measure(missing, tmp_path)
    assert "a.wav: No such file" in str(error.value)
