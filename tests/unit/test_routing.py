from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sentiment.model.combine import Calibration, VectorScaling, combine_experts, softmax, temper
from sentiment.model.routing import assemble_scores, plan_routes

NAMES = ("news", "forum", "filings")


def random_case(seed: int, rows: int, experts: int) -> tuple[np.ndarray, np.ndarray, Calibration]:
    rng = np.random.default_rng(seed)
    gate = softmax(rng.normal(size=(rows, experts)).astype(np.float32) * 3)
    logits = rng.normal(size=(experts, rows, 3)).astype(np.float32)
    scaling = {
        name: VectorScaling(scale=tuple(rng.uniform(0.5, 2, 3).tolist()), bias=tuple(rng.normal(size=3).tolist()))
        for name in NAMES[:experts]
    }
    return gate, logits, Calibration(experts=scaling, threshold=0.8, temperature=1.7)


def naive_softmax(values: list[float]) -> list[float]:
    powers = [math.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


@given(seed=st.integers(0, 999), rows=st.integers(0, 12), experts=st.integers(1, 3), threshold=st.floats(0, 1))
def test_sure_rows_run_their_expert_unsure_rows_run_all(seed: int, rows: int, experts: int, threshold: float) -> None:
    gate, _, _ = random_case(seed, rows, experts)
    routes = plan_routes(gate, threshold)
    assert len(routes) == experts
    for row in range(rows):
        ran = [expert for expert in range(experts) if row in routes[expert].tolist()]
        sure = gate[row].max() >= threshold
        assert ran == ([int(gate[row].argmax())] if sure else list(range(experts)))
    for route in routes:
        assert route.tolist() == sorted(set(route.tolist()))


@given(seed=st.integers(0, 999), rows=st.integers(1, 8), experts=st.integers(1, 3))
def test_scores_equal_the_definition_row_by_row(seed: int, rows: int, experts: int) -> None:
    gate, logits, calibration = random_case(seed, rows, experts)
    names = NAMES[:experts]
    routes = plan_routes(gate, calibration.threshold)
    answers = {name: (routes[e], logits[e][routes[e]]) for e, name in enumerate(names) if len(routes[e])}
    scores = assemble_scores(gate, answers, calibration, names, "id")
    for row in range(rows):
        sure = gate[row].max() >= calibration.threshold
        ran = [int(gate[row].argmax())] if sure else list(range(experts))
        p = {}
        for e in ran:
            scaling = calibration.experts[names[e]]
            raw = zip(logits[e, row].tolist(), scaling.scale, scaling.bias, strict=True)
            p[e] = naive_softmax([value * scale + bias for value, scale, bias in raw])
        weight = {e: 1.0 if sure else float(gate[row, e]) for e in ran}
        mixed = [sum(weight[e] * p[e][k] for e in ran) for k in range(3)]
        expected = naive_softmax([math.log(value) / calibration.temperature for value in mixed])
        np.testing.assert_allclose(scores.probabilities[row], expected, atol=1e-5)
        assert scores.expert[row] == gate[row].argmax()
        assert scores.experts_run[row] == len(ran)
        if len(ran) == 1:
            assert math.isnan(scores.disagreement[row])
        else:
            spread = max(max(p[e][k] for e in ran) - min(p[e][k] for e in ran) for k in range(3))
            assert scores.disagreement[row] == pytest.approx(spread, abs=1e-5)
    assert scores.bundle_id == "id"
    assert scores.experts == names
    assert scores.probabilities.dtype == scores.gate.dtype == scores.disagreement.dtype == np.float32
    assert scores.expert.dtype == scores.experts_run.dtype == np.int8


def test_an_unsure_text_lies_between_its_experts() -> None:
    gate = np.array([[0.6, 0.4]], np.float32)
    rows = np.array([0])
    answers = {
        "news": (rows, np.array([[5, 0, 0]], np.float32)),
        "forum": (rows, np.array([[0, 0, 5]], np.float32)),
    }
    scores = assemble_scores(gate, answers, Calibration.identity(["news", "forum"]), ("news", "forum"), "id")
    negative, _, positive = scores.probabilities[0]
    assert 0.5 < negative < 0.65
    assert 0.35 < positive < 0.5
    assert scores.disagreement[0] > 0.9


def test_a_row_that_no_expert_answered_is_an_error_not_a_guess() -> None:
    gate = np.array([[0.99, 0.01], [0.01, 0.99]], np.float32)
    answers = {"news": (np.array([0]), np.zeros((1, 3), np.float32))}
    with pytest.raises(ValueError, match="1 of 2"):
        assemble_scores(gate, answers, Calibration.identity(NAMES[:2]), NAMES[:2], "id")


@pytest.mark.parametrize("logits", [np.zeros((2, 3)), np.zeros((1, 2)), np.full((1, 3), np.nan)])
def test_wrong_logits_are_refused_by_expert(logits: np.ndarray) -> None:
    answers = {"news": (np.array([0]), logits.astype(np.float32))}
    with pytest.raises(ValueError, match="news"):
        assemble_scores(np.ones((1, 1), np.float32), answers, Calibration.identity(["news"]), ("news",), "id")


def test_no_rows_give_empty_scores() -> None:
    gate = np.zeros((0, 2), np.float32)
    assert [route.tolist() for route in plan_routes(gate, 0.9)] == [[], []]
    assert len(assemble_scores(gate, {}, Calibration.identity(NAMES[:2]), NAMES[:2], "id")) == 0


def test_one_combine_function_for_torch_and_numpy() -> None:
    rng = np.random.default_rng(0)
    p = softmax(rng.normal(size=(5, 2, 3)).astype(np.float32))
    gate = softmax(rng.normal(size=(5, 2)).astype(np.float32))
    in_torch = combine_experts(torch.from_numpy(p), torch.from_numpy(gate)).numpy()
    np.testing.assert_allclose(in_torch, combine_experts(p, gate), atol=1e-7)
    np.testing.assert_allclose(in_torch, np.einsum("nek,ne->nk", p, gate), atol=1e-6)


def test_temperature_keeps_the_order_and_the_extremes_stay_finite() -> None:
    p = np.array([[1.0, 0.0, 0.0], [0.7, 0.2, 0.1]], np.float32)
    np.testing.assert_allclose(temper(p, 1.0), p, atol=1e-6)
    flat = temper(p, 4.0)
    assert np.isfinite(flat).all()
    assert flat[1].argsort().tolist() == p[1].argsort().tolist()
    assert flat[1].max() < p[1].max() < temper(p, 0.5)[1].max()
    assert np.isfinite(softmax(np.array([[1e30, -1e30, 0]], np.float32))).all()
