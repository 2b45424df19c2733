"""Corpora by name: every row of the table on trees of its exact layout."""

import json
import logging
import shutil

import numpy as np
import pytest
import soundfile
from corpus_trees import write_tree
from helpers import LABELS

from mlkd_lobes.data.activity import speech_bounds
from mlkd_lobes.data.corpora import (
    CORPORA,
    SOURCES,
    protocols_of,
    usual_classes,
)
from mlkd_lobes.data.corpus_reader import read_corpus
from mlkd_lobes.data.prepare import prepare_corpus
from mlkd_lobes.errors import InputError
from mlkd_lobes.files import LFS_POINTER


def read(name, folder, select={}, crowd_votes=False, partial_corpus=True):
    return read_corpus(name, str(folder), select, crowd_votes, partial_corpus)


def prepare(name, folder, out, **changes):
    settings = {
        "labels": LABELS,
        "label_map": {},
        "protocol": "groups",
        "n_folds": 3,
        "fold": 1,
        "partial_corpus": True,
        **changes,
    }
    prepare_corpus(name, str(folder), out, **settings)
    return {
        split: json.loads((out / f"{split}.json").read_text())
        for split in ("train", "valid", "test")
    }


def people(entries):
    return {entry["speaker"] for entry in entries.values()}


@pytest.mark.parametrize("name", CORPORA)
def test_every_corpus_is_read_as_written(name, tmp_path):
    written = write_tree(name, tmp_path, sound=False)
    rows = read(name, tmp_path)
    expected = [row for row in sorted(written, key=str) if row[1]]
    found = [(r["path"], r["speaker"], r["emotion"], r["gender"]) for r in rows]
    if name == "msp_podcast":  # ties and other emotions are one
        found = [
            (p, s, "disagreement" if e == "disagreement" else e, g)
            for p, s, e, g in found
        ]
    assert sorted(found, key=lambda row: row[0]) == expected
    assert len({row["id"] for row in rows}) == len(rows)
    assert name in SOURCES
    assert {e for _, _, e, _ in written} <= set(usual_classes(name))


@pytest.mark.parametrize("name", sorted(set(CORPORA) - {"tess", "meld"}))
def test_every_corpus_is_prepared_in_groups(name, tmp_path):
    written = write_tree(name, tmp_path / "corpus")
    splits = prepare(name, tmp_path / "corpus", tmp_path / "out")
    sets = [people(splits[split]) for split in ("train", "valid", "test")]
    assert sum(map(len, sets)) == len({s for _, s, _, _ in written if s})
    assert all(
        e["emo"] in LABELS
        for s in ("valid", "test")
        for e in splits[s].values()
    )


@pytest.mark.parametrize("name", CORPORA)
def test_copies_of_another_root_case_and_format(name, tmp_path):
    original = tmp_path / "original"
    write_tree(name, original, sound=False)
    rows = read(name, original)
    for path in sorted(original.rglob("*"), reverse=True):
        if path.suffix == ".wav":
            path.rename(path.with_name(path.stem.lower() + ".FLAC"))
    (tmp_path / "copy/deeper/below").mkdir(parents=True)
    original.rename(tmp_path / "copy/deeper/below/root")
    again = read(name, tmp_path / "copy")
    fields = ("speaker", "emotion", "gender", "split")
    lower = [[r["id"].lower(), *(r[f] for f in fields)] for r in rows]
    found = [[r["id"].lower(), *(r[f] for f in fields)] for r in again]
    assert sorted(map(str, found)) == sorted(map(str, lower))


def test_flat_copies(tmp_path):
    """RAVDESS and SAVEE as they are met on other sites."""
    for name in ("ravdess", "savee"):
        written = write_tree(name, tmp_path / name, sound=False)
        flat = tmp_path / f"{name}-flat/ALL"
        flat.mkdir(parents=True)
        for path, speaker, *_ in written:
            stem = path.rpartition("/")[2]
            stem = f"{speaker}_{stem}" if name == "savee" else stem
            (flat / stem).touch()
        one, other = read(name, tmp_path / name), read(name, flat.parent)
        assert {r["id"] for r in one} == {r["id"] for r in other}


def test_songs_and_videos_are_left_out_unless_selected(tmp_path):
    written = write_tree("ravdess", tmp_path, sound=False)
    (tmp_path / "Actor_01/03-02-03-01-01-01-01.wav").touch()
    (tmp_path / "Actor_01/01-01-03-01-01-01-01.mp4").touch()
    assert len(read("ravdess", tmp_path)) == len(written)
    songs = read("ravdess", tmp_path, {"channel": ["02"]})
    assert [row["path"][-24:] for row in songs] == ["03-02-03-01-01-01-01.wav"]
    women = read("ravdess", tmp_path, {"speaker": ["02", "04"]})
    assert {row["gender"] for row in women} == {"f"}
    with pytest.raises(
        InputError, match="select: intensity 02 is unknown; found: 01"
    ):
        read("ravdess", tmp_path, {"intensity": ["02"]})
    with pytest.raises(InputError, match="no such field, but modality"):
        read("ravdess", tmp_path, {"loudness": ["1"]})


def test_the_mp3s_of_cremad_are_no_copies(tmp_path):
    """The owners' repository holds every utterance in both formats."""
    entries = write_tree("cremad", tmp_path, sound=False)
    (tmp_path / "AudioMP3").mkdir()
    for path in (tmp_path / "AudioWAV").iterdir():
        copy = (tmp_path / "AudioMP3" / path.name).with_suffix(".mp3")
        copy.write_bytes(b"another content")
    rows = read("cremad", tmp_path)
    assert len(rows) == len(entries)
    assert all(row["path"].endswith(".wav") for row in rows)


def test_levels_and_votes_of_cremad(tmp_path):
    write_tree("cremad", tmp_path, sound=False)
    high = read("cremad", tmp_path, {"level": ["HI"]})
    assert {row["id"][-2:] for row in high} == {"HI"}
    with pytest.raises(FileNotFoundError, match="summarytable.csv"):
        read("cremad", tmp_path, crowd_votes=True)
    (tmp_path / "processedResults").mkdir()
    (tmp_path / "processedResults/summaryTable.csv").write_text(
        '"","FileName","VoiceVote"\n'
        '"1","1001_DFA_ANG_XX","N"\n"2","1001_DFA_HAP_XX","A:H"\n'
    )
    voted = {
        r["id"]: r["emotion"]
        for r in read("cremad", tmp_path, crowd_votes=True)
    }
    assert voted["1001_DFA_ANG_XX"] == "neutral"
    assert voted["1001_DFA_HAP_XX"] == voted["1002_IEO_SAD_LO"] == "other"
    with pytest.raises(InputError, match="crowd_votes: ravdess has no votes"):
        write_tree("ravdess", tmp_path / "r", sound=False)
        read("ravdess", tmp_path / "r", crowd_votes=True)


def test_an_incomplete_copy_is_refused(tmp_path, caplog):
    write_tree("emodb", tmp_path, sound=False)
    with pytest.raises(
        InputError,
        match="emodb differs.*\n50 utterances of 5 speakers; a "
        "complete copy has 535 of 10.*08 10",
    ):
        read("emodb", tmp_path, partial_corpus=False)
    with caplog.at_level(logging.WARNING):
        assert len(read("emodb", tmp_path)) == 50
    assert "50 utterances of 5 speakers" in caplog.text
    # Chosen parts are never complete.
    assert read("emodb", tmp_path, {"speaker": ["08"]}, partial_corpus=False)


def test_a_complete_copy_is_accepted(tmp_path):
    for actor in range(1, 25):
        for code, intensity, text, take in np.ndindex(8, 2, 2, 2):
            if code or not intensity:  # neutral is never strong
                name = f"03-01-{code + 1:02d}-{intensity + 1:02d}-{text + 1:02d}-{take + 1:02d}-{actor:02d}.wav"
                (tmp_path / name).touch()
    assert len(read("ravdess", tmp_path, partial_corpus=False)) == 1440


def test_other_files_are_named(tmp_path, caplog):
    with pytest.raises(
        InputError, match="as in emodb, e.g. wav/03a01Fa.wav; found: no audio"
    ):
        read("emodb", tmp_path)
    write_tree("emodb", tmp_path, sound=False)
    (tmp_path / "wav/holiday.wav").touch()
    with caplog.at_level(logging.WARNING):
        read("emodb", tmp_path)
    assert "1 audio files are not named as in emodb" in caplog.text
    assert "wav/holiday.wav" in caplog.text
    with pytest.raises(InputError, match="as in ravdess.*found: wav/03a01Fa?"):
        read("ravdess", tmp_path)


def test_utterances_that_come_twice(tmp_path, caplog):
    """A well-known copy of RAVDESS holds every file twice."""
    written = write_tree("ravdess", tmp_path)
    shutil.copytree(tmp_path / "Actor_01", tmp_path / "again/Actor_01")
    with caplog.at_level(logging.WARNING):
        assert len(read("ravdess", tmp_path)) == len(written)
    assert "12 files repeat another one" in caplog.text
    soundfile.write(
        tmp_path / "again/Actor_01/03-01-01-01-01-01-01.wav", np.ones(99), 16000
    )
    with pytest.raises(
        InputError, match="1 utterances occur twice with different"
    ):
        read("ravdess", tmp_path)


def test_one_recording_of_two_speakers_is_refused(tmp_path):
    write_tree("emodb", tmp_path / "c")
    shutil.copy(tmp_path / "c/wav/03a01Wa.wav", tmp_path / "c/wav/16a01Wa.wav")
    shutil.copy(tmp_path / "c/wav/03a01Wa.wav", tmp_path / "c/wav/08a01Wa.wav")
    shutil.copy(tmp_path / "c/wav/03a01Wa.wav", tmp_path / "c/wav/09a01Wa.wav")
    with pytest.raises(InputError, match="03a01Wa"):
        prepare("emodb", tmp_path / "c", tmp_path / "out")


def test_pointers_of_git_lfs(tmp_path):
    written = write_tree("cremad", tmp_path / "c")
    for path, *_ in written:
        (tmp_path / "c" / path).write_bytes(
            LFS_POINTER + b"v1\noid sha256:0\nsize 9\n"
        )
    with pytest.raises(
        InputError, match="60 unusable audio files(?s:.*)is a Git LFS pointer"
    ):
        prepare(
            "cremad", tmp_path / "c", tmp_path / "out", protocol="audeering"
        )


def test_published_splits(tmp_path):
    write_tree("cremad", tmp_path / "c")
    splits = prepare(
        "cremad", tmp_path / "c", tmp_path / "o", protocol="audeering"
    )
    assert people(splits["test"]) == {"1048", "1090"}
    assert people(splits["valid"]) == {"1049"}
    assert people(splits["train"]) == {"1001", "1002"}
    write_tree("ravdess", tmp_path / "r")
    splits = prepare(
        "ravdess", tmp_path / "r", tmp_path / "p", protocol="emobox", fold=4
    )
    assert people(splits["test"]) == {"03", "05"}  # of 03 05 07 24
    assert people(splits["valid"]) == {"02"}  # of the next fold's 02 15 16 18
    assert protocols_of("ravdess")["emobox"].n_folds == 6


def test_published_splits_are_of_all_speakers():
    """Sizes as published: 56/18/17 speakers, and six folds of four."""
    entries = {
        str(i): {"speaker": str(i), "emo": "neu"} for i in range(1001, 1092)
    }
    split = protocols_of("cremad")["audeering"].split(entries, 1, 1)
    assert [len(split[s]) for s in ("train", "valid", "test")] == [56, 18, 17]
    entries = {
        f"{i:02d}": {"speaker": f"{i:02d}", "emo": "neu"} for i in range(1, 25)
    }
    emobox = protocols_of("ravdess")["emobox"].split
    tested = [set(emobox(entries, fold, 6)["test"]) for fold in range(1, 7)]
    assert set.union(*tested) == set(entries) and sum(map(len, tested)) == 24


def test_meld_declares_its_shared_speakers(tmp_path, caplog):
    write_tree("meld", tmp_path / "c")
    splits = prepare("meld", tmp_path / "c", tmp_path / "out", protocol="split")
    assert {k.partition("_")[0] for k in splits["test"]} == {"TEST"}
    assert people(splits["test"]) & people(splits["train"])
    assert "Speaker-dependent" in protocols_of("meld")["split"].note
    # Groups never share them.
    splits = prepare("meld", tmp_path / "c", tmp_path / "groups")
    assert not people(splits["test"]) & people(splits["train"])
    (tmp_path / "c/train_splits/dia0_utt0.wav").unlink()
    with pytest.raises(InputError, match="0_0 of train_sent_emo.csv"):
        read("meld", tmp_path / "c", partial_corpus=False)
    (tmp_path / "c/train_splits/dia0_utt0.mp4").touch()
    with pytest.raises(InputError, match="0_0 of train_sent_emo.csv"):
        read("meld", tmp_path / "c", partial_corpus=False)
    (tmp_path / "c/train_splits/dia0_utt0.mp4").unlink()
    (tmp_path / "c/train_splits/dia0_utt0.wav").touch()
    (tmp_path / "c/dev_splits_complete/dia9_utt9.wav").touch()
    with caplog.at_level(logging.WARNING):
        read("meld", tmp_path / "c", partial_corpus=False)
    assert "dia9_utt9.wav: not in dev_sent_emo.csv" in caplog.text


def test_what_every_copy_of_meld_lacks_is_no_gap(tmp_path):
    write_tree("meld", tmp_path, sound=False)
    table = tmp_path / "dev_sent_emo.csv"
    table.write_text(table.read_text() + "\n1,x,Ross,joy,x,110,7")
    assert read("meld", tmp_path, partial_corpus=False)


def test_msp_podcast_and_its_own_split(tmp_path, caplog):
    write_tree("msp_podcast", tmp_path / "c")
    with caplog.at_level(logging.WARNING):
        splits = prepare(
            "msp_podcast", tmp_path / "c", tmp_path / "o", protocol="split"
        )
    assert {k[12:16] for k in splits["test"]} == {
        f"{i:04d}" for i in range(40, 50) if i % 5 < 4
    }
    assert any(e["speaker"] is None for e in splits["train"].values())
    assert "10 utterances without split are left out" in caplog.text
    assert "not have" not in caplog.text
    labels = tmp_path / "c/Labels/labels_consensus.json"
    labels.write_text(labels.read_text().replace("SpkrID", "Speaker"))
    with pytest.raises(
        InputError, match="labels_consensus.json: column SpkrID is missing"
    ):
        read("msp_podcast", tmp_path / "c")
    labels.unlink()
    with pytest.raises(FileNotFoundError, match="labels_consensus.csv or"):
        read("msp_podcast", tmp_path / "c")


def test_two_speakers_have_no_folds(tmp_path):
    write_tree("tess", tmp_path / "c")
    with pytest.raises(
        InputError,
        match="number of speakers, 2; .* so a corpus of two has no folds",
    ):
        prepare("tess", tmp_path / "c", tmp_path / "out")


def test_labels_may_be_mapped_otherwise(tmp_path):
    write_tree("ravdess", tmp_path / "c")
    labels = [*LABELS, "fea"]
    changes = {"labels": labels, "label_map": {"fear": "fea", "calm": None}}
    splits = prepare("ravdess", tmp_path / "c", tmp_path / "out", **changes)
    found = [e["emo"] for e in splits["test"].values()]
    assert found.count("neu") == 4 and found.count("fea") == 4
    with pytest.raises(
        InputError,
        match="ravdess: no emotion 'joy'; the known ones are: neutral",
    ):
        prepare(
            "ravdess",
            tmp_path / "c",
            tmp_path / "out",
            label_map={"joy": "hap"},
        )


def spoken(path, rate=48000):
    """A tone between silence with a little hum."""
    time = np.arange(4 * rate) / rate
    wav = 1e-4 * np.sin(2 * np.pi * 50 * time)
    voiced = (time > 1) & (time < 2.5) & ~((time > 1.6) & (time < 2))
    wav[voiced] += 0.05 * np.sin(2 * np.pi * 300 * time[voiced])
    soundfile.write(path, wav, rate)


def test_silence_is_cut_at_both_ends(tmp_path):
    spoken(tmp_path / "a.wav")
    start, stop = speech_bounds(tmp_path / "a.wav")
    assert (start, stop) == pytest.approx((0.95, 2.55), abs=0.051)
    # Only what is given is searched.
    assert speech_bounds(tmp_path / "a.wav", 2.2, 3.0) == pytest.approx(
        (2.2, 2.55), abs=0.051
    )
    soundfile.write(tmp_path / "zeros.wav", np.zeros(16000), 16000)
    assert speech_bounds(tmp_path / "zeros.wav") == (0.0, 1.0)


def test_ravdess_is_cut_unless_told_otherwise(tmp_path):
    written = write_tree("ravdess", tmp_path / "c")
    spoken(tmp_path / "c" / written[0][0])
    name = "03-01-01-01-01-01-01"
    cut = prepare("ravdess", tmp_path / "c", tmp_path / "one")
    whole = prepare(
        "ravdess", tmp_path / "c", tmp_path / "two", cut_silence=False
    )
    entry = next(s[name] for s in cut.values() if name in s)
    assert entry["length"] == pytest.approx(
        entry["stop"] - entry["start"], abs=2e-3
    )
    assert entry["length"] < 1.9
    assert next(s[name] for s in whole.values() if name in s)["length"] == 4.0


def test_meld_as_videos(tmp_path):
    """One of them is damaged in every copy: ffmpeg leaves it as it is."""
    write_tree("meld", tmp_path, sound=False)
    wavs = sorted(tmp_path.rglob("*.wav"))
    for path in wavs:
        path.with_suffix(".mp4").touch()
    (tmp_path / "train_splits/dia125_utt3.mp4").touch()
    assert len(read("meld", tmp_path, partial_corpus=False)) == len(wavs)
    for path in wavs:
        path.unlink()
    with pytest.raises(InputError, match="found: .*mp4.*ffmpeg"):
        read("meld", tmp_path)


def test_folders_above_do_not_count(tmp_path):
    """A folder called test_sets is no part of MELD's test."""
    written = write_tree("meld", tmp_path / "test_sets/MELD.Raw", sound=False)
    rows = read("meld", tmp_path)
    splits = [row["split"] for row in rows]
    assert splits.count("test") == splits.count("train") == len(written) / 3


def test_filtered_copies_of_turev_are_left_out(tmp_path):
    written = write_tree("turev", tmp_path, sound=False)
    other = tmp_path / "Model Output/sound/Angry/1157_kz_acik.wav"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"filtered")
    assert len(read("turev", tmp_path)) == len(written)


def test_nobody_is_called_none(tmp_path):
    write_tree("msp_podcast", tmp_path, sound=False)
    labels = tmp_path / "Labels/labels_consensus.json"
    for unnamed in ("null", '""', '"unknown"'):
        text = labels.read_text().replace('"Unknown"', unnamed)
        labels.write_text(text)
        named = {row["speaker"] for row in read("msp_podcast", tmp_path)}
        assert named == {str(i) for i in range(12)}
        labels.write_text(text.replace(unnamed, '"Unknown"'))


def test_only_meld_shares_what_is_tested():
    """Nothing else may declare that training and test have speakers in common."""
    sharing = {
        (corpus, name)
        for corpus in ["csv", *CORPORA]
        for name, protocol in protocols_of(corpus).items()
        for key, *splits in protocol.declared
        if splits == ["train", "test"]
    }
    assert sharing == {("meld", "split")}
    assert protocols_of("meld")["split"].note
