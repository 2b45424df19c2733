"""Streams from standard input, sliding windows, rows without an emotion."""

import csv
import importlib.util
import io
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import soundfile
import torch
from helpers import seeded, write_wav
from hypothesis import (
    example,
    given,
    strategies as st,
)

from mlkd_lobes.cli import main
from mlkd_lobes.deployment.predict import (
    Part,
    Prediction,
    emotion_of,
    sliding,
    windows,
    write_predictions,
)
from mlkd_lobes.deployment.stream import read_stream
from mlkd_lobes.errors import InputError


@given(st.integers(1, 2000), st.integers(1, 500), st.floats(1, 300))
@example(n=15435 * 20, longest=99, hop=0.7 * 22050)  # not exact in binary
def test_windows_end_at_every_hop_and_at_the_end(n, longest, hop):
    found = list(sliding(n, longest, hop))
    ends = [stop for _, stop in found]
    assert ends[-1] == n and ends == sorted({*ends})
    assert all(b - a <= np.ceil(hop) for a, b in zip([0, *ends], ends))
    assert all(a == max(0, b - longest) for a, b in found)


def stream(content, window=2.0, hop=0.5, raw_rate=None, pause=0):
    """What is read from a pipe that gets some bytes."""
    reader, writer = os.pipe()

    def write():
        with open(writer, "wb") as file:
            for i in range(0, len(content), 9999):
                file.write(content[i : i + 9999])
                file.flush()
                time.sleep(pause)

    threading.Thread(target=write, daemon=True).start()
    found = list(read_stream(window, hop, raw_rate, reader))
    # After an error its thread still reads: a later pipe must not get the number.
    os.close(reader)
    return found


def as_wav(samples, rate=16000, **options):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", **options)
    return buffer.getvalue()


SAMPLES = 0.1 * torch.randn(36000, generator=seeded("stream")).numpy()


@pytest.mark.parametrize("kind", ["wav", "float", "raw", "unknown length"])
def test_a_stream_gives_the_windows_of_its_file(tmp_path, kind):
    subtype = "FLOAT" if kind == "float" else "PCM_16"
    content = as_wav(SAMPLES, subtype=subtype)
    (tmp_path / "a.wav").write_bytes(content)
    rate = None
    if kind == "raw":
        content, rate = content[44:], 16000
    if kind == "unknown length":
        # As ffmpeg writes to a pipe.
        content = content[:40] + b"\xff" * 4 + content[44:]
    found = stream(content, raw_rate=rate, pause=0.001)
    expected = list(windows(Part(tmp_path / "a.wav", 0.0, None), 2.0, 0.5))
    assert len(found) == len(expected) == 5
    for (one, wav), (other, stored) in zip(found, expected):
        assert (one.start, one.stop) == (other.start, other.stop)
        assert np.array_equal(wav, stored)


@pytest.mark.parametrize("rate", [8000, 11025, 44100])
def test_other_rates_and_channels_are_those_of_the_file(tmp_path, rate):
    stereo = np.stack([SAMPLES, np.zeros_like(SAMPLES)], 1)
    content = as_wav(stereo, rate)
    (tmp_path / "a.wav").write_bytes(content)
    # 551.25 samples a hop at 11,025 Hz.
    found = stream(content, window=0.4, hop=0.05)
    part = Part(tmp_path / "a.wav", 0.0, None)
    for (one, wav), (other, stored) in zip(
        found, windows(part, 0.4, 0.05), strict=True
    ):
        times = (one.start, one.stop), (other.start, other.stop)
        assert times[0] == pytest.approx(times[1], abs=1e-9)
        assert np.allclose(wav, stored, atol=1e-6)


@pytest.mark.parametrize(
    "content,message",
    [
        (b"", "standard input is no WAV"),
        (b"text" * 100, "standard input is no WAV"),
        (as_wav(np.zeros(0)), "no samples"),
        (as_wav(np.full(16000, np.nan), subtype="FLOAT"), "NaN, infinite"),
        (as_wav(np.zeros(100), 1000), "a sampling rate of 1000 Hz"),
    ],
)
def test_bad_streams_are_named(content, message):
    with pytest.raises(InputError, match=message):
        stream(content)


def test_memory_of_a_stream_is_a_window():
    found = stream(bytes(2 * 16000 * 20), window=1.0, hop=0.5, raw_rate=16000)
    assert {len(wav) for _, wav in found[2:]} == {16000}
    assert all(wav.base is None or len(wav.base) < 32000 for _, wav in found)


def command(exported, *options):
    model = exported / "onnx/model.onnx"
    return [sys.executable, "-m", "mlkd_lobes", "predict", str(model), *options]


def heed_interrupts():
    """Also where the tests run in the background, which ignores them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(exported, *options):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    pipes.update(stderr=subprocess.PIPE, preexec_fn=heed_interrupts)
    return subprocess.Popen(command(exported, "-", *options), **pipes)


def test_rows_come_while_the_stream_goes_on(exported, tmp_path):
    """And are those of the file."""
    content = as_wav(SAMPLES)
    process = start(exported, "--hop=0.5", "--window=2")
    # The first of five windows, and a little more.
    process.stdin.write(content[:20000])
    process.stdin.flush()
    header, first = process.stdout.readline(), process.stdout.readline()
    assert process.poll() is None
    rest, errors = process.communicate(content[20000:])
    assert process.returncode == 0, errors
    rows = list(csv.DictReader(io.StringIO((header + first + rest).decode())))
    (tmp_path / "a.wav").write_bytes(content)
    options = ["--hop=0.5", "--window=2", f"--output={tmp_path}/found.csv"]
    done = command(exported, str(tmp_path / "a.wav"), *options)
    assert subprocess.call(done) == 0
    with open(tmp_path / "found.csv") as file:
        expected = list(csv.DictReader(file))
    assert len(rows) == 5 and {row.pop("path") for row in rows} == {"-"}
    for row, other in zip(rows, expected):
        other.pop("path")
        assert row.pop("emotion") == other.pop("emotion")
        for key in row:
            assert float(row[key]) == pytest.approx(float(other[key]), abs=1e-5)


def test_rows_written_before_an_interrupt_remain(exported, tmp_path):
    path = tmp_path / "rows.csv"
    options = ["--hop=0.5", "--window=2", f"--output={path}"]
    process = start(exported, *options)
    process.stdin.write(as_wav(SAMPLES))
    process.stdin.flush()
    deadline = time.time() + 60
    while not path.exists() or path.read_text().count("\n") < 4:
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    assert path.read_text().count("\n") >= 4


@pytest.mark.parametrize("end", ["interrupt", "closed"])
def test_streams_end_cleanly(exported, end):
    process = start(exported, "--hop=0.5", "--window=1")
    content = as_wav(np.tile(SAMPLES, 9))
    process.stdin.write(content[:30000])
    process.stdin.flush()
    process.stdout.readline(), process.stdout.readline()
    if end == "interrupt":
        # By then it waits for samples that never come.
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        code = process.wait(60)
    else:
        process.stdout.close()
        try:
            process.stdin.write(content[30000:])
            process.stdin.close()
        except BrokenPipeError:
            pass
        code = process.wait(60)
    assert code == {"interrupt": 130, "closed": 1}[end]
    assert b"Traceback" not in process.stderr.read()


@pytest.mark.parametrize(
    "options,message",
    [
        (["-", "a.wav"], "a stream comes alone"),
        (["a.wav", "--raw=16000"], "--raw: is for a stream"),
        (["a.wav", "--hop=0"], "--hop: 0 is not between"),
        (["a.wav", "--min_confidence=2"], "--min_confidence: 2 is not"),
    ],
)
def test_options_of_streams_are_checked(exported, capsys, options, message):
    assert main(["predict", str(exported), *options]) == 1
    assert message in capsys.readouterr().err


def test_uncertain_and_silent_windows_have_no_emotion(tmp_path):
    labels, part = ["x", "y"], Part("a", 0.0, 1.0)
    sure, unsure = np.array([0.9, 0.1]), np.array([0.55, 0.45])
    cases = [
        (sure, None, 0.6, "x"),
        (unsure, None, 0.6, None),
        (unsure, None, 0.0, "x"),
        (sure, 0.02, 0.0, None),
        (sure, 0.5, 0.0, "x"),
    ]
    for probabilities, speech, least, expected in cases:
        prediction = Prediction(part, probabilities, speech)
        assert emotion_of(prediction, labels, least) == expected
    file = io.StringIO()
    found = [Prediction(part, sure, 0.02), Prediction(part, sure, 0.5)]
    write_predictions(found, labels, file, vad=True)
    assert file.getvalue().splitlines() == [
        "path,start,end,emotion,p_x,p_y,speech",
        "a,0.0,1.0,,0.9,0.1,0.02",
        "a,0.0,1.0,x,0.9,0.1,0.5",
    ]


def test_the_detector_knows_noise_and_silence(exported, tmp_path):
    """Its model comes with its package; nothing is downloaded."""
    # Importing it here would change the number of threads.
    if not importlib.util.find_spec("silero_vad"):
        pytest.skip("needs silero_vad")
    write_wav(tmp_path / "noise.wav", 0.1 * torch.randn(32000))
    write_wav(tmp_path / "silence.wav", torch.zeros(32000))
    out = tmp_path / "found.csv"
    options = [str(tmp_path), "--vad", f"--output={out}"]
    assert main(["predict", str(exported), *options]) == 0
    with open(out) as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert all(r["emotion"] == "" and float(r["speech"]) == 0 for r in rows)


@pytest.mark.parametrize("kind", ["MP3", "RF64"])
def test_formats_that_a_pipe_spoils_are_refused(kind):
    buffer = io.BytesIO()
    soundfile.write(buffer, SAMPLES, 16000, format=kind)
    with pytest.raises(InputError, match=f"expected WAV, not {kind}"):
        stream(buffer.getvalue())
