"""The demo: its corpora are like the real ones, its commands are the recipe's."""

import json
import shutil
from collections import Counter

import demo
import mini_corpus
import numpy as np
import pytest
import soundfile
import torch
from helpers import LABELS, RECIPE
from iemocap_prepare import prepare_iemocap
from noise_prepare import prepare_noise

from mlkd_lobes.models.encoder import SSLEncoder
from mlkd_lobes.noise.add_noise import read_noise_csv
from mlkd_lobes.training.overrides import read_settings


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    """The whole mini corpus; read only."""
    folder = tmp_path_factory.mktemp("mini")
    mini_corpus.main(folder)
    return folder


@pytest.fixture(scope="module")
def splits(mini, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    release = mini / "IEMOCAP_full_release"
    prepare_iemocap(str(release), folder, LABELS, {}, "loso5", 1, True)
    return {
        split: json.loads((folder / f"{split}.json").read_text())
        for split in ("train", "valid", "test")
    }


def test_ten_speakers_and_enough_to_test(splits):
    entries = [e for split in splits.values() for e in split.values()]
    assert len({entry["speaker"] for entry in entries}) == 10
    counts = Counter(entry["emo"] for entry in splits["test"].values())
    assert counts == dict.fromkeys(LABELS, 24)
    assert any(entry["emo"] is None for entry in splits["train"].values())
    assert all(0.4 < entry["length"] < 4 for entry in entries)


def test_scripts_are_shared_and_improvisations_are_not(splits):
    printed = {
        split: {
            kind: {e["text"] for e in entries.values() if kind in e["dialog"]}
            for kind in ("script", "impro")
        }
        for split, entries in splits.items()
    }
    assert printed["train"]["script"] & printed["test"]["script"]
    assert not printed["train"]["impro"] & printed["test"]["impro"]


def test_synthetic_emotions_differ_in_rate_level_and_tilt(mini, splits):
    """Sad speech is the slowest and softest, angry the fastest and sharpest."""
    facts = {label: [] for label in LABELS}
    for entry in splits["train"].values():
        if entry["emo"] is None:
            continue
        path = mini / "IEMOCAP_full_release" / entry["wav"][12:]
        wav, rate = soundfile.read(path)
        power = np.abs(np.fft.rfft(wav)) ** 2
        high = power[len(power) // 4 :].sum() / power.sum()
        syllables = len(entry["text"].split())
        level = np.sqrt(np.mean(wav**2))
        facts[entry["emo"]].append((syllables / entry["length"], level, high))
    means = {label: np.mean(rows, axis=0) for label, rows in facts.items()}
    for label in ("neu", "hap"):
        assert (means["sad"][:2] < means[label][:2]).all()
        assert (means[label] < means["ang"]).all()


def test_the_same_speech_everywhere(mini, tmp_path):
    mini_corpus.write_session(tmp_path, 3)
    first = mini / "IEMOCAP_full_release/Session3"
    paths = [p for p in (tmp_path / "Session3").rglob("*") if p.is_file()]
    assert len(paths) == 104 + 2 * 4
    for path in paths:
        other = first / path.relative_to(tmp_path / "Session3")
        assert path.read_bytes() == other.read_bytes()


def test_its_noise_is_musans(mini, tmp_path):
    places = {"noise_folder": str(mini / "musan")}
    prepare_noise("musan", places["noise_folder"], tmp_path, None)
    for split in ("train", "valid", "test"):
        kinds = read_noise_csv(str(tmp_path / f"{split}.csv"), places)
        assert list(kinds) == ["babble", "music", "noise", "speech", "white"]


def test_first_layer_is_a_bank_of_band_filters(mini, tmp_path):
    encoder = SSLEncoder(str(mini / "wav2vec2"), str(tmp_path)).eval()
    weights = encoder.model.feature_extractor.conv_layers[0].conv.weight
    spectra = torch.fft.rfft(weights[:, 0], 16000).abs()
    peaks = spectra.argmax(1)[:: mini_corpus.PHASES].tolist()
    assert peaks == sorted(peaks) and 70 < peaks[0] < 90 < 4900 < peaks[-1]
    with torch.no_grad():
        out = encoder(torch.randn(2, 8000), torch.tensor([1.0, 0.5]))
        alone = encoder(torch.randn(1, 8000))
    assert (
        out.n_frames.tolist() == [23, 11] and alone.last_hidden.shape[1] == 23
    )


def test_its_commands_are_the_recipes():
    for system in demo.SYSTEMS:
        command = demo.command_of(system, RECIPE)
        options = [o[2:].split("=") for o in command if "=" in o]
        text = "\n".join(
            f"{key}: {value}" for key, value in options if key != "settings"
        )
        text += f"\nsettings: {RECIPE.parents[2] / 'examples/mini.yaml'}"
        found = read_settings(str(RECIPE / "hparams/mlkd.yaml"), text)
        assert found.overrides["system"] == system
        assert found.values["corpus_name"] == "mini"


def test_the_demo_runs_to_its_end(mini, tmp_path, monkeypatch, capsys):
    def shorter(system, folder):
        short = ["--teacher_epochs=1", "--student_epochs=1", "--test_snrs=[0]"]
        return [*command_of(system, folder), *short, "--device=cpu"]

    command_of = demo.command_of
    monkeypatch.setattr(demo, "command_of", shorter)
    monkeypatch.setattr(
        demo, "write_mini_corpus", lambda out: shutil.copytree(mini, out)
    )
    monkeypatch.setattr(demo, "SYSTEMS", {"mlkd": "one is enough"})
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/old.txt").write_text("from an earlier time")
    with pytest.raises(SystemExit, match="not empty and not an earlier demo"):
        demo.main(tmp_path / "demo")
    (tmp_path / "demo/.mlkd-demo").touch()
    demo.main(tmp_path / "demo")
    printed = capsys.readouterr().out
    # An epoch of the teacher, one of the student.
    assert printed.count("epoch  1   loss") == 2
    assert "| mlkd" in printed and "not that the method works" in printed
    names = {path.name for path in (tmp_path / "demo").iterdir()}
    assert {"ua.svg", "mlkd", "teacher", "mlkd.log"} <= names
    assert "old.txt" not in names


def test_failing_command_prints_its_log(mini, tmp_path, monkeypatch):
    monkeypatch.setattr(
        demo, "write_mini_corpus", lambda out: out.mkdir(parents=True)
    )
    with pytest.raises(
        SystemExit, match="teacher failed.*(?s:.)*cannot be opened"
    ):
        demo.main(tmp_path / "demo")
