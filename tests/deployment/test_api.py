"""Five lines of Python classify a file or an array."""

import numpy as np
import pytest

from mlkd_lobes.data.audio import resample
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
    parts = [model.classify(part) for part in np.array_split(wav, 4)]
    mean = np.mean([list(part.values()) for part in parts], 0)
    found = model.classify(wav, window=0.25)
    assert np.allclose(list(found.values()), mean, atol=1e-5)
    # Of a single sample soxr leaves none.
    assert sum(model.classify(wav[:1], 48000).values()) == pytest.approx(1)


@pytest.mark.parametrize(
    "samples,message",
    [
        (np.zeros(0, "f"), "not an array of shape"),
        (np.zeros((2, 2, 2), "f"), "not an array of shape"),
        (np.zeros((2, 900), "f"), r"not an array of shape \(2, 900\)"),
        (np.zeros(100, np.int16), "expected floats within ±1, not int16"),
        (np.full(100, np.nan), "holds NaN, infinite"),
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


def test_files_that_cannot_be_read_are_named(exported, tmp_path):
    (tmp_path / "a.wav").write_text("text")
    with pytest.raises(InputError, match="a.wav: not readable as audio"):
        load_model(exported).classify(tmp_path / "a.wav")
