"""What is fitted after training, on texts that neither training nor early stopping has seen.

1. Vector scaling of each expert on its own domain's calibration texts, held near the identity.
2. The gate threshold: the largest one whose answers are as good as any (within half a standard error of the
   log-likelihood), among those that keep at least `one_pass_share` of the texts to one pass. The largest, because at
   home nearly every gate is sure and any threshold looks the same, while mixing helps where texts are not like home.
   It is fitted on the sources left out of training where there are any.
3. One temperature for the mixture as it is served with that threshold.

N texts, E experts, 3 labels; numpy and scipy only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar

from sentiment.labels import LABELS
from sentiment.model.combine import Calibration, VectorScaling, softmax
from sentiment.model.routing import assemble_scores, plan_routes

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

THRESHOLDS: Final = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
_TEMPERATURES: Final = (0.25, 4.0)
_FEW: Final = 30
"""Fewer texts than this fit nothing: the identity stays."""


def fit_vector_scaling(logits: Floats, labels: Ints, strength: float) -> VectorScaling:
    """Scale and bias per label that minimise cross entropy plus `strength` x the squared distance from (1, 0).

    Args:
        logits: `[N, 3]` of one expert on its own domain.
        labels: `[N]`.
        strength: of the pull towards the identity.
    """
    if len(labels) < _FEW:
        return VectorScaling()
    x_NC = logits.astype(np.float64)
    one_hot = np.eye(len(LABELS))[labels]

    def objective(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        scale, bias = np.split(parameters, 2)
        z = x_NC * scale + bias
        z -= z.max(1, keepdims=True)
        log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
        delta = (np.exp(log_p) - one_hot) / len(labels)
        gradient = np.concatenate([(delta * x_NC).sum(0), delta.sum(0)])
        away = parameters - identity
        loss = -(log_p * one_hot).sum() / len(labels) + strength * (away**2).sum()
        return float(loss), gradient + 2 * strength * away

    identity = np.array([1.0] * len(LABELS) + [0.0] * len(LABELS))
    best = minimize(objective, identity, jac=True, method="L-BFGS-B", bounds=[(0.05, 20.0)] * 3 + [(-5.0, 5.0)] * 3).x
    return VectorScaling(scale=_triple(best[:3]), bias=_triple(best[3:]))


def served(gate: Floats, logits: Mapping[str, Floats], calibration: Calibration) -> Floats:
    """`[N, 3]` probabilities exactly as serving computes them: route by threshold, combine, temper."""
    routes = dict(zip(logits, plan_routes(gate, calibration.threshold), strict=True))
    answers = {name: (rows, logits[name][rows]) for name, rows in routes.items() if len(rows)}
    return assemble_scores(gate, answers, calibration, tuple(logits), "calibration").probabilities


def choose_threshold(
    gate: Floats, logits: Mapping[str, Floats], labels: Ints, calibration: Calibration, one_pass_share: float
) -> float:
    """The threshold by rule 2 of this module's docstring.

    Args:
        gate: `[N, E]`.
        logits: per expert `[N, 3]`, all of them for all texts.
        labels: `[N]`.
        calibration: with the experts' vector scaling fitted.
        one_pass_share: least share of texts that run one expert only.
    """
    if len(labels) < _FEW:
        return calibration.threshold
    top = gate.max(1)
    allowed = [t for t in THRESHOLDS if (top >= t).mean() >= one_pass_share] or [THRESHOLDS[0]]
    losses = {}
    for threshold in allowed:
        p_NC = served(gate, logits, _with(calibration, threshold=threshold))
        losses[threshold] = -np.log(np.maximum(p_NC[np.arange(len(labels)), labels], 1e-9))
    best = min(allowed, key=lambda t: losses[t].mean())
    for threshold in reversed(allowed):
        excess = losses[threshold] - losses[best]
        if excess.mean() <= 0.5 * excess.std() / np.sqrt(len(labels)) + 1e-9:
            return threshold
    return best


def fit_temperature(probabilities: Floats, labels: Ints) -> float:
    """The temperature that minimises cross entropy of served probabilities.

    Args:
        probabilities: `[N, 3]` served with temperature 1.
        labels: `[N]`.
    """
    if len(labels) < _FEW:
        return 1.0
    log_p = np.log(np.maximum(probabilities, 1e-9))

    def loss(log_temperature: float) -> float:
        p_NC = softmax((log_p / np.exp(log_temperature)).astype(np.float32))
        return float(-np.log(np.maximum(p_NC[np.arange(len(labels)), labels], 1e-9)).mean())

    low, high = np.log(_TEMPERATURES)
    return float(np.exp(minimize_scalar(loss, bounds=(low, high), method="bounded").x))


def fit_calibration(  # noqa: PLR0913  # the inputs of the three fits
    gate: Floats,
    logits: Mapping[str, Floats],
    labels: Ints,
    domains: Ints,
    *,
    strength: float,
    one_pass_share: float,
    left_out: Callable[[], tuple[Floats, Mapping[str, Floats], Ints]] | None = None,
) -> Calibration:
    """All three fits, in their order.

    Args:
        gate: `[N, E]` on the calibration split.
        logits: per expert `[N, 3]`, in the gate's order.
        labels: `[N]`.
        domains: `[N]` index of each text's own expert.
        strength: see `fit_vector_scaling`.
        one_pass_share: see `choose_threshold`.
        left_out: gate, logits and labels of the left-out sources, if there are any.
    """
    scaling = {
        name: fit_vector_scaling(logits[name][domains == index], labels[domains == index], strength)
        for index, name in enumerate(logits)
    }
    calibration = Calibration(experts=scaling)
    shifted = left_out() if left_out else (gate, logits, labels)
    calibration = _with(calibration, threshold=choose_threshold(*shifted, calibration, one_pass_share))
    return _with(calibration, temperature=fit_temperature(served(gate, logits, calibration), labels))


def _with(calibration: Calibration, threshold: float | None = None, temperature: float | None = None) -> Calibration:
    return Calibration(
        experts=calibration.experts,
        threshold=calibration.threshold if threshold is None else threshold,
        temperature=calibration.temperature if temperature is None else temperature,
    )


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    return first, second, third
