#!/usr/bin/env python3
"""A stream at the speed of speech: delay, share of a core, memory.

`predict -` with the static INT8 student at wav2vec2-base's shape, on one core; audio
is written as a microphone would, and every row is awaited.

> python benchmarks/stream.py results/bench/stream.json [MINUTES]
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np
import transformers
from inference import write_models
from machine import write_figures

RATE, HOP, WINDOW, MINUTES = 16000, 1.0, 4.0, 10
# Seconds of audio per write, as of a sound card.
PERIOD = 0.1
PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_mb(pid):
    """Memory that a process has now."""
    pages = pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * PAGE / 2**20


def cpu_seconds(pid):
    """What a process has computed so far."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().split()
    return sum(map(int, fields[13:15])) / os.sysconf("SC_CLK_TCK")


def write_in_real_time(pipe, seconds, written):
    """Writes noise; `written` gets the time at which every hop was there."""
    draw, started = np.random.default_rng(0), time.perf_counter()
    for i in range(round(seconds / PERIOD)):
        block = draw.normal(0, 3000, round(RATE * PERIOD)).astype("<i2")
        due = started + (i + 1) * PERIOD
        time.sleep(max(0.0, due - time.perf_counter()))
        pipe.write(block.tobytes())
        pipe.flush()
        if (i + 1) % round(HOP / PERIOD) == 0:
            written.append(time.perf_counter())
    pipe.close()


def measure(model, seconds):
    """Figures of a stream of so many seconds."""
    core = min(os.sched_getaffinity(0))
    command = [sys.executable, "-m", "mlkd_lobes", "predict", str(model), "-"]
    command += [f"--raw={RATE}", f"--hop={HOP}", f"--window={WINDOW}"]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    process.stdout.readline()  # the header: the model is open
    written, delays, memory = [], [], []
    arguments = process.stdin, seconds, written
    writer = threading.Thread(target=write_in_real_time, args=arguments)
    before, started = cpu_seconds(process.pid), time.perf_counter()
    writer.start()
    for row in range(round(seconds / HOP)):
        process.stdout.readline()
        delays.append(time.perf_counter() - written[row])
        memory.append(resident_mb(process.pid))
        used = cpu_seconds(process.pid) - before
    elapsed = time.perf_counter() - started
    writer.join()
    process.wait()
    early = round(len(memory) / 10)
    return {
        "seconds": seconds,
        "window": WINDOW,
        "hop": HOP,
        "rows": len(delays),
        "share_of_a_core": round(used / elapsed, 3),
        "median_delay_ms": round(1000 * float(np.median(delays))),
        "longest_delay_ms": round(1000 * max(delays)),
        "memory_mb_after_a_tenth": round(memory[early], 1),
        "memory_mb_at_the_end": round(memory[-1], 1),
    }


def main(path, minutes=MINUTES):
    """Writes the model, measures and writes the figures."""
    with tempfile.TemporaryDirectory() as folder:
        models = write_models(
            pathlib.Path(folder), transformers.Wav2Vec2Config()
        )
        result = measure(
            models["student, ONNX static INT8"], 60 * float(minutes)
        )
    write_figures(path, result)
    print(result)


if __name__ == "__main__":
    main(*sys.argv[1:])
