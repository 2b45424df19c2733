#!/usr/bin/env python3
"""A thousand requests to the app from four clients, one in five of them bad.

Counts answers, wrong ones included, and what is left: memory, files.

> python tests/app_requests.py EXPORT results/robustness/app_requests.json
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter

import httpx
import numpy as np
import soundfile
from gradio_client import Client, handle_file

REQUESTS, CLIENTS, PARTS = 1000, 4, 5
NOISES = ["white", "babble", "none", "white"]  # of the clients
# Kinds of requests in turn, and what the answer to each holds.
ROUND = ["speech"] * 16 + ["empty", "text", "zeros", "hours"]
EXPECTED = {
    "speech": r"recognises|\*\*",
    "empty": "the file is empty",
    "text": "not readable as audio",
    "zeros": "is silent",
    "hours": "File size exceeded|exceeds|at most",
}


def write_recordings(folder):
    """One file per kind of request."""
    draw = np.random.default_rng(0)
    soundfile.write(folder / "speech.wav", draw.normal(0, 0.1, 32000), 16000)
    soundfile.write(folder / "zeros.wav", np.zeros(5 * 2**20), 16000)
    with soundfile.SoundFile(folder / "hours.wav", "w", 8000, 1) as file:
        for _ in range(120):
            file.write(np.ones(8000 * 60, np.int16))
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("text " * 99)


def write_talkers(folder):
    """Three people's speech, for babble."""
    draw = np.random.default_rng(1)
    folder.mkdir()
    for name in ("one", "two", "three"):
        soundfile.write(
            folder / f"{name}.wav", draw.normal(0, 0.1, 64000), 16000
        )


def resident_mb(process):
    """Memory that a process has now."""
    pages = pathlib.Path(f"/proc/{process.pid}/statm").read_text().split()[1]
    return int(pages) * 4096 / 2**20


def ask(address, folder, kinds, noise, found):
    """One client; counts answers by kind, and those that are not as expected."""
    client = Client(address, verbose=False)
    for kind in kinds:
        try:
            recording = handle_file(str(folder / f"{kind}.wav"))
            arguments = recording, noise, 5, None
            text = str(client.predict(*arguments, api_name="/classify")[1])
        except Exception as error:
            text = str(error)
        good = re.search(EXPECTED[kind], text)
        found[kind if good else f"{kind}: {text[:200]}"] += 1


def odd_names(address):
    """Status of an upload and of a request whose names lead elsewhere."""
    upload = {"files": ("../../../evil.wav", b"RIFF", "audio/wav")}
    url = f"{address.rstrip('/')}/gradio_api"
    stored = httpx.post(f"{url}/upload", files=upload)
    data = [
        {"path": "../../../etc/passwd", "meta": {"_type": "gradio.FileData"}}
    ]
    data += ["white", 5, None]
    event = httpx.post(f"{url}/call/classify", json={"data": data}).json()
    events = httpx.get(f"{url}/call/classify/{event['event_id']}").text
    return {
        "upload": pathlib.Path(stored.json()[0]).name,
        "request": events.split("\n")[0],
    }


def measure(export):
    """What FILE will hold."""
    with tempfile.TemporaryDirectory() as name:
        folder, temporary = pathlib.Path(name, "in"), pathlib.Path(name, "tmp")
        folder.mkdir()
        temporary.mkdir()
        write_recordings(folder)
        talkers = folder / "talkers"
        write_talkers(talkers)
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "mlkd_lobes",
                "app",
                export,
                "--backend=int8",
                f"--babble_folder={talkers}",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "TMPDIR": str(temporary)},
        )
        line = ""
        while "http" not in line:
            line = process.stdout.readline()
        address = re.search(r"http://[\d.:]+", line)[0]
        found, memory, started = Counter(), [], time.time()
        kinds = ROUND * (REQUESTS // CLIENTS // len(ROUND) + 1)
        kinds = kinds[: REQUESTS // CLIENTS // PARTS]
        for _ in range(PARTS):
            threads = [
                threading.Thread(
                    target=ask, args=[address, folder, kinds, noise, found]
                )
                for noise in NOISES
            ]
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
            memory.append(round(resident_mb(process)))
        seconds, names = time.time() - started, odd_names(address)
        outside = [str(p) for p in pathlib.Path(name).rglob("evil*")]
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        left = [p.name for p in temporary.rglob("*") if p.is_file()]
    return {
        "requests": REQUESTS,
        "clients": CLIENTS,
        "answers": dict(found),
        "requests_per_second": round(REQUESTS / seconds, 1),
        f"memory_mb_after_each_{REQUESTS // PARTS}": memory,
        "names_with_dots": {
            **names,
            "files_outside_its_folder": [
                p for p in outside if str(temporary) not in p
            ],
        },
        "files_left": left,
    }


if __name__ == "__main__":
    result = measure(sys.argv[1])
    print(json.dumps(result, indent=1))
    pathlib.Path(sys.argv[2]).write_text(json.dumps(result, indent=1) + "\n")
