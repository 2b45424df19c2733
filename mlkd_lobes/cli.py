"""Command line of the lobes.

> python -m mlkd_lobes report | doctor | export | predict | evaluate | fetch | app …

Each command imports its modules when it is called, so predicting with an ONNX file
works without PyTorch.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import pathlib
import re
import sys

from tqdm import tqdm

from mlkd_lobes.deployment import BACKENDS
from mlkd_lobes.errors import InputError, check_choice, run_command
from mlkd_lobes.files import atomic_path, expand_home, write_json

# Bounds of --window, --batch_length and --hop, in seconds.
LONGEST, SHORTEST = 3600, 0.1


def build_parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    parser = argparse.ArgumentParser(prog="python -m mlkd_lobes")
    commands = parser.add_subparsers(dest="command", required=True)

    text = "tables, a figure and an HTML page of finished runs"
    add = commands.add_parser("report", help=text).add_argument
    add("folders", nargs="+", help="folders or zip archives of runs")
    add("--folds", type=numbers, help="only these, e.g. 3,4,5,6")
    add("--systems", help="only these, e.g. mlkd,student_noisy")
    text = "a difference to show, 'one - other[, clean | , unseen noise]', the "
    text += "main one first; default: those of the runs' settings"
    add("--compare", action="append", help=text)
    add("--figure", help="write UA over SNR here (svg, png or pdf)")
    add("--html", help="write one self-contained page here")

    text = "check speech and splits before training"
    add = commands.add_parser("doctor", help=text)
    text = "output folder of `train.py … --prepare_only=True`, a folder with "
    text += "manifest.csv, or any folder of audio"
    add.add_argument("target", help=text)
    add.add_argument("--data_folder", help="what {data_root} stands for")
    add.add_argument("--json", help="write all facts and findings here")

    text = "a finished run's model in formats that open elsewhere"
    add = commands.add_parser("export", help=text)
    add.add_argument("--data_folder", help="what {data_root} stands for")
    add.add_argument("--noise_folder", help="what $noise_folder stands for")
    add.add_argument("run", help="the folder of a finished run")
    add.add_argument("out", help="where the export goes")
    text = "leave INT8 out"
    add.add_argument("--without_int8", action="store_true", help=text)

    _add_outside(commands)
    _add_classifying(commands)
    return parser


def _add_outside(commands):
    """The commands for models and corpora of others."""
    text = "any model on exactly the test of finished runs"
    add = commands.add_parser("evaluate", help=text).add_argument
    text = "a run, an export, an ONNX file, a Hugging Face folder or hub name, "
    text += "speechbrain:SOURCE[@FILE:CLASS] or python:module.function"
    add("model", help=text)
    add("runs", nargs="+", help="folders of finished runs, e.g. one per fold")
    add("--name", required=True, help="what reports call the model")
    text = 'its classes to labels of the run, e.g. "{angry: ang, calm: neu}"'
    add("--model_labels", type=mapping, help=text)
    add("--data_folder", help="what {data_root} stands for")
    add("--noise_folder", help="what $noise_folder stands for")
    add("--device", default="cpu", help="e.g. cuda:0")

    text = "download a corpus from where its owners put it"
    add = commands.add_parser("fetch", help=text).add_argument
    add("corpus", help="e.g. ravdess, musan; a wrong name lists all")
    add("folder", help="where it goes")


def _add_classifying(commands):
    """The commands that classify recordings."""
    text = "a page on this machine: a recording in noise, and its emotions"
    add = commands.add_parser("app", help=text).add_argument
    add("model", help="an export, a run, a Hugging Face folder, an ONNX file")
    add("--compare", help="another model beside it")
    add("--noise_folder", help="noise: sub-folders, ESC, or a manifest.csv")
    add("--babble_folder", help="other people's speech, for babble")
    add("--backend", choices=list(BACKENDS))
    add("--device", default="cpu", help="e.g. cuda:0")
    add("--port", type=int, help="default: the first free one from 7860")
    text = "emotions of recordings"
    add = commands.add_parser("predict", help=text).add_argument
    add("model", help="an export, a run, a Hugging Face folder, an ONNX file")
    text = "files, folders, a CSV with a column path and optionally start and "
    text += "end in seconds, or - for a stream (WAV) from standard input"
    add("audio", nargs="+", help=text)
    add("--backend", choices=list(BACKENDS))
    add("--device", default="cpu", help="e.g. cuda:0")
    text = "longest window in seconds; longer recordings get a row per window; "
    text += "default: 15, with --hop or a stream 4"
    add("--window", type=float, help=text)
    text = "a row every so many seconds, for the window before; of a stream: 1"
    add("--hop", type=float, help=text)
    text = "sampling rate of a stream without header: 16 bits, one channel"
    add("--raw", type=int, help=text)
    text = "no emotion for rows whose largest probability is below this"
    add("--min_confidence", type=float, default=0.0, help=text)
    text = "no emotion for windows without speech (needs silero-vad)"
    add("--vad", action="store_true", help=text)
    text = "seconds of audio per batch"
    add("--batch_length", type=float, default=60.0, help=text)
    add("--output", help="a file (.csv, .jsonl); default: standard output")
    add("--jsonl", action="store_true", help="JSON lines instead of CSV")


def report(options) -> int:
    """Writes figure and page if wanted, then prints the tables."""
    from mlkd_lobes.evaluation import (
        figures,
        report as texts,
    )
    from mlkd_lobes.evaluation.comparison import comparisons, find_runs, pool

    for option in ("figure", "html"):
        _check_output(option, getattr(options, option), options.folders)
    suffix = pathlib.Path(options.figure or "a.svg").suffix[1:]
    check_choice("--figure", suffix, figures.FORMATS, "format")
    chosen = options.systems and options.systems.split(",")
    found = find_runs(options.folders, options.folds, chosen)
    known = sorted({run.results["system"] for run in found})
    for text in options.compare or ():
        for name in text.partition(", ")[0].split(" - "):
            check_choice("--compare", name, known, "system")
    pooled = pool(found)
    runs = [run for system in pooled.systems for run in system.runs.values()]
    compared = options.compare or list(
        dict.fromkeys(c for run in runs for c in run.get("comparisons") or ())
    )
    wanted = comparisons(pooled.systems, compared)
    if options.compare and len(wanted) < len(compared):
        raise InputError(
            "--compare: not all of them share seeds, conditions and folds here; "
            f"left out: {'; '.join(pooled.left_out) or 'nothing'}"
        )
    if options.figure:
        figure = figures.ua_over_snr(pooled.systems)
        with atomic_path(options.figure) as temporary:
            figures.save(figure, temporary, suffix)
    if options.html:
        from mlkd_lobes.evaluation.page import page_html

        with atomic_path(options.html) as temporary:
            page = page_html(pooled, wanted)
            temporary.write_text(page, encoding="utf-8")
    # Last: a reader such as `head` may close the pipe.
    print(texts.report_text(pooled, wanted))
    return 0


def numbers(text: str) -> list[int]:
    """Numbers of a list such as "3,4"."""
    return [int(part) for part in text.split(",")]


def doctor(options) -> int:
    """Prints facts and findings; 1 if there is an error among them."""
    from mlkd_lobes.evaluation.doctor import doctor_text, examine

    target = pathlib.Path(options.target)
    inputs = [target / "manifest.csv", *target.glob("manifests/*.json")]
    _check_output("json", options.json, inputs)
    found = examine(options.target, options.data_folder)
    if options.json:
        write_json(options.json, found)
    # Last: a reader such as `head` may close the pipe.
    print(doctor_text(found))
    return int(any(f["level"] == "error" for f in found["findings"]))


def export(options) -> int:
    """Exports a run and prints the files."""
    from mlkd_lobes.deployment.export import export as export_run

    places = options.data_folder, options.noise_folder
    int8 = not options.without_int8
    summary = export_run(options.run, options.out, *places, int8=int8)
    for name in summary["files"]:
        print(f"{options.out}/{name}")
    return 0


def mapping(text: str) -> dict:
    """A mapping in YAML such as "{angry: ang}"."""
    from ruamel.yaml import YAML, YAMLError

    try:
        return dict(YAML(typ="safe").load(text))
    except (YAMLError, TypeError) as error:
        raise ValueError(text) from error


def evaluate(options) -> int:
    """Writes the results of a model beside those of runs."""
    from mlkd_lobes.deployment.evaluate import evaluate as evaluate_run
    from mlkd_lobes.deployment.outside import open_any

    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", options.name):
        raise InputError(f"--name: '{options.name}' cannot name a folder")
    opened = open_any(options.model, options.device)
    places = options.data_folder, options.noise_folder
    settings = options.name, options.model_labels, places, options.device
    for run in options.runs:
        print(evaluate_run(opened, options.model, run, *settings))
    return 0


def fetch(options) -> int:
    """Downloads and unpacks a corpus."""
    from mlkd_lobes.data.fetch import fetch as fetch_corpus

    fetch_corpus(options.corpus, options.folder)
    return 0


def app(options) -> int:
    """Serves the page until Ctrl-C."""
    from mlkd_lobes.deployment import (
        app as page,
        listening,
        load_model,
    )

    sources = [options.model, *([options.compare] if options.compare else [])]
    names = [pathlib.Path(os.path.abspath(source)).stem for source in sources]
    if len(set(names)) < len(names):
        names = sources
    opened = {
        name: load_model(source, options.backend, options.device)
        for name, source in zip(names, sources)
    }
    if len({tuple(model.labels) for model in opened.values()}) > 1:
        raise InputError(
            f"--compare: {options.compare} has other emotions, or in another "
            f"order, than {options.model}"
        )
    noises = listening.Noises(options.noise_folder, options.babble_folder)
    page.serve(opened, noises, options.port)
    return 0


def predict(options) -> int:
    """Writes the emotions of recordings; 1 if one could not be read."""
    from mlkd_lobes.deployment import predict as tools
    from mlkd_lobes.deployment.models import open_model

    streamed = "-" in options.audio
    _check_predict(options, streamed)
    parts = [] if streamed else tools.find_parts(options.audio)
    inputs = [options.model, *pathlib.Path(options.model).rglob("*")]
    inputs += [*options.audio, *(part.path for part in parts)]
    _check_output("output", options.output, inputs)
    model = open_model(options.model, options.backend, options.device)
    speech = tools.load_vad() if options.vad else None
    unreadable = []

    def report_error(message):
        """Prints why a recording could not be read."""
        unreadable.append(message)
        print(f"error: {message}", file=sys.stderr)

    if streamed:
        from mlkd_lobes.deployment.stream import read_stream

        window = options.window or tools.SLIDING_WINDOW
        found = read_stream(window, options.hop, options.raw)
        found = tools.classify(model, found, speech=speech)
    else:
        found = tools.predict(
            model,
            tqdm(parts, unit="file", disable=None),
            options.window,
            options.batch_length,
            report_error,
            options.hop,
            speech,
        )
    lines = options.jsonl or str(options.output).endswith(".jsonl")
    choice = lines, options.min_confidence, options.vad
    with _output(options.output, streamed) as file:
        tools.write_predictions(found, model.labels, file, *choice)
    if unreadable:
        total = f"{len(unreadable)} of {len(parts)} recordings"
        print(f"{total} could not be read", file=sys.stderr)
    return int(bool(unreadable))


def _check_predict(options, streamed):
    """Fills in a stream's hop; raises for options with which writing would fail."""
    if streamed and len(options.audio) > 1:
        raise InputError("-: a stream comes alone, without further recordings")
    if options.raw is not None and not streamed:
        raise InputError("--raw: is for a stream, -")
    if streamed and options.output and os.path.exists(options.output):
        raise InputError(
            f"--output: {options.output} exists; a stream adds nothing"
        )
    if streamed and options.hop is None:
        options.hop = 1.0
    for name in ("window", "batch_length", "hop"):
        value = getattr(options, name)
        if value is not None and not SHORTEST <= value <= LONGEST:
            raise InputError(
                f"--{name}: {value:g} is not between {SHORTEST} and {LONGEST} "
                "seconds"
            )
    if not 0 <= options.min_confidence <= 1:
        raise InputError(
            f"--min_confidence: {options.min_confidence:g} is not between 0 and 1"
        )


def _check_output(option, path, inputs):
    """Raises, before all is computed, for an output that would spoil something."""
    from mlkd_lobes.data.audio import AUDIO_SUFFIXES

    if path is None:
        return
    if os.path.isdir(path):
        raise InputError(f"--{option}: {path} is a folder")
    taken = {os.path.realpath(name) for name in inputs}
    if os.path.realpath(path) in taken or path.lower().endswith(AUDIO_SUFFIXES):
        raise InputError(f"--{option}: {path} is an input or an audio file")


@contextlib.contextmanager
def _output(path, streamed):
    """Standard output, or a file that appears when it is complete; that of a stream,
    which may have no end, grows."""
    if path is None:
        yield sys.stdout
        return
    opened = contextlib.nullcontext(path) if streamed else atomic_path(path)
    with opened as place, open(
        place, "w", newline="", encoding="utf-8"
    ) as file:
        yield file


FUNCTIONS = report, doctor, export, evaluate, fetch, app, predict
COMMANDS = {function.__name__: function for function in FUNCTIONS}


def main(argv) -> int:
    """Runs a command; the exit code is 1 for unexpected input."""
    options = vars(build_parser().parse_args(argv))
    options = argparse.Namespace(**expand_home(options))
    command = COMMANDS[options.command]
    return run_command(functools.partial(command, options))
