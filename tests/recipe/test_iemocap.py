"""The ordered corpora, generated with their layout, through the real command."""

import json

import iemocap_prepare
import pytest
from helpers import write_demand, write_musan
from iemocap_tree import write_iemocap

from mlkd_lobes.cli import main

COUNTS = {
    session: dict.fromkeys(counts, 4)
    for session, counts in iemocap_prepare.COUNTS.items()
}


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    root = tmp_path_factory.mktemp("iemocap")
    write_iemocap(root, COUNTS, others=4)
    return root


@pytest.fixture
def iemocap(experiment, release, tmp_path):
    text = experiment.arguments["settings"].read_text()
    unwanted = ("corpus:", "corpus_name", "protocol", "n_folds", "noise_")
    lines = [
        line
        for line in text.splitlines()
        if not line.startswith((*unwanted, "label_map"))
    ]
    settings = tmp_path / "iemocap.yaml"
    settings.write_text("\n".join([*lines, "partial_corpus: True"]))
    experiment.arguments.update(settings=settings, data_folder=release)
    return experiment


@pytest.mark.parametrize(
    "protocol,fold,n",
    [
        ("loso5", 2, 16),
        pytest.param("s3prl", 5, 16, marks=pytest.mark.slow),
        pytest.param("speaker10", 10, 8, marks=pytest.mark.slow),
    ],
)
def test_protocols_with_musan(iemocap, tmp_path, protocol, fold, n):
    musan = write_musan(tmp_path / "musan")
    results = iemocap.run(
        "mlkd_semi",
        noise_folder=musan,
        protocol=protocol,
        fold=fold,
        teacher_epochs=1,
        student_epochs=1,
        test_snrs="[0]",
    )
    assert results["protocol"] == protocol and results["fold"] == fold
    assert results["corpus"] == "iemocap" and results["noise_corpus"] == "musan"
    noise = [condition["noise"] for condition in results["conditions"]]
    assert noise == ["clean", "babble", "music", "noise", "speech", "white"]
    assert results["conditions"][0]["n"] >= n // 2


def test_demand_in_place_of_musan(iemocap, tmp_path):
    demand = write_demand(tmp_path / "demand", channels=(1,))
    results = iemocap.run(
        "teacher_noisy",
        noise_corpus="demand",
        noise_folder=demand,
        teacher_epochs=1,
        test_snrs="[0]",
    )
    noise = [condition["noise"] for condition in results["conditions"]]
    usual = ["domestic", "office", "public", "street", "transport"]
    assert noise == ["clean", *usual]


def test_doctor_reads_a_prepared_fold(iemocap, release, tmp_path):
    import train

    import speechbrain as sb

    musan = write_musan(tmp_path / "musan")
    command = iemocap.command(
        "mlkd", noise_folder=musan, prepare_only=True, protocol="s3prl"
    )
    train.run(*sb.parse_arguments(command))
    out = iemocap.arguments["output_folder"]
    assert not (out / "teacher").exists()
    found = tmp_path / "found.json"
    # Every turn of the generated tree is the same noise: the doctor sees it.
    code = main(
        ["doctor", str(out), f"--data_folder={release}", f"--json={found}"]
    )
    assert code == 1
    report = json.loads(found.read_text())
    errors = {f["text"].split(":")[0] for f in report["findings"]
              if f["level"] == "error"}  # fmt: skip
    assert errors == {
        f"{one} and {two} share 1 audio(s)"
        for one, two in (
            ("train", "valid"),
            ("train", "test"),
            ("valid", "test"),
        )
    }
    declared = [f for f in report["findings"] if "declared by" in f["text"]]
    assert len(declared) == 2
