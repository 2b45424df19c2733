"""The app: its answers, and a whole round in a real browser."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import soundfile
import torch
from helpers import measured_snr, seeded, write_musan, write_noise, write_wav

from mlkd_lobes.deployment import listening, load_model
from mlkd_lobes.deployment.listening import Noises, answer, summary
from mlkd_lobes.errors import InputError

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
gradio = pytest.importorskip("gradio")


@pytest.fixture(scope="module")
def models(exported):
    return {
        "student": load_model(exported, "int8"),
        "teacher": load_model(exported),
    }


@pytest.fixture
def recording(tmp_path):
    wav = 0.1 * torch.randn(32000, generator=seeded("recording"))
    write_wav(tmp_path / "speech.wav", wav)
    return str(tmp_path / "speech.wav")


def test_noises_of_a_folder(tmp_path):
    folder = write_noise(tmp_path / "noise")
    assert Noises(folder).names == [
        "none", "white", "rain", "wind", "own recording"
    ]  # fmt: skip
    musan = Noises(write_musan(tmp_path / "musan"))
    assert "babble" in musan.names and "speech" in musan.names
    write_wav(tmp_path / "esc/rain-1-2345-A-10.wav", torch.randn(9000))
    (tmp_path / "esc/rain-1-2345-A-10.wav").rename(
        tmp_path / "esc/rain_1-2345-A.wav"
    )
    assert "rain" in Noises(tmp_path / "esc").names
    for noises, name in ((Noises(folder), "rain"), (musan, "babble")):
        one, other = noises.draw(name, 50000), noises.draw(name, 50000)
        assert one.shape == (50000,) and np.array_equal(one, other)
    for name in ("one", "two", "three"):
        write_wav(tmp_path / f"talkers/{name}.wav", torch.randn(9000))
    talk = Noises(babble_folder=tmp_path / "talkers")
    assert talk.names == ["none", "white", "babble", "own recording"]
    assert talk.draw("babble", 5000).any()
    assert Noises().draw("none", 5) is None
    with pytest.raises(InputError, match="no noise 'snow'.*none, white"):
        Noises().draw("snow", 5)
    with pytest.raises(InputError, match="give a recording"):
        Noises().draw("own recording", 5)
    # One file that cannot be read leaves the others of its type.
    (folder / "rain/a.wav").write_text("no audio")
    assert Noises(folder).draw("rain", 50).any()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no audio in"):
        Noises(tmp_path / "empty")
    with pytest.raises(InputError, match="0 talker.*at least 3"):
        Noises(babble_folder=tmp_path / "empty")


def test_a_mixture_has_its_snr_and_the_models_probabilities(models, recording):
    found = answer(models, Noises(), recording, "white", snr=5.0)
    wav = torch.from_numpy(soundfile.read(recording, dtype="float32")[0])
    mixture = torch.from_numpy(found.mixture)
    assert measured_snr(wav, mixture, 5.0) == pytest.approx(5.0, abs=0.1)
    for name, model in models.items():
        expected = list(model.classify(found.mixture).values())
        assert np.allclose(found.probabilities[name], [expected], atol=1e-6)
        assert found.curves[name].shape == (len(listening.SNRS) + 1, 4)
        clean = list(model.classify(recording).values())
        assert np.allclose(found.curves[name][-1], clean, atol=1e-6)
        assert f"**{name}**" in summary(found, models)
    quiet = answer(models, Noises(), recording)
    assert np.array_equal(quiet.mixture, wav.numpy()) and not quiet.curves


def test_long_recordings_have_windows(models, tmp_path):
    write_wav(tmp_path / "long.wav", 0.1 * torch.randn(16000 * 25))
    found = answer(models, Noises(), str(tmp_path / "long.wav"), "white", 0.0)
    assert [p.stop for p in found.windows] == [*range(2, 25, 2), 25]
    assert found.probabilities["student"].shape == (13, 4)
    assert not found.curves and "windows" in summary(found, models)


@pytest.mark.parametrize("bad", ["empty", "text", "zeros", "hours"])
def test_bad_recordings_are_answered(models, tmp_path, bad):
    path = tmp_path / f"{bad}.wav"
    if bad == "zeros":
        write_wav(path, torch.zeros(5 * 2**20))
    elif bad == "hours":
        with soundfile.SoundFile(path, "w", 8000, 1, "PCM_U8") as file:
            for _ in range(120):
                file.write(np.ones(8000 * 60, np.int16))
    else:
        path.write_text({"empty": "", "text": "text " * 99}[bad])
    message = {
        "empty": "the file is empty",
        "text": "not readable as audio",
        "zeros": "is silent",
        "hours": "lasts 7200 s; at most 600 s",
    }
    with pytest.raises(InputError, match=message[bad]):
        answer(models, Noises(), str(path))


@contextlib.contextmanager
def serving(models, noises):
    from mlkd_lobes.deployment import app

    page, address, folder = app.serve(models, noises, wait=False)
    try:
        yield address, folder
    finally:
        page.close(verbose=False)
        shutil.rmtree(folder, ignore_errors=True)


def test_requests_of_several_people_are_all_answered(
    models, recording, tmp_path
):
    """Bad ones with a reason, and none keeps the others from theirs."""
    from gradio_client import Client, handle_file

    (tmp_path / "text.wav").write_text("text")
    answers, errors = [], []
    with serving(models, Noises()) as (address, _):

        def ask(name):
            client = Client(address, verbose=False)
            for snr in (0, 10, 20):
                try:
                    found = client.predict(
                        handle_file(str(tmp_path / name)),
                        "white", snr, None, api_name="/classify",
                    )  # fmt: skip
                    answers.append(found[1])
                except Exception as error:
                    errors.append(str(error))

        names = ["speech.wav", "speech.wav", "text.wav"]
        threads = [threading.Thread(target=ask, args=[n]) for n in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(answers) == 6 and len(errors) == 3
    assert all("**student**" in text for text in answers)
    assert all("not readable as audio" in text for text in errors)


def test_the_same_request_of_two_people_gives_two_files(
    models, recording, tmp_path, monkeypatch
):
    """One would be written again while the other is sent."""
    from mlkd_lobes.deployment import app

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    respond = app.responder(models, Noises())
    paths = [respond(recording, "white", 0, None)[0] for _ in range(2)]
    assert paths[0] != paths[1]
    found = answer(models, Noises(), recording, "white", 0.0).mixture
    for path in paths:
        written, rate = soundfile.read(path)
        assert rate == 16000 and np.allclose(written, found, atol=1e-4)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_recordings_are_removed_at_the_end(exported, tmp_path, number):
    command = [sys.executable, "-m", "mlkd_lobes", "app", str(exported)]
    process = subprocess.Popen(
        [*command, "--backend=onnx"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
        # Tests in the background ignore it, and so would the command.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert "http://127.0.0.1:" in process.stdout.readline()
    (folder,) = tmp_path.glob("mlkd-app-*")
    (folder / "recording.wav").touch()
    time.sleep(1)
    process.send_signal(number)
    process.wait(60)
    assert not folder.exists()


@pytest.mark.skipif(not CHROMIUM, reason="needs chromium")
@pytest.mark.slow
def test_a_round_in_a_browser(models, recording, tmp_path):
    """Drop a recording, choose a noise, see both models; the keyboard does as
    well, nothing is fetched from elsewhere, and bad files are answered."""
    sync_api = pytest.importorskip("playwright.sync_api")
    (tmp_path / "text.wav").write_text("text")
    requested, problems = [], []
    noises = Noises(write_noise(tmp_path / "noise"))
    with serving(models, noises) as (
        address,
        _,
    ), sync_api.sync_playwright() as p:
        browser = p.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"]
        )
        for width, scheme in ((1280, "light"), (390, "dark")):
            page = browser.new_page(
                viewport={"width": width, "height": 900}, color_scheme=scheme
            )
            page.on("request", lambda request: requested.append(request.url))
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.goto(address)
            page.set_input_files("input[type=file] >> nth=0", recording)
            page.get_by_label("Noise", exact=True).click()
            page.get_by_role("option", name="rain").click()
            button = page.get_by_role("button", name="Classify")
            button.focus()
            page.keyboard.press("Enter")
            text = page.locator("#answer")
            text.get_by_text("student").wait_for(timeout=60000)
            assert re.search(r"teacher: \w+ \(\d+%\)", text.inner_text())
            for chart in ("#bars", "#lines"):
                box = page.locator(f"{chart} svg").bounding_box()
                assert box["width"] > 200 and box["x"] + box["width"] <= width
            wide = page.evaluate(
                "document.documentElement.scrollWidth <= innerWidth + 1"
            )
            assert wide
            page.close()
        page = browser.new_page()
        page.goto(address)
        page.set_input_files(
            "input[type=file] >> nth=0", str(tmp_path / "text.wav")
        )
        page.get_by_role("button", name="Classify").click()
        page.get_by_text("not readable as audio").wait_for(timeout=60000)
        browser.close()
    elsewhere = [
        u for u in requested if not u.startswith((address, "data:", "blob:"))
    ]
    assert not elsewhere and not problems
