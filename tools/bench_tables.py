"""Tables of the figures in results/bench, for docs/performance.md."""

import json
import pathlib

from mlkd_lobes.evaluation.metrics import markdown

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDER = "results/bench"
THREADS, SECONDS = 1, 5


def read(name):
    """A benchmark's results."""
    return json.loads((ROOT / FOLDER / f"{name}.json").read_text())


def measured_rows(result):
    """The rows that tables show: one length of audio on one thread."""
    rows, shown = result["variants"], (THREADS, SECONDS)
    return [r for r in rows if (r["threads"], r["seconds"]) == shown]


def inference_table(result, known):
    """One length of audio on one thread; only variants of known names."""
    processor = result["machine"]["instructions"]
    header = [f"{SECONDS} s of audio, {THREADS} thread, {processor}"]
    header += ["ms", "speed", "peak MB", "file MB"]
    rows = [
        [
            row["name"],
            f"{row['latency_ms']:.0f}",
            f"{row['ratio']:.1f} x",
            f"{row['peak_memory_mb']}",
            f"{row['file_mb']:.0f}",
        ]
        for row in measured_rows(result)
        if row["name"] in known
    ]
    return markdown(header, rows)


def training_table(result, before):
    """Speed of every loop, now and in an earlier version."""
    former = {row["name"]: row["ratio"] for row in before["variants"]}
    header = ["training", "utterances/s", "speed", "speed, before", "peak MB"]
    rows = [
        [
            row["name"],
            f"{row['utterances_per_second']:.2f}",
            f"{row['ratio']:.2f} x",
            f"{former[row['name']]:.2f} x",
            f"{row['peak_memory_mb']}",
        ]
        for row in result["variants"]
    ]
    return markdown(header, rows)


def loading(training, preparation):
    """What is measured besides, in sentences."""
    epochs = preparation["loading"]
    memory = [e["peak_memory_of_a_worker_mb"] for e in epochs]
    mixing, waiting = training["mixing"], training["waiting_for_data"]
    return (
        f"Noise of {mixing['noise_recordings_seconds']} s recordings, kept decoded, "
        f"is mixed into {mixing['ours_seconds_per_second']} s of audio per second on "
        f"one thread, {mixing['ratio']:.1f} times as fast as with `AddNoise`. With a "
        f"small encoder (12 layers, 128 wide) and one worker, "
        f"{100 * waiting['share']:.0f} % of a step is waiting for data. A corpus of "
        f"IEMOCAP's size ({preparation['turns']} turns) is prepared in "
        f"{preparation['seconds']:.0f} s, {preparation['noise_hours']:.0f} hours of "
        f"noise in {preparation['noise_seconds']:.0f} s; an epoch's "
        f"{epochs[0]['utterances']} utterances are loaded and mixed in "
        f"{epochs[-1]['seconds']:.0f} s by {epochs[0]['workers']} workers, each with "
        f"at most {max(memory)} MB in {len(memory)} epochs."
    )


def loading_table(result):
    """Where time goes, before and now."""
    header = ["ms per utterance, 1 thread", "reading", "mixing"]
    header += ["speed of both", "computing"]
    rows, names = [], {"training": "first two epochs", "test": "test"}
    for layout, parts in result["layouts"].items():
        for part, found in parts.items():
            for when, ms in found["ms_per_utterance"].items():
                name = f"{layout}: {names[part]}, {when}"
                cells = [f"{ms[key]:.1f}" for key in ("reading", "mixing")]
                ratio = (
                    found["reading_and_mixing_ratio"] if when == "now" else 1
                )
                cells.append(f"{ratio:.1f} x")
                cells.append(
                    f"{ms['computing']:.0f}" if "computing" in ms else ""
                )
                rows.append([name, *cells])
    return markdown(header, rows)


def peer_table(result):
    """A step beside a peer's."""
    rows = [
        [row["name"], f"{row['median_seconds']:.1f}", f"{row['ratio']:.1f} x"]
        for row in result["variants"]
    ]
    return markdown(["a training step, 1 thread", "s", "speed"], rows)


def gpu_table(results):
    """Epochs, test, memory and all folds on a GPU, by version."""
    header, rows = ["s on one GPU"], []
    for name in ("teacher", "`mlkd`"):
        header += [f"{name}: first epoch", "later", "test", "peak GB"]
    for when, result in results.items():
        cells = []
        for name in ("teacher", "mlkd"):
            own = result["networks"][name]
            first, *_, later = own["epoch_seconds"]
            memory = own["peak_memory_mb"] / 1024
            cells += [first, later, own["test_seconds"], memory]
        title = f"{when}, {result['device']}"
        hours = f"{result['hours_all_folds']:.2f}"
        rows.append([title, *(f"{x:.1f}" for x in cells), hours])
    return markdown([*header, "all folds, h"], rows)


def epoch_table(result):
    """Where the time of an epoch goes on a GPU."""
    parts = {
        "data": ("start of workers", "waiting for data"),
        "copies": ("copies",),
        "training steps": ("training steps",),
        "validation": ("validation",),
        "checkpoint": ("checkpoint",),
    }
    rows = []
    for name in ("teacher", "mlkd"):
        own = result["networks"][name]
        spent = own["seconds_of_profiled_epoch"].items()
        seconds = [
            sum(s for k, s in spent if k.endswith(p)) for p in parts.values()
        ]
        device = own["device_seconds_of_profiled_epoch"]
        seconds += [device["kernels"], device["Memcpy"]]
        rows.append([f"`{name}`", *(f"{s:.2f}" for s in seconds)])
    header = ["s of an epoch, profiled, now", *parts]
    return markdown([*header, "GPU: kernels", "GPU: copies"], rows)


def on_gpu(before, now):
    """What was measured on a GPU."""
    hours = []
    for result in (before, now):
        speech = result["seconds_of_speech"]
        total = sum(speech.values()) / 3600
        hours.append(f"{total:.1f} ({speech['train'] / 3600:.2f} for training)")
    settings = (
        f"{now['cores']} cores, {now['precision']}, {now['workers']} workers, "
        f"batches of {now['batch_seconds']} s. Hours of random speech, lengths like "
        f"IEMOCAP's: before {hours[0]}, now {hours[1]}."
    )
    tables = gpu_table({"before": before, "now": now}), epoch_table(now)
    return "\n\n".join([settings, *tables])


def bench_text():
    """All of it."""
    inference, training = read("inference"), read("training")
    # Older figures are of an earlier version, which had other variants too.
    names = {row["name"] for row in inference["variants"]}
    return "\n\n".join(
        [
            inference_table(inference, names),
            inference_table(read("inference_avx2"), names),
            training_table(training, read("training_before")),
            peer_table(read("peer")),
            loading(training, read("preparation")),
            loading_table(read("loading")),
            on_gpu(read("gpu_before"), read("gpu")),
        ]
    )
