"""How experts' outputs become one answer: one combine function for training and serving, and the calibration.

numpy arrays and torch tensors alike; torch is not imported. N texts, E experts, 3 labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat
from pydantic.dataclasses import dataclass

from sentiment.cli import STRICT

if TYPE_CHECKING:
    from torch import Tensor

A = TypeVar("A", NDArray[np.float32], "Tensor")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class VectorScaling:
    """One expert's calibration, `logits * scale + bias` (Guo et al. 2017, arXiv 1706.04599, section 4.2)."""

    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """factor per label [1]"""
    bias: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """shift per label [logits]"""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Calibration:
    """What is fitted after training, in the order in which it is applied."""

    experts: dict[str, VectorScaling]
    """vector scaling of each expert by name [1]"""
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.9
    """a text whose largest gate weight reaches this runs one expert, else all [probability]"""
    temperature: PositiveFloat = 1.0
    """divides the mixture's log-probabilities as served, after the experts are combined [1]"""

    @classmethod
    def identity(cls, experts: Sequence[str], threshold: float = 0.9) -> Calibration:
        """A calibration that changes nothing."""
        return cls(experts={name: VectorScaling() for name in experts}, threshold=threshold)


def combine_experts(probabilities: A, gate: A) -> A:
    """Mix the experts' outputs: `p[n] = Σ_e gate[n, e] · probabilities[n, e]`.

    Args:
        probabilities: `[N, E, 3]`, each expert's probabilities; rows with gate weight 0 do not matter if finite.
        gate: `[N, E]` weights, rows sum to 1; one-hot where one expert answers.

    Returns:
        `[N, 3]`, rows sum to 1.
    """
    combined: A = (probabilities * gate[..., None]).sum(-2)
    return combined


def calibrate(logits: NDArray[np.float32], calibration: Calibration, expert: str) -> NDArray[np.float32]:
    """`[N, 3]` calibrated logits of one expert."""
    scaling = calibration.experts[expert]
    scale, bias = np.asarray(scaling.scale, np.float32), np.asarray(scaling.bias, np.float32)
    calibrated: NDArray[np.float32] = logits * scale + bias
    return calibrated


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities over the last axis, stable for large logits."""
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities: NDArray[np.float32] = (shifted / shifted.sum(-1, keepdims=True)).astype(np.float32)
    return probabilities


def temper(probabilities: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """`softmax(log p / temperature)` over the last axis; 1 leaves probabilities as they are."""
    log_p = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
    return softmax((log_p / np.float32(temperature)).astype(np.float32))
