#!/usr/bin/env python3
"""Opens an export in every way and compares their outputs on many files.

Plain transformers, SpeechBrain and onnxruntime run in processes that cannot see
this package (onnxruntime: nor PyTorch); each is compared with `predict`. The
list is a CSV that `predict` takes too: path, start, end.

> python tests/opened_everywhere.py EXPORT LIST.csv \\
>     results/robustness/opened_everywhere.json
"""

import argparse
import csv
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import soundfile

from mlkd_lobes.deployment.predict import find_parts, windows
from mlkd_lobes.files import write_json

# Hides packages from a process, as if they had not been installed.
HIDE = "import sys; sys.modules.update(dict.fromkeys({}))\n"
READ = """
import json, numpy as np, soundfile
folder, paths = sys.argv[1], sys.argv[2:]
read = lambda path: soundfile.read(path, dtype="float32")[0]
labels = json.load(open(folder + "/export.json"))["labels"]
"""
WAYS = {
    "transformers": HIDE.format(["mlkd_lobes"])
    + READ
    + """
from transformers import pipeline
ask = pipeline("audio-classification", folder + "/huggingface", top_k=None)
printed = [{x["label"]: x["score"] for x in ask(read(p))} for p in paths]
print(json.dumps([[one[name] for name in labels] for one in printed]))
""",
    "speechbrain": HIDE.format(["mlkd_lobes"])
    + READ
    + """
from speechbrain.inference.interfaces import foreign_class
model = foreign_class(source=folder + "/speechbrain",
                      pymodule_file="interface.py",
                      classname="EmotionRecognizer")
print(json.dumps([model.classify_file(p)[0][0].tolist() for p in paths]))
""",
    "onnxruntime": HIDE.format(["mlkd_lobes", "torch", "transformers"])
    + READ
    + """
from onnxruntime import InferenceSession
model = InferenceSession(folder + "/onnx/model.onnx")
def ask(wav):
    inputs = {"waveforms": wav[None], "lengths": np.array([len(wav)])}
    return model.run(None, inputs)[0][0].tolist()
print(json.dumps([ask(read(p)) for p in paths]))
""",
}


def cut(source, folder):
    """The parts of a list as files of 16 kHz."""
    paths = []
    for part in find_parts([str(source)]):
        ((_, wav),) = windows(part, longest=3600)
        paths.append(folder / f"{len(paths):05}.wav")
        soundfile.write(paths[-1], wav, 16000, subtype="FLOAT")
    return paths


def predicted(export, folder, backend):
    """Probabilities by the command of this package."""
    command = [sys.executable, "-m", "mlkd_lobes", "predict", export, folder]
    text = subprocess.check_output(
        [*command, f"--backend={backend}", "--window=3600"], text=True
    )
    rows = csv.reader(text.splitlines()[1:])
    return np.array([[float(x) for x in row[4:]] for row in rows])


def predicted_by(way, export, paths):
    """Probabilities by other code."""
    command = [sys.executable, "-c", WAYS[way], export, *map(str, paths)]
    text = subprocess.check_output(command, text=True)
    return np.array(json.loads(text.splitlines()[-1]))


def main(export, source, out):
    """Compares all ways; writes and prints the figures."""
    with tempfile.TemporaryDirectory() as folder:
        paths = cut(source, pathlib.Path(folder))
        expected = predicted(export, folder, "torch")
        found = {
            f"predict, {backend}": predicted(export, folder, backend)
            for backend in ("onnx", "int8")
        }
        found |= {way: predicted_by(way, export, paths) for way in WAYS}
    ways = {
        way: {
            "same_label": float(
                np.mean(printed.argmax(1) == expected.argmax(1))
            ),
            "largest_difference": float(np.abs(printed - expected).max()),
        }
        for way, printed in found.items()
    }
    run = json.loads((pathlib.Path(export) / "export.json").read_text())["run"]
    write_json(out, {"run": run, "files": len(paths), "ways": ways})
    print(json.dumps(ways, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("export")
    parser.add_argument("list", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    options = parser.parse_args()
    main(options.export, options.list, options.out)
