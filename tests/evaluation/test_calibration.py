"""Temperatures, calibration errors and coverage, and what reports make of them."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from fake_runs import LABELS, rewrite, write
from hypothesis import (
    given,
    strategies as st,
)

from mlkd_lobes.evaluation.calibration import (
    cross_entropy,
    fit_temperature,
    soften,
)
from mlkd_lobes.evaluation.comparison import calibration_error, find_runs, pool
from mlkd_lobes.evaluation.page import page_html
from mlkd_lobes.evaluation.report import report_text
from mlkd_lobes.evaluation.results import Record
from mlkd_lobes.noise.add_noise import CLEAN


def sample(seed, n=4000, classes=4, sharpness=1.0):
    """Probabilities that are right as often as they say, at a sharpness of 1."""
    draw = np.random.default_rng(seed)
    logits = 2 * draw.standard_normal((n, classes))
    true = soften(np.exp(logits), 1.0)
    truth = (true.cumsum(1) > draw.random((n, 1))).argmax(1)
    return soften(true, 1 / sharpness), truth


@given(st.integers(0, 99), st.floats(0.3, 8))
def test_the_temperature_undoes_sharpness(seed, sharpness):
    p, truth = sample(seed, sharpness=sharpness)
    temperature = fit_temperature(p, truth)
    assert temperature == pytest.approx(sharpness, rel=0.15)
    assert calibration_error(soften(p, temperature), truth) < 0.03
    calibrated = soften(p, temperature)
    assert np.array_equal(calibrated.argmax(1), p.argmax(1))


def test_the_error_is_that_of_its_formula():
    p = np.array([[0.95, 0.05], [0.96, 0.04], [0.6, 0.4], [0.3, 0.7]])
    truth = np.array([0, 1, 0, 1])
    # Bins: two of 0.955 with 1 of 2 right; one each of 0.6 and 0.7, both right.
    expected = (abs(1.91 - 1) + 0.4 + 0.3) / 4
    assert calibration_error(p, truth) == pytest.approx(expected)
    assert calibration_error(np.eye(2), np.array([0, 1])) == 0


def test_certain_predictions_do_not_break_it():
    p, truth = np.eye(3)[[0, 1, 2, 0]], np.array([0, 1, 2, 1])
    assert math.isfinite(fit_temperature(p, truth))
    assert np.isfinite(soften(p, 5.0)).all()


def overconfident(table):
    """Right ones are 90 % sure, wrong ones 80 %."""
    right = table["true"] == table["predicted"]
    sure = np.where(right, 0.9, 0.8)
    for label in LABELS:
        table[f"p_{label}"] = np.where(
            table["predicted"] == label, sure, 1 - sure
        )
    return table


@pytest.fixture
def runs(tmp_path):
    for system in ("mlkd", "student_noisy"):
        for fold in (1, 2):
            place = write(tmp_path, system, fold, 1, 8)
            rewrite(place, overconfident, temperature=2.0)
    return tmp_path


def test_reports_show_both_errors_and_coverage(runs):
    pooled = pool(find_runs([runs]))
    system = pooled.systems[0]
    before, after = system.calibration(system.conditions())
    assert before == pytest.approx(0.4 * 0.8 + 0.6 * 0.1)
    p = soften(np.array([[0.9, 0.1], [0.8, 0.2]]), 2.0).max(1)
    expected = 0.6 * (1 - p[0]) + 0.4 * p[1]
    assert after == pytest.approx(expected)
    # The six tenths that are right are the most confident ones.
    whole, half, share = system.over_coverage([1.0, 0.5])
    assert (whole, half) == pytest.approx((0.6, 1.0))
    assert share == pytest.approx(0.6 / 0.9, abs=0.03)
    text = report_text(pooled, [])
    assert "| calibration error (%) | " in text.replace("  ", "")
    assert f"{100 * before:.1f} → {100 * after:.1f}" in text
    assert "kept at 90 % accuracy" in text
    assert "Accuracy over coverage" in page_html(pooled, [])


def test_results_without_temperature_have_no_calibration(tmp_path):
    write(tmp_path, "mlkd", 1, 1, 8)
    pooled = pool(find_runs([tmp_path]))
    assert math.isnan(pooled.systems[0].calibration([CLEAN])[0])
    text = report_text(pooled, [])
    assert "calibration error" not in text and "kept at 90 %" in text
    assert isinstance(pooled.systems[0].tables[1], pd.DataFrame)


def test_cross_entropy_counts_every_condition_of_every_utterance_once():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(5, 3, 4, generator=generator)
    labels = [0, 3, 1, 1, 2]
    records = [
        Record("id", "s", 1.0, label, [None] * 3, own.softmax(-1))
        for label, own in zip(labels, logits)
    ]
    truth = torch.tensor(labels).repeat_interleave(3)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), truth)
    assert abs(cross_entropy(records) - expected.item()) < 1e-6
