"""Calibration: recovers what was distorted, never touches what cannot be fitted, follows its rule for the threshold."""

from __future__ import annotations

import numpy as np
import pytest

from sentiment.model.combine import Calibration, VectorScaling
from training.calibrate import choose_threshold, fit_calibration, fit_temperature, fit_vector_scaling, served

COUNT = 4000


def drawn(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels drawn from exactly those probabilities."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 1.5, (COUNT, 3)).astype(np.float32)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return logits, (p.cumsum(1) < random.random((COUNT, 1))).sum(1).astype(np.int64)


def log_loss(p: np.ndarray, labels: np.ndarray) -> float:
    return float(-np.log(p[np.arange(len(labels)), labels]).mean())


def test_vector_scaling_undoes_overconfidence_and_a_shift() -> None:
    logits, labels = drawn()
    fitted = fit_vector_scaling(logits * 3 + np.array([0, 1.0, 0], np.float32), labels, strength=0.0)
    np.testing.assert_allclose(fitted.scale, 1 / 3, atol=0.05)
    assert fitted.bias[1] - (fitted.bias[0] + fitted.bias[2]) / 2 == pytest.approx(-1 / 3, abs=0.1)


def test_strength_pulls_towards_the_identity_and_few_texts_fit_nothing() -> None:
    logits, labels = drawn()
    loose, tight = (fit_vector_scaling(logits * 3, labels, strength) for strength in (0.0, 100.0))
    assert abs(tight.scale[0] - 1) < 0.01 < abs(loose.scale[0] - 1)
    assert fit_vector_scaling(logits[:20], labels[:20], 0.0) == VectorScaling()
    assert fit_temperature(np.full((20, 3), 1 / 3, np.float32), labels[:20]) == 1.0


def test_temperature_undoes_overconfidence() -> None:
    logits, labels = drawn()
    p = np.exp(2 * logits) / np.exp(2 * logits).sum(1, keepdims=True)
    assert fit_temperature(p.astype(np.float32), labels) == pytest.approx(2.0, abs=0.1)


def routed(wrong_share: float) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Expert `a` knows, `b` guesses. Unsure texts (gate .7) go to `b` in `wrong_share` of cases, others to `a`."""
    logits, labels = drawn()
    random = np.random.default_rng(1)
    gate = np.tile(np.array([[0.999, 0.001]], np.float32), (COUNT, 1))
    unsure = np.arange(COUNT) % 20 == 0
    to_b = unsure & (random.random(COUNT) < wrong_share)
    gate[unsure] = (0.7, 0.3)
    gate[to_b] = (0.3, 0.7)
    return gate, {"a": logits, "b": random.normal(0, 4, (COUNT, 3)).astype(np.float32)}, labels


def test_the_threshold_runs_both_experts_where_that_helps() -> None:
    gate, logits, labels = routed(wrong_share=1.0)
    threshold = choose_threshold(gate, logits, labels, Calibration.identity(("a", "b")), one_pass_share=0.9)
    assert threshold > 0.7


def test_the_threshold_respects_the_share_of_one_pass_texts() -> None:
    gate, logits, labels = routed(wrong_share=1.0)
    threshold = choose_threshold(gate, logits, labels, Calibration.identity(("a", "b")), one_pass_share=0.96)
    assert threshold <= 0.7


def test_the_threshold_is_fitted_on_left_out_sources_where_there_are_any() -> None:
    gate, logits, labels = routed(wrong_share=1.0)
    sure = np.tile(np.array([[0.6, 0.4]], np.float32), (COUNT, 1))
    domains = np.zeros(COUNT, np.int64)
    at_home = fit_calibration(sure, logits, labels, domains, strength=1.0, one_pass_share=0.9)
    shifted = fit_calibration(
        sure, logits, labels, domains, strength=1.0, one_pass_share=0.9, left_out=lambda: (gate, logits, labels)
    )
    assert at_home.threshold <= 0.6
    assert shifted.threshold > 0.7


def test_calibration_lowers_the_log_loss_of_what_is_served() -> None:
    logits, labels = drawn()
    gate = np.tile(np.array([[1.0, 0.0]], np.float32), (COUNT, 1))
    experts = {"a": logits * 3, "b": logits * 0}
    before = served(gate, experts, Calibration.identity(("a", "b")))
    fitted = fit_calibration(gate, experts, labels, np.zeros(COUNT, np.int64), strength=0.01, one_pass_share=0.9)
    assert log_loss(served(gate, experts, fitted), labels) < log_loss(before, labels) - 0.2
    assert fitted.experts["b"] == VectorScaling()
