"""Command line of the lobes.

> python -m mlkd_lobes report | doctor | export | predict …

Each command imports what it needs when it is called: predicting with an ONNX
file works where there is no PyTorch.
"""

import argparse
import contextlib
import os
import pathlib
import sys

from mlkd_lobes.deployment import BACKENDS
from mlkd_lobes.errors import InputError
from mlkd_lobes.files import atomic_path, write_json

# Seconds that may be judged at once.
SHORTEST_WINDOW, LONGEST_WINDOW = 0.1, 3600


def build_parser():
    """The commands and their options.

    Returns
    -------
    argparse.ArgumentParser
        The parser.
    """
    parser = argparse.ArgumentParser(prog="python -m mlkd_lobes")
    commands = parser.add_subparsers(dest="command", required=True)
    report = commands.add_parser(
        "report", help="tables, a figure and an HTML page of finished runs"
    )
    report.add_argument("folders", nargs="+", help="where to look for runs")
    report.add_argument("--folds", help="only these, e.g. 3,4,5,6")
    report.add_argument("--systems", help="only these, e.g. mlkd,student_noisy")
    report.add_argument("--figure", help="write UA over SNR here (svg, png …)")
    report.add_argument("--html", help="write one self-contained page here")
    report.add_argument(
        "--listen",
        metavar="FOLDER",
        help="put utterances to hear on the page; FOLDER is that of a fold and "
        "seed (it holds manifests/ and noise/)",
    )
    _add_audio_folders(report)
    report.add_argument(
        "--update",
        help="text file that holds the tables of UA between "
        "<!-- report: FOLDER --> and <!-- end of report -->",
    )
    doctor = commands.add_parser(
        "doctor", help="look at speech, noise and splits before training"
    )
    doctor.add_argument(
        "target",
        help="what `train.py … --prepare_only=True` leaves, or a folder with "
        "manifest.csv, or any folder of audio",
    )
    _add_audio_folders(doctor)
    doctor.add_argument("--json", help="write all facts and findings here")
    _add_export(commands)
    _add_predict(commands)
    return parser


def _add_export(commands):
    export = commands.add_parser(
        "export", help="a finished run's model in formats that open elsewhere"
    )
    export.add_argument("run", help="the folder of a finished run")
    export.add_argument("out", help="where the export goes")
    export.add_argument(
        "--without_int8", action="store_true", help="leave INT8 out"
    )
    _add_audio_folders(export)


def _add_predict(commands):
    predict = commands.add_parser("predict", help="emotions of recordings")
    predict.add_argument(
        "model", help="an exported folder, a run's folder or an ONNX file"
    )
    predict.add_argument(
        "audio",
        nargs="+",
        help="files, folders, glob patterns, or a CSV with a column path and "
        "optionally start and end in seconds",
    )
    predict.add_argument("--backend", choices=list(BACKENDS))
    predict.add_argument("--device", default="cpu", help="e.g. cuda:0")
    predict.add_argument(
        "--window",
        type=float,
        default=15.0,
        help="longest stretch judged at once, in seconds (default: 15); longer "
        "recordings get a row per window",
    )
    predict.add_argument(
        "--batch_length",
        type=float,
        default=60.0,
        help="seconds of audio per batch (default: 60)",
    )
    predict.add_argument("--output", help="a file (.csv, .jsonl); else stdout")
    predict.add_argument(
        "--jsonl", action="store_true", help="JSON lines instead of CSV"
    )


def _add_audio_folders(command):
    command.add_argument("--data_folder", help="what {data_root} stands for")
    command.add_argument("--noise_folder", help="what $noise_folder stands for")


def report(options):
    """Prints the tables; writes figure and text where asked to.

    Arguments
    ---------
    options : argparse.Namespace
        Of the command line.

    Returns
    -------
    int
        The exit code.
    """
    from mlkd_lobes.evaluation import figures
    from mlkd_lobes.evaluation.listen import examples
    from mlkd_lobes.evaluation.page import page_html
    from mlkd_lobes.evaluation.pooling import on_shared_folds, pool
    from mlkd_lobes.evaluation.report import report_text, update_text
    from mlkd_lobes.evaluation.results import find_runs

    for name in ("figure", "html"):
        _refuse_folder(name, getattr(options, name))
    suffix = pathlib.Path(options.figure or "a.svg").suffix[1:]
    if suffix not in figures.FORMATS:
        raise InputError(
            f"--figure: '{options.figure}' ends in none of "
            f"{', '.join(figures.FORMATS)}"
        )
    if options.listen and not options.html:
        raise InputError("--listen: is for a page; give --html as well")
    chosen = options.systems and options.systems.split(",")
    runs = find_runs(options.folders, _folds(options.folds), chosen)
    runs, left_out = on_shared_folds(runs)
    lost = {*(chosen or ())} - {run.results["system"] for run in runs}
    if lost:
        raise InputError(
            f"--systems: {', '.join(sorted(lost))} would be left out, having "
            "other folds than the rest; choose folds that all have with --folds"
        )
    systems, about = pool(runs), runs[0].results
    if options.figure:
        drawn, words = (
            figures.ua_over_snr(systems),
            figures.ua_in_words(systems),
        )
        with atomic_path(options.figure) as temporary:
            figures.save(drawn, temporary, suffix, words)
    if options.html:
        heard = ()
        if options.listen:
            folders = options.data_folder, options.noise_folder
            heard = examples(systems, options.listen, *folders)
        with atomic_path(options.html) as temporary:
            page = page_html(systems, about, heard, left_out)
            temporary.write_text(page, encoding="utf-8")
    if options.update:
        short = report_text(systems, about, True, left_out)
        text, line_end = _read_text(options.update)
        updated = update_text(text, options.folders[0], short)
        with atomic_path(options.update) as temporary:
            _write_text(temporary, updated, line_end)
    # Last, for whoever reads it may have read enough before its end.
    print(report_text(systems, about, left_out=left_out))
    return 0


def _read_text(path):
    """A text, and how its lines end."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
            ends = file.newlines
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no UTF-8 text ({error})")
    return text, ends if isinstance(ends, str) else None


def _write_text(path, text, line_end):
    """The same text with such lines."""
    with open(path, "w", encoding="utf-8", newline=line_end) as file:
        file.write(text)


def _folds(text):
    """The folds of a list such as "3,4"; None for all."""
    try:
        return text and [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--folds: {text!r} is no list such as 3,4,5,6")


def doctor(options):
    """Prints what it found; writes all of it where asked to.

    Arguments
    ---------
    options : argparse.Namespace
        Of the command line.

    Returns
    -------
    int
        The exit code: 1 if there is an error among the findings.
    """
    from mlkd_lobes.evaluation.doctor import doctor_text, examine

    _refuse_folder("json", options.json)
    found = examine(options.target, options.data_folder, options.noise_folder)
    print(doctor_text(found))
    if options.json:
        write_json(options.json, found)
    levels = {finding["level"] for finding in found["findings"]}
    return int("error" in levels)


def export(options):
    """Exports a run.

    Arguments
    ---------
    options : argparse.Namespace
        Of the command line.

    Returns
    -------
    int
        The exit code.
    """
    from mlkd_lobes.deployment.export import export as export_run

    summary = export_run(
        options.run,
        options.out,
        options.data_folder,
        options.noise_folder,
        int8=not options.without_int8,
    )
    for name in summary["files"]:
        print(f"{options.out}/{name}")
    return 0


def predict(options):
    """Writes the emotions of recordings.

    Arguments
    ---------
    options : argparse.Namespace
        Of the command line.

    Returns
    -------
    int
        The exit code: 1 if a recording could not be read.
    """
    from mlkd_lobes.deployment import predict as tools
    from mlkd_lobes.deployment.backends import open_model

    _check_predict(options)
    parts = tools.find_parts(options.audio)
    model = open_model(options.model, options.backend, options.device)
    bad = []

    def complain(message):
        bad.append(message)
        print(f"error: {message}", file=sys.stderr)

    found = tools.predict(
        model,
        tools.show_progress(parts),
        options.window,
        options.batch_length,
        complain,
    )
    lines = options.jsonl or str(options.output).endswith(".jsonl")
    with _output(options.output) as file:
        tools.write_predictions(found, model.labels, file, lines)
    if bad:
        print(
            f"{len(bad)} of {len(parts)} recordings could not be read",
            file=sys.stderr,
        )
    return int(bool(bad))


def _refuse_folder(name, out):
    """It would only fail when everything has been computed."""
    if out is not None and os.path.isdir(out):
        raise InputError(f"--{name}: {out} is a folder; expected a file")


def _check_predict(options):
    """Refuses what would only fail when everything has been computed."""
    for name in ("window", "batch_length"):
        value = getattr(options, name)
        if not SHORTEST_WINDOW <= value <= LONGEST_WINDOW:
            raise InputError(
                f"--{name}: {value:g} is not between {SHORTEST_WINDOW} and "
                f"{LONGEST_WINDOW} seconds"
            )
    out = options.output
    _refuse_folder("output", out)
    if str(out).endswith(".json"):
        raise InputError(
            f"--output: {out}: JSON lines go into a file called .jsonl, "
            "a table into one called .csv"
        )


@contextlib.contextmanager
def _output(path):
    """A file that appears when it is whole, or the standard output."""
    if path is None:
        yield sys.stdout
        return
    with atomic_path(path) as temporary:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            yield file


COMMANDS = {
    "report": report,
    "doctor": doctor,
    "export": export,
    "predict": predict,
}


def main(argv):
    """Runs a command.

    Arguments
    ---------
    argv : list of str
        Its arguments.

    Returns
    -------
    int
        The exit code: 1 if an input was not as expected, or the doctor found
        what would spoil a result.
    """
    options = build_parser().parse_args(argv)
    try:
        return COMMANDS[options.command](options)
    except ImportError as error:
        print(
            f"error: {options.command} needs {error.name or error}, which is "
            "not installed",
            file=sys.stderr,
        )
        return 1
    except BrokenPipeError:
        # Whoever read our words has read enough, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    # Also a folder where a file is expected, or one that may not be written.
    except (OSError, InputError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
