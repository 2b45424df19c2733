"""Runs the command line: python -m mlkd_lobes."""

import sys

from mlkd_lobes.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
