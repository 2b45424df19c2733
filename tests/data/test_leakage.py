"""Overlaps between splits are found, and refused unless declared."""

import pytest

from mlkd_lobes.data.leakage import find_overlaps, refuse_overlaps
from mlkd_lobes.errors import InputError


def entry(speaker, session=None, wav="x"):
    return {"speaker": speaker, "session": session, "wav": wav}


def test_overlaps_are_found_and_refused():
    splits = {
        "train": [entry("a", 1), entry("b", 1)],
        "valid": [entry("b", 2)],
        "test": [entry("c", 3)],
    }
    assert [o.key for o in find_overlaps(splits, ["speaker", "session"])] == [
        "speaker"
    ]
    with pytest.raises(InputError, match="train and valid share 1 speaker"):
        refuse_overlaps(splits, ["speaker"])
    declared = [("speaker", "train", "valid")]
    refuse_overlaps(splits, ["speaker"], declared)
    splits["valid"].append(entry("d", 1))
    with pytest.raises(InputError, match="train and valid share 1 session"):
        refuse_overlaps(splits, ["speaker", "session"], declared)
    splits["test"].append(entry("e", 1))
    with pytest.raises(InputError, match="train and test share 1 session"):
        refuse_overlaps({**splits, "valid": []}, ["session"])
    splits["test"][-1] = entry("a", 3)
    with pytest.raises(InputError, match="train and test share.*: a"):
        refuse_overlaps(splits, ["speaker"], declared)
    # As the own splits of some corpora do.
    refuse_overlaps(
        splits, ["speaker"], [*declared, ("speaker", "train", "test")]
    )


def test_overlaps_of_given_manifests_are_a_warning(caplog):
    splits = {"train": [entry("a")], "test": [entry("a")]}
    refuse_overlaps(splits, ["speaker"], declared=None)
    assert "Leakage: train and test share 1 speaker" in caplog.text
