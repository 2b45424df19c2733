"""Five lines of Python classify a file or an array."""

import csv
import io

import numpy as np
import pytest
import torch
from helpers import write_wav

from mlkd_lobes.cli import main
from mlkd_lobes.data.audio import equal_parts, resample
from mlkd_lobes.deployment import load_model
from mlkd_lobes.deployment.models import open_model
from mlkd_lobes.deployment.predict import find_parts, predict
from mlkd_lobes.errors import InputError


@pytest.mark.parametrize("backend", ["torch", "onnx", "int8"])
def test_files_and_arrays_get_the_models_probabilities(
    exported, speech, backend
):
    folder, wavs = speech
    model = load_model(exported, backend)
    opened = open_model(exported, backend)
    paths = sorted(folder.iterdir())
    for path, wav in zip(paths, wavs):
        expected = opened([wav])[0]
        for found in (model.classify(path), model.classify(wav)):
            assert list(found) == model.labels == opened.labels
            assert np.allclose(list(found.values()), expected, atol=1e-6)


def test_other_rates_channels_and_lengths(exported, speech):
    model, wav = load_model(exported), speech[1][0]
    twice = resample(wav, 16000, 32000)
    stereo = np.stack([twice, twice], 1).astype(np.float64)
    one, other = model.classify(wav), model.classify(stereo, 32000)
    assert np.allclose(list(one.values()), list(other.values()), atol=0.02)
    # Long ones: the mean over equal windows.
    parts = [wav[i:j] for i, j in equal_parts(0, len(wav), 4000)]
    parts = [model.classify(part) for part in parts]
    mean = np.mean([list(part.values()) for part in parts], 0)
    found = model.classify(wav, window=0.25)
    assert np.allclose(list(found.values()), mean, atol=1e-5)
    for samples, rate, message in (
        (wav[:1], 48000, "audio: no sample at 16000 Hz"),
        (wav, 16, "sample_rate: 16 Hz is out of range"),
    ):
        with pytest.raises(InputError, match=message):
            model.classify(samples, rate)


@pytest.mark.parametrize(
    "samples,message",
    [
        (np.zeros(0, "f"), "not an array of shape"),
        (np.zeros((2, 2, 2), "f"), "not an array of shape"),
        (np.zeros((2, 900), "f"), r"not an array of shape \(2, 900\)"),
        (np.zeros(100, np.int16), "expected floats within ±1, not int16"),
        (np.full(100, np.nan), "audio: NaN, infinite"),
    ],
)
def test_unusable_samples_are_refused(exported, samples, message):
    with pytest.raises(InputError, match=message):
        load_model(exported).classify(samples)


def test_many_recordings_are_predicted_as_by_the_command(exported, speech):
    folder, model = speech[0], load_model(exported, "onnx")
    expected = predict(open_model(exported, "onnx"), find_parts([folder]))
    for one, other in zip(model.predict([folder]), expected, strict=True):
        assert one.part == other.part
        assert np.array_equal(one.probabilities, other.probabilities)


def test_windows_are_those_of_the_command(exported, tmp_path, capsys):
    """Also where neither names their length."""
    write_wav(tmp_path / "a.wav", torch.zeros(6 * 16000) + 0.1)
    for options, given in ({}, []), ({"hop": 1.5}, ["--hop=1.5"]):
        found = load_model(exported).predict(tmp_path / "a.wav", **options)
        own = [(p.part.start, p.part.stop) for p in found]
        main(["predict", str(exported), str(tmp_path / "a.wav"), *given])
        rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
        assert own == [(float(r["start"]), float(r["end"])) for r in rows]


def test_files_that_cannot_be_read_are_named(exported, tmp_path):
    (tmp_path / "a.wav").write_text("text")
    with pytest.raises(InputError, match="a.wav: not readable as audio"):
        load_model(exported).classify(tmp_path / "a.wav")
