"""The HTML page and its figures: whole, self-contained, fit for a screen."""

import base64
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile
import torch
from helpers import write_wav
from test_summary import LABELS, write

from mlkd_lobes.__main__ import main
from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.figures import (
    colours,
    gain_over_snr,
    gains,
    inline_svg,
    ua_over_snr,
)
from mlkd_lobes.evaluation.listen import examples
from mlkd_lobes.evaluation.pooling import pool
from mlkd_lobes.evaluation.results import find_runs
from mlkd_lobes.evaluation.summary import score, seen_noise, ua_interval
from mlkd_lobes.noise import CLEAN, Condition, KeyedAddNoise

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


def test_no_line_runs_through_the_legend_of_the_gains(runs):
    figure = gain_over_snr(pool(find_runs([runs])))
    figure.draw_without_rendering()
    (axes,) = figure.axes
    legend = axes.get_legend()
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["mlkd", "mlkd_semi"]
    assert legend.get_window_extent().y0 >= axes.get_window_extent().y1


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


def test_the_page_is_whole_and_needs_nothing_else(page):
    text = page.read_text()
    read = Reader(text)
    # Gains, gain over SNR, two noise types, cost.
    assert read.tags.count("svg") == 5
    for figure in re.findall("<svg.*?</svg>", text, re.DOTALL):
        assert figure.count("<path") > 5 and figure.count("<text") > 3
    # Two confusion matrices per system, six tables; all have cells.
    assert read.tags.count("table") == 2 * 4 + 6
    for table in re.findall("<table.*?</table>", text, re.DOTALL):
        assert table.count("<td") >= 4
    assert all(r.startswith(("#", "data:")) for r in read.references)
    assert "url(http" not in text and "@import" not in text
    assert "mlkd − student_noisy" in read.texts
    ids = [name for name in read.ids if name]
    assert len(ids) == len(set(ids))


def test_the_page_shows_what_the_report_says(page, runs):
    read = Reader(page.read_text())
    systems = pool(find_runs([runs]))
    assert "mlkd − student_noisy in noise: +20.0 points of UA" in str(
        read.texts
    )
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
    systems = pool(find_runs([runs]))
    one, other = (inline_svg(gains(systems), "gains") for _ in range(2))
    assert one == other
    assert len(set(colours(systems).values())) == len(systems)
    assert gains([s for s in systems if s.name != "student_noisy"]) is None


def test_the_curves_are_the_scores(runs):
    systems = pool(find_runs([runs]))
    (axes,) = ua_over_snr(systems).axes
    drawn = {line.get_gid(): line.get_ydata() for line in axes.lines}
    bands = {band.get_gid(): band for band in axes.collections}
    for system in systems:
        noisy = [
            100 * score(system, seen_noise(system, snr=snr)) for snr in SNRS
        ]
        clean = 100 * score(system, [CLEAN])
        assert drawn[f"system:{system.name}:0"] == pytest.approx(noisy)
        assert drawn[f"system:{system.name}:1"] == pytest.approx(
            [noisy[-1], clean]
        )
        low, high = ua_interval(system, [CLEAN])
        heights = bands[f"system:{system.name}:2"].get_paths()[0].vertices[:, 1]
        assert 100 * low in heights and 100 * high in heights
    # The chance line.
    assert list(axes.lines[-1].get_ydata()) == [50, 50]


def test_the_gains_are_of_those_who_heard_noise(runs):
    for seed in (1, 2):
        write(runs, "teacher", 1, seed, 3, GRID)
    (axes,) = gains(pool(find_runs([runs]))).axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [
        f"{name}, 2 seeds" for name in ("mlkd_semi", "mlkd", "<own>")
    ]
    drawn = [
        line.get_xdata() for line in axes.lines if line.get_marker() == "o"
    ]
    assert np.concatenate(drawn) == pytest.approx([10, 20, 30])


@pytest.fixture
def heard(tmp_path):
    """What --listen needs: a fold's test manifest and noise, with audio."""
    generator = np.random.default_rng(1)
    manifest, fold = {}, tmp_path / "fold"
    for speaker in ("s2", "s3"):
        for n in range(10):
            name = f"{speaker}-{n}"
            wav = torch.from_numpy(0.1 * generator.standard_normal(8000))
            write_wav(tmp_path / f"audio/{name}.wav", wav.float())
            manifest[name] = {
                "wav": f"{{data_root}}/{name}.wav",
                "emo": LABELS[n % 2],
                "start": 0.1,
            }
    (fold / "manifests").mkdir(parents=True)
    (fold / "manifests/test.json").write_text(json.dumps(manifest))
    lines = ["ID,duration,wav,wav_format,wav_opts,noise_type,noise_type_format,"
             "noise_type_opts"]  # fmt: skip
    for kind in ("rain", "unseen-room"):
        wav = torch.from_numpy(0.1 * generator.standard_normal(16000))
        write_wav(tmp_path / f"noise/{kind}.wav", wav.float())
        path = f"$noise_folder/{kind}.wav"
        lines.append(f"{kind},1.0,{path},wav,,{kind},string,")
    (fold / "noise").mkdir()
    (fold / "noise/test.csv").write_text("\n".join(lines) + "\n")
    return fold


def test_utterances_are_heard_as_they_were_tested(runs, heard, tmp_path):
    page = tmp_path / "page.html"
    folders = [f"--data_folder={tmp_path}/audio"]
    folders.append(f"--noise_folder={tmp_path}/noise")
    command = ["report", str(runs), f"--html={page}", f"--listen={heard}"]
    assert main([*command, *folders]) == 0
    text = page.read_text()
    titles = re.findall("<h3>(neu|ang): (.*?)</h3>", text)
    assert [label for label, _ in titles] == LABELS
    sounds = re.findall('data:audio/wav;base64,([^"]+)', text)
    assert len(sounds) == 2 * 3
    noise = KeyedAddNoise(
        csv_file=str(heard / "noise/test.csv"),
        replacements={"noise_folder": str(tmp_path / "noise")},
    )
    utterance = titles[0][1]
    clean, rate = soundfile.read(tmp_path / f"audio/{utterance}.wav")
    clean = torch.tensor(clean, dtype=torch.float32)[1600:]
    grid = [CLEAN, Condition("rain", 10.0), Condition("rain", 0.0)]
    for sound, expected in zip(sounds, noise.grid(clean, utterance, grid)):
        found, rate = soundfile.read(io.BytesIO(base64.b64decode(sound)))
        assert rate == 16000
        assert found == pytest.approx(expected.numpy(), abs=1e-4)
    # Utterance 6 is right for mlkd alone of those compared.
    card = text.split(f"<h3>neu: {utterance}</h3>")[1].split("</table>")[0]
    rows = re.findall(r"<tr><td>(\w+)</td>(.*?)</tr>", card, re.DOTALL)
    said = {name: re.findall("<td.*?>(.*?)</td>", row) for name, row in rows}
    assert said["mlkd"] != said["student_noisy"]
    assert main([*command[:-1], f"--listen={tmp_path}", *folders]) == 1


def test_a_class_that_was_not_tested_is_not_heard(runs, heard, tmp_path):
    path = heard / "manifests/test.json"
    manifest = json.loads(path.read_text())
    neutral = {n: e for n, e in manifest.items() if e["emo"] == "neu"}
    path.write_text(json.dumps(neutral))
    systems = pool(find_runs([runs]))
    folders = str(tmp_path / "audio"), str(tmp_path / "noise")
    (example,) = examples(systems, heard, *folders)
    assert example["true"] == "neu"
    others = {f"other-{n}": entry for n, entry in neutral.items()}
    path.write_text(json.dumps(others))
    with pytest.raises(InputError, match="test.json: has no utterance that"):
        examples(systems, heard, *folders)


@pytest.mark.parametrize("grid,n", [([CLEAN], 1), ([CLEAN, *GRID[3:]], 3)])
def test_there_is_something_to_hear_without_noise(heard, tmp_path, grid, n):
    """Clean speech alone, or with noise that training never met."""
    write(tmp_path / "quiet", "mlkd", 1, 1, 8, grid)
    systems = pool(find_runs([tmp_path / "quiet"]))
    folders = tmp_path / "audio", tmp_path / "noise"
    for example in examples(systems, heard, *map(str, folders)):
        assert len(example["heard"]) == n
        assert all(sound["said"]["mlkd"] for sound in example["heard"])


@pytest.mark.skipif(not CHROMIUM, reason="needs chromium")
@pytest.mark.parametrize("width", [500, 1280, 1400])
def test_a_browser_shows_all_of_it(page, tmp_path, width):
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
    assert probe["boxes"] == 5 + 2 * 4 + 6 and probe["small"] == 0
    assert probe["full"] <= probe["width"] == width
    # Only a narrow window has to scroll wide tables.
    assert width < 1280 or not probe["cut"]
