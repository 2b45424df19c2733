"""Benchmarks run, and return what they promise."""

import json
import os
import pathlib
import time

import gpu
import inference
import loading
import machine
import numpy as np
import preparation
import pytest
import torch
import training
from helpers import tiny_config

from mlkd_lobes.data.batches import torch_threads

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
def test_inference_is_measured_beside_the_teacher(monkeypatch):
    monkeypatch.setattr(inference, "matmul_gflops", lambda threads: 100.0)
    # It must not appear in the memory of the measured processes.
    held = np.ones(8 * 10**7)
    # Sizes are given in tenths of a megabyte.
    config = tiny_config(
        hidden_size=128, intermediate_size=512, conv_dim=[128] * 7
    )
    result = inference.benchmark(config, [1], [1], rounds=3)
    rows = {row["name"]: row for row in result["variants"]}
    assert list(rows)[0] == result["baseline"] and len(rows) == 13
    assert rows[result["baseline"]]["ratio"] == 1
    onnx = rows["student, ONNX fp32"]["peak_memory_mb"]
    assert onnx < rows[result["baseline"]]["peak_memory_mb"]
    assert onnx < held.nbytes / 2**20
    for row in rows.values():
        assert row["latency_ms"] > 0 and row["peak_memory_mb"] > 0
        assert row["real_time_factor"] == pytest.approx(
            row["latency_ms"] / 1000, abs=1e-3
        )
    sizes = [row["file_mb"] for row in rows.values()]
    small, early, slim, slimmer, slimmest = (
        rows[f"{name}, ONNX static INT8"]["file_mb"]
        for name in list(inference.NETWORKS)[1:]
    )
    assert (
        slimmest
        <= slimmer
        <= slim
        < early
        < small
        < rows["student, ONNX fp32"]["file_mb"]
    )
    assert max(sizes) == rows[result["baseline"]]["file_mb"]


def test_rounds_are_taken_in_turn(monkeypatch):
    calls = []
    monkeypatch.setattr(
        inference,
        "open_variant",
        lambda path, threads: lambda wavs: calls.append(path),
    )
    found = inference.time_variants({"a": 1, "b": 2}, 1, 1, rounds=2)
    assert calls == [1, 2, 1, 2, 1, 2]
    assert {name: len(times) for name, times in found.items()} == {
        "a": 2,
        "b": 2,
    }


def test_figures_name_the_machine(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name : A b\nflags : sse avx2 avx512_vnni\n\n" * 2)
    found = machine.machine(cpuinfo)
    assert found["processor"] == "A b"
    assert found["instructions"] == "AVX-512 VNNI"
    assert machine.machine(tmp_path / "none")["instructions"] == ""
    machine.write_figures(tmp_path / "figures.json", {"ratio": 2})
    written = json.loads((tmp_path / "figures.json").read_text())
    assert written == {"machine": machine.machine(), "ratio": 2}


@pytest.mark.slow
def test_training_is_measured_beside_a_straightforward_loop(
    monkeypatch, tmp_path
):
    for name, value in {"UTTERANCES": 12, "FEW": 20, "MANY": 24}.items():
        monkeypatch.setattr(training, name, value)
    # Processes of their own would have the full sizes.
    monkeypatch.setattr(training, "in_own_process", lambda f, *args: f(*args))
    training.write_inputs(tmp_path, tiny_config())
    result = training.variants(tmp_path, training.FROZEN)
    rows = {row["name"].rsplit(",", 1)[0]: row for row in result["variants"]}
    assert rows[training.STRAIGHTFORWARD]["ratio"] == 1
    for row in rows.values():
        assert row["utterances_per_second"] > 0 and row["peak_memory_mb"] > 0
    later, total = rows[training.LATER], rows["ours, 20 epochs"]
    first = rows[training.FIRST]
    speeds = [1 / row["utterances_per_second"] for row in (first, later)]
    assert 1 / total["utterances_per_second"] == pytest.approx(
        (speeds[0] + 19 * speeds[1]) / 20, rel=1e-2
    )
    # The cache changes when targets are computed, not what is learned.
    differences = result["largest_loss_difference"]
    assert differences["cache read or filled"] == 0
    assert differences["cache or none"] < 1e-2
    assert training.waiting(tmp_path)["steps"] > 0
    assert training.scaling(tmp_path)["ratio"] > 0
    with torch_threads(1):
        assert training.mixing(tmp_path, rounds=1)["ratio"] > 0


@pytest.mark.slow
def test_a_fold_is_measured_and_scaled_to_all(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "SHARE", 200)
    evaluate = gpu.train.evaluate
    result = gpu.benchmark(tmp_path, tiny_config(), "cpu")
    assert gpu.train.evaluate is evaluate
    for network in result["networks"].values():
        assert len(network["epoch_seconds"]) == gpu.EPOCHS
        assert min(network["epoch_seconds"]) > 0 and network["test_seconds"] > 0
        assert network["peak_memory_mb"] > 0
        parts = network["seconds_of_profiled_epoch"]
        assert {"training steps", "waiting for data", "validation"} <= {*parts}
        assert min(parts.values()) >= 0 < parts["training steps"]
    speech = result["seconds_of_speech"]
    assert speech["train"] > speech["valid"] > 0 and speech["test"] > 0
    found = result["largest_logit_differences"]
    assert found["cpu and device"] == 0 < found["largest logit"]
    assert found["alone and in a batch"] < 1e-5
    assert result["hours_all_folds"] > 0


def test_a_clock_counts_inner_calls_once():
    class Work:
        def outer(self, n):
            time.sleep(0.02)
            return self.inner(n)

        def inner(self, n):
            time.sleep(0.05)
            return n

    clock, work = gpu.Clock(), Work()
    undo = [clock.watch(Work, "outer", "a"), clock.watch(Work, "inner", "b")]
    assert work.outer(3) == 3 and work.inner(4) == 4
    for function in undo:
        function()
    work.outer(5)
    assert {name: len(own) for name, own in clock.calls.items()} == {
        "a": 1, "a: b": 1, "b": 1,
    }  # fmt: skip
    assert clock.calls["a"][0] < 0.05 <= clock.calls["a: b"][0]


def test_hours_count_every_epoch_of_every_fold(monkeypatch):
    for name, value in {"UTTERANCES": 100, "SECONDS": 3, "FOLDS": 4}.items():
        monkeypatch.setattr(gpu, name, value)
    networks = {
        "teacher": {"epoch_seconds": [10, 4]},
        "mlkd": {"epoch_seconds": [20, 6], "test_seconds": 8},
    }
    # Speech of a third: 10 + 2 x 4 and 20 + 4 x 6 and 8 seconds, thrice.
    speech = {"train": 60, "valid": 20, "test": 20}
    hours = gpu.hours_all_folds(networks, speech, {"teacher": 3, "mlkd": 5})
    assert hours == pytest.approx(4 * 3 * (18 + 44 + 8) / 3600)


def test_a_clock_forgets_what_came_before():
    class Work:
        def step(self):
            pass

        def test(self):
            self.step()

    clock, work = gpu.Clock(), Work()
    clock.watch(Work, "step", "steps")
    clock.forget_before(Work, "test")
    work.step()
    work.test()
    work.step()
    assert len(clock.calls["steps"]) == 2


@pytest.mark.slow
def test_loading_is_measured_before_and_now(monkeypatch, tmp_path):
    layout = ((16000, 0.5, 4), (8000, "wav", 3, 1))
    monkeypatch.setattr(loading, "LAYOUTS", {"tiny": layout})
    monkeypatch.setattr(loading, "ROUNDS", 1)
    loading.write_encoder(tmp_path / "encoder")
    found = loading.compare(tmp_path, ROOT)["tiny"]
    for part, names in (("training", loading.TRAIN), ("test", loading.TEST)):
        rows = found[part]["ms_per_utterance"]
        assert {*rows["before"]} == {*rows["now"]} == {*names}
        assert min(min(row.values()) for row in rows.values()) > 0
        before, now = (
            sum(rows[when][name] for name in loading.TRAIN)
            for when in ("before", "now")
        )
        ratio = found[part]["reading_and_mixing_ratio"]
        assert ratio == pytest.approx(before / now, abs=0.02)


@pytest.mark.slow
def test_a_step_is_measured_beside_a_peers(monkeypatch, tmp_path):
    pytest.importorskip("s3prl")
    import peer

    monkeypatch.setattr(peer, "STEPS", 2)
    training.write_speech(tmp_path / "speech", 12)
    training.write_noise(tmp_path / "noise")
    # The peer's positional convolution has sixteen groups.
    config = tiny_config(num_hidden_layers=12, hidden_size=32)
    training.write_teacher(tmp_path / "base", config)
    rows = {row["name"]: row for row in peer.compare(tmp_path, peer.FROZEN)}
    assert rows[peer.PEER]["ratio"] == 1 and len(rows) == 3
    assert min(row["median_seconds"] for row in rows.values()) > 0


class Keeping(torch.utils.data.Dataset):
    """Its worker keeps a few floats, or many."""

    def __init__(self, n):
        self.n, self.kept = n, []

    def __len__(self):
        return 1

    def __getitem__(self, i):
        self.kept.append(np.ones(self.n))
        return i


def peaks_of_workers():
    """Of two workers, one after the other."""
    peaks = []
    for n in (1, 25 * 10**6):
        loader = torch.utils.data.DataLoader(
            Keeping(n), num_workers=1, persistent_workers=True
        )
        assert [int(i) for i in loader] == [0]
        peaks.append(preparation.worker_megabytes())
    return peaks


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_memory_of_running_workers_is_counted():
    # Without the workers that other tests may have left.
    few, many = training.in_own_process(peaks_of_workers, method="fork")
    assert 150 < many - few < 250
