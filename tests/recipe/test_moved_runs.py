"""What moves goes on: runs, copies, corpora; and own output is never input."""

import json
import os
import shutil

import pytest
import torch
from helpers import write_corpus, write_noise, write_wav

from mlkd_lobes.cli import main
from mlkd_lobes.data.audio import read_audio
from mlkd_lobes.deployment.run_speech import RunSpeech, describe_training
from mlkd_lobes.errors import InputError

TYPES = "--noise_types=[rain, babble, white]"


@pytest.fixture
def talkers(tmp_path):
    """A folder of several talkers, a sub-folder each."""
    folder = write_corpus(tmp_path / "speech")
    for path in sorted((folder / "audio").iterdir()):
        talker = folder / f"talkers/talker_{path.name.split('_')[0]}"
        talker.mkdir(parents=True, exist_ok=True)
        # Other audio than the emotion corpus'.
        wav = 0.5 * torch.from_numpy(read_audio(path))
        write_wav(talker / path.name, wav)
    return folder / "talkers"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A run in a folder that moves, of corpora that move as well."""
    folder = tmp_path / "one"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    return folder


def texts_of(folder):
    """All tables and JSON files below a folder."""
    found = [*folder.rglob("*.json"), *folder.rglob("*.csv")]
    return {path: path.read_text() for path in found}


def test_a_moved_run_goes_on(experiment, place, talkers):
    options = [TYPES, f"--babble_folder={talkers}"]
    experiment.prepare(*options, output_folder=place)
    made = {p: p.read_bytes() for p in place.rglob("*.flac")}
    assert len(made) == 100
    moved = place.rename(place.with_name("two"))
    written = [p.stat().st_mtime_ns for p in moved.rglob("*.csv")]
    changes = {"output_folder": moved, "noise_types": "[rain, babble, white]"}
    changes["babble_folder"] = talkers
    experiment.train("random", **changes)
    # Nothing was prepared again.
    assert [p.stat().st_mtime_ns for p in moved.rglob("*.csv")] == written
    for path, text in texts_of(moved).items():
        assert str(place) not in text, path


@pytest.mark.slow
def test_moved_corpora_are_found(experiment, place, own_corpus, capsys):
    """Their results are the same wherever they lie."""
    noise = write_noise(place / "noise")
    unseen = write_noise(place / "unseen", ["hall"], files=2)
    rooms = json.dumps({"rooms": str(unseen)})
    changes = {"data_folder": own_corpus, "noise_folder": noise}
    changes.update(unseen_noise=rooms, output_folder=place / "out")
    experiment.train("random", **changes)
    results = place / "out/random/results.json"
    before = results.read_text()
    moved = [
        shutil.move(folder, place / f"moved_{folder.name}")
        for folder in (own_corpus, noise)
    ]
    folders = [f"--data_folder={moved[0]}", f"--noise_folder={moved[1]}"]
    run, out = str(place / "out/random"), str(place / "export")
    # The noise of the test alone stays where it was.
    assert main(["export", run, out, "--without_int8", *folders]) == 0
    assert main(["doctor", str(place / "out"), folders[0]]) in (0, 1)
    assert "unreadable" not in capsys.readouterr().out
    changes.update(data_folder=moved[0], noise_folder=moved[1])
    experiment.train("random", **changes)
    assert results.read_text() == before


@pytest.mark.slow
def test_other_systems_train_in_a_moved_run(experiment, place):
    noise = {"noise_types": "[rain, white]"}
    experiment.train("teacher", output_folder=place, **noise)
    teacher = (place / "teacher/stage.json").read_bytes()
    moved = place.rename(place.with_name("two"))
    options = {"output_folder": moved, **noise}
    experiment.train("student_noisy", **options)
    assert (moved / "teacher/stage.json").read_bytes() == teacher


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of a run with one utterance less, and how many it has."""
    first, copied = tmp_path / "first", tmp_path / "copied"
    shutil.copytree(finished.arguments["output_folder"], first)
    shutil.copytree(first, copied)
    manifest = copied / "manifests/train.json"
    entries = json.loads(manifest.read_text())
    names = sorted(name for name, entry in entries.items() if entry["emo"])
    del entries[names[0]]
    manifest.write_text(json.dumps(entries))
    return copied, len(names) - 1


@pytest.mark.parametrize("original", ["stays", "is gone", "is another run"])
def test_a_copy_reads_what_lies_beside_it(copied, original):
    folder, n_utterances = copied
    first = folder.with_name("first")
    if original == "is gone":
        shutil.rmtree(first)
    elif original == "is another run":
        (first / "manifests/train.json").write_text("{}")
    speech = RunSpeech(folder / "teacher", ["neu", "hap", "sad", "ang"])
    assert describe_training(speech)["utterances"] == n_utterances


def test_manifests_of_ones_own_are_read_as_in_training(copied):
    """No `emo` of an unlabelled utterance; times as text."""
    folder, n_utterances = copied
    for split in ("train", "test"):
        path = folder / f"manifests/{split}.json"
        entries = json.loads(path.read_text())
        for entry in entries.values():
            entry.update(length=str(entry["length"]), start="0", stop=None)
            if entry["emo"] is None:
                del entry["emo"]
        path.write_text(json.dumps(entries))
    speech = RunSpeech(folder / "teacher", ["neu", "hap", "sad", "ang"])
    assert len(list(speech.training(99))) == n_utterances
    assert all(utterance.seconds > 0 for utterance in speech.test())


@pytest.mark.slow
def test_export_of_a_copy_reads_what_lies_beside_it(copied, tmp_path):
    folder, n_utterances = copied
    arguments = [str(folder / "teacher"), str(tmp_path / "export")]
    assert main(["export", *arguments, "--without_int8"]) == 0
    card = (tmp_path / "export/README.md").read_text()
    assert f"{n_utterances} labelled utterances" in card


@pytest.mark.parametrize("key", ["babble_folder", "noise_folder", "unseen"])
@pytest.mark.parametrize("link", [False, True])
def test_own_output_is_never_input(experiment, talkers, key, link):
    folder = talkers
    if key == "noise_folder":
        folder = write_noise(talkers / "n")
    out = folder / "results"
    if link:
        out = experiment.folder / "linked"
        out.symlink_to(folder, target_is_directory=True)
    flags = {
        "babble_folder": [TYPES, f"--babble_folder={folder}"],
        "noise_folder": [],
        "unseen": [f"--unseen_noise={json.dumps({'rooms': str(folder)})}"],
    }[key]
    changes = {"noise_folder": folder} if key == "noise_folder" else {}
    experiment.prepare(*flags, output_folder=out / "one", **changes)
    stamp = out / "one/noise/preparation.json"
    before = json.loads(stamp.read_text())
    # As while its noise is generated.
    stamp.write_text("{}")
    experiment.prepare(*flags, output_folder=out / "two", **changes)
    after = json.loads((out / "two/noise/preparation.json").read_text())
    assert before["recordings"] and before == after
    if key == "babble_folder":
        rows = (out / "two/noise/train.csv").read_text()
        assert "$csv_folder/babble" in rows and "$csv_folder/white" in rows


def test_noise_is_not_prepared_into_noise(experiment, noise_corpus):
    """The corpus would count as prepared noise, and not be found again."""
    folder = shutil.copytree(noise_corpus, experiment.folder / "own/noise")
    with pytest.raises(InputError, match="own/noise: holds noise"):
        experiment.prepare(output_folder=folder.parent, noise_folder=folder)


def test_relative_folders_are_those_of_the_command(experiment, place):
    """The run reads them from where it is started, as it did before."""
    noise = write_noise(place / "noise")
    changes = {"noise_folder": os.path.relpath(noise), "output_folder": "out"}
    experiment.train("random", **changes)
    experiment.train("random", **changes)
