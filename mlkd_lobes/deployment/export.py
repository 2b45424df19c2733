"""Exports a finished run: every file opens without the project it came from.

huggingface/     what transformers opens with no code of ours
speechbrain/     what SpeechBrain's `foreign_class` opens
onnx/            float32 and INT8 graphs, with labels and rate as metadata
export.json      labels, sample rate, hashes, and the parity measured
README.md        the model card

The folder appears when all of it has been written and compared with the trained
model, or not at all.
"""

import itertools
import json
import pathlib
import shutil

import torch

from mlkd_lobes.classifier import open_classifier, state_sha256
from mlkd_lobes.deployment import (
    CARD,
    HUGGINGFACE,
    INT8,
    ONNX,
    SPEECHBRAIN,
    SUMMARY,
    find_model,
)
from mlkd_lobes.deployment.card import card_text
from mlkd_lobes.deployment.graph import STRIDE, write_int8, write_onnx
from mlkd_lobes.deployment.parity import measure_int8, measure_parity
from mlkd_lobes.deployment.speech import RunSpeech, run_settings
from mlkd_lobes.distillation import needs_teacher
from mlkd_lobes.encoders import SAMPLE_RATE
from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.results import read_results
from mlkd_lobes.files import atomic_path, file_sha256, write_json

SCHEMA = 1
CALIBRATION_UTTERANCES = 256
# Waveforms that every way to open the export is tried on.
PARITY_UTTERANCES = 24
MODEL_SUFFIXES = (".safetensors", ".ckpt", ".onnx")
INTERFACE = pathlib.Path(__file__).with_name("interface.py")
CAVEAT = """# For SpeechBrain

> from speechbrain.inference.interfaces import foreign_class
> recognizer = foreign_class(
>     source="THIS_FOLDER", pymodule_file="interface.py",
>     classname="EmotionRecognizer",
> )
> probabilities, score, index, label = recognizer.classify_file("speech.wav")

Opening this folder runs code: SpeechBrain executes `interface.py` and builds
whatever `hyperparams.yaml` names. Open it only if you trust whom it comes from.
The `huggingface` and `onnx` folders beside it run no code.
"""


def export(
    run, out, data_folder=None, noise_folder=None, int8=True, report=print
):
    """Exports a run's model, or refuses to if a file disagrees with it.

    Arguments
    ---------
    run : str or pathlib.Path
        The folder of a finished run.
    out : str or pathlib.Path
        Destination; what an export left there is replaced.
    data_folder : str, optional
        The corpus; default: where the run found it.
    noise_folder : str, optional
        The noise; default: where the run found it.
    int8 : bool
        Whether to quantise as well.
    report : callable
        Told what is done.

    Returns
    -------
    dict
        The content of export.json.

    Raises
    ------
    FileNotFoundError
        If the run is not finished, or its speech is gone.
    mlkd_lobes.errors.InputError
        If `out` holds something else, or a file disagrees with the model.
    """
    run, out = pathlib.Path(run), pathlib.Path(out)
    if out.exists() and not (out / SUMMARY).is_file():
        raise InputError(f"{out}: exists and is no export; nothing was written")
    about = read_results(run)
    model = open_classifier(find_model(run)[0]).eval()
    speech = RunSpeech(run, model.labels, data_folder, noise_folder)
    with atomic_path(out) as folder:
        report("Hugging Face, SpeechBrain, ONNX")
        model.save_pretrained(folder / HUGGINGFACE)
        write_speechbrain(model, folder / SPEECHBRAIN)
        write_onnx(model, folder / ONNX)
        report(f"comparing them on {PARITY_UTTERANCES} waveforms")
        measured = {
            "parity": measure_parity(folder, model, list(_trial(speech)))
        }
        measured["int8"] = None
        if int8:
            report("INT8: calibrating on training speech, then testing")
            measured["int8"] = _quantise(folder, speech)
        summary = _summary(folder, about, model, measured)
        write_json(folder / SUMMARY, summary)
        about_card = {
            **measured,
            "sizes": _model_sizes(summary),
            "shortest": model.encoder.receptive_field,
        }
        config = model.encoder.config
        training = describe_training(run, speech)
        text = card_text(run, about, config, training, about_card)
        (folder / CARD).write_text(text, encoding="utf-8")
        for path in folder.rglob("*"):
            # Some libraries write files that nobody else may read.
            path.chmod(0o755 if path.is_dir() else 0o644)
    return summary


def _trial(speech):
    """Test utterances, each under another condition."""
    turns = itertools.cycle(range(len(speech.conditions)))
    found = zip(speech.test(), turns)
    for heard, i in itertools.islice(found, PARITY_UTTERANCES):
        yield heard.wavs[i]


def _quantise(folder, speech):
    wavs = list(speech.training(CALIBRATION_UTTERANCES))
    # Calibration takes whole strides.
    wavs = wavs[: len(wavs) // STRIDE * STRIDE] or wavs
    write_int8(folder / ONNX, folder / INT8, wavs)
    measured = measure_int8(folder, speech)
    return {**measured, "calibration_utterances": len(wavs)}


def write_speechbrain(model, folder):
    """Writes what SpeechBrain's `foreign_class` and `from_hparams` open.

    Arguments
    ---------
    model : mlkd_lobes.classifier.EmotionClassifier
        The trained model.
    folder : pathlib.Path
        Destination.
    """
    folder.mkdir(parents=True)
    native = model.native()
    config = json.loads(native.config.to_json_string(use_diff=False))
    config.pop("_name_or_path", None)
    hyperparameters = (
        "# What is built here is filled from model.ckpt.\n"
        f"labels: {json.dumps(model.labels)}\n"
        f"sample_rate: {SAMPLE_RATE}\n"
        f"shortest: {model.encoder.receptive_field}\n"
        f"normalize: {model.encoder.normalize_wav}\n"
        "config: !apply:transformers.AutoConfig.for_model "
        f"{json.dumps(config)}\n"
        "model: !apply:"
        "transformers.AutoModelForAudioClassification.from_config\n"
        "    config: !ref <config>\n"
        "modules:\n"
        "    model: !ref <model>\n"
        "pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer\n"
        "    loadables:\n"
        "        model: !ref <model>\n"
    )
    (folder / "hyperparams.yaml").write_text(hyperparameters, encoding="utf-8")
    torch.save(native.state_dict(), folder / "model.ckpt")
    shutil.copyfile(INTERFACE, folder / INTERFACE.name)
    (folder / CARD).write_text(CAVEAT, encoding="utf-8")


def _summary(folder, about, model, measured):
    """export.json: what a program must know of the folder."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    keys = ("system", "corpus", "protocol", "fold", "seed", "git")
    return {
        "schema": SCHEMA,
        "labels": model.labels,
        "sample_rate": SAMPLE_RATE,
        "shortest_samples": model.encoder.receptive_field,
        "run": {key: about[key] for key in keys},
        "model_sha256": state_sha256(model),
        "files": {
            path.relative_to(folder).as_posix(): {
                "bytes": path.stat().st_size,
                "sha256": file_sha256(path),
            }
            for path in files
        },
        **measured,
    }


def _model_sizes(summary):
    """Bytes of the files that hold weights."""
    return {
        name: file["bytes"]
        for name, file in summary["files"].items()
        if name.endswith(MODEL_SUFFIXES)
    }


def describe_training(run, speech):
    """What a run's model was trained on.

    Arguments
    ---------
    run : pathlib.Path
        The run's folder.
    speech : RunSpeech
        Its speech and noise.

    Returns
    -------
    dict
        utterances, speakers, speech (clean, noisy, none), noise, snr_low,
        snr_high, speeds, unlabelled, encoder (None where a teacher was given),
        teacher (that one's name), checked (for speech shared with the test).
    """
    entries = speech.manifests["train"].values()
    settings = run_settings(run)
    student = settings["network"] == "student"
    teacher = student and settings["teacher_folder"]
    return {
        "utterances": len(entries),
        "speakers": len({entry.get("speaker") for entry in entries}),
        "speech": settings["speech"],
        "noise": list(speech.noise["train"].types),
        "snr_low": settings["snr_low"],
        "snr_high": settings["snr_high"],
        "speeds": list(settings["speeds"]),
        # Without a loss that asks for the teacher there is no use for it.
        "unlabelled": student
        and settings["unlabelled"]
        and needs_teacher(settings["loss_weights"]),
        # Of a folder only the name: where it lay is nobody's business.
        "encoder": None if teacher else _hub_name(settings["wav2vec2_hub"]),
        "teacher": teacher and _hub_name(teacher),
        # Of given manifests overlaps are a warning.
        "checked": not settings["skip_prep"],
    }


def _hub_name(source):
    """A model's name on the hub, or the name of its folder."""
    path = pathlib.Path(source)
    return path.name if path.is_absolute() or path.exists() else source
