"""IEMOCAP: what is read, how it is split, and what is wrong with a copy."""

import json
import pathlib
import shutil
from collections import Counter

import iemocap_prepare
import pytest
import torch
from helpers import write_wav
from iemocap_prepare import (
    LABEL_MAP,
    PROTOCOLS,
    SESSIONS,
    SPEAKERS,
    prepare_iemocap,
)
from iemocap_tree import write_iemocap

from mlkd_lobes.data import manifests
from mlkd_lobes.data.corpora import find_root
from mlkd_lobes.errors import InputError

LABELS = ["neu", "hap", "sad", "ang"]
SPLITS = ("train", "valid", "test")
# In the proportions of IEMOCAP, every session different.
COUNTS = {
    session: {label: round(count / 16) for label, count in counts.items()}
    for session, counts in iemocap_prepare.COUNTS.items()
}
FOLDS = [(name, f) for name in ("loso5", "s3prl") for f in range(1, 6)]
FOLDS += [("speaker10", fold) for fold in range(1, 11)]


@pytest.fixture(autouse=True)
def expected_counts(monkeypatch):
    """A whole copy is here one that holds the generated counts."""
    monkeypatch.setattr(iemocap_prepare, "COUNTS", COUNTS)


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """A tree, read only, and its labels."""
    root = tmp_path_factory.mktemp("data") / "IEMOCAP_full_release"
    return root, write_iemocap(root, COUNTS)


@pytest.fixture
def own(release, tmp_path):
    return shutil.copytree(release[0], tmp_path / "own")


@pytest.fixture
def printed(monkeypatch):
    found = []
    for module in (iemocap_prepare, manifests):
        monkeypatch.setattr(module.logger, "warning", found.append)
    return found


def prepare(root, out, protocol="loso5", fold=1, label_map=None, **options):
    prepare_iemocap(
        str(root), out, LABELS, label_map or {}, protocol, fold, **options
    )
    return {s: json.loads((out / f"{s}.json").read_text()) for s in SPLITS}


def values(entries, key):
    return {entry[key] for entry in entries.values()}


@pytest.mark.parametrize("protocol,fold", FOLDS)
def test_every_turn_is_where_it_belongs(release, tmp_path, protocol, fold):
    root, written = release
    splits = prepare(root, tmp_path, protocol, fold)
    found = {k: v for entries in splits.values() for k, v in entries.items()}
    assert len(found) == sum(map(len, splits.values()))
    for name, label in written.items():
        # Turns without one of the four labels are kept for training alone.
        if LABEL_MAP[label] != "unlabelled":
            assert found[name]["emo"] == LABEL_MAP[label]
        elif name in found:
            assert found[name]["emo"] is None and name in splits["train"]
    for name, entry in found.items():
        assert entry["gender"] == name.rsplit("_", 1)[1][0].lower()
        assert entry["session"] == f"Session{name[4]}"
        assert entry["speaker"] == name[:5] + entry["gender"].upper()
        assert entry["dialog"] == name.rsplit("_", 1)[0]
        assert entry["length"] == 0.1
        assert entry["text"] == f"So, {written[name]}."
        assert (root / entry["wav"][len("{data_root}/") :]).is_file()
    for entries in splits.values():
        assert list(entries) == sorted(entries)


@pytest.mark.parametrize("fold", range(1, 6))
def test_loso5_tests_a_session_and_validates_on_the_next(
    release, tmp_path, fold
):
    splits = prepare(release[0], tmp_path, "loso5", fold)
    test, valid = f"Session{fold}", f"Session{fold % 5 + 1}"
    assert values(splits["test"], "session") == {test}
    assert values(splits["valid"], "session") == {valid}
    assert values(splits["train"], "session") == {*SESSIONS} - {test, valid}
    counts = Counter(e["emo"] for e in splits["test"].values())
    assert counts == COUNTS[test]


@pytest.mark.parametrize("fold", range(1, 6))
def test_s3prl_validates_on_a_fifth_of_the_rest(release, tmp_path, fold):
    splits = prepare(release[0], tmp_path, "s3prl", fold)
    assert values(splits["test"], "session") == {f"Session{fold}"}
    labelled = [e for e in splits["train"].values() if e["emo"]]
    rest = len(labelled) + len(splits["valid"])
    assert len(splits["valid"]) == round(0.2 * rest)
    assert len(values(splits["valid"], "session")) == 4


@pytest.mark.parametrize("fold", range(1, 11))
def test_speaker10_validates_on_the_other_of_the_session(
    release, tmp_path, fold
):
    splits = prepare(release[0], tmp_path, "speaker10", fold)
    tested = SPEAKERS[fold - 1]
    other = tested[:-1] + {"F": "M", "M": "F"}[tested[-1]]
    assert values(splits["test"], "speaker") == {tested}
    assert values(splits["valid"], "speaker") == {other}
    assert values(splits["train"], "speaker") == {*SPEAKERS} - {tested, other}


def test_another_fold_or_protocol_is_prepared_again(release, tmp_path):
    root, _ = release
    for protocol, fold in (("loso5", 1), ("loso5", 2), ("speaker10", 2)):
        fresh = prepare(root, tmp_path / f"{protocol}{fold}", protocol, fold)
        assert prepare(root, tmp_path / "same", protocol, fold) == fresh
    before = (tmp_path / "same/train.json").stat().st_mtime_ns
    prepare(root, tmp_path / "same", "speaker10", 2)
    assert (tmp_path / "same/train.json").stat().st_mtime_ns == before


def test_labels_may_be_mapped_otherwise(release, tmp_path):
    root, written = release
    label_map = {"exc": None, "fru": "ang"}
    splits = prepare(root, tmp_path, label_map=label_map)
    found = {k: v for entries in splits.values() for k, v in entries.items()}
    assert not {name for name in found if written[name] == "exc"}
    frustrated = [name for name in written if written[name] == "fru"]
    assert frustrated and all(found[n]["emo"] == "ang" for n in frustrated)
    with pytest.raises(InputError, match="no emotion 'joy'.*neu, hap, exc"):
        prepare(root, tmp_path, label_map={"joy": "hap"})
    with pytest.raises(InputError, match="exc maps to 'bored'"):
        prepare(root, tmp_path, label_map={"exc": "bored"})


def test_hidden_files_of_copies_are_skipped(release, tmp_path):
    root = tmp_path / "own"
    write_iemocap(root, COUNTS, newline="\r\n")
    for place in ("dialog/EmoEvaluation", "sentences/wav/Ses01F_impro01"):
        folder = root / "Session1" / place
        for path in sorted(folder.iterdir()):
            (folder / f"._{path.name}").write_bytes(b"\0\5\n[junk\n")
    (root / "Session1/dialog/EmoEvaluation/Attribute").mkdir()
    strip = {"sha256", "wav"}
    for split, entries in prepare(root, tmp_path / "out").items():
        other = prepare(release[0], tmp_path / "out2")[split]
        assert list(entries) == list(other)
        for name, entry in entries.items():
            for key in entry.keys() - strip:
                assert entry[key] == other[name][key]


def change(root, dialog, old, new):
    path = root / f"Session{dialog[4]}/dialog/EmoEvaluation/{dialog}.txt"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_missing_wav_is_named_and_may_be_allowed(own, tmp_path, printed):
    path = sorted((own / "Session2/sentences/wav").rglob("*.wav"))[0]
    path.unlink()
    with pytest.raises(InputError) as error:
        prepare(own, tmp_path / "out")
    message = str(error.value)
    assert (
        f"1 turns have no audio file:\n  Session2/{path.parent.parent.parent.name}/wav"
        in message
    )
    assert path.name in message and "--partial_corpus=True" in message
    assert not (tmp_path / "out").exists()
    splits = prepare(own, tmp_path / "out", partial_corpus=True)
    found = {name for entries in splits.values() for name in entries}
    assert path.stem not in found
    assert any(path.name in text for text in printed)


def test_counts_are_compared_per_session_and_label(own, tmp_path):
    change(own, "Ses03F_impro01", "\tang\t", "\tsad\t")
    with pytest.raises(InputError) as error:
        prepare(own, tmp_path / "out")
    expected = COUNTS["Session3"]
    message = str(error.value)
    assert "2 counts of utterances differ" in message
    for label, difference in (("ang", -1), ("sad", 1)):
        n = expected[label]
        found = f"Session3 {label}: {n + difference}, expected {n}"
        assert found in message


def test_complete_corpus_has_the_published_counts(monkeypatch):
    monkeypatch.undo()
    counts = iemocap_prepare.COUNTS
    sums = {s: sum(c.values()) for s, c in counts.items()}
    assert list(sums.values()) == [1085, 1023, 1151, 1031, 1241]
    assert sum(sums.values()) == 5531
    classes = Counter()
    for per_label in counts.values():
        classes.update(per_label)
    assert classes == {"neu": 1708, "hap": 1636, "ang": 1103, "sad": 1084}


@pytest.mark.parametrize(
    "old,new,message",
    [
        ("\tang\t", "\tfurious\t", "label 'furious' is none of neu, hap, exc"),
        (
            "Ses01F_impro01_F",
            "Ses02F_impro01_F",
            "of another session or dialog",
        ),
        (
            "Ses01F_impro01_F",
            "Ses01F_impro09_F",
            "of another session or dialog",
        ),
        ("Ses01F_impro01_F", "Ses01F_impro01_X", "is not the name of a turn"),
        ("[6.2901 - ", "[6.2901 ", "malformed"),
        ("[6.2901 - ", "6.2901 - ", "malformed"),
        ("[6.2901 - ", "[6..9 - ", "malformed"),
        ("\t[2.5000, 2.5000, 2.5000]", "", "malformed"),
        ("\t[2.5000, 2.5000, 2.5000]", " 2.5", "malformed"),
    ],
)
def test_lines_that_are_no_turns_are_named(own, tmp_path, old, new, message):
    change(own, "Ses01F_impro01", old, new)
    with pytest.raises(
        InputError, match=f"Ses01F_impro01.txt, line.*{message}"
    ):
        prepare(own, tmp_path / "out")


def test_a_turn_that_comes_twice_is_named(own, tmp_path):
    change(own, "Ses01F_impro01", "_F002\t", "_F004\t")
    with pytest.raises(InputError, match="F004 is also in .*line"):
        prepare(own, tmp_path / "out")


def test_swapped_sessions_are_refused(own, tmp_path):
    one = own / "Session1/dialog/EmoEvaluation"
    two = own / "Session2/dialog/EmoEvaluation"
    one.rename(own / "three")
    two.rename(one)
    (own / "three").rename(two)
    with pytest.raises(InputError, match="is a turn of another session or"):
        prepare(own, tmp_path / "out")


def test_lines_that_are_no_turns_may_be_left_out(own, tmp_path, printed):
    change(own, "Ses01F_impro01", "[6.2901 - ", "[6.2901 ")
    splits = prepare(own, tmp_path / "out", partial_corpus=True)
    assert "Ses01F_impro01_FXX000" not in splits["test"]
    assert any("malformed" in text for text in printed)


def test_what_is_not_needed_of_a_line_may_be_anything(own, tmp_path):
    values = "\t[2.5000, 2.5000, 2.5000]"
    change(own, "Ses01F_impro01", values, "  [nan, -1.0000, 2.5000]")
    assert "Ses01F_impro01_FXX000" in str(prepare(own, tmp_path / "out"))


def lengthen(root, dialog, seconds):
    """A turn of a dialog as long as in its evaluation."""
    folder = root / f"Session{dialog[4]}/sentences/wav/{dialog}"
    path = sorted(folder.iterdir())[0]
    write_wav(path, 0.1 * torch.randn(round(16000 * seconds)))
    text = root / f"Session{dialog[4]}/dialog/EmoEvaluation/{dialog}.txt"
    lines = text.read_text().splitlines()
    for i, line in enumerate(lines):
        if f"\t{path.stem}\t" in line:
            rest = line[line.index("]") :]
            lines[i] = f"[1.0000 - {1 + seconds:.4f}{rest}"
    text.write_text("\n".join(lines))
    return path


def test_swapped_speakers_are_refused(own, tmp_path, printed):
    """Two people's turns exchanged: both last otherwise than they should."""
    dialog = "Ses01F_impro01"
    path = lengthen(own, dialog, 1.0)
    prepare(own, tmp_path / "out")
    assert printed == []
    other = sorted(path.parent.glob(f"{dialog}_M*"))[0]
    path.rename(own / "aside.wav")
    other.rename(path)
    (own / "aside.wav").rename(other)
    prepare(own, tmp_path / "out")
    assert (
        len(printed) == 1 and "2 audio files differ in duration" in printed[0]
    )
    assert f"{path.stem}: 0.10 s, its evaluation gives 1.00 s" in printed[0]
    assert f"{other.stem}: 1.00 s, its evaluation gives 0.10 s" in printed[0]
    assert "compare these files" in printed[0]


def test_exchanged_dialogs_are_refused(own, tmp_path, printed):
    folder = own / "Session1/sentences/wav/Ses01F_impro01"
    for path in folder.iterdir():
        write_wav(path, 0.1 * torch.randn(16000))
    with pytest.raises(InputError, match="differ in duration from their turns"):
        prepare(own, tmp_path / "out")
    prepare(own, tmp_path / "out", partial_corpus=True)
    assert any(
        "differ in duration from their turns" in text for text in printed
    )


def test_a_dialog_without_evaluation_is_named(own, tmp_path):
    (own / "Session4/dialog/EmoEvaluation/Ses04M_script01_1b.txt").unlink()
    with pytest.raises(InputError) as error:
        prepare(own, tmp_path / "out")
    assert (
        "1 folders of audio have no EmoEvaluation file:\n"
        "  Session4/sentences/wav/Ses04M_script01_1b"
    ) in str(error.value)


def test_unreadable_audio_is_named(own, tmp_path):
    paths = sorted((own / "Session5/sentences/wav").rglob("*.wav"))
    for path in paths[:2]:
        path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError) as error:
        prepare(own, tmp_path / "out", protocol="s3prl", fold=5)
    assert "unusable audio files" in str(error.value)
    assert f"{paths[0]}: truncated" in str(error.value)


def test_the_release_is_found_without_looking_below(tmp_path, monkeypatch):
    """A folder in it may not be opened, e.g. a volume's lost+found."""

    def refused(folder, pattern):
        raise PermissionError(folder)

    monkeypatch.setattr(pathlib.Path, "glob", refused)
    (tmp_path / "Session1").mkdir()
    assert find_root(tmp_path, "IEMOCAP", SESSIONS, any) == tmp_path


def test_folder_below_with_the_corpus_is_named(release, tmp_path):
    root, _ = release
    with pytest.raises(InputError, match=f"such folders are in: {root}"):
        prepare(root.parent, tmp_path)
    shutil.copytree(root.parent, tmp_path / "deep/data")
    deep = tmp_path / "deep/data/IEMOCAP_full_release"
    with pytest.raises(InputError, match=f"such folders are in: {deep}"):
        prepare(tmp_path / "deep", tmp_path / "out")
    with pytest.raises(
        InputError, match="is not IEMOCAP, which has .* none below"
    ):
        prepare(root / "Session1", tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        prepare(tmp_path / "nowhere", tmp_path)


def test_missing_sessions_are_listed(own, tmp_path, printed):
    shutil.rmtree(own / "Session2")
    with pytest.raises(InputError, match="Session2 neu: 0, expected"):
        prepare(own, tmp_path / "out")
    with pytest.raises(InputError, match="valid split has no labelled"):
        prepare(own, tmp_path / "out", partial_corpus=True)
    splits = prepare(own, tmp_path / "out", fold=3, partial_corpus=True)
    assert values(splits["train"], "session") == {"Session1", "Session5"}


@pytest.mark.parametrize("protocol,last", [("loso5", 5), ("speaker10", 10)])
def test_folds_are_checked(release, tmp_path, protocol, last):
    for fold in (0, last + 1, "one"):
        with pytest.raises(InputError, match=f"fold: {fold} is not .* {last}"):
            prepare(release[0], tmp_path, protocol, fold)


def test_what_protocols_share_is_declared():
    assert PROTOCOLS["loso5"].declared == ()
    for protocol in PROTOCOLS.values():
        assert all(d[1:] != ("train", "test") for d in protocol.declared)
