"""csv corpora: folds, labels, and everything that may be wrong with them."""

import json
import shutil

import pytest
import torch
from helpers import LABEL_MAP, LABELS, SPEAKERS, write_corpus, write_wav
from hypothesis import (
    given,
    strategies as st,
)

from mlkd_lobes.data.prepare import prepare_corpus
from mlkd_lobes.data.protocols import assign_folds
from mlkd_lobes.errors import InputError
from mlkd_lobes.files import read_csv, write_csv


def prepare(folder, out, **changes):
    settings = {
        "labels": LABELS,
        "label_map": LABEL_MAP,
        "protocol": "groups",
        "columns": {},
        "n_folds": 3,
        "fold": 1,
        **changes,
    }
    prepare_corpus("csv", str(folder), out, **settings)
    return {
        split: json.loads((out / f"{split}.json").read_text())
        for split in ("train", "valid", "test")
    }


def speakers(entries):
    return {entry["speaker"] for entry in entries.values()}


@pytest.fixture
def own_corpus(tmp_path):
    return write_corpus(tmp_path / "corpus")


def rewrite(folder, change):
    """Changes manifest.csv row by row; None drops a row."""
    rows = [change(dict(r)) for r in read_csv(folder / "manifest.csv")]
    rows = [r for r in rows if r is not None]
    header = list(rows[0])
    write_csv(
        folder / "manifest.csv", header, [[r[k] for k in header] for r in rows]
    )


def test_folds_rotate_and_splits_share_no_speaker(corpus, tmp_path):
    tested = set()
    for fold in (1, 2, 3):
        splits = prepare(corpus, tmp_path / str(fold), fold=fold)
        groups = {name: speakers(rows) for name, rows in splits.items()}
        assert groups["train"] | groups["valid"] | groups["test"] == set(
            SPEAKERS
        )
        assert sum(map(len, groups.values())) == 6
        # One woman and one man each.
        assert {SPEAKERS[s] for s in groups["test"]} == {"f", "m"}
        after = prepare(corpus, tmp_path / "next", fold=fold % 3 + 1)
        assert groups["valid"] == speakers(after["test"])
        tested |= groups["test"]
    assert tested == set(SPEAKERS)


def test_entries_say_what_is_needed(corpus, tmp_path):
    splits = prepare(corpus, tmp_path)
    train = splits["train"]
    assert sum(e["emo"] is None for e in train.values()) == 4
    assert all(e["emo"] in LABELS for e in splits["test"].values())
    assert len(splits["test"]) == 16
    name, entry = next(iter(train.items()))
    assert entry["wav"] == "{data_root}/" + name + ".wav"
    assert entry["length"] == pytest.approx(9000 / 16000, abs=1e-3)
    assert list(train) == sorted(train)


def test_sessions_are_the_groups_where_they_exist(own_corpus, tmp_path):
    rewrite(
        own_corpus, lambda r: {**r, "session": f"S{int(r['speaker'][1]) % 3}"}
    )
    splits = prepare(own_corpus, tmp_path / "out")
    sessions = {
        n: {e["session"] for e in r.values()} for n, r in splits.items()
    }
    assert sessions == {"test": {"S0"}, "valid": {"S1"}, "train": {"S2"}}


# Which split a speaker is put into; unlabelled speech stays in training alone.
PUT = dict(zip(SPEAKERS, ["test", "train", "train", "train", "valid", "valid"]))


def put(row):
    return {**row, "part": PUT[row["speaker"]]}


def test_split_column_decides_the_split(own_corpus, tmp_path):
    before = prepare(own_corpus, tmp_path / "groups")
    rewrite(own_corpus, put)
    splits = prepare(
        own_corpus, tmp_path, protocol="split", columns={"part": "split"}
    )
    for name, rows in splits.items():
        assert speakers(rows) == {s for s in PUT if PUT[s] == name}
    known = {name: e for rows in before.values() for name, e in rows.items()}
    found = {name: e for rows in splits.values() for name, e in rows.items()}
    labelled = {name for name, entry in known.items() if entry["emo"]}
    assert labelled <= set(found)
    assert all(found[name] == known[name] for name in labelled)


@pytest.mark.parametrize(
    "change,settings,message",
    [
        (put, {}, "expects a column split.*empty: 60 rows"),
        (
            lambda r: {**r, "split": "dev" if r["speaker"] == "s1" else "test"},
            {},
            "dev: 10 rows",
        ),
        (lambda r: {**r, "split": "train"}, {}, "valid split has no labelled"),
        (
            lambda r: {**put(r), "speaker": "s0"},
            {"columns": {"part": "split"}},
            "train and test share 1 speaker",
        ),
        (put, {"fold": 2}, "fold: 2 is not between 1 and 1"),
    ],
)
def test_a_bad_split_is_named(own_corpus, tmp_path, change, settings, message):
    rewrite(own_corpus, change)
    with pytest.raises(InputError, match=f"(?s){message}"):
        prepare(own_corpus, tmp_path, protocol="split", **settings)


def test_a_speaker_in_two_sessions_is_refused(own_corpus, tmp_path):
    count = iter(range(1000))
    rewrite(own_corpus, lambda r: {**r, "session": f"S{next(count) % 3}"})
    with pytest.raises(InputError, match="train and test share 6 speaker"):
        prepare(own_corpus, tmp_path / "out")
    assert not (tmp_path / "out/preparation.json").exists()


def test_columns_are_renamed_and_bound_the_audio(own_corpus, tmp_path):
    rewrite(own_corpus, lambda r: {**r, "from": "0.1", "to": "0.3"})
    splits = prepare(
        own_corpus, tmp_path / "out", columns={"from": "start", "to": "end"}
    )
    for entry in splits["test"].values():
        assert (entry["start"], entry["stop"]) == (0.1, 0.3)
        assert entry["length"] == pytest.approx(0.2)


def test_other_columns_have_no_meaning(own_corpus, tmp_path):
    """An `id` may be a speaker's."""
    names = [*prepare(own_corpus, tmp_path / "before")["test"]]
    rewrite(own_corpus, lambda r: {**r, "id": r["speaker"], "note": "x"})
    assert [*prepare(own_corpus, tmp_path / "after")["test"]] == names


def test_null_drops_a_label(corpus, tmp_path):
    mapping = {**LABEL_MAP, "surprised": None}
    splits = prepare(corpus, tmp_path, label_map=mapping)
    assert all(e["emo"] for rows in splits.values() for e in rows.values())


def test_changed_input_is_prepared_anew(own_corpus, tmp_path):
    out = tmp_path / "out"
    first = prepare(own_corpus, out)
    stamp = (out / "train.json").stat().st_mtime_ns
    assert prepare(own_corpus, out) == first
    assert (out / "train.json").stat().st_mtime_ns == stamp
    assert prepare(own_corpus, out, fold=2) != first
    assert prepare(own_corpus, out) == first
    rewrite(own_corpus, lambda r: None if r["path"].endswith("_0.wav") else r)
    assert len(prepare(own_corpus, out)["test"]) == len(first["test"]) - 2
    (out / "valid.json").unlink()
    prepare(own_corpus, out)
    name = next(iter(prepare(own_corpus, out)["test"]))
    write_wav(own_corpus / f"{name}.wav", torch.randn(20000))
    assert prepare(own_corpus, out)["test"][name]["length"] == 1.25


def test_braces_in_paths_survive(own_corpus, tmp_path):
    from mlkd_lobes.data.batches import read_manifest

    old = own_corpus / "audio/s0_0.wav"
    shutil.move(old, own_corpus / "audio/s0 {0}.wav")
    rewrite(
        own_corpus,
        lambda r: {**r, "path": r["path"].replace("s0_0", "s0 {0}")},
    )
    prepare(own_corpus, tmp_path / "out")
    data = read_manifest(
        tmp_path / "out/test.json", str(own_corpus), LABELS, 32
    )
    assert data.data["audio/s0 {0}"]["wav"].endswith("/audio/s0 {0}.wav")


def test_an_empty_session_column_means_speakers(own_corpus, tmp_path):
    rewrite(own_corpus, lambda r: {**r, "session": ""})
    splits = prepare(own_corpus, tmp_path / "out")
    assert speakers(splits["test"]) == {"s0", "s1"}


def test_emotions_may_be_numbers_and_paths_absolute(own_corpus, tmp_path):
    def number(row):
        path = str(own_corpus / row["path"])
        emotion = str(list(LABEL_MAP).index(row["emotion"]))
        return {**row, "path": path, "emotion": emotion}

    before = prepare(own_corpus, tmp_path / "out")
    rewrite(own_corpus, number)
    label_map = dict(enumerate(LABEL_MAP.values()))
    splits = prepare(own_corpus, tmp_path / "out", label_map=label_map)
    for split, entries in splits.items():
        old = before[split].values()
        assert [e["emo"] for e in entries.values()] == [e["emo"] for e in old]
        assert [e["sha256"] for e in entries.values()] == [
            e["sha256"] for e in old
        ]


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda r: {**r, "emotion": "bored"}, "'bored': 60 rows"),
        (lambda r: {**r, "speaker": ""}, "line 2: path and speaker"),
        (
            lambda r: {**r, "path": "audio/s0_0.wav"},
            "line 3: audio/s0_0 is an utterance of an earlier line",
        ),
        (lambda r: {**r, "path": f"{r['path']}.x"}, "unusable audio files"),
        (
            lambda r: {**r, "start": "early"},
            "start is 'early', expected seconds",
        ),
        (lambda r: {**r, "end": "nan"}, "line 2: end is 'nan', expected sec"),
        (lambda r: {**r, "start": "-1"}, "start is '-1', expected seconds"),
        (lambda r: {**r, "start": "9"}, "60 unusable|unusable audio files"),
        (lambda r: {k: r[k] for k in ("path", "speaker")}, "column emotion is"),
        (lambda r: {**r, "emotion": "sad"}, "labelled ang, hap, neu"),
    ],
)
def test_bad_manifests_are_named(own_corpus, tmp_path, change, message):
    rewrite(own_corpus, change)
    with pytest.raises(InputError, match=message):
        prepare(own_corpus, tmp_path / "out")
    assert not (tmp_path / "out/preparation.json").exists()


@pytest.mark.parametrize(
    "settings,message",
    [
        ({"fold": 0}, "fold: 0 is not between 1 and 3"),
        ({"fold": 4}, "fold: 4"),
        ({"fold": "one"}, "fold: one"),
        ({"n_folds": 7}, "n_folds: 7.*number of speakers, 6"),
        ({"n_folds": 2}, "n_folds: 2"),
        ({"label_map": {**LABEL_MAP, "sad": "blue"}}, "maps to 'blue'"),
        ({"columns": {"path": "file"}}, "no column 'file'.*path, speaker"),
        ({"columns": {"gender": "emotion"}}, "have several columns emotion"),
    ],
)
def test_bad_settings_are_named(corpus, tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        prepare(corpus, tmp_path, **settings)


def test_every_broken_file_is_named(own_corpus, tmp_path):
    (own_corpus / "audio/s0_0.wav").unlink()
    (own_corpus / "audio/s1_0.wav").write_bytes(b"")
    (own_corpus / "audio/s2_0.wav").write_bytes(b"no audio at all")
    with pytest.raises(InputError) as error:
        prepare(own_corpus, tmp_path / "out")
    message = str(error.value)
    assert "3 unusable audio files" in message
    for name in (
        "s0_0.wav: No such",
        "s1_0.wav: the file is empty",
        "s2_0.wav",
    ):
        assert name in message


def test_missing_manifest_and_ragged_rows(own_corpus, tmp_path):
    with pytest.raises(FileNotFoundError, match="manifest.csv"):
        prepare(tmp_path, tmp_path / "out")
    manifest = own_corpus / "manifest.csv"
    manifest.write_text(manifest.read_text() + "one,field too,many,x,y\n")
    with pytest.raises(ValueError, match="line 62: expected 4 fields"):
        prepare(own_corpus, tmp_path / "out")


@given(
    st.dictionaries(
        st.text("abcdef", min_size=1), st.sampled_from("fm"), min_size=3
    ),
    st.integers(3, 6),
)
def test_folds_are_even_in_number_and_gender(people, n_folds):
    entries = {s: {"speaker": s, "gender": g} for s, g in people.items()}
    if len(people) < n_folds:
        with pytest.raises(InputError):
            assign_folds(entries, "speaker", n_folds)
        return
    folds = assign_folds(entries, "speaker", n_folds)
    for chosen in (
        people,
        *({s for s in people if people[s] == g} for g in "fm"),
    ):
        counts = [
            sum(folds[s] == fold for s in chosen)
            for fold in range(1, n_folds + 1)
        ]
        assert max(counts) - min(counts) <= 1


def test_times_close_by_are_utterances_of_their_own(own_corpus, tmp_path):
    rewrite(own_corpus, lambda r: {**r, "start": "0.1", "end": "0.3"})
    path = own_corpus / "manifest.csv"
    header, first, *others = path.read_text().splitlines()
    again = first.replace("0.1", "0.1004").replace("0.3", "0.3004")
    path.write_text("\n".join([header, first, again, *others]) + "\n")
    splits = prepare(own_corpus, tmp_path / "out")
    names = [name for entries in splits.values() for name in entries]
    close = [n for n in names if n.startswith(names[0].split("@")[0] + "@")]
    assert len(names) == len(set(names))
    assert sum("@0.1004-0.3004" in name for name in names) == 1
    assert sum(name.endswith("@0.10-0.30") for name in names) == len(names) - 1
    assert close


@pytest.mark.parametrize("emotion", ["same", "sad"])
def test_a_segment_listed_twice_is_refused(own_corpus, tmp_path, emotion):
    """As in a table with a row per annotator."""
    rewrite(own_corpus, lambda r: {**r, "start": "0.1", "end": "0.3"})
    path = own_corpus / "manifest.csv"
    header, first, *others = path.read_text().splitlines()
    again = first
    if emotion != "same":
        names = header.split(",")
        cells = dict(zip(names, first.split(",")), emotion=emotion)
        again = ",".join(cells[name] for name in names)
    path.write_text("\n".join([header, first, again, *others]) + "\n")
    with pytest.raises(InputError, match="utterance of an earlier line"):
        prepare(own_corpus, tmp_path / "out")
