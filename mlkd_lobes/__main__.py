"""Command line of the lobes: `python -m mlkd_lobes report | doctor …`."""

import argparse
import pathlib
import sys

from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.doctor import doctor_text, examine
from mlkd_lobes.evaluation.figures import save, ua_over_snr
from mlkd_lobes.evaluation.listen import examples
from mlkd_lobes.evaluation.page import page_html
from mlkd_lobes.evaluation.report import report_text, update_text
from mlkd_lobes.evaluation.results import find_runs
from mlkd_lobes.evaluation.summary import pool
from mlkd_lobes.files import atomic_path, write_json


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
    return parser


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
    runs = find_runs(options.folders, _folds(options.folds))
    systems, about = pool(runs), runs[0].results
    print(report_text(systems, about))
    if options.figure:
        suffix = pathlib.Path(options.figure).suffix[1:]
        with atomic_path(options.figure) as temporary:
            save(ua_over_snr(systems), temporary, suffix)
    if options.html:
        heard = ()
        if options.listen:
            folders = options.data_folder, options.noise_folder
            heard = examples(systems, options.listen, *folders)
        with atomic_path(options.html) as temporary:
            page = page_html(systems, about, heard)
            temporary.write_text(page, encoding="utf-8")
    if options.update:
        path = pathlib.Path(options.update)
        short = report_text(systems, about, short=True)
        updated = update_text(path.read_text(), options.folders[0], short)
        with atomic_path(path) as temporary:
            temporary.write_text(updated)
    return 0


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
    found = examine(options.target, options.data_folder, options.noise_folder)
    print(doctor_text(found))
    if options.json:
        write_json(options.json, found)
    levels = {finding["level"] for finding in found["findings"]}
    return int("error" in levels)


COMMANDS = {"report": report, "doctor": doctor}


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
    except (FileNotFoundError, InputError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
