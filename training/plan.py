"""Which texts make which optimizer step: a pure function of (seed, epoch, lengths), never of the number of workers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sentiment.errors import ConfigError

BUCKET_STEPS = 16
"""Texts are sorted by length within this many steps: little padding, yet each step still mixes the whole data set."""


def epoch_steps(lengths: NDArray[np.int64], step_texts: int, *, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """The optimizer steps of one epoch: every text exactly once, texts of similar length together.

    Args:
        lengths: `[N]` tokens per text.
        step_texts: texts per step; the last step holds the rest and joins its neighbour when under half of that.
        seed: of the run.
        epoch: from 0.

    Returns:
        Row indices per step, steps in random order.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    steps: list[NDArray[np.int64]] = []
    for start in range(0, len(order), step_texts * BUCKET_STEPS):
        bucket = order[start : start + step_texts * BUCKET_STEPS]
        bucket = bucket[np.argsort(lengths[bucket], kind="stable")]
        steps += np.split(bucket, range(step_texts, len(bucket), step_texts))
    if len(steps) > 1 and len(steps[-1]) * 2 < step_texts:
        steps[-2:] = [np.concatenate(steps[-2:])]
    return [steps[index] for index in random.permutation(len(steps))]


def mixed_rows(domains: NDArray[np.int64], temperature: float, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """Rows of one epoch with domains drawn by share^(1/temperature); as many rows as there are texts.

    Args:
        domains: `[N]` domain of each text.
        temperature: 1 takes every text once; larger values bring small domains up (infinity: equal shares).
        seed: of the run.
        epoch: from 0; a repeated domain gets each text equally often, up to one.

    Returns:
        `[N']` row indices, ascending by domain; order them with `epoch_steps`.
    """
    if temperature == 1.0:
        return np.arange(len(domains))
    random = np.random.default_rng([seed, epoch, 1])
    present, counts = np.unique(domains, return_counts=True)
    shares = counts ** (1.0 / temperature)
    wanted = np.maximum(1, np.rint(len(domains) * shares / shares.sum())).astype(np.int64)
    rows = []
    for domain, count in zip(present, wanted, strict=True):
        own = np.flatnonzero(domains == domain)
        whole, rest = divmod(int(count), len(own))
        rows += [np.tile(own, whole), random.permutation(own)[:rest]]
    return np.concatenate(rows)


def rank_share(step: NDArray[np.int64], rank: int, world: int) -> NDArray[np.int64]:
    """One worker's contiguous part of a step; the parts of all ranks are the step.

    Raises:
        ConfigError: the step has fewer texts than there are workers, so that one would have nothing to do.
    """
    if len(step) < world:
        raise ConfigError(f"setting `workers`: {world} workers share a step of {len(step)} texts; use fewer workers")
    return np.array_split(step, world)[rank]
