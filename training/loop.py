"""The training loop that every stage shares: steps from a plan, AdamW, one schedule, the best epoch kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from sentiment.cli import STRICT
from training.progress import Reporter
from training.world import World

Rows = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OptimSettings:
    """How weights move."""

    epochs: PositiveInt = 3
    """passes over the texts [epochs]"""
    max_steps: NonNegativeInt = 0
    """stop after this many steps, however many epochs are left; 0: no limit [optimizer steps]"""
    step_texts: PositiveInt = 32
    """texts per optimizer step, over all workers [texts]"""
    lr: PositiveFloat = 1e-3
    """peak learning rate [1]"""
    weight_decay: NonNegativeFloat = 0.01
    """of matrices; biases and norms have none [1]"""
    warmup_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    """of the steps, with a rising learning rate; it then falls along a cosine to 0 [share]"""
    sparse_lr: PositiveFloat = 1e-2
    """peak learning rate of the n-gram table, whose rows are moved only by the texts that hold them [1]"""
    clip_norm: PositiveFloat = 1.0
    """largest norm of a step's gradient [1]"""


def train_epochs(  # noqa: PLR0913  # the parts of a training run, each named
    model: nn.Module,
    optim: OptimSettings,
    *,
    plan: Callable[[int], Sequence[Rows]],
    step_loss: Callable[[Rows], Tensor],
    step_tokens: Callable[[Rows], int],
    validate: Callable[[], float] | None,
    world: World,
    reporter: Reporter,
) -> list[float]:
    """Train the weights of `model` that require gradients; it ends with those of the best epoch.

    Args:
        model: left in evaluation mode.
        optim: settings.
        plan: the steps of an epoch; each has rows of *all* workers.
        step_loss: this worker's part of a step's loss, normalised by the whole step's totals.
        step_tokens: non-padding tokens of a step, for the display.
        validate: score after each epoch, larger is better, called on every worker and decided by rank 0's; None keeps
            the last epoch.
        world: the workers.
        reporter: the display.

    Returns:
        The mean loss of each epoch.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    world.same_start(trained)
    sparse = _sparse_tables(model)
    dense = [parameter for parameter in trained if all(parameter is not table for table in sparse)]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(_groups(dense, optim.weight_decay), lr=optim.lr, fused=True)
    ]
    if sparse:
        optimizers.append(torch.optim.SparseAdam(sparse, lr=optim.sparse_lr))
    epochs = _capped([plan(epoch) for epoch in range(optim.epochs)], optim.max_steps)
    steps = sum(map(len, epochs))
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _lr_factor(step, steps, optim.warmup_share))
        for optimizer in optimizers
    ]
    best: tuple[float, list[Tensor]] | None = None
    step, losses = 0, []
    for epoch in epochs:
        model.train()
        total = 0.0
        for rows in epoch:
            for parameter in trained:
                parameter.grad = None
            loss = step_loss(rows)
            loss.backward()  # type: ignore[no-untyped-call]  # torch ships no type for it
            world.sum_gradients(trained)
            nn.utils.clip_grad_norm_(dense, optim.clip_norm)
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                schedule.step()
            step += 1
            total += float(loss.detach())
            reporter.step(step, steps, float(loss.detach()), step_tokens(rows))
        losses.append(total / max(len(epoch), 1))
        model.eval()
        if validate is not None:
            score = world.from_first(validate())
            if best is None or score >= best[0]:
                best = (score, [parameter.detach().clone() for parameter in trained])
            reporter.note(f"macro-F1 {score:.3f}, best {best[0]:.3f}")
    if best is not None:
        with torch.no_grad():
            for parameter, value in zip(trained, best[1], strict=True):
                parameter.copy_(value)
    model.eval()
    return losses


def _capped(epochs: list[Sequence[Rows]], max_steps: int) -> list[Sequence[Rows]]:
    if not max_steps:
        return epochs
    kept, left = [], max_steps
    for epoch in epochs:
        kept.append(epoch[:left])
        left -= len(kept[-1])
    return [epoch for epoch in kept if len(epoch)]


def _sparse_tables(model: nn.Module) -> list[Tensor]:
    bags = [module for module in model.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)]
    return [bag.weight for bag in bags if bag.sparse and bag.weight.requires_grad]


def _groups(parameters: Sequence[Tensor], weight_decay: float) -> list[dict[str, Any]]:
    matrices = [parameter for parameter in parameters if parameter.dim() > 1]
    vectors = [parameter for parameter in parameters if parameter.dim() <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def _lr_factor(step: int, steps: int, warmup_share: float) -> float:
    warmup = max(1, round(steps * warmup_share))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
