"""An exported model opens everywhere, with equal outputs."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from helpers import LABELS, RECIPE, seeded, write_wav
from opened_everywhere import HIDE, predicted_by

from mlkd_lobes.cli import main
from mlkd_lobes.deployment import (
    export as exporting,
    parity,
)
from mlkd_lobes.deployment.models import OnnxModel, TorchModel, open_model
from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.calibration import soften
from mlkd_lobes.evaluation.results import read_results
from mlkd_lobes.files import file_sha256

ROOT = RECIPE.parents[2]
WITHOUT_OURS = HIDE.format(["mlkd_lobes"])
ONNX_ONLY = HIDE.format(
    ["torch", "torchaudio", "transformers", "speechbrain", "onnx"]
    + ["scipy", "sklearn", "pandas", "matplotlib", "hyperpyyaml", "ruamel"]
)


def run_python(code, folder, *arguments):
    """A process of its own, started elsewhere; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def expected(run_folder, speech):
    trained = TorchModel.open(run_folder / "model")
    temperature = read_results(run_folder)["temperature"]
    assert abs(temperature - 1) > 0.01
    return soften(parity.in_batches(trained, speech[1]), temperature)


def test_a_runs_model_is_as_calibrated_as_its_export(
    run_folder, speech, expected
):
    opened = open_model(run_folder)
    found = parity.in_batches(opened, speech[1])
    assert np.abs(found - expected).max() < 1e-5


def test_int8_that_loses_too_much_is_not_exported(
    run_folder, tmp_path, monkeypatch
):
    lost = {"UA_float32": 0.9, "UA_int8": 0.4, "loss_allowed": 0.01}
    found = dict.fromkeys(parity.PARTS, lost)
    monkeypatch.setattr(exporting, "quantise", lambda *_: found)
    with pytest.raises(InputError, match="loses 50.00 .* --without_int8"):
        exporting.export(run_folder, tmp_path / "exported")
    assert list(tmp_path.iterdir()) == []


def test_export_summary_lists_files_and_labels(exported, run_folder):
    summary = json.loads((exported / "export.json").read_text())
    assert summary["labels"] == LABELS and summary["sample_rate"] == 16000
    stage = json.loads((run_folder / "stage.json").read_text())
    assert summary["model_sha256"] == stage["model_sha256"]
    for name, file in summary["files"].items():
        assert file_sha256(exported / name) == file["sha256"]
    unlisted = {"export.json", "README.md"}
    there = [p for p in exported.rglob("*") if p.is_file()]
    names = {p.relative_to(exported).as_posix() for p in there}
    assert names == {*summary["files"], *unlisted}
    differences = summary["parity"]["largest_difference"]
    assert set(differences) == {"torch", "huggingface", "speechbrain", "onnx"}
    assert differences["onnx"]["padded batch"] < 1e-5
    for part in ("clean", "noisy", "untrimmed"):
        assert 0 <= summary["int8"][part]["agreement"] <= 1
    small = (exported / "onnx/model_int8.onnx").stat().st_size
    assert small < (exported / "onnx/model.onnx").stat().st_size


def test_export_holds_no_private_paths(exported, run_folder):
    """Neither the run nor the code: paths name people and machines."""
    places = [str(run_folder), str(run_folder.parents[1]), str(ROOT)]
    for path in exported.rglob("*"):
        if path.is_file() and path.suffix != ".py":
            content = path.read_bytes()
            found = [p for p in places if p.encode() in content]
            assert not found, (path, found)


def test_transformers_opens_the_export(exported, speech, expected):
    # Plain Hugging Face code needs 400 samples.
    paths = [speech[0] / f"{i}.wav" for i in (0, 2, 3)]
    found = predicted_by("transformers", exported, paths)
    assert found == pytest.approx(expected[[0, 2, 3]], abs=1e-4)


def test_speechbrain_opens_the_export(exported, speech, expected, tmp_path):
    code = WITHOUT_OURS + (
        "import json, torch\n"
        "from speechbrain.inference.interfaces import foreign_class\n"
        "r = foreign_class(source=sys.argv[1], pymodule_file='interface.py',\n"
        "                  classname='EmotionRecognizer')\n"
        "files = [r.classify_file(path) for path in sys.argv[2:]]\n"
        "wavs = torch.zeros(2, 9000); wavs[0, :] = torch.linspace(-1, 1, 9000)\n"
        "wavs[1, :5000] = wavs[0, :5000]\n"
        "both = r.classify_batch(wavs, torch.tensor([1, 5000 / 9000]))[0]\n"
        "alone = r.classify_batch(wavs[1, :5000])[0]\n"
        "assert torch.equal(both[1:], alone) and not torch.equal(both[:1], alone)\n"
        "again = type(r).from_hparams(source=sys.argv[1])\n"
        "assert torch.equal(again.classify_batch(wavs)[0],\n"
        "                   r.classify_batch(wavs)[0])\n"
        "print(json.dumps([[p[0].tolist(), s.item(), i.item(), t[0]]\n"
        "                  for p, s, i, t in files]))\n"
    )
    paths = sorted(speech[0].iterdir())
    printed = run_python(code, tmp_path, exported / "speechbrain", *paths)
    for answer, wanted in zip(json.loads(printed.splitlines()[-1]), expected):
        probabilities, score, index, label = answer
        assert probabilities == pytest.approx(wanted, abs=1e-4)
        assert (score, label) == (max(probabilities), LABELS[index])
    assert not list(tmp_path.iterdir())


def test_onnx_prediction_needs_no_torch(exported, speech, expected, tmp_path):
    code = ONNX_ONLY + (
        "import runpy\n"
        "sys.argv = ['mlkd_lobes', 'predict', *sys.argv[1:]]\n"
        "runpy.run_module('mlkd_lobes', run_name='__main__')\n"
    )
    out = tmp_path / "answers.csv"
    run_python(
        code, tmp_path, exported, speech[0], "--backend=onnx", f"--output={out}"
    )
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    found = [[float(row[f"p_{label}"]) for label in LABELS] for row in rows]
    assert np.abs(np.array(found) - expected).max() < 1e-4
    printed = [LABELS[i] for i in expected.argmax(-1)]
    assert [row["emotion"] for row in rows] == printed
    code = code.replace("runpy.run", "print('asked'); runpy.run")
    requested = [sys.executable, "-c", code, str(exported), str(speech[0])]
    done = subprocess.run(requested, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert (
        "torch is not installed; the backends are torch, onnx, int8"
        in done.stderr
    )


def test_closed_pipe_ends_without_error(exported, speech, tmp_path):
    # More lines than a pipe holds.
    inputs = " ".join(40 * [str(speech[0])])
    requested = f"{sys.executable} -m mlkd_lobes predict {exported} {inputs}"
    command = f"{requested} --backend=onnx --window=0.1 | head -n 1"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True
    )
    assert done.stdout.startswith("path,start") and not done.stderr


def test_huggingface_and_onnx_exports_hold_no_code(exported):
    names = [p.name for p in (exported / "huggingface").iterdir()]
    assert {name.split(".")[-1] for name in names} == {"json", "safetensors"}
    config = json.loads((exported / "huggingface/config.json").read_text())
    assert "auto_map" not in config
    import onnx

    for name in ("model", "model_int8"):
        graph = onnx.load(exported / f"onnx/{name}.onnx")
        # Operators of the standard alone, and every weight inside the file.
        used = {node.domain for node in graph.graph.node}
        assert used <= {"", "ai.onnx"} and not graph.functions
        assert not any(t.external_data for t in graph.graph.initializer)
    assert "runs code" in (exported / "speechbrain/README.md").read_text()


@pytest.mark.parametrize("model_type", ["wav2vec2", "theirs"])
def test_remote_code_of_a_model_is_not_run(
    exported, tmp_path, monkeypatch, model_type
):
    folder, seen = tmp_path / "model", tmp_path / "seen"
    shutil.copytree(exported / "huggingface", folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["model_type"] = model_type
    config["auto_map"] = {
        "AutoConfig": "theirs.Config",
        "AutoModel": "theirs.Model",
        "AutoModelForAudioClassification": "theirs.Model",
    }
    path.write_text(json.dumps(config))
    (folder / "theirs.py").write_text(f"open({str(seen)!r}, 'w').close()\n")
    # A prompt on a terminal would be confirmed.
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    if model_type == "wav2vec2":
        assert open_model(folder).labels == LABELS
    else:
        with pytest.raises(InputError, match="model: cannot be opened"):
            open_model(folder)
    assert not seen.exists()


def test_half_an_hour_takes_no_more_memory(exported, tmp_path):
    script = (
        "import sys\n"
        "from mlkd_lobes.cli import main\n"
        "import re\n"
        "assert main(sys.argv[1:]) == 0\n"
        "status = open('/proc/self/status').read()\n"
        "peak = int(re.search(r'VmHWM:\\s+(\\d+)', status)[1]) / 1024\n"
        "print(peak, file=sys.stderr)\n"
    )
    found = {}
    for minutes in (2, 30):
        wav = tmp_path / f"{minutes}.wav"
        minute = 0.1 * np.random.default_rng(0).standard_normal(16000 * 60)
        with soundfile.SoundFile(wav, "w", 16000, 1) as file:
            for _ in range(minutes):
                file.write(minute)
        arguments = ["predict", exported, wav, "--backend=onnx"]
        done = subprocess.run(
            [sys.executable, "-c", script, *map(str, arguments)],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == 1 + 4 * minutes
        found[minutes] = float(done.stderr.split()[-1])
    # As samples in float32 half an hour takes 110 MB.
    assert found[30] < found[2] + 30


@pytest.mark.parametrize("backend", ["torch", "onnx", "int8"])
def test_predictions_do_not_depend_on_the_batch(exported, speech, backend):
    opener = TorchModel.open if backend == "torch" else OnnxModel
    names = {"torch": "huggingface", "onnx": "onnx/model.onnx"}
    model = opener(exported / names.get(backend, "onnx/model_int8.onnx"))
    alone = parity.in_batches(model, speech[1])
    limit = 1e-4 if backend != "int8" else 1e-2
    assert np.abs(model(speech[1]) - alone).max() < limit
    assert alone.sum(-1) == pytest.approx(1, abs=1e-4)


def test_predict_reads_any_folder(exported, tmp_path, capsys):
    folder = tmp_path / "in"
    wav = 0.1 * torch.randn(48000, generator=seeded(3))
    write_wav(folder / "plain.wav", wav)
    write_wav(folder / "telephone.wav", wav, 8000)
    stereo = torch.stack([wav, wav]).T.numpy()
    soundfile.write(folder / "stereo.flac", stereo, 48000)
    soundfile.write(folder / "music.mp3", stereo, 44100)
    write_wav(folder / "long.wav", wav.repeat(20))
    (folder / "empty.wav").touch()
    (folder / "noise.wav").write_bytes(b"RIFF and nothing else")
    whole = (folder / "plain.wav").read_bytes()
    (folder / "cut.wav").write_bytes(whole[:5000])
    before = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    out = tmp_path / "answers.jsonl"
    arguments = ["predict", str(exported), str(folder), f"--output={out}"]
    assert main([*arguments, "--backend=int8"]) == 1
    printed = capsys.readouterr().err
    for name in ("empty.wav", "noise.wav", "cut.wav"):
        assert f"error: {folder / name}: " in printed
    assert "3 of 8 recordings could not be read" in printed
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    counts = {p.name: 0 for p in before}
    for row in rows:
        counts[os.path.basename(row["path"])] += 1
        assert row["emotion"] == max(LABELS, key=lambda n: row[f"p_{n}"])
    assert {n: c for n, c in counts.items() if c} == {
        "plain.wav": 1,
        "telephone.wav": 1,
        "stereo.flac": 1,
        "music.mp3": 1,
        "long.wav": 4,
    }
    assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == before


@pytest.mark.slow
def test_a_teacher_is_exported_like_a_student(finished, tmp_path):
    run = finished.arguments["output_folder"] / "teacher"
    out = tmp_path / "out"
    assert main(["export", str(run), str(out), "--without_int8"]) == 0
    assert not (out / "onnx/model_int8.onnx").exists()
    text = (out / "README.md").read_text()
    assert "without noise" in text and "int8" not in text.lower()
    assert len(OnnxModel(out / "onnx/model.onnx").labels) == 4


def test_onnxruntime_sends_no_usage_data(exported, tmp_path):
    """Its client leaves a file for its session as soon as it is imported."""
    code = (
        "import sys; from mlkd_lobes.deployment import load_model\n"
        "print(load_model(sys.argv[1], 'onnx').labels)"
    )
    silent = ("CI", "ORT_RUNNING_UNIT_TESTS", "ORT_DISABLE_TELEMETRY")
    environment = {k: v for k, v in os.environ.items() if k not in silent}
    environment |= {"TMPDIR": str(tmp_path), "HOME": str(tmp_path)}
    environment["XDG_CACHE_HOME"] = str(tmp_path)
    command = [sys.executable, "-c", code, str(exported)]
    subprocess.run(command, check=True, env=environment)
    assert not list(tmp_path.iterdir())


def test_export_fails_if_outputs_differ(
    run_folder, exported, tmp_path, monkeypatch, capsys
):
    def wrong(model, path):
        path.parent.mkdir()
        shutil.copy(exported / "onnx/model.onnx", path)

    monkeypatch.setattr(exporting.graph, "write_onnx", wrong)
    monkeypatch.setattr(exporting, "PARITY_UTTERANCES", 2)
    out, other = tmp_path / "out", run_folder.with_name("kd_last")
    assert main(["export", str(other), str(out)]) == 1
    assert (
        "onnx, single files: probabilities differ by" in capsys.readouterr().err
    )
    assert not list(tmp_path.iterdir())


def test_unfit_runs_are_not_exported(run_folder, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").touch()
    cases = {
        (run_folder, tmp_path / "mine"): "exists and is no export",
        (tmp_path / "mine", tmp_path / "out"): "results.json: no such file",
    }
    for (run, out), message in cases.items():
        assert main(["export", str(run), str(out)]) == 1
        assert message in capsys.readouterr().err
    assert [p.name for p in tmp_path.rglob("*")] == ["mine", "thesis.txt"]
    out = str(tmp_path / "out")
    gone = ["export", str(run_folder), out, f"--data_folder={tmp_path}"]
    assert main(gone) == 1
    assert "No such file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_calibration_reads_in_strides(exported, speech, tmp_path, monkeypatch):
    held = []
    original = exporting.graph._CalibrationReader.set_range

    def watch(self, start_index, end_index):
        original(self, start_index, end_index)
        held.append((start_index, end_index))

    monkeypatch.setattr(exporting.graph._CalibrationReader, "set_range", watch)
    wavs = 16 * speech[1][:1]
    source = exported / "onnx/model.onnx"
    exporting.graph.write_int8(source, tmp_path / "int8.onnx", wavs)
    assert held == [(0, 8), (8, 16)]


def test_onnx_file_without_labels_is_refused(tmp_path, exported):
    import onnx

    model = onnx.load(exported / "onnx/model.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(InputError, match="a.onnx: its metadata has no labels"):
        OnnxModel(tmp_path / "a.onnx")
    with pytest.raises(InputError, match="device tpu: this onnxruntime only"):
        OnnxModel(exported / "onnx/model.onnx", device="tpu")


BLOCKS = [
    (page, number, block)
    for page in ("docs/deployment.md", "docs/predict.md")
    for number, block in enumerate(
        re.findall(
            r"^```python\n(.*?)^```",
            (ROOT / page).read_text(encoding="utf-8"),
            re.M | re.S,
        )
    )
]


@pytest.mark.parametrize(
    "block", [b for *_, b in BLOCKS], ids=[f"{p}-{n}" for p, n, _ in BLOCKS]
)
def test_python_on_pages_runs_as_written(exported, speech, tmp_path, block):
    (tmp_path / "exported").symlink_to(exported)
    shutil.copy(speech[0] / "0.wav", tmp_path / "speech.wav")
    (tmp_path / "recordings").symlink_to(speech[0])
    run_block(block, tmp_path)


@pytest.mark.parametrize("opens", ["transformers", "speechbrain", "onnx"])
def test_python_of_the_card_runs_as_written(exported, speech, tmp_path, opens):
    folder = tmp_path / "copy"
    shutil.copytree(exported, folder)
    shutil.copy(speech[0] / "0.wav", folder / "speech.wav")
    blocks = re.findall(
        r"^```python\n(.*?)^```",
        (folder / "README.md").read_text(),
        re.M | re.S,
    )
    assert len(blocks) == 3
    (block,) = [b for b in blocks if opens in b]
    run_block(block, folder)


def run_block(block, folder):
    """Runs Python of a page where its files are."""
    done = subprocess.run(
        [sys.executable, "-c", block],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert any(label in done.stdout for label in LABELS)
