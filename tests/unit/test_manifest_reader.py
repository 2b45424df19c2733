"""Whoever reads a manifest refuses the same damage."""

import re

import pytest

from mlkd_lobes.deployment.speech import read_labelled
from mlkd_lobes.errors import InputError
from mlkd_lobes.manifest_reader import read_manifest_entries


@pytest.mark.parametrize("read", [read_manifest_entries, read_labelled])
@pytest.mark.parametrize(
    "text,message",
    [
        ("{", "is no JSON manifest"),
        ("[" * 100000, "is no JSON manifest"),
        ("[]", "has no utterances"),
        ("{}", "has no utterances"),
        ('{"a": "b.wav"}', "utterance a is 'b.wav', expected keys"),
        ('{"a": {"emo": "sad"}}', "utterance a has no 'wav'"),
        ('{"a": {"wav": 3}}', "utterance a has 3 as 'wav', no file"),
    ],
)
def test_damage_is_named(tmp_path, read, text, message):
    path = tmp_path / "train.json"
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(f"{path}: {message}")):
        read(path)


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such manifest"):
        read_manifest_entries(tmp_path / "train.json")


def test_entries_stand_as_they_were_written(tmp_path):
    path = tmp_path / "train.json"
    path.write_text('{"a": {"wav": "a.wav", "emo": null, "own": [1]}}')
    assert read_manifest_entries(path) == {
        "a": {"wav": "a.wav", "emo": None, "own": [1]}
    }
    with pytest.raises(InputError, match="no labelled utterances"):
        read_labelled(path)
