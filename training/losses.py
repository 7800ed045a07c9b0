"""The losses of all stages. Shapes: B texts, C = 3 labels, E experts.

Every loss of texts is returned per text (`[B]`), never averaged here: the loop normalises by the totals of the whole
optimizer step, so the number of workers changes nothing.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

_TINY = 1e-12


def class_balanced_weights(counts: NDArray[np.int64], beta: float | None = None) -> NDArray[np.float32]:
    """Weights by the effective number of samples, `(1 - beta) / (1 - beta^n)`, scaled to mean 1 over *texts*.

    `beta=None` takes 1 - 1/N with N the number of texts: it grows with the data, whereas a fixed 0.99 has saturated for
    every class above a few hundred texts and then weighs nothing (at FinNF's 215k/635k/776k all weights are 1.0).

    Args:
        counts: `[C]` texts per class; classes without texts get weight 1.
        beta: in [0, 1).

    Returns:
        `[C]` float32.

    Source: Cui et al., Class-Balanced Loss Based on Effective Number of Samples, CVPR 2019.
    """
    texts = counts.astype(np.float64)
    total = texts.sum()
    beta = 1.0 - 1.0 / max(total, 2.0) if beta is None else beta
    present = texts > 0
    weights = np.ones_like(texts)
    weights[present] = (1.0 - beta) / -np.expm1(texts[present] * np.log(max(beta, _TINY)))
    weights[present] *= total / (weights[present] * texts[present]).sum()
    return weights.astype(np.float32)


def task_loss(  # noqa: PLR0913  # each is one named part of the loss
    logits: Tensor,
    labels: Tensor,
    *,
    weights: Tensor | None = None,
    label_space: Tensor | None = None,
    smoothing: float = 0.0,
    focal_gamma: float = 0.0,
) -> Tensor:
    """Cross entropy per text, optionally class-balanced, focal, smoothed and restricted to possible labels.

    Args:
        logits: `[B, C]`.
        labels: `[B]` int64.
        weights: `[B]` weight of each text, e.g. of its class.
        label_space: `[B, C]` bool; labels that the text's annotators could not choose are excluded from the softmax,
            so that the model is free to believe in them.
        smoothing: mass spread evenly over the *possible* labels.
        focal_gamma: exponent of (1 - p), 0 for plain cross entropy (Lin et al., Focal Loss, ICCV 2017).

    Returns:
        `[B]`.
    """
    if label_space is not None:
        logits = logits.masked_fill(~label_space, torch.finfo(logits.dtype).min)
    log_p_BC = functional.log_softmax(logits, dim=-1)
    log_p_B = log_p_BC.gather(-1, labels[:, None])[:, 0]
    loss_B = -log_p_B
    if smoothing:
        possible = torch.ones_like(log_p_BC) if label_space is None else label_space.to(log_p_BC.dtype)
        spread_B = -(log_p_BC * possible).sum(-1) / possible.sum(-1)
        loss_B = (1.0 - smoothing) * loss_B + smoothing * spread_B
    if focal_gamma:
        loss_B = loss_B * (1.0 - log_p_B.exp()).clamp_min(0.0) ** focal_gamma
    return loss_B if weights is None else loss_B * weights


def domain_loss(gate_logits: Tensor, domains: Tensor) -> Tensor:
    """Cross entropy of the gate against the text's own domain, per text.

    Args:
        gate_logits: `[B, E]`, already divided by the router's temperature.
        domains: `[B]` int64.

    Returns:
        `[B]`.
    """
    return functional.cross_entropy(gate_logits, domains, reduction="none")


def mixture_likelihood_loss(gate_logits: Tensor, expert_p: Tensor) -> Tensor:
    """-log sum_e gate_e * p_e(y | x), per text: exact for a mixture, and needs no pass of the base.

    Args:
        gate_logits: `[B, E]`.
        expert_p: `[B, E]` probability that each expert gives to the true label.

    Returns:
        `[B]`.

    Source: Jacobs et al., Adaptive Mixtures of Local Experts, 1991.
    """
    return -torch.logsumexp(functional.log_softmax(gate_logits, dim=-1) + (expert_p + _TINY).log(), dim=-1)


def balance_loss(mean_gate: Tensor, shares: Tensor) -> Tensor:
    """KL(mean gate || shares): the step's mean soft gate against the domain shares sampled in that same step.

    Not against a uniform gate: with 99.5% news a uniform target would send half of the news to the forum's expert.

    Args:
        mean_gate: `[E]` mean of the soft gate over all texts of the step, on all workers; sums to 1.
        shares: `[E]` the texts of this step by domain; sums to 1.

    Returns:
        A scalar, 0 where they agree.
    """
    return (mean_gate * ((mean_gate + _TINY).log() - (shares + _TINY).log())).sum()
