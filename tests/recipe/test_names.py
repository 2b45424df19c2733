"""Names as users have them: spellings, signs, `~`, numbers, nothing at all."""

import json
import shutil
import unicodedata

import cross_validate
import pandas as pd
import pytest
import torch
from experiment import planned
from helpers import seeded, write_corpus, write_noise, write_wav

from mlkd_lobes.cli import main
from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.results import is_complete, read_predictions
from mlkd_lobes.files import read_csv, write_csv

NFC, NFD = (unicodedata.normalize(form, "s\u00e9") for form in ("NFC", "NFD"))


def rewrite(corpus, change):
    """Changes the rows of a corpus' manifest."""
    rows = read_csv(corpus / "manifest.csv")
    for number, row in enumerate(rows):
        change(number, row)
    lines = [list(row.values()) for row in rows]
    write_csv(corpus / "manifest.csv", list(rows[0]), lines)


def entries_of(experiment):
    """Split and entry of all utterances prepared."""
    for split in ("train", "valid", "test"):
        path = experiment.folder / f"out/manifests/{split}.json"
        for entry in json.loads(path.read_text()).values():
            yield split, entry


@pytest.mark.parametrize("column", ["speaker", "session", "emotion"])
def test_two_spellings_are_one_name(experiment, own_corpus, column):
    def respell(number, row):
        row["session"] = row["speaker"]
        old = {"emotion": "happy"}.get(column, "s1")
        row[column] = row[column].replace(old, (NFC, NFD)[number % 2])

    rewrite(own_corpus, respell)
    labels = json.dumps({NFD: "hap"}, ensure_ascii=False)
    options = {"data_folder": own_corpus, "label_map": labels}
    experiment.prepare(**options)
    splits = {}
    for split, entry in entries_of(experiment):
        key = {"emotion": "emo"}.get(column, column)
        splits.setdefault(entry[key], set()).add(split)
    assert NFD not in splits
    if column != "emotion":
        assert all(len(found) == 1 for found in splits.values()), splits


@pytest.mark.parametrize("on_disk,in_table", [(NFC, NFD), (NFD, NFC)])
def test_files_are_found_in_either_spelling(
    experiment, own_corpus, on_disk, in_table
):
    first = own_corpus / "audio/s0_0.wav"
    first.rename(first.with_name(f"{on_disk}.wav"))

    def rename(number, row):
        row["path"] = row["path"].replace("s0_0", in_table)

    rewrite(own_corpus, rename)
    experiment.prepare(data_folder=own_corpus)


def test_one_talker_in_two_spellings_is_one(experiment, tmp_path):
    """Else one would babble in training, the other in the test."""
    speech = write_corpus(tmp_path / "speech") / "audio"
    for number, path in enumerate(sorted(speech.iterdir())):
        talker = speech / (NFC, NFD)[number % 2]
        talker.mkdir(exist_ok=True)
        wav = 0.1 * torch.randn(8000, generator=seeded(number))
        write_wav(talker / path.name, wav)
        path.unlink()
    flags = ["--noise_types=[rain, babble]", f"--babble_folder={speech}"]
    with pytest.raises(InputError, match=r"1 talker\(s\); at least 3"):
        experiment.prepare(*flags)


def test_a_speaker_may_be_called_na(experiment, own_corpus):
    def rename(number, row):
        names = {"s0": "NA", "s1": "nan", "s2": "null"}
        row["speaker"] = names.get(row["speaker"], row["speaker"])

    rewrite(own_corpus, rename)
    experiment.train("random", data_folder=own_corpus)
    run = experiment.folder / "out/random"
    speakers = {*read_predictions(run)["speaker"]}
    assert "NA" in speakers or "nan" in speakers or "null" in speakers
    assert all(isinstance(name, str) for name in speakers)
    assert main(["report", str(run)]) == 0


def test_a_recording_of_two_speakers_is_refused(experiment, own_corpus, capsys):
    shutil.copy(own_corpus / "audio/s0_0.wav", own_corpus / "audio/s2_0.wav")
    expected = (
        r"of two speakers.*:\n.*s2_0.wav \(valid, s2\) = .*s0_0.wav \(test, s0"
    )
    with pytest.raises(InputError, match=expected):
        experiment.prepare(data_folder=own_corpus)
    assert main(["doctor", str(own_corpus)]) == 0
    printed = capsys.readouterr().out
    assert "warning: all: 1 recordings come more than once" in printed
    assert "s0_0.wav" in printed


@pytest.mark.parametrize("folder", ["manifest.csv", "audio"])
def test_copies_of_one_speaker_are_a_warning(
    experiment, own_corpus, capsys, folder
):
    shutil.copy(own_corpus / "audio/s0_0.wav", own_corpus / "audio/s0_1.wav")
    if folder == "audio":
        main(["doctor", str(own_corpus / "audio")])
        assert "1 recordings come more than once" in capsys.readouterr().out
        return
    experiment.prepare(data_folder=own_corpus)
    printed = "".join(capsys.readouterr())
    assert "1 recordings come more than once under other names" in printed


@pytest.mark.parametrize("name", ["", "null", "~", "''"])
def test_an_empty_system_is_refused(experiment, name):
    with pytest.raises(InputError, match="no system ''"):
        experiment.train(name, "--prepare_only=True")


@pytest.mark.parametrize("names", ["random,", "", "0.001"])
def test_systems_that_are_none_are_refused(command, capsys, names):
    assert cross_validate.main([*command, f"--systems={names}"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: system: no system '")
    assert printed.count("\n") == 1


ODD_NAMES = ["0", "NA", "nan", "null", "1e3", "0.001", "2024-01-01", "true"]


def test_any_text_names_a_system(command, root, tmp_path):
    systems = tmp_path / "own.yaml"
    entries = "".join(f"  '{name}': {{}}\n" for name in ODD_NAMES)
    systems.write_text("systems:\n" + entries)
    files = next(o for o in command if o.startswith("--settings="))
    both = f"--settings=[{files.split('=')[1]}, {systems}]"
    options = [both if option == files else option for option in command]
    plan = planned(options, "--folds=1", f"--systems={','.join(ODD_NAMES)}")
    assert [run.system for run in plan] == ODD_NAMES
    assert [run.folder.name for run in plan] == ODD_NAMES
    root.mkdir(parents=True)
    rows = pd.DataFrame({"system": ODD_NAMES, "epoch": 1})
    rows.to_csv(root / "validation.csv", index=False)
    read = cross_validate._earlier(root / "validation.csv", ["system", "epoch"])
    assert read["system"].tolist() == ODD_NAMES


@pytest.mark.parametrize(
    "name", ["my$noise", "$noise_folder", "a\rb", "a'b {}"]
)
def test_signs_in_folders_are_characters(experiment, tmp_path, name):
    noise = write_noise(tmp_path / "n" / name)
    speech = write_corpus(tmp_path / "c" / name)
    (speech / "audio/s0_0.wav").rename(speech / "audio/$a\rb{}.wav")

    def rename(number, row):
        row["path"] = row["path"].replace("s0_0", "$a\rb{}")

    rewrite(speech, rename)
    unseen = write_noise(tmp_path / "u" / name, ["a"], files=1)
    keys = {"noise_folder": str(noise), "data_folder": str(speech)}
    keys["unseen_noise"] = {"rooms": str(unseen)}
    (tmp_path / "names.yaml").write_text(json.dumps(keys))
    settings = experiment.arguments["settings"]
    experiment.arguments["settings"] = f"[{settings}, {tmp_path}/names.yaml]"
    for key in ("noise_folder", "data_folder"):
        del experiment.arguments[key]
    experiment.train("random")
    run = experiment.folder / "out/random"
    predictions = read_predictions(run)
    assert any("$a\rb{}" in name for name in predictions["id"])
    assert is_complete(run)


def test_the_home_folder_is_expanded(experiment, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_noise(tmp_path / "noise")
    write_noise(tmp_path / "rooms", ["a"], files=1)
    (tmp_path / "own.yaml").write_text("noise_folder: ~/noise\n")
    experiment.arguments["settings"] = (
        f"[{experiment.arguments['settings']}, ~/own.yaml]"
    )
    del experiment.arguments["noise_folder"]
    unseen = "--unseen_noise={rooms: ~/rooms}"
    experiment.prepare(unseen, output_folder="~/out")
    assert (tmp_path / "out/noise/test.csv").is_file()
    assert not (tmp_path / "~").exists()
    main(["doctor", "~/noise", "--json=~/found.json"])
    assert (tmp_path / "found.json").is_file()


def test_a_key_given_twice_is_named(experiment):
    with pytest.raises(InputError) as error:
        experiment.prepare("--fold=1", "--fold=2")
    assert 'found duplicate key "fold"' in str(error.value)
    assert "give it once" in str(error.value) and "\n" not in str(error.value)
