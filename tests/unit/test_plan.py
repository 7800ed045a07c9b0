"""Plans: every text once, whatever the number of workers; reproducible; little padding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentiment.errors import ConfigError
from training.plan import epoch_steps, mixed_rows, rank_share


@given(count=st.integers(1, 400), step_texts=st.integers(1, 40), epoch=st.integers(0, 3))
def test_every_text_is_in_exactly_one_step(count: int, step_texts: int, epoch: int) -> None:
    lengths = np.random.default_rng(count).integers(1, 90, count)
    steps = epoch_steps(lengths, step_texts, seed=1, epoch=epoch)
    assert sorted(np.concatenate(steps).tolist()) == list(range(count))
    assert all(len(step) <= step_texts * 3 // 2 for step in steps)


def test_a_plan_is_a_function_of_seed_and_epoch() -> None:
    lengths = np.arange(1, 500) % 60

    def flat(seed: int, epoch: int) -> list[int]:
        return [int(row) for step in epoch_steps(lengths, 16, seed=seed, epoch=epoch) for row in step]

    assert flat(1, 0) == flat(1, 0)
    assert flat(1, 0) != flat(1, 1)
    assert flat(1, 0) != flat(2, 0)


def test_texts_of_a_step_have_similar_lengths() -> None:
    lengths = np.random.default_rng(0).integers(1, 200, 4000)
    steps = epoch_steps(lengths, 32, seed=1, epoch=0)
    padded = sum(len(step) * lengths[step].max() for step in steps)
    assert padded < 1.15 * lengths.sum()


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_the_parts_of_all_workers_are_the_step(world: int) -> None:
    step = np.array([5, 3, 9, 1, 7])
    parts = [rank_share(step, rank, world) for rank in range(world)]
    assert np.concatenate(parts).tolist() == step.tolist()
    assert all(len(part) for part in parts)


def test_more_workers_than_texts_are_refused() -> None:
    with pytest.raises(ConfigError, match="workers"):
        rank_share(np.array([1, 2]), 0, 3)


def test_mixing_brings_a_small_domain_up_and_keeps_the_number_of_texts() -> None:
    domains = np.array([0] * 970 + [1] * 30)
    assert mixed_rows(domains, 1.0, seed=1, epoch=0).tolist() == list(range(1000))
    for temperature, low, high in [(2.0, 120, 180), (1e9, 490, 510)]:
        rows = mixed_rows(domains, temperature, seed=1, epoch=0)
        assert low < (domains[rows] == 1).sum() < high
        assert 990 <= len(rows) <= 1010
        counts = np.bincount(rows, minlength=1000)[970:]
        assert counts.max() - counts.min() <= 1
