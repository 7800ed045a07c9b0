"""Which experts run for which texts, and how their logits become Scores; numpy only. N texts, E experts, 3 labels.

The router stage and the in-process predictor call these same functions, so they cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sentiment.labels import LABELS
from sentiment.model.combine import Calibration, calibrate, combine_experts, softmax, temper
from sentiment.records import Scores

ExpertAnswers = Mapping[str, tuple[NDArray[np.int64], NDArray[np.float32]]]
"""Per expert that ran: the rows it ran for `[n]`, and its uncalibrated logits for them `[n, 3]`."""


def plan_routes(gate: NDArray[np.float32], threshold: float) -> list[NDArray[np.int64]]:
    """The rows each expert runs for.

    Args:
        gate: `[N, E]` weights, rows sum to 1.
        threshold: a row whose largest weight reaches it is sure and runs that expert only; any other runs all.

    Returns:
        E ascending index arrays; an expert that no row needs gets an empty one.
    """
    sure = gate.max(1, initial=0.0) >= threshold
    top = gate.argmax(1) if len(gate) else np.zeros(0, np.int64)
    return [np.flatnonzero(~sure | (top == expert)) for expert in range(gate.shape[1])]


def assemble_scores(
    gate: NDArray[np.float32],
    answers: ExpertAnswers,
    calibration: Calibration,
    experts: Sequence[str],
    bundle_id: str,
) -> Scores:
    """Calibrate each expert's logits, mix the outputs of the experts that ran, apply the last temperature.

    Args:
        gate: `[N, E]` weights, rows sum to 1.
        answers: what the experts of `plan_routes` returned; experts without rows may be absent.
        calibration: of the bundle.
        experts: the E names, in the gate's order.
        bundle_id: of the bundle that answered.

    Raises:
        ValueError: no expert ran for some row, or logits are not finite or not `[n, 3]`.
    """
    count = len(gate)
    ran = np.zeros((count, len(experts)), np.bool_)
    probabilities = np.zeros((count, len(experts), len(LABELS)), np.float32)
    for index, name in enumerate(experts):
        if name not in answers:
            continue
        rows, logits = answers[name]
        if logits.shape != (len(rows), len(LABELS)) or not np.isfinite(logits).all():
            raise ValueError(f"expert {name!r}: logits of shape {logits.shape} for {len(rows)} rows, or not finite")
        ran[rows, index] = True
        probabilities[rows, index] = softmax(calibrate(logits, calibration, name))
    if not ran.any(1).all():
        raise ValueError(f"no expert ran for {int((~ran.any(1)).sum())} of {count} rows")
    weights = np.where(ran, gate, np.float32(0))
    # Weights of the experts that ran sum to 1 again: exactly one-hot where one ran. `tiny` guards a gate of 0 there.
    weights = np.maximum(weights, np.where(ran, np.finfo(np.float32).tiny, 0)).astype(np.float32)
    weights /= weights.sum(1, keepdims=True)
    runs = ran.sum(1)
    return Scores(
        probabilities=temper(combine_experts(probabilities, weights), calibration.temperature),
        gate=gate.astype(np.float32, copy=False),
        expert=gate.argmax(1).astype(np.int8) if count else np.zeros(0, np.int8),
        experts_run=runs.astype(np.int8),
        disagreement=np.where(runs > 1, _disagreement(probabilities, ran), np.float32(np.nan)).astype(np.float32),
        experts=tuple(experts),
        bundle_id=bundle_id,
    )


def _disagreement(probabilities: NDArray[np.float32], ran: NDArray[np.bool_]) -> NDArray[np.float32]:
    """`[N]` largest difference, over labels, between any two of the experts that ran."""
    highest = np.where(ran[..., None], probabilities, -1).max(1)
    lowest = np.where(ran[..., None], probabilities, 2).min(1)
    spread: NDArray[np.float32] = (highest - lowest).max(1, initial=-3.0)
    return spread
