"""The doctor finds what would spoil a result; its exit code shows it."""

import json
import shutil

import pytest
import torch
from helpers import LABEL_MAP, LABELS, seeded, write_wav

from mlkd_lobes.cli import main
from mlkd_lobes.data.prepare import prepare_corpus
from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.doctor import examine, examine_audio
from mlkd_lobes.files import write_csv

SPLITS = ("train", "valid", "test")


@pytest.fixture(scope="module")
def prepared(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    place = corpus, folder / "manifests"
    prepare_corpus("csv", *place, LABELS, LABEL_MAP, "groups", 3, 1)
    return folder


@pytest.fixture
def own(prepared, corpus, tmp_path):
    """A copy of a corpus and its manifests."""
    shutil.copytree(prepared, tmp_path / "out")
    shutil.copytree(corpus, tmp_path / "corpus")
    return tmp_path


def look(own):
    return examine(own / "out", str(own / "corpus"))


def change(own, split, edit):
    path = own / f"out/manifests/{split}.json"
    entries = json.loads(path.read_text())
    edit(entries)
    path.write_text(json.dumps(entries))


def errors(report):
    return [f for f in report["findings"] if f["level"] == "error"]


def test_a_good_corpus_has_no_error(prepared, corpus, tmp_path, capsys):
    out = tmp_path / "found.json"
    code = main(["doctor", str(prepared), f"--data_folder={corpus}",
                 f"--json={out}"])  # fmt: skip
    text, report = capsys.readouterr().out, json.loads(out.read_text())
    assert code == 0 and errors(report) == []
    test = report["speech"]["test"]
    assert test["utterances"] == 16 and test["unreadable"] == 0
    assert test["labels"] == {"ang": 4, "hap": 4, "neu": 4, "sad": 4}
    assert test["speakers"] == {"s0": 8, "s1": 8}
    assert test["sample_rates"] == {"16000": 16}
    assert test["seconds"] == [0.56, 0.63, 0.69]
    assert "test: 16 utterances" in text and "2 speakers: s0, s1" in text


def test_findings_on_audio(own):
    audio = own / "corpus/audio"
    wave = torch.linspace(-1, 1, 16000)
    (audio / "s0_0.wav").unlink()
    (audio / "s0_1.wav").write_bytes(b"")
    write_wav(audio / "s0_2.wav", torch.zeros(16000))
    write_wav(audio / "s0_3.wav", 0.1 * wave, 8000)
    write_wav(audio / "s1_0.wav", (5 * wave).clamp(-1, 1))
    write_wav(audio / "s1_2.wav", 0.1 * wave[6000:10000])
    found = {
        (f["level"], f["where"].rsplit("/", 1)[-1], f["text"].split(" (")[0])
        for f in look(own)["findings"]
        if "/" in f["where"]
    }
    assert found == {
        ("error", "s0_0.wav", "No such file or directory"),
        ("error", "s0_1.wav", "the file is empty"),
        ("error", "s0_2.wav", "nothing but silence"),
        ("warning", "s0_3.wav", "only 8000 Hz"),
        ("warning", "s1_0.wav", "80% clipped"),
        ("warning", "s1_2.wav", "only 0.25 s"),
    }


def test_overlaps_are_errors_unless_declared(own, capsys):
    train = json.loads((own / "out/manifests/train.json").read_text())
    name, entry = next((n, e) for n, e in train.items() if e["emo"])

    def add(entries):
        entries["again"] = {**entry, "session": None}

    change(own, "valid", add)
    texts = [f["text"] for f in errors(look(own))]
    assert len(texts) == 3  # the speaker, the file and its samples
    assert any(f"speaker(s): {entry['speaker']}" in text for text in texts)
    stamp = own / "out/manifests/preparation.json"
    content = json.loads(stamp.read_text())
    keys = ("speaker", "wav", "audio")
    content["declared"] = [[key, "train", "valid"] for key in keys]
    stamp.write_text(json.dumps(content))
    report = look(own)
    assert errors(report) == []
    declared = [
        f["text"] for f in report["findings"] if "declared" in f["text"]
    ]
    assert len(declared) == 3
    change(own, "test", add)
    command = ["doctor", str(own / "out"), f"--data_folder={own / 'corpus'}"]
    assert main(command) == 1
    assert "do not train on this yet" in capsys.readouterr().out


def test_a_copied_file_is_the_same_audio(own):
    audio = own / "corpus/audio"
    shutil.copy(audio / "s0_0.wav", audio / "s4_0.wav")
    found = errors(look(own))
    assert [f["where"] for f in found] == ["train and test"]
    assert "share 1 audio" in found[0]["text"]


def test_missing_and_rare_classes(own):
    def drop(label, keep):
        def edit(entries):
            names = [n for n, e in entries.items() if e["emo"] == label]
            for name in names[keep:]:
                del entries[name]

        return edit

    change(own, "test", drop("ang", 0))
    change(own, "train", drop("sad", 1))
    report = look(own)
    findings = {(f["where"], f["text"]) for f in report["findings"]}
    assert ("test", "no utterance is labelled ang") in findings
    assert errors(report) == []
    assert ("train", "imbalanced: 1 sad, 8 of another class") not in findings
    change(own, "valid", drop("hap", 1))
    assert not [t for w, t in findings if "imbalanced" in t]

    def more(entries):
        for n in range(9):
            name = next(iter(entries))
            entries[f"{n}"] = {**entries[name], "emo": "neu"}

    change(own, "valid", more)
    findings = {(f["where"], f["text"]) for f in look(own)["findings"]}
    assert ("valid", "imbalanced: 1 hap, 13 of another class") in findings
    change(own, "train", drop("sad", 0))
    assert [f["where"] for f in errors(look(own))] == ["train"]


def test_shared_texts_are_reported(own):
    def say(entries):
        for n, entry in enumerate(entries.values()):
            entry["text"] = f"Sentence {n % 3}"

    for split in SPLITS:
        change(own, split, say)
    report = look(own)
    assert errors(report) == []
    texts = [
        f["text"] for f in report["findings"] if "also occurs" in f["text"]
    ]
    assert texts == [
        "16 of 16 test utterances have a text that also occurs in training "
        "(3 texts)"
    ]


def test_corpora_and_folders_that_are_not_prepared(
    corpus, noise_corpus, tmp_path, capsys
):
    report = examine(str(corpus))
    assert report["speech"]["all"]["utterances"] == 60
    assert report["speech"]["all"]["speakers"]["s3"] == 10
    report = examine(str(noise_corpus))
    assert report["speech"]["all"]["utterances"] == 10
    (tmp_path / "empty").mkdir()
    assert main(["doctor", str(tmp_path / "empty")]) == 1
    assert "no audio and no manifests" in capsys.readouterr().err
    assert main(["doctor", str(tmp_path / "nowhere")]) == 1


def test_a_missing_data_folder_is_named(prepared, capsys):
    assert main(["doctor", str(prepared)]) == 1
    assert "give --data_folder" in capsys.readouterr().err


def test_long_lists_are_cut(own, capsys):
    write_csv(
        own / "corpus/manifest.csv", ["path"], [[f"{n}.wav"] for n in range(20)]
    )
    assert main(["doctor", str(own / "corpus")]) == 1
    out = capsys.readouterr().out
    assert "20 of a kind:" in out and "… and 12 more" in out
    assert "20 errors, 0 warnings" in out


def test_times_that_are_not_numbers_are_findings(own, capsys):
    row = ["audio/s0_0.wav", "early", ""]
    write_csv(own / "corpus/manifest.csv", ["path", "start", "end"], [row])
    assert main(["doctor", str(own / "corpus")]) == 1
    assert "time is 'early', expected seconds" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content,message",
    [
        ("{", "train.json: is not valid JSON"),
        ("[]", "train.json: has no utterances"),
        ('{"a": {"emo": "sad"}}', "train.json: utterance a has None as 'wav'"),
        ('{"a": {"wav": "{x}.wav"}}', "train.json: utterance a has '{x}.wav'"),
    ],
)
def test_damaged_manifests_are_named(own, capsys, content, message):
    (own / "out/manifests/train.json").write_text(content)
    arguments = [f"--data_folder={own / 'corpus'}"]
    assert main(["doctor", str(own / "out"), *arguments]) == 1
    assert message in capsys.readouterr().err


def test_long_recordings_are_read_piece_by_piece(tmp_path, monkeypatch):
    wav = 0.1 * torch.randn(56000, generator=seeded(1)) + 0.01
    write_wav(tmp_path / "a.wav", wav)
    whole = examine_audio(tmp_path / "a.wav", 0.5)
    monkeypatch.setattr("mlkd_lobes.evaluation.doctor.BLOCK_SECONDS", 0.5)
    pieces = examine_audio(tmp_path / "a.wav", 0.5)
    assert whole.pop("level") == pytest.approx(pieces.pop("level"))
    assert whole == pieces and whole["seconds"] == 3.0


def test_a_frame_more_than_a_block_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setattr("mlkd_lobes.evaluation.doctor.BLOCK_SECONDS", 0.5)
    write_wav(tmp_path / "a.wav", 0.1 * torch.randn(24001), 48000)
    assert examine_audio(tmp_path / "a.wav")["seconds"] == pytest.approx(0.5)


@pytest.mark.parametrize("start", [-1e20, float("-inf"), float("nan")])
def test_times_before_a_recording_are_refused_at_once(tmp_path, start):
    write_wav(tmp_path / "a.wav", 0.1 * torch.randn(8000))
    with pytest.raises((InputError, ValueError, OverflowError)):
        examine_audio(tmp_path / "a.wav", start)
