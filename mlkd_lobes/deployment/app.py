"""Serves a page on this machine that classifies a recording mixed with noise.

> python -m mlkd_lobes app exported --compare=teacher --noise_folder=musan

Gradio serves it on 127.0.0.1 alone; nothing is sent anywhere, and recordings are
removed when the app ends, or after an hour.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import sys
import tempfile
import threading

# Memory stays flat: few heaps for all threads, and freed arrays of a megabyte and
# more go back to the system (mallopt's M_ARENA_MAX and M_MMAP_THRESHOLD; of glibc).
with contextlib.suppress(AttributeError, TypeError):
    for option, value in ((-8, 2), (-3, 2**20)):
        ctypes.CDLL(None).mallopt(option, value)
# Before Gradio is imported.
os.environ.update(
    GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1"
)

import gradio as gr  # noqa: E402
import matplotlib  # noqa: E402
import numpy as np  # noqa: E402
import soundfile  # noqa: E402

from mlkd_lobes.data.audio import SAMPLE_RATE  # noqa: E402
from mlkd_lobes.deployment import listening  # noqa: E402
from mlkd_lobes.errors import InputError  # noqa: E402
from mlkd_lobes.evaluation import figures  # noqa: E402

ADDRESS, MAX_UPLOADED = "127.0.0.1", "50mb"
# Seconds: how often old files are looked for, and how old they get.
SWEEP, AGE = 60, 3600
# Answers at a time; the others wait in a line of this length.
AT_ONCE, WAITING = 2, 100
# Matplotlib's settings are global, so one thread draws at a time.
DRAWING = threading.Lock()
# Fonts of the reader's machine: others would be fetched.
SANS, MONO = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]


def colour(number) -> str:
    """Of a model or an emotion."""
    return figures.PALETTE[(3 + number) % len(figures.PALETTE)]


@matplotlib.rc_context(figures.STYLE)
def bars(answer, labels) -> str:
    """Probabilities of all models side by side, as SVG."""
    figure, axes = figures.new_figure(6, 0.9 + 0.5 * len(labels))
    n, places = len(answer.probabilities), np.arange(len(labels))
    for i, (name, found) in enumerate(answer.probabilities.items()):
        place = places + (i - (n - 1) / 2) * 0.8 / n
        mean = found.mean(0)
        drawn = axes.barh(place, mean, 0.75 / n, label=name, color=colour(i))
        axes.bar_label(drawn, [f"{p:.0%}" for p in mean], padding=3)
    axes.set_yticks(places, labels)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.1)
    axes.set_xlabel("probability")
    return _svg(figure, "Probabilities of the emotions")


@matplotlib.rc_context(figures.STYLE)
def lines(answer, labels) -> str:
    """Probability of the first model's clean emotion over SNR; of a long recording
    the emotion of every window."""
    if len(answer.windows) > 1:
        return timeline(answer, labels)
    if not answer.curves:
        return ""
    figure, axes = figures.new_figure(6, 3.2)
    ticks = [*listening.SNRS, listening.SNRS[-1] + 5]
    best = next(iter(answer.curves.values()))[-1].argmax()
    for i, (name, curve) in enumerate(answer.curves.items()):
        axes.plot(ticks, curve[:, best], "o-", label=name, color=colour(i))
    axes.set_xticks(ticks, [*map(str, listening.SNRS), "clean"])
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("SNR (dB)")
    axes.set_ylabel(f"probability of {labels[best]}")
    return _svg(figure, f"Probability of {labels[best]} over SNR")


def timeline(answer, labels) -> str:
    """The most probable emotion of every window, a row per model."""
    figure, axes = figures.new_figure(6, 1.2 + 0.9 * len(answer.probabilities))
    ends = [part.stop for part in answer.windows]
    starts = [0.0, *ends[:-1]]
    for row, found in enumerate(answer.probabilities.values()):
        for start, end, p in zip(starts, ends, found):
            axes.barh(row, end - start, 0.8, start, color=colour(p.argmax()))
    for i, label in enumerate(labels):
        axes.barh(0, 0, color=colour(i), label=label)
    names = list(answer.probabilities)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    return _svg(figure, "Emotions over time")


def _svg(figure, title):
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    return figures.inline_svg(figure, title)


def responder(models, noises):
    """The function behind the button."""
    labels = next(iter(models.values())).labels

    def respond(recording, noise, snr, own):
        """Everything that the page shows of a recording."""
        if recording is None:
            raise gr.Error(
                "Record or drop a recording first.", print_exception=False
            )
        try:
            found = listening.answer(models, noises, recording, noise, snr, own)
        except (InputError, OSError) as error:
            text = str(error)
            for path in filter(None, (recording, own)):
                text = text.replace(f"{path}: ", "")
            raise gr.Error(text, print_exception=False) from None
        text = listening.summary(found, models)
        with DRAWING:
            charts = bars(found, labels), lines(found, labels)
        # Gradio would name the file by its content: an identical request from
        # another client would rewrite it while it is being sent.
        folder = tempfile.mkdtemp(dir=os.environ["GRADIO_TEMP_DIR"])
        path = os.path.join(folder, "mixture.wav")
        soundfile.write(path, found.mixture, SAMPLE_RATE)
        return path, text, *charts

    return respond


def build(models, noises) -> gr.Blocks:
    """The page. models: name to EmotionModel; noises: Noises."""
    title, sound = "Emotions in noise", {"type": "filepath", "buttons": []}
    with gr.Blocks(
        title=title, analytics_enabled=False, delete_cache=(SWEEP, AGE)
    ) as page:
        gr.Markdown(
            f"# {title}\nA recording, mixed with noise on this machine, and what "
            f"{' and '.join(models)} make of it. Nothing leaves this machine."
        )
        with gr.Row():
            with gr.Column():
                recording = gr.Audio(label="Recording", **sound)
                noise = gr.Dropdown(noises.names, label="Noise", value="none")
                own = gr.Audio(label="Own noise", visible=False, **sound)
                snr = gr.Slider(-10, 30, 0, step=1, label="SNR (dB)")
                button = gr.Button("Classify", variant="primary")
            with gr.Column():
                text = gr.Markdown(elem_id="answer")
                mixture = gr.Audio(label="Mixture", interactive=False, **sound)
                charts = gr.HTML(elem_id="bars"), gr.HTML(elem_id="lines")
        noise.change(
            lambda name: gr.update(visible=name == listening.OWN),
            noise,
            own,
            api_visibility="private",
        )
        button.click(
            responder(models, noises),
            [recording, noise, snr, own],
            [mixture, text, *charts],
            concurrency_limit=AT_ONCE,
            api_name="classify",
        )
    return page


def serve(models, noises, port=None, wait=True):
    """Serves the page, with `wait` until Ctrl-C; returns page, address and folder."""
    folder = tempfile.mkdtemp(prefix="mlkd-app-")
    os.environ["GRADIO_TEMP_DIR"] = folder
    page = build(models, noises).queue(max_size=WAITING)
    if wait:
        # What ends the process by a signal removes the recordings as well.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        _, address, _ = page.launch(
            server_name=ADDRESS,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=MAX_UPLOADED,
            ssr_mode=False,
            footer_links=[],
            theme=gr.themes.Default(font=SANS, font_mono=MONO),
            css="#bars svg, #lines svg { width: 100%; height: auto; }",
        )
        print(f"{address}  (Ctrl-C ends it)", flush=True)
        if wait:
            page.block_thread()
    finally:
        if wait:
            page.close(verbose=False)
            shutil.rmtree(folder, ignore_errors=True)
    return page, address, folder
