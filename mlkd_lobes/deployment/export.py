"""Exports a finished run: every file opens without this project.

huggingface/     opens with transformers alone
speechbrain/     opens with SpeechBrain's `foreign_class`
onnx/            float32 and INT8 graphs, with labels and rate as metadata
export.json      labels, sample rate, hashes, and the measured parity
README.md        the model card

The folder appears when all of it has been written and compared with the trained
model, or not at all.
"""

from __future__ import annotations

import copy
import itertools
import json
import pathlib
import shutil

import torch

from mlkd_lobes import deployment, files
from mlkd_lobes.data.audio import SAMPLE_RATE
from mlkd_lobes.deployment import card, graph, parity
from mlkd_lobes.deployment.models import calibrate, open_classifier
from mlkd_lobes.deployment.run_speech import RunSpeech, describe_training
from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.results import read_cost, read_results
from mlkd_lobes.models.classifier import state_sha256

SCHEMA = 1
CALIBRATION_UTTERANCES = 256
# Waveforms on which every way to open the export is compared.
PARITY_UTTERANCES = 24
HERE = pathlib.Path(__file__).parent


def export(
    run, out, data_folder=None, noise_folder=None, int8=True, report=print
) -> dict:
    """Exports a run's model and returns export.json; raises if a file disagrees.

    out: an earlier export there is replaced. data_folder, noise_folder: the
    corpora, if not where the run found them. report: called with progress lines.
    """
    if not __debug__:
        raise InputError("export: torch.export needs Python without -O")
    run, out = pathlib.Path(run), pathlib.Path(out)
    if out.exists() and not (out / deployment.SUMMARY).is_file():
        raise InputError(f"{out}: exists and is no export; nothing was written")
    about = read_results(run)
    model = open_classifier(deployment.find_model(run)[0]).eval()
    trained, temperature = copy.deepcopy(model), about.get("temperature")
    divisor = temperature or 1.0  # older runs have none
    calibrate(model, divisor)
    speech = RunSpeech(run, model.labels, data_folder, noise_folder)
    # Before anything is written: corpora may have moved.
    tested = itertools.islice(speech.test(), PARITY_UTTERANCES)
    n = len(speech.conditions)  # one each, in turn
    wavs = [utterance.wavs[0][i % n] for i, utterance in enumerate(tested)]
    with files.atomic_path(out) as folder:
        report("Hugging Face, SpeechBrain, ONNX")
        model.save_pretrained(folder / deployment.HUGGINGFACE)
        write_speechbrain(model, folder / deployment.SPEECHBRAIN)
        graph.write_onnx(model, folder / deployment.ONNX)
        report(f"comparing them on {PARITY_UTTERANCES} waveforms")
        found = parity.measure_parity(folder, trained, divisor, wavs)
        measured = {"parity": found, "int8": None, "temperature": temperature}
        if int8:
            report("INT8: calibrating on training speech, then testing")
            measured["int8"] = quantise(folder, speech)
            if lost := parity.int8_failure(measured["int8"]):
                raise InputError(
                    f"{lost}; nothing was exported; try --without_int8"
                )
        summary = _summary(folder, about, trained, measured)
        files.write_json(folder / deployment.SUMMARY, summary)
        training, config = describe_training(speech), model.encoder.config
        text = card.card_text(about, read_cost(run), training, config, summary)
        (folder / deployment.CARD).write_text(text, encoding="utf-8")
        for path in folder.rglob("*"):
            # Some libraries write files that only their owner may read.
            path.chmod(0o755 if path.is_dir() else 0o644)
    return summary


def quantise(folder, speech):
    """Writes the INT8 graph beside the float32 one; how both classify test speech."""
    wavs = list(speech.training(CALIBRATION_UTTERANCES))
    # Calibration needs complete strides.
    wavs = wavs[: len(wavs) // graph.STRIDE * graph.STRIDE] or wavs
    source, target = folder / deployment.ONNX, folder / deployment.INT8
    graph.write_int8(source, target, wavs)
    graphs = (parity.predict_test(path, speech) for path in (source, target))
    return {**parity.compare_int8(*graphs), "calibration_utterances": len(wavs)}


def write_speechbrain(model, folder: pathlib.Path) -> None:
    """Writes a folder that SpeechBrain's `foreign_class` opens."""
    folder.mkdir(parents=True)
    native = model.native()
    config = json.loads(native.config.to_json_string(use_diff=False))
    config.pop("_name_or_path", None)
    template = (HERE / "speechbrain.yaml").read_text(encoding="utf-8")
    text = template.format(
        labels=json.dumps(model.labels),
        sample_rate=SAMPLE_RATE,
        shortest=model.encoder.receptive_field,
        normalize=model.encoder.normalize_wav,
        config=json.dumps(config),
    )
    (folder / "hyperparams.yaml").write_text(text, encoding="utf-8")
    torch.save(native.state_dict(), folder / "model.ckpt")
    shutil.copyfile(HERE / "interface.py", folder / "interface.py")
    shutil.copyfile(HERE / "speechbrain.md", folder / deployment.CARD)


def _summary(folder, about, model, measured):
    """export.json: labels, sizes and hashes for programs of the folder."""
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
                "sha256": files.file_sha256(path),
            }
            for path in sorted(p for p in folder.rglob("*") if p.is_file())
        },
        **measured,
    }
