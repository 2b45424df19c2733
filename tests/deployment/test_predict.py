"""Predictions: every good recording answered, every bad one named."""

import io
import json
import os
import shutil
import sys
import types

import numpy as np
import pytest
import soundfile
import torch
from helpers import seeded, write_wav
from hypothesis import (
    given,
    strategies as st,
)

from mlkd_lobes.cli import main
from mlkd_lobes.deployment import find_model
from mlkd_lobes.deployment.models import open_model
from mlkd_lobes.deployment.outside import PythonModel
from mlkd_lobes.deployment.predict import (
    Part,
    Prediction,
    find_parts,
    predict,
    windows,
    write_predictions,
)
from mlkd_lobes.errors import InputError
from mlkd_lobes.files import write_csv


def loudness(wavs):
    """A stand-in for a model: its output depends on the samples alone."""
    loud = [float(np.abs(wav).mean()) for wav in wavs]
    return np.array([[x, 1 - x] for x in loud])


def tone(path, seconds, rate=16000, level=0.1):
    wav = level * torch.ones(round(seconds * rate))
    write_wav(path, wav, rate)
    return path


def test_inputs_of_predict_are_found(tmp_path, monkeypatch):
    for name in ("a/1.wav", "a/b/2.flac", "c.wav"):
        tone(tmp_path / name, 0.1)
    (tmp_path / "a/notes.txt").write_text("no audio")
    rows = [["c.wav", "", ""], ["a/1.wav", "0.02", "0.08"]]
    write_csv(tmp_path / "list.csv", ["path", "start", "end"], rows)
    monkeypatch.chdir(tmp_path)
    inputs = ["c.wav", "a", "a/b/2.flac", "list.csv"]
    found = [(str(p), a, b) for p, a, b in find_parts(inputs)]
    whole = (0.0, None)
    assert found == [
        ("c.wav", *whole),
        ("a/1.wav", *whole),
        ("a/b/2.flac", *whole),
        ("a/b/2.flac", *whole),
        ("c.wav", *whole),
        ("a/1.wav", 0.02, 0.08),
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty: no audio there"):
        find_parts(["empty"])
    write_csv("bad.csv", ["path", "start"], [["c.wav", "soon"]])
    with pytest.raises(InputError, match="bad.csv, c.wav: start is 'soon'"):
        find_parts(["bad.csv"])


@given(
    samples=st.integers(3, 60000),  # fewer may be none at 16 kHz
    rate=st.sampled_from([8000, 16000, 44100]),
    longest=st.floats(0.05, 3),
)
def test_windows_are_equal_and_cover_everything(
    tmp_path_factory, samples, rate, longest
):
    path = tmp_path_factory.getbasetemp() / f"{rate}.wav"
    soundfile.write(path, np.zeros(samples), rate)
    found = [
        (part.start, part.stop)
        for part, _ in windows(Part(path, 0, None), longest)
    ]
    assert found[0][0] == 0 and found[-1][1] == samples / rate
    assert all(a[1] == b[0] for a, b in zip(found, found[1:]))
    lengths = np.diff(found, axis=1) * rate
    assert lengths.max() <= np.ceil(longest * rate) + 1e-6
    assert lengths.max() - lengths.min() <= 1.001


def test_windows_hold_their_samples(tmp_path):
    wav = 0.1 * torch.randn(48000, generator=seeded(1))
    write_wav(tmp_path / "a.wav", wav)
    parts = list(windows(Part(tmp_path / "a.wav", 0.5, 2.5), 1.0))
    assert [(p.start, p.stop) for p, _ in parts] == [(0.5, 1.5), (1.5, 2.5)]
    stored = soundfile.read(tmp_path / "a.wav", dtype="float32")[0]
    assert np.array_equal(parts[1][1], stored[24000:40000])
    for start, stop in ((0.5, 0.5), (-1, 1), (2, 9)):
        with pytest.raises(InputError, match="are not within its 3.000 s"):
            list(windows(Part(tmp_path / "a.wav", start, stop), 1.0))


def test_readable_files_are_predicted_and_others_named(tmp_path):
    names = [tone(tmp_path / f"{i}.wav", 0.2, level=i / 10) for i in range(5)]
    (tmp_path / "1.wav").write_bytes(b"")
    whole = names[3].read_bytes()
    names[3].write_bytes(whole[: len(whole) // 2])
    complaints = []
    found = list(
        predict(
            loudness,
            [Part(n, 0.0, None) for n in [*names, tmp_path / "none.wav"]],
            report=complaints.append,
        )
    )
    assert [p.part.path.name for p in found] == ["0.wav", "2.wav", "4.wav"]
    printed = [p.probabilities[0] for p in found]
    assert printed == pytest.approx([0, 0.2, 0.4], abs=1e-4)
    assert [c.split(": ", 1)[1] for c in complaints] == [
        "the file is empty (0 bytes), or a pipe",
        "truncated, shorter than in its header",
        "No such file or directory",
    ]


def test_batches_are_bounded_with_their_padding(tmp_path):
    lengths = [0.1, 0.1, 0.5, 0.1, 0.3, 0.3, 2.0]
    names = [tone(tmp_path / f"{i}.wav", s) for i, s in enumerate(lengths)]
    sizes = []

    def model(wavs):
        sizes.append(len(wavs) * max(map(len, wavs)) / 16000)
        return loudness(wavs)

    parts = [Part(n, 0.0, None) for n in names]
    found = list(predict(model, parts, window=0.5, batch_length=1.0))
    assert [p.part.path for p in found] == names[:6] + 4 * names[6:]
    assert max(sizes) <= 1.0 and len(sizes) < len(found)


def test_jsonl_and_csv_hold_the_same(tmp_path):
    part = Part(tmp_path / "a, b.wav", 0.0, 1.23456)
    found = [Prediction(part, np.array([0.25, 0.75]), None)]
    file = io.StringIO()
    write_predictions(found, ["x", "y"], file)
    assert file.getvalue() == (
        "path,start,end,emotion,p_x,p_y\n"
        f'"{tmp_path}/a, b.wav",0.0,1.235,y,0.25,0.75\n'
    )
    file = io.StringIO()
    write_predictions(found, ["x", "y"], file, lines=True)
    assert json.loads(file.getvalue()) == {
        "path": f"{tmp_path}/a, b.wav",
        "start": 0.0,
        "end": 1.235,
        "emotion": "y",
        "p_x": 0.25,
        "p_y": 0.75,
    }


def test_models_are_found_and_others_refused(tmp_path):
    for name in ("out/huggingface", "run/model", "hf"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").touch()
    (tmp_path / "out/onnx").mkdir()
    for name in ("model", "model_int8"):
        (tmp_path / f"out/onnx/{name}.onnx").touch()
    cases = {
        ("out", None): ("out/huggingface", "torch"),
        ("out", "onnx"): ("out/onnx/model.onnx", "onnx"),
        ("out", "int8"): ("out/onnx/model_int8.onnx", "int8"),
        ("run", None): ("run/model", "torch"),
        ("hf", "torch"): ("hf", "torch"),
        ("out/onnx/model_int8.onnx", None): (
            "out/onnx/model_int8.onnx",
            "onnx",
        ),
    }
    for (source, backend), (path, opener) in cases.items():
        found = find_model(tmp_path / source, backend)
        assert found == (tmp_path / path, opener)
    for source, backend in (
        ("run", "onnx"),
        ("none", None),
        ("out/onnx", None),
    ):
        with pytest.raises(FileNotFoundError, match="holds no model for"):
            find_model(tmp_path / source, backend)
    with pytest.raises(InputError, match="is an ONNX file; torch opens"):
        find_model(tmp_path / "out/onnx/model.onnx", "torch")
    with pytest.raises(InputError, match="is an ONNX file; int8 opens"):
        find_model(tmp_path / "out/onnx/model.onnx", "int8")


def test_written_csv_is_read(tmp_path):
    # 1.00056 s, in the table 1.001.
    path = tone(tmp_path / "a.wav", 16009 / 16000)
    found = predict(loudness, [Part(path, 0.0, None)])
    with open(tmp_path / "found.csv", "w", newline="") as file:
        write_predictions(found, ["a", "b"], file)
    (part,) = find_parts([str(tmp_path / "found.csv")])
    assert part.stop == 1.001
    ((_, wav),) = windows(part, 15)
    assert len(wav) == 16009
    with pytest.raises(InputError, match="end 1.03 are not within its 1.001"):
        list(windows(part._replace(stop=1.03), 15))


@pytest.mark.parametrize("start, end", [("nan", ""), ("0", "inf"), ("x", "1")])
def test_times_must_be_seconds(tmp_path, start, end):
    rows = [["a.wav", start, end]]
    write_csv(tmp_path / "list.csv", ["path", "start", "end"], rows)
    with pytest.raises(
        InputError, match=r"list.csv, a.wav: .*, expected seconds"
    ):
        find_parts([str(tmp_path / "list.csv")])


@pytest.mark.parametrize(
    "option, message",
    [
        ("--window=nan", "--window: nan is not between"),
        ("--window=inf", "--window: inf is not between"),
        ("--window=1e-6", "--window: 1e-06 is not between"),
        ("--batch_length=nan", "--batch_length: nan is not between"),
        ("--output=.", "--output: . is a folder"),
        ("--device=meta", "device meta: this onnxruntime only has"),
    ],
)
def test_options_are_checked_before_anything(tmp_path, capsys, option, message):
    tone(tmp_path / "a.wav", 0.1)
    (tmp_path / "a.onnx").touch()
    command = ["predict", str(tmp_path / "a.onnx"), str(tmp_path / "a.wav")]
    assert main([*command, option]) == 1
    printed = capsys.readouterr()
    assert f"error: {message}" in printed.err and not printed.out


def test_file_names_may_be_any_bytes(tmp_path):
    good = tone(tmp_path / "good.wav", 0.1)
    bad = tmp_path / os.fsdecode(b"\xff.wav")
    bad.write_bytes(good.read_bytes())
    printed, parts = [], find_parts([str(tmp_path)])
    found = list(predict(loudness, parts, report=printed.append))
    assert [p.part.path for p in found] == [good]
    assert len(printed) == 1 and ascii(str(bad)) in printed[0]


def test_damaged_models_are_named(tmp_path, encoder_folder):
    (tmp_path / "a.onnx").write_bytes(b"no graph")
    with pytest.raises(InputError, match="a.onnx: cannot be opened as ONNX"):
        open_model(tmp_path / "a.onnx")
    folder = tmp_path / "model"
    shutil.copytree(encoder_folder(), folder)
    with pytest.raises(InputError, match="no weights for classifier.bias"):
        open_model(folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(InputError, match="model: cannot be opened"):
        open_model(folder)


def test_a_function_gives_probabilities_of_every_label(monkeypatch):
    answers = [{"a": 0.4, "b": 0.6}, {"a": 0.3, "b": 0.7}]
    answers += [{"a": -1.0, "b": 0.0}, {"a": 1.0}]
    mine = types.SimpleNamespace(f=lambda wav, rate: answers.pop(0))
    monkeypatch.setitem(sys.modules, "mine", mine)
    model = PythonModel("mine.f")
    assert model([np.zeros(9)]).tolist() == [[0.3, 0.7]]
    for _ in range(2):
        with pytest.raises(InputError, match="a probability of every label"):
            model([np.zeros(9)])
