"""The commands with a corpus by its name, and with conditions beyond noise."""

import json

import pytest
from corpus_trees import write_tree

from mlkd_lobes.cli import main
from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.results import read_predictions

PLAIN = {"label_map": "{}", "partial_corpus": True}


def test_a_corpus_is_prepared_by_its_name(experiment, tmp_path):
    write_tree("ravdess", tmp_path / "ravdess")
    options = {"corpus": "ravdess", "data_folder": tmp_path / "ravdess"}
    # The tiny settings' label_map names other emotions.
    settings = tmp_path / "tiny.yaml"
    text = settings.read_text().splitlines()
    kept = [line for line in text if not line.startswith("label_map")]
    settings.write_text("\n".join(kept))
    with pytest.raises(InputError, match="complete copy has 1440 of 24"):
        experiment.prepare(**options)
    experiment.prepare(**options, partial_corpus=True, select="{text: ['01']}")
    manifests = experiment.arguments["output_folder"] / "manifests"
    test = json.loads((manifests / "test.json").read_text())
    assert {name[15:17] for name in test} == {"01"}
    with pytest.raises(InputError, match="known ones are: groups, emobox"):
        experiment.prepare(**options, protocol="split")
    with pytest.raises(
        InputError, match="known ones are: iemocap, csv, ravdess"
    ):
        experiment.prepare(corpus="ravdes")
    for key, value in (
        ("select", "text"),
        ("crowd_votes", "2"),
        ("cut_silence", "yes please"),
        ("test_distortions", "[rain]"),
    ):
        with pytest.raises(InputError, match=key):
            experiment.prepare(**{**options, key: value})


def test_an_own_split_is_declared_and_reported(experiment, tmp_path, capsys):
    write_tree("meld", tmp_path / "meld")
    settings = tmp_path / "tiny.yaml"
    text = settings.read_text().splitlines()
    kept = [line for line in text if not line.startswith("label_map")]
    settings.write_text("\n".join(kept))
    results = experiment.run(
        "random", corpus="meld", protocol="split", data_folder=tmp_path / "meld"
    )
    assert results["note"].startswith("Speaker-dependent")
    assert results["label_map"]["happy"] == "hap"
    assert len(results["split_sha256"]) == 64
    out = experiment.arguments["output_folder"]
    capsys.readouterr()
    assert main(["report", str(out)]) == 0
    text = capsys.readouterr().out
    assert "Speaker-dependent: the corpus' own split shares speakers." in text
    sha256 = results["split_sha256"][:8]
    assert f"The split of fold 1 has the hash {sha256}." in text


def test_distortions_have_columns_of_their_own(experiment, capsys):
    options = {"test_snrs": "[20]", "unseen_noise": "{}"}
    experiment.run("random", **options)
    out = experiment.arguments["output_folder"]
    before = read_predictions(out / "random")
    distorted = "[gain, cut, telephone, reverberation]"
    results = experiment.run(
        "random", "--test_only", test_distortions=distorted, **options
    )
    kinds = [c["noise"] for c in results["conditions"]]
    assert kinds[-4:] == [
        "distorted-gain",
        "distorted-cut",
        "distorted-telephone",
        "distorted-reverberation",
    ]
    # Noise stays what it was.
    after = read_predictions(out / "random")
    noisy = after[~after["noise"].str.startswith("distorted-")]
    assert noisy["id"].tolist() == before["id"].tolist()
    assert (noisy["p_neu"] - before["p_neu"].to_numpy()).abs().max() < 1e-5
    capsys.readouterr()
    assert main(["report", str(out)]) == 0
    text = capsys.readouterr().out
    assert (
        "| UA (%) | seeds | clean | noisy | 95 % interval | rain | wind | gain"
        in " ".join(text.split())
    )
    assert "gain (≥ 95)" in text and "noise, 20 dB (≥ 90)" in text
    verdicts = [
        cell.split()
        for line in text.splitlines()
        if line.startswith("| random") and ("pass" in line or "FAIL" in line)
        for cell in line.split("|")
        if "pass" in cell or "FAIL" in cell
    ]
    least = [95, 50, 90]  # gain, telephone, noise
    assert [verdict for _, verdict in verdicts] == [
        "pass" if float(share) >= limit else "FAIL"
        for (share, _), limit in zip(verdicts, least)
    ]
    assert len(verdicts) == 3
    assert "noisy UA (%), by duration" in text
