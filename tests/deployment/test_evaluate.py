"""Any model on the test of a finished run: the same audio, results like a run's."""

import json
import logging
import shutil
import tempfile

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from helpers import LABELS, tiny_config
from safetensors.torch import load_file, save_file
from transformers import pipeline

from mlkd_lobes.cli import main
from mlkd_lobes.data.audio import read_audio
from mlkd_lobes.data.manifests import wav_path
from mlkd_lobes.deployment.outside import HubModel, Relabelled, as_probabilities
from mlkd_lobes.deployment.run_speech import RunSpeech
from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.calibration import soften
from mlkd_lobes.evaluation.comparison import find_runs, pool
from mlkd_lobes.evaluation.results import (
    describe_test,
    read_predictions,
    read_results,
)
from mlkd_lobes.files import text_sha256
from mlkd_lobes.noise.add_noise import CLEAN, Condition

FOREIGN = ["angry", "calm", "disgust", "happy", "neutral", "sad"]
MAPPING = "{angry: ang, calm: neu, neutral: neu, happy: hap, sad: sad}"
PROBABILITIES = [f"p_{label}" for label in LABELS]


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a finished fold, its mlkd run."""
    out = finished.arguments["output_folder"]
    for path in out.iterdir():
        if path.is_dir():
            shutil.copytree(path, tmp_path / "fold" / path.name)
    return tmp_path / "fold/mlkd"


def save_classifier(
    folder, kind="wav2vec2", rate=16000, labels=FOREIGN, seed=3, **changes
):
    """A Hugging Face audio classifier with random weights."""
    torch.manual_seed(seed)
    config = tiny_config(kind, **changes)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: i for i, label in enumerate(labels)}
    model = transformers.AutoModelForAudioClassification.from_config(config)
    # Random heads answer always the same.
    torch.nn.init.normal_(model.classifier.weight, std=3.0)
    model.save_pretrained(folder)
    extractor = transformers.Wav2Vec2FeatureExtractor(
        sampling_rate=rate, do_normalize=True
    )
    extractor.save_pretrained(folder)
    return str(folder)


def evaluate(model, run, *options, name="other"):
    code = main(["evaluate", str(model), str(run), f"--name={name}", *options])
    return code, run.parent / name


def test_an_export_gives_the_predictions_of_its_run(run, exported):
    for model in (exported, run, exported / "onnx/model.onnx"):
        code, place = evaluate(model, run)
        assert code == 0
        found, own = read_predictions(place), read_predictions(run)
        pd.testing.assert_frame_equal(
            found.drop(columns=PROBABILITIES), own.drop(columns=PROBABILITIES)
        )
        ours, theirs = read_results(run), read_results(place)
        stored = own[PROBABILITIES].to_numpy()
        expected = soften(stored, ours["temperature"])
        differences = np.abs(found[PROBABILITIES].to_numpy() - expected)
        assert differences.max() < 2e-5
        assert theirs["conditions"] == ours["conditions"]
        for key in ("test_sha256", "split_sha256", "fold", "seed", "label_map"):
            assert theirs[key] == ours[key]
        assert theirs["system"] == "other" and theirs["epoch"] is None
        shutil.rmtree(place)


def test_costs_are_those_of_the_model(run, exported):
    code, place = evaluate(exported, run)
    cost, own = (
        json.loads((p / "cost.json").read_text()) for p in (place, run)
    )
    assert cost["parameters"] == own["parameters"] + own["head_parameters"]
    assert cost["real_time_factor"] > 0
    evaluate(exported / "onnx/model.onnx", run)
    assert json.loads((place / "cost.json").read_text())["parameters"] is None


@pytest.mark.parametrize(
    "kind,rate,changes",
    [
        ("wav2vec2", 16000, {}),
        ("wav2vec2", 8000, {"use_weighted_layer_sum": True}),
        ("hubert", 16000, {"norm": "layer"}),
        ("wavlm", 16000, {}),
    ],
)
def test_a_foreign_model_answers_as_its_pipeline(
    run, tmp_path, kind, rate, changes
):
    """Other labels, another rate: as transformers gives for single files."""
    folder = save_classifier(tmp_path / "hub", kind, rate, **changes)
    code, place = evaluate(folder, run, f"--model_labels={MAPPING}")
    assert code == 0
    table = read_predictions(place)
    table = table[table["noise"] == CLEAN.noise].set_index("id")
    classify = pipeline("audio-classification", folder, top_k=None)
    about = json.loads((run / "data.json").read_text())
    entries = json.loads((run / about["test"]["manifest"]).read_text())
    answers = set()
    for name, entry in entries.items():
        path = wav_path(entry["wav"], about["data_folder"], name)
        wav = read_audio(path, entry["start"], entry["stop"], rate)
        scores = {found["label"]: found["score"] for found in classify(wav)}
        scores["neu"] = scores["neutral"] + scores["calm"]
        named = {
            "hap": scores["happy"],
            "sad": scores["sad"],
            "ang": scores["angry"],
        }
        total = 1 - scores["disgust"]
        for label in LABELS:
            expected = {**named, "neu": scores["neu"]}[label] / total
            assert table.loc[name, f"p_{label}"] == pytest.approx(
                expected, abs=2e-5
            )
        answers.add(table.loc[name, "predicted"])
    described = read_results(place)["model"]
    assert described["left_out"] == ["disgust"]
    assert described["source"] == "hub"


def whisper(folder):
    config = transformers.WhisperConfig(
        d_model=16,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_layers=1,
        decoder_attention_heads=2,
        num_mel_bins=80,
        vocab_size=50,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        max_source_positions=1500,
        classifier_proj_size=8,
    )
    return config, transformers.WhisperFeatureExtractor()


def spectrogram(folder):
    config = transformers.ASTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_length=128,
    )
    return config, transformers.ASTFeatureExtractor(max_length=128)


@pytest.mark.parametrize("make", [whisper, spectrogram])
def test_classifiers_on_spectrograms(run, tmp_path, make):
    config, extractor = make(tmp_path)
    config.id2label = dict(enumerate(LABELS))
    config.label2id = {label: i for i, label in enumerate(LABELS)}
    model = transformers.AutoModelForAudioClassification.from_config(config)
    model.save_pretrained(tmp_path / "hub")
    extractor.save_pretrained(tmp_path / "hub")
    wavs = [
        np.float32(0.1) * np.random.randn(9000).astype("f") for _ in range(2)
    ]
    found = HubModel(str(tmp_path / "hub"))(wavs)
    classify = pipeline(
        "audio-classification", str(tmp_path / "hub"), top_k=None
    )
    for wav, row in zip(wavs, found):
        scores = {a["label"]: a["score"] for a in classify(wav)}
        assert row == pytest.approx([scores[n] for n in LABELS], abs=1e-5)
    assert evaluate(tmp_path / "hub", run)[0] == 0


def test_a_speechbrain_interface(run, exported, caplog):
    source = (
        f"speechbrain:{exported / 'speechbrain'}@interface.py:EmotionRecognizer"
    )
    with caplog.at_level(logging.WARNING):
        code, place = evaluate(source, run)
    assert code == 0
    assert "runs the code of interface.py" in caplog.text
    found, own = read_predictions(place), read_predictions(run)
    assert (found["predicted"] == own["predicted"]).mean() > 0.99
    assert str(exported) not in (place / "results.json").read_text()


def test_a_folder_with_an_at_sign(run, exported, tmp_path):
    folder = tmp_path / "me@home.org" / "speechbrain"
    shutil.copytree(exported / "speechbrain", folder)
    source = f"speechbrain:{folder}@interface.py:EmotionRecognizer"
    assert evaluate(source, run)[0] == 0


def test_a_head_without_weights_is_refused(run, tmp_path, capsys):
    """As of a checkpoint whose classifier has other names."""
    folder = save_classifier(tmp_path / "hub")
    path = tmp_path / "hub/model.safetensors"
    weights = load_file(path)
    kept = {k: v for k, v in weights.items() if not k.startswith("classifier.")}
    save_file(kept, path, {"format": "pt"})
    assert evaluate(folder, run, f"--model_labels={MAPPING}")[0] == 1
    assert "is not a trained classifier" in capsys.readouterr().err


def test_a_function(run, tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "def loud(wav, rate):\n"
        "    assert rate == 16000 and wav.ndim == 1\n"
        "    level = min(1.0, float(np.abs(wav).max()))\n"
        "    return {'ang': level, 'sad': 1 - level, 'hap': 0.0, 'neu': 0.0}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    code, place = evaluate("python:mine.loud", run)
    assert code == 0
    assert set(read_predictions(place)["predicted"]) <= {"ang", "sad"}
    for name in ("mine.quiet", "nothing.there", "mine"):
        assert evaluate(f"python:{name}", run)[0] == 1
        assert f"python:{name}: cannot be opened" in capsys.readouterr().err


def test_a_foreign_onnx_file(run, tmp_path, capsys):
    class Head(torch.nn.Module):
        def forward(self, wavs):
            return torch.stack(
                [wavs.mean(1), wavs.abs().amax(1), -wavs.amax(1), wavs.std(1)],
                1,
            )

    path = tmp_path / "foreign.onnx"
    torch.onnx.export(
        Head(),
        (torch.randn(2, 16000),),
        str(path),
        input_names=["audio"],
        output_names=["logits"],
        dynamo=True,
        dynamic_shapes=(
            {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC},
        ),
    )
    assert evaluate(path, run)[0] == 1
    assert "Classes of the model: 0, 1, 2, 3" in capsys.readouterr().err
    code, place = evaluate(
        path, run, "--model_labels={0: neu, 1: hap, 2: sad, 3: ang}"
    )
    assert code == 0
    sums = read_predictions(place)[PROBABILITIES].sum(1)
    assert sums.to_numpy() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    "mapping,message",
    [
        ("{angry: ang}", "no class maps to sad"),
        (MAPPING.replace("sad: sad", "sad: sadness"), "no label sadness"),
        (MAPPING.replace("{", "{joy: hap, "), "no class joy"),
    ],
)
def test_labels_that_do_not_fit(run, tmp_path, capsys, mapping, message):
    folder = save_classifier(tmp_path / "hub")
    assert evaluate(folder, run, f"--model_labels={mapping}")[0] == 1
    error = capsys.readouterr().err
    assert message in error and "Classes of the model: angry, calm" in error
    assert not (run.parent / "other").exists()


def test_classes_are_added_and_renormalised():
    class Model:
        labels = ["a", "b", "c", "d"]

        def __call__(self, wavs):
            return np.array([[0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 0.0, 1.0]])[wavs]

    model = Relabelled(Model(), ["x", "y"], {"a": "x", "b": "x", "c": "y"})
    assert model([0]) == pytest.approx(np.array([[0.5, 0.5]]))
    assert model.left_out == ["d"]
    with pytest.raises(InputError, match="leaves out d, which got all"):
        model([0, 1])


def test_scores_of_any_kind_become_probabilities():
    logits = np.array([[2.0, 1.0, -1.0]])
    expected = np.exp(logits) / np.exp(logits).sum()
    for scores in (logits, np.log(expected), expected):
        assert as_probabilities(scores) == pytest.approx(expected)


def test_the_report_compares_it(run, tmp_path, capsys):
    folder = save_classifier(tmp_path / "hub")
    evaluate(folder, run, f"--model_labels={MAPPING}", name="hub-model")
    capsys.readouterr()
    assert main(["report", str(run.parent)]) == 0
    text = capsys.readouterr().out
    assert "| mlkd − hub-model" in text
    assert (
        "hub-model: hub, trained elsewhere, its classes left out: disgust."
        in text
    )
    assert {s.name for s in pool(find_runs([run.parent])).systems} > {
        "hub-model"
    }


def test_a_training_is_never_replaced(run, exported, capsys, monkeypatch):
    code, _ = evaluate(exported, run, name="mlkd")
    error = capsys.readouterr().err
    assert code == 1
    assert "mlkd: holds a training; give another --name" in error
    monkeypatch.chdir(run)
    assert main(["evaluate", str(exported), ".", "--name=mlkd"]) == 1
    assert "holds a training" in capsys.readouterr().err
    assert evaluate(exported, run, name="../mlkd")[0] == 1
    assert "cannot name a folder" in capsys.readouterr().err


def test_changed_speech_or_noise_is_refused(run, exported, capsys):
    results = json.loads((run / "results.json").read_text())
    results["test_sha256"] = "0"
    (run / "results.json").write_text(json.dumps(results))
    assert evaluate(exported, run)[0] == 1
    assert "its test speech or noise has changed" in capsys.readouterr().err


def test_a_changed_recording_is_refused(
    finished, run, exported, tmp_path, capsys
):
    corpus = tmp_path / "corpus"
    shutil.copytree(finished.arguments["data_folder"], corpus)
    evaluate(exported, run, f"--data_folder={corpus}")
    about = json.loads((run / "data.json").read_text())
    manifest = json.loads((run / about["test"]["manifest"]).read_text())
    entry = next(iter(manifest.values()))
    path = wav_path(entry["wav"], corpus, "")
    content = bytearray(open(path, "rb").read())
    content[-1] ^= 1
    open(path, "wb").write(content)
    assert (
        evaluate(exported, run, f"--data_folder={corpus}", name="again")[0] == 1
    )
    assert "has changed since the run was prepared" in capsys.readouterr().err


def test_what_is_no_model(run, tmp_path, capsys, encoder_folder):
    assert evaluate(tmp_path / "none", run)[0] == 1
    assert "none" in capsys.readouterr().err
    (tmp_path / "text.onnx").write_text("text")
    assert evaluate(tmp_path / "text.onnx", run)[0] == 1
    assert "cannot be opened as ONNX" in capsys.readouterr().err


def test_a_device_that_is_not_there(run, exported, tmp_path, capsys):
    folder = save_classifier(tmp_path / "hub")
    for model in (exported, folder, exported / "onnx/model.onnx"):
        assert evaluate(model, run, "--device=cuda:7")[0] == 1
        assert "device cuda:7" in capsys.readouterr().err


def test_models_that_cannot_be_used(run, exported, tmp_path, capsys):
    """One line each, naming the model."""

    class Fixed(torch.nn.Module):
        def forward(self, wavs):
            return wavs[:, :9000].reshape(len(wavs), 9, 1000).mean(2)

    path = tmp_path / "fixed.onnx"
    example = (torch.randn(1, 9000),)
    torch.onnx.export(Fixed(), example, str(path), dynamo=True)
    folder = exported / "speechbrain"
    for model in (
        path,
        f"speechbrain:{folder}@interface.py:Recogniser",
        f"speechbrain:{folder}",
        tmp_path,
    ):
        assert evaluate(model, run)[0] == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: ") and "cannot be opened" in error


@pytest.mark.parametrize("text", ["{angry: ang", "angry", "[1]", ""])
def test_labels_that_are_no_mapping(run, exported, capsys, text):
    with pytest.raises(SystemExit):
        evaluate(exported, run, f"--model_labels={text}")
    assert "invalid mapping value" in capsys.readouterr().err


def test_a_run_tested_in_another_precision_is_refused(run, exported, capsys):
    results = json.loads((run / "results.json").read_text())
    about = json.loads((run / "data.json").read_text())
    speech = RunSpeech(run, LABELS)
    grid = [Condition(c["noise"], c["snr_db"]) for c in results["conditions"]]
    test = describe_test(
        grid,
        run / about["test"]["manifest"],
        speech.noise["test"].types,
        "bf16",
    )
    results["test_sha256"] = text_sha256(test)
    (run / "results.json").write_text(json.dumps(results))
    assert evaluate(exported, run)[0] == 1
    assert "another precision than fp32" in capsys.readouterr().err


def test_two_models_are_no_system(run, tmp_path):
    """The folds of a system are of one model."""
    one, other = run.parent, tmp_path / "other/fold"
    shutil.copytree(one, other)
    # Their names are equal, their weights are not.
    for seed, place in enumerate((run, other / "mlkd")):
        folder = save_classifier(tmp_path / f"{seed}/hub", seed=seed)
        evaluate(folder, place, f"--model_labels={MAPPING}")
    results = json.loads((other / "other/results.json").read_text())
    (other / "other/results.json").write_text(
        json.dumps({**results, "fold": 2})
    )
    with pytest.raises(InputError, match="was trained with model"):
        pool(find_runs([one / "other", other / "other"]))


def test_a_place_for_results_is_needed_first(run, capsys, monkeypatch):
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir: open("refused"))
    monkeypatch.setattr(RunSpeech, "test", None)
    assert evaluate(run, run)[0] == 1
    assert "refused" in capsys.readouterr().err
