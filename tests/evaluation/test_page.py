"""The HTML page and its figures: whole, self-contained, fit for a screen."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from fake_runs import write

from mlkd_lobes.cli import main
from mlkd_lobes.evaluation.comparison import find_runs, pool
from mlkd_lobes.evaluation.figures import colours, inline_svg, ua_over_snr
from mlkd_lobes.noise.add_noise import CLEAN, Condition

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SNRS = (0.0, 10.0)
GRID = [
    CLEAN,
    *[Condition(k, s) for k in ("rain", "unseen-room") for s in SNRS],
]


@pytest.fixture
def runs(tmp_path):
    """Four systems, two of them multi-level, two seeds."""
    folder = tmp_path / "runs"
    systems = {"student_noisy": 6, "mlkd": 8, "mlkd_semi": 7, "<own>": 9}
    for system, right in systems.items():
        for seed in (1, 2):
            place = write(folder, system, 1, seed, right, GRID)
            (place / "cost.json").write_text('{"macs_per_second": 4e7}')
    return folder


@pytest.fixture
def page(runs, tmp_path):
    path = tmp_path / "page.html"
    assert main(["report", str(runs), f"--html={path}"]) == 0
    return path


class Reader(HTMLParser):
    """Counts elements, their contents and what they refer to."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.references, self.ids = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        attributes = dict(attributes)
        self.ids.append(attributes.get("id"))
        for name in ("src", "href", "xlink:href"):
            self.references.append(attributes.get(name) or "#")

    def handle_data(self, text):
        self.texts.append(text.strip())


def test_the_page_is_complete_and_self_contained(page):
    text = page.read_text()
    read = Reader(text)
    # Two noise types, and coverage.
    assert read.tags.count("svg") == 3
    for figure in re.findall("<svg.*?</svg>", text, re.DOTALL):
        assert figure.count("<path") > 5 and figure.count("<text") > 3
    # Two confusion matrices per system, seven tables; all have cells.
    assert read.tags.count("table") == 2 * 4 + 7
    for table in re.findall("<table.*?</table>", text, re.DOTALL):
        assert table.count("<td") >= 4
    assert all(r.startswith(("#", "data:")) for r in read.references)
    assert "url(http" not in text and "@import" not in text
    assert "mlkd − student_noisy" in read.texts
    ids = [name for name in read.ids if name]
    assert len(ids) == len(set(ids))


def test_the_page_shows_the_values_of_the_report(page, runs):
    read = Reader(page.read_text())
    systems = pool(find_runs([runs])).systems
    assert "mlkd − student_noisy, noisy: +20.0 points" in str(read.texts)
    assert "+20.0" in read.texts and "chance is 50.0 % UA" in str(read.texts)
    assert {system.name for system in systems} <= set(read.texts)
    # Seen noise at 0 dB, of mlkd: six of ten right, from the front.
    card = page.read_text().split("<h3>mlkd</h3>")[1].split("<h3>")[0]
    shares = [int(n) for n in re.findall(r">\s*(\d+)</td>", card)]
    assert shares == [80, 20, 20, 80, 60, 40, 40, 60]


def test_foreign_names_are_text(page):
    text = page.read_text()
    assert "<own>" not in text and "&lt;own&gt;" in text


def test_parts_of_a_system_can_be_hidden(page):
    text = page.read_text()
    boxes = set(re.findall('data-shows="(.*?)"', text))
    parts = set(re.findall('data-system="(.*?)"', text))
    assert (
        boxes == parts == {"student_noisy", "mlkd", "mlkd_semi", "&lt;own&gt;"}
    )


def test_equal_figures_are_equal_and_every_system_has_its_colour(runs):
    systems = pool(find_runs([runs])).systems
    drawn = [ua_over_snr(systems) for _ in range(2)]
    one, other = (inline_svg(figure, "UA") for figure in drawn)
    assert one == other
    assert len(set(colours(systems).values())) == len(systems)


def test_the_curves_are_the_scores(runs):
    systems = pool(find_runs([runs])).systems
    (axes,) = ua_over_snr(systems).axes
    drawn = {line.get_gid(): line.get_ydata() for line in axes.lines}
    bands = {band.get_gid(): band for band in axes.collections}
    for system in systems:
        noisy = [100 * system.score(system.conditions(snr=snr)) for snr in SNRS]
        clean = 100 * system.score([CLEAN])
        assert drawn[f"system:{system.name}:0"] == pytest.approx(noisy)
        assert drawn[f"system:{system.name}:1"] == pytest.approx(
            [noisy[-1], clean]
        )
        low, high = system.ua_interval([CLEAN])
        heights = bands[f"system:{system.name}:2"].get_paths()[0].vertices[:, 1]
        assert 100 * low in heights and 100 * high in heights
    # The chance line.
    assert list(axes.lines[-1].get_ydata()) == [50, 50]


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="needs chromium")
@pytest.mark.parametrize("width", [500, 1280, 1400])
def test_page_fits_the_browser_window(page, tmp_path, width):
    """Nothing sticks out, every figure has a size; fonts and layout are real."""
    probe = """<script>
    const boxes = [...document.querySelectorAll("svg, table")].map(
      (e) => e.getBoundingClientRect());
    document.body.dataset.probe = JSON.stringify({
      width: innerWidth, full: document.documentElement.scrollWidth,
      small: boxes.filter((b) => b.width < 60 || b.height < 40).length,
      cut: [...document.querySelectorAll(".scroll")].filter(
        (e) => e.scrollWidth > e.clientWidth).length,
      boxes: boxes.length});
    </script></body>"""
    page.write_text(page.read_text().replace("</body>", probe))
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu"]
    command += [f"--window-size={width},1000", f"--user-data-dir={tmp_path}/c"]
    done = subprocess.run(
        [*command, "--dump-dom", f"file://{page}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search(r'data-probe="(.*?)"', done.stdout)
    assert found, done.stderr[-2000:]
    probe = json.loads(found[1].replace("&quot;", '"'))
    assert probe["boxes"] == 3 + 2 * 4 + 5 and probe["small"] == 0
    assert probe["full"] <= probe["width"] == width
    # Only a narrow window has to scroll wide tables.
    assert width < 1280 or not probe["cut"]
