"""The reproductions of faults to be reported upstream print what they promise."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).parents[2] / "docs/upstream"
PAGES = sorted(FOLDER.glob("[a-z]*.md"))
CHECKOUT = os.environ.get("SPEECHBRAIN")


def blocks(page, language):
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_reproduction_prints_what_the_page_says(page, tmp_path):
    (code,), (expected,) = blocks(page, "python"), blocks(page, "text")
    in_checkout = "From the root of a checkout" in page.read_text()
    if in_checkout and not CHECKOUT:
        pytest.skip("needs SPEECHBRAIN=<checkout>: recipes are not packaged")
    # Started in a checkout, Python would take its package for the installed.
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=pathlib.Path(CHECKOUT).expanduser() if in_checkout else tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == expected


def test_every_page_is_listed():
    index = (FOLDER / "README.md").read_text()
    assert PAGES and set(re.findall(r"\((\w+\.md)\)", index)) == {
        page.name for page in PAGES
    }
