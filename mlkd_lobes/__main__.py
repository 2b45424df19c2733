"""Command line of the lobes: `python -m mlkd_lobes report | doctor …`."""

import argparse
import pathlib
import sys

from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.doctor import doctor_text, examine
from mlkd_lobes.evaluation.report import report_text, update_text
from mlkd_lobes.evaluation.results import find_runs
from mlkd_lobes.evaluation.summary import pool
from mlkd_lobes.evaluation.tables import plot_systems
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
        "report", help="tables and a figure of finished runs"
    )
    report.add_argument("folders", nargs="+", help="where to look for runs")
    report.add_argument("--figure", help="write UA over SNR here")
    report.add_argument(
        "--update",
        help="text file that holds the tables between "
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
    doctor.add_argument("--data_folder", help="what {data_root} stands for")
    doctor.add_argument("--noise_folder", help="what $noise_folder stands for")
    doctor.add_argument("--json", help="write all facts and findings here")
    return parser


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
    runs = find_runs(options.folders)
    systems = pool(runs)
    text = report_text(systems, runs[0].results)
    print(text)
    if options.figure:
        with atomic_path(options.figure) as temporary:
            plot_systems(systems, temporary)
    if options.update:
        path = pathlib.Path(options.update)
        updated = update_text(path.read_text(), options.folders[0], text)
        with atomic_path(path) as temporary:
            temporary.write_text(updated)
    return 0


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
