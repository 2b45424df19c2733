#!/usr/bin/env python3
"""The recipe on generated speech, in a few minutes and without a licence.

> python examples/demo.py results/demo
"""

import pathlib
import re
import shutil
import subprocess
import sys
import time

from mini_corpus import main as write_mini_corpus

from mlkd_lobes.evaluation.comparison import find_runs, pool
from mlkd_lobes.evaluation.figures import save, ua_over_snr
from mlkd_lobes.evaluation.metrics import markdown
from mlkd_lobes.evaluation.report import percent
from mlkd_lobes.noise.add_noise import CLEAN

ROOT = pathlib.Path(__file__).resolve().parents[1]
RECIPE = ROOT / "recipes/IEMOCAP/mlkd"
SYSTEMS = {
    "teacher": "all layers, trained on clean speech",
    "student_noisy": "two layers, trained on noisy speech and labels alone",
    "mlkd": "the same, supervised by three levels of the teacher on the clean "
    "signal",
}
EPOCH = re.compile(
    r"epoch: (?P<epoch>\d+),.*train loss: (?P<loss>[^\s,]+).*"
    r"valid UA: (?P<ua>[^\s,]+)"
)


def say(text):
    """Prints at once, also into a pipe."""
    print(text, flush=True)


def command_of(system, folder):
    """The command a user would type in the recipe's folder."""
    corpus = folder / "corpus"
    return [
        sys.executable,
        "train.py",
        "hparams/mlkd.yaml",
        "--settings=../../../examples/mini.yaml",
        f"--data_folder={corpus / 'IEMOCAP_full_release'}",
        f"--noise_folder={corpus / 'musan'}",
        f"--wav2vec2_hub={corpus / 'wav2vec2'}",
        f"--wav2vec2_folder={corpus / 'hub'}",
        f"--output_folder={folder}",
        f"--system={system}",
        "--noprogressbar",
    ]


def run(system, folder):
    """Trains and evaluates a system; a line per epoch."""
    command, log = command_of(system, folder), folder / f"{system}.log"
    say(f"\n== {system}: {SYSTEMS[system]}\n")
    say("   python " + " ".join(command[1:]) + "\n")
    process = subprocess.Popen(
        command,
        cwd=RECIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with open(log, "w", encoding="utf-8") as file:
        for line in process.stdout:
            file.write(line)
            match = EPOCH.search(line)
            if match:
                say(
                    f"   epoch {match['epoch']:>2}   "
                    f"loss {float(match['loss']):6.3f}   "
                    f"validation UA {100 * float(match['ua']):5.1f} %"
                )
            elif "utterances x" in line:
                n = line.strip().rsplit(": ", 1)[-1]
                say(f"   evaluation: {n} conditions (clean, noise x SNR)")
    if process.wait() != 0:
        sys.exit(
            f"{system} failed; the end of {log}:\n\n{log.read_text()[-2000:]}"
        )


def clear(folder):
    """Empties the folder of an earlier demo, and no other."""
    marker = folder / ".mlkd-demo"
    if folder.exists() and any(folder.iterdir()) and not marker.exists():
        sys.exit(
            f"{folder} is not empty and not an earlier demo's; give another"
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    marker.touch()


def main(folder):
    """Generates the corpora, runs three systems, prints the results."""
    folder, started = pathlib.Path(folder).resolve(), time.time()
    clear(folder)
    say(
        "== The mini corpus: ten synthetic speakers, four emotions, in the "
        "layout of IEMOCAP;\n   noise in the layout of MUSAN; a tiny wav2vec "
        "2.0. Everything is generated."
    )
    write_mini_corpus(folder / "corpus")
    for system in SYSTEMS:
        run(system, folder)
    say("\n== Results\n")
    systems = pool(find_runs([folder])).systems
    rows = [
        [system.name, percent(system.score([CLEAN])),
         percent(system.score(system.conditions()))]
        for system in systems
    ]  # fmt: skip
    say(markdown(["UA (%)", "clean", "noisy"], rows))
    figure = folder / "ua.svg"
    save(ua_over_snr(systems), figure, "svg")
    minutes = (time.time() - started) / 60
    say(
        f"""
UA over SNR is drawn in {figure}. Each system's folder beside it holds its results
and its model, a Hugging Face folder; all of it took {minutes:.1f} minutes. The speech
is synthetic: this shows that the recipe runs, not that the method works."""
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/demo.py FOLDER")
    main(sys.argv[1])
