"""Command line of the lobes: `python -m mlkd_lobes report RESULTS_FOLDER…`."""

import argparse
import pathlib
import sys

from mlkd_lobes.evaluation.report import report_text, update_text
from mlkd_lobes.evaluation.results import find_runs
from mlkd_lobes.evaluation.tables import plot_systems
from mlkd_lobes.files import atomic_path


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
    return parser


def report(options):
    """Prints the tables; writes figure and text where asked to.

    Arguments
    ---------
    options : argparse.Namespace
        Of the command line.
    """
    runs = find_runs(options.folders)
    text = report_text(runs)
    print(text)
    if options.figure:
        with atomic_path(options.figure) as temporary:
            plot_systems(runs, temporary)
    if options.update:
        path = pathlib.Path(options.update)
        updated = update_text(path.read_text(), options.folders[0], text)
        with atomic_path(path) as temporary:
            temporary.write_text(updated)


def main(argv):
    """Runs a command.

    Arguments
    ---------
    argv : list of str
        Its arguments.

    Returns
    -------
    int
        The exit code: 1 if an input was not as expected.
    """
    options = build_parser().parse_args(argv)
    try:
        {"report": report}[options.command](options)
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
