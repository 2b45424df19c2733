#!/usr/bin/env python3
"""Lays the recipe into a SpeechBrain checkout and runs SpeechBrain's own tests.

> python tools/upstream.py ~/speechbrain

The recipe folder keeps its place, without cross_validate.py; what train.py imports of
`mlkd_lobes` goes into it, since SpeechBrain's own modules may not need more packages
than SpeechBrain; tests/recipes/IEMOCAP.csv gets a row. Run again, it replaces what it
laid. The tests need no network: a small model of wav2vec2-base's kind is put where the
hub's download would be.
"""

import csv
import os
import pathlib
import shutil
import subprocess
import sys

import transformers
from size import code_lines, imported

ROOT = pathlib.Path(__file__).resolve().parents[1]
RECIPE = pathlib.Path("recipes/IEMOCAP/mlkd")
LOBES = "mlkd_lobes"
# The tests' outputs, and the hub's download that the recipe test looks for.
SCRATCH = pathlib.Path("tests/tmp")
HUB = SCRATCH / "wav2vec2_checkpoint/models--facebook--wav2vec2-base"
REVISION = 40 * "0"
SAMPLES = "tests/samples"

ROW = {
    "Task": "Noise_robust_emotion_recognition",
    "Dataset": "IEMOCAP",
    "Script_file": f"{RECIPE}/train.py",
    "Hparam_file": f"{RECIPE}/hparams/mlkd.yaml",
    "Data_prep_file": f"{RECIPE}/iemocap_prepare.py",
    "Readme_file": f"{RECIPE}/README.md",
    "Result_url": "",
    "HF_repo": "",
    "test_debug_flags": " ".join(
        [
            f"--data_folder={SAMPLES}/ASR/ --skip_prep=True",
            f"--train_annotation={SAMPLES}/annotation/ASR_train.json",
            f"--valid_annotation={SAMPLES}/annotation/ASR_dev.json",
            f"--test_annotation={SAMPLES}/annotation/ASR_dev.json",
            f"--noise_folder={SAMPLES}/noise",
            f"--noise_annotation={SAMPLES}/annotation/noise.csv",
            f"--noise_valid_annotation={SAMPLES}/annotation/noise.csv",
            f"--noise_test_annotation={SAMPLES}/annotation/noise.csv",
            "--labels=[anger,sadness,happiness,neutrality]",
            "--wav2vec2_folder=tests/tmp/wav2vec2_checkpoint",
            "--teacher_epochs=1 --student_epochs=1 --test_snrs=[0]",
            "--precision=fp32",
        ]
    ),
    "test_debug_checks": '"file_exists=['
    "mlkd_semi/train_log.txt,mlkd_semi/log.txt,mlkd_semi/env.log,"
    "mlkd_semi/hyperparams.yaml,mlkd_semi/results.json,"
    'mlkd_semi/predictions.csv.gz,teacher/model/config.json]"',
    "performance": "",
}

RECIPE_TEST = """
from tests.utils.recipe_tests import run_recipe_tests
passed = run_recipe_tests(filters_fields=["Hparam_file"],
    filters=[["{yaml}"]], do_checks=True, run_opts="--device=cpu")
raise SystemExit(not passed)
"""
YAML_TEST = """
from tests.utils.recipe_tests import load_yaml_test
passed = load_yaml_test(filters_fields=["Hparam_file"], filters=[["{yaml}"]])
raise SystemExit(not passed)
"""


def contribution():
    """What goes upstream: paths below the repository, sorted."""
    recipe = ["hparams/mlkd.yaml", "README.md", "extra_requirements.txt"]
    found = [path.relative_to(ROOT) for path in imported(ROOT)]
    tables = [path.with_suffix(".yml") for path in found]
    found += [path for path in tables if (ROOT / path).is_file()]
    return sorted([*found, *[RECIPE / name for name in recipe]])


def lay_files(checkout):
    """Copies the contribution; returns the copies."""
    shutil.rmtree(checkout / RECIPE, ignore_errors=True)
    laid = []
    for path in contribution():
        inside = path.parts[0] == LOBES
        target = checkout / (RECIPE / path if inside else path)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, target)
        laid.append(target)
    return laid


def print_size(checkout, laid):
    """The contribution's size beside SpeechBrain's largest task folder."""
    own = [path for path in laid if path.suffix == ".py"]
    recipe = [path for path in own if path.parent == checkout / RECIPE]
    folders = {}
    for path in checkout.glob("recipes/*/*/**/*.py"):
        place = path.relative_to(checkout).parts[:3]
        if place != RECIPE.parts:
            folders.setdefault(place, []).append(path)
    sizes = {"/".join(k): (len(v), total(v)) for k, v in folders.items()}
    largest = max(sizes, key=lambda name: sizes[name][1])
    for title, count in (
        ("lobes and recipe", (len(own), total(own))),
        ("the recipe folder alone", (len(recipe), total(recipe))),
        (f"SpeechBrain's largest, {largest}", sizes[largest]),
    ):
        print(f"{title}: {count[0]} Python files, {count[1]} code lines")


def total(paths):
    """Code lines of several files."""
    return sum(map(code_lines, paths))


def add_row(path):
    """Adds the recipe's row to SpeechBrain's list of recipes, or renews it."""
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    place = header.index("Hparam_file")
    rows = [row for row in rows if row[place] != ROW["Hparam_file"]]
    rows.append([ROW[name].strip('"') for name in header])
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def lay(checkout):
    """Everything that a pull request would hold."""
    laid = lay_files(checkout)
    add_row(checkout / "tests/recipes/IEMOCAP.csv")
    # There the lobes are sorted among the imports of other packages.
    run(checkout, *tool("ruff", "check", "--fix", "--quiet", "--select=I"))
    return laid


def tool(name, *options):
    """A call of a tool on what was laid."""
    return [sys.executable, "-m", name, *options, str(RECIPE)]


def put_model(checkout):
    """A small model in the place of the hub's download."""
    snapshot = checkout / HUB / "snapshots" / REVISION
    config = transformers.Wav2Vec2Config(num_hidden_layers=3)
    transformers.Wav2Vec2Model(config).save_pretrained(snapshot)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(snapshot)
    (checkout / HUB / "refs").mkdir(exist_ok=True)
    (checkout / HUB / "refs/main").write_text(REVISION)


def run(checkout, *command):
    """Runs a command there, without the network; whether it succeeded."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    # The tests call "python" themselves; SpeechBrain and lobes are the checkout's.
    scripts = os.path.dirname(sys.executable)
    environment["PATH"] = os.pathsep.join([scripts, environment["PATH"]])
    paths = str(checkout), str(checkout / RECIPE)
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    return (
        subprocess.run(command, cwd=checkout, env=environment).returncode == 0
    )


def checks():
    """SpeechBrain's own tests of a contribution: name and command."""
    yaml, spelling = ROW["Hparam_file"], "--ignore-words=.dict-speechbrain.txt"
    pytest = [sys.executable, "-m", "pytest", "-q"]
    lobes = str(RECIPE / LOBES)
    return {
        "consistency tests": [*pytest, "tests/consistency"],
        "YAML test": [sys.executable, "-c", YAML_TEST.format(yaml=yaml)],
        "recipe test": [sys.executable, "-c", RECIPE_TEST.format(yaml=yaml)],
        "doctests": [*pytest, "--doctest-modules", lobes],
        "ruff format": tool("ruff", "format", "--check"),
        "ruff check": tool("ruff", "check"),
        "yamllint": tool("yamllint", "--no-warnings"),
        "codespell": tool("codespell_lib", spelling),
    }


def main(checkout):
    """Lays the contribution and checks it; the exit code."""
    checkout = pathlib.Path(checkout).resolve()
    if not (checkout / "tests/recipes/IEMOCAP.csv").is_file():
        print(f"{checkout}: is not a SpeechBrain checkout", file=sys.stderr)
        return 2
    print_size(checkout, lay(checkout))
    put_model(checkout)
    # An earlier check's runs would be resumed, or refused for other settings.
    for run_folder in (checkout / SCRATCH).glob("IEMOCAP_row_*"):
        shutil.rmtree(run_folder)
    passed = {}
    for name, command in checks().items():
        print(f"\n===== {name}", flush=True)
        passed[name] = run(checkout, *command)
    print()
    for name, good in passed.items():
        print(f"{'PASSED' if good else 'FAILED'}  {name}")
    return int(not all(passed.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
