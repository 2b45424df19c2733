"""The real command with settings for a corpus of seconds."""

import json
import subprocess
import sys

from helpers import RECIPE

import speechbrain as sb

YAML = str(RECIPE / "hparams/mlkd.yaml")
SETTINGS = """
corpus: csv
corpus_name: tiny
protocol: groups
n_folds: 3
label_map: {neutral: neu, happy: hap, sad: sad, angry: ang, surprised: unlabelled}
noise_corpus: folder
noise_types: [rain, wind]
precision: fp32
teacher_epochs: 2
student_epochs: 2
teacher_lr: 0.003
student_lr: 0.003
max_batch_length: 3
num_buckets: 2
test_snrs: [0, 10]
num_workers: 0
speeds: [90, 100, 110]
"""


class Experiment:
    """Runs train.py with the tiny settings and reads what it leaves."""

    def __init__(self, folder, encoder, corpus, noise):
        self.folder = folder
        settings = folder / "tiny.yaml"
        settings.write_text(SETTINGS)
        self.arguments = {
            "settings": settings,
            "data_folder": corpus,
            "noise_folder": noise,
            "wav2vec2_hub": encoder,
            "wav2vec2_folder": folder / "hub",
            "output_folder": folder / "out",
        }

    def command(self, system, *flags, **changes):
        arguments = {**self.arguments, "system": system, **changes}
        options = [f"--{key}={value}" for key, value in arguments.items()]
        return [YAML, *options, "--noprogressbar", "--device=cpu", *flags]

    def train(self, system, *flags, **changes):
        """In this process; raises what a user would read."""
        import train

        command = self.command(system, *flags, **changes)
        train.run(*sb.parse_arguments(command))

    def prepare(self, *flags, **changes):
        """Prepares manifests and noise alone."""
        self.train("random", "--prepare_only=True", *flags, **changes)

    def run(self, system, *flags, **changes):
        """In this process; returns the results."""
        self.train(system, *flags, **changes)
        out = changes.get("output_folder", self.arguments["output_folder"])
        return json.loads((out / system / "results.json").read_text())

    def start(self, system, *flags, **changes):
        """In a process of its own."""
        command = self.command(system, *flags, **changes)
        return subprocess.Popen(
            [sys.executable, str(RECIPE / "train.py"), *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def planned(command, *own):
    """The runs of a cross-validation."""
    import cross_validate
    from cross_validate import make_plan

    return make_plan(*cross_validate.parse([*command, *own]))
