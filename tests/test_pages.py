"""README.md and docs/: machine-made tables, lengths, links and commands."""

import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import cross_validate
import pages
import pytest
from helpers import RECIPE

import speechbrain as sb
from mlkd_lobes.cli import build_parser
from mlkd_lobes.training.overrides import check_arguments, read_settings
from mlkd_lobes.training.settings import TABLE

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), RECIPE / "README.md"]
ORDERED = ("speechbrain", "torch", "torchaudio", "hyperpyyaml", "pandas")
ORDERED += ("sentencepiece",)


def read(path):
    return path.read_text(encoding="utf-8")


def name(page):
    return str(page.relative_to(ROOT))


def commands():
    """Page, text before it, and words of every command in a bash block."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in re.finditer(r"^```bash\n(.*?)^```", text, re.M | re.S):
            for line in block[1].replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words:
                    yield name(page), text[: block.start()], words


COMMANDS = list(commands())


def test_machine_made_blocks_are_those_of_the_results():
    for page, blocks in pages.blocks().items():
        text = (ROOT / page).read_text(encoding="utf-8")
        assert pages.updated(page, blocks) == text, page


def test_a_lost_end_mark_changes_nothing_else():
    block = "<!-- report: {} -->\nold\n"
    text = block.format("a") + "by hand\n" + block.format("b")
    text += "<!-- end of report -->"
    with pytest.raises(SystemExit, match="found 0"):
        pages.update_text(text, "a", "new")
    changed = pages.update_text(text, "b", "new")
    assert changed == "new".join(text.rsplit("old", 1))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files(page):
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)", text):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_pages_keep_their_length(page):
    lines = len(page.read_text(encoding="utf-8").splitlines())
    assert lines <= (150 if page == ROOT / "README.md" else 200)


def test_every_key_is_on_the_page_of_settings():
    text = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    assert [key for key in TABLE if f"`{key}`" not in text] == []


def test_tests_named_on_pages_exist():
    files = [*ROOT.glob("tests/**/*.py")]
    functions = set(re.findall(r"def (test_\w+)", "".join(map(read, files))))
    known = functions | {file.stem for file in files}
    named = set(re.findall(r"\btest_\w+", "".join(map(read, PAGES))))
    named -= set(TABLE) | {"test_only", "test_sha256"}
    assert len(named) > 100
    assert named <= known, named - known


def test_ordered_packages_are_required():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    required = {line.split("==")[0] for line in lines}
    assert required >= set(ORDERED)


@pytest.mark.parametrize(
    "page,before,words",
    COMMANDS,
    ids=[f"{page}-{i}" for i, (page, *_) in enumerate(COMMANDS)],
)
def test_commands_on_pages_are_understood(
    page, before, words, tmp_path, monkeypatch
):
    """Folders are placeholders: a run would end at the first missing one."""
    if words[0] == "make":
        targets = re.findall(
            r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M
        )
        assert words[1] in targets
    elif "mlkd_lobes" in words:
        build_parser().parse_args(words[words.index("mlkd_lobes") + 1 :])
    elif {"train.py", "cross_validate.py"} & {*words}:
        monkeypatch.chdir(write_settings(tmp_path, before))
        file = next(i for i, word in enumerate(words) if ".yaml" in word)
        script, words = words, words[file:]
        if "cross_validate.py" in script:
            options, passed = cross_validate.parse(words)
            # Other folds and seeds are read in the same way.
            options.folds = options.seeds = "1"
            assert cross_validate.make_plan(options, passed)
            return
        hparams, run_opts, text = sb.parse_arguments(words)
        check_arguments(words, run_opts)
        read_settings(hparams, text)


def write_settings(folder, before):
    """A copy of the recipe's folder with the settings files of a page.

    A file that a command names has the YAML block before it.
    """
    place = folder / "recipes/IEMOCAP/mlkd"
    shutil.copytree(RECIPE / "hparams", place / "hparams")
    shutil.copytree(ROOT / "examples", folder / "examples")
    blocks = re.findall(r"^```yaml\n(.*?)^```", before, re.M | re.S)
    for file in ("mine.yaml", "more.yaml", "search.yaml", "variants.yaml"):
        (place / file).write_text(blocks[-1] if blocks else "")
    text = (place / "hparams/mlkd.yaml").read_text()
    own = text.replace("\nsystems:", "\nsystems:\n    squared: {}")
    (place / "my.yaml").write_text(own)
    return place


@pytest.mark.parametrize(
    "words",
    [w for *_, w in COMMANDS if "report" in w and "results/ravdess" in str(w)],
    ids=str,
)
def test_reports_of_committed_results_run_as_written(words, tmp_path):
    (tmp_path / "results").symlink_to(ROOT / "results")
    command = [sys.executable, *words[1:]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "| mlkd" in done.stdout
