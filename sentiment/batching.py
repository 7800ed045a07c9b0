"""Ragged texts as flat arrays, cut into length-sorted batches by padded tokens, and back to input order.

numpy only: this is the wire form between the router stage and an expert replica.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class EncodedTexts:
    """N encoded texts without padding: text i owns `token_ids[token_offsets[i]:token_offsets[i + 1]]`.

    Attributes:
        token_ids: `[total tokens]` int32.
        token_offsets: `[N + 1]` int64, starts at 0, ends at the total.
        ngram_ids: `[total n-grams]` int32, buckets of the hashed character n-grams; empty where unused.
        ngram_offsets: `[N + 1]` int64; all zero where n-grams are unused.
    """

    token_ids: NDArray[np.int32]
    token_offsets: NDArray[np.int64]
    ngram_ids: NDArray[np.int32]
    ngram_offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.token_offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """`[N]` tokens per text."""
        return np.diff(self.token_offsets)

    def take(self, indices: NDArray[np.int64] | Sequence[int]) -> EncodedTexts:
        """The texts at `indices`, in that order."""
        rows = np.asarray(indices, dtype=np.int64)
        token_ids, token_offsets = _take_ragged(self.token_ids, self.token_offsets, rows)
        ngram_ids, ngram_offsets = _take_ragged(self.ngram_ids, self.ngram_offsets, rows)
        return EncodedTexts(token_ids, token_offsets, ngram_ids, ngram_offsets)

    def without_ngrams(self) -> EncodedTexts:
        """The same texts with empty n-grams, for a base that has no n-gram bag."""
        return EncodedTexts(
            self.token_ids, self.token_offsets, np.zeros(0, np.int32), np.zeros(len(self) + 1, np.int64)
        )

    @classmethod
    def concatenate(cls, parts: Sequence[EncodedTexts]) -> EncodedTexts:
        """All texts of `parts`, one after the other; no parts give no texts."""
        token_ids, token_offsets = _concatenate_ragged([(part.token_ids, part.token_offsets) for part in parts])
        ngram_ids, ngram_offsets = _concatenate_ragged([(part.ngram_ids, part.ngram_offsets) for part in parts])
        return cls(token_ids, token_offsets, ngram_ids, ngram_offsets)


def token_budget_batches(lengths: NDArray[np.int64], max_padded_tokens: int) -> list[NDArray[np.int64]]:
    """Cut texts, sorted by length, into batches of at most `max_padded_tokens` after padding.

    Args:
        lengths: `[N]` tokens per text.
        max_padded_tokens: rows x longest row of a batch; a text longer than this is a batch of its own.

    Returns:
        Index arrays into `lengths`; together they hold every index once. Shortest texts first, ties in input order.

    Raises:
        ValueError: the budget is not positive.
    """
    if max_padded_tokens < 1:
        raise ValueError(f"max_padded_tokens must be at least 1, got {max_padded_tokens}")
    order = np.argsort(lengths, kind="stable")
    batches: list[NDArray[np.int64]] = []
    start = 0
    for position, length in enumerate(lengths[order].tolist()):
        if position > start and (position - start + 1) * length > max_padded_tokens:
            batches.append(order[start:position])
            start = position
    if start < len(order):
        batches.append(order[start:])
    return batches


def offsets_from_lengths(lengths: NDArray[np.int64] | Sequence[int]) -> NDArray[np.int64]:
    """`[N + 1]` offsets of N ragged pieces."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _take_ragged(
    values: NDArray[np.int32], offsets: NDArray[np.int64], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    lengths = np.diff(offsets)[rows]
    taken = offsets_from_lengths(lengths)
    positions = np.repeat(offsets[:-1][rows] - taken[:-1], lengths) + np.arange(taken[-1])
    return values[positions], taken


def _concatenate_ragged(
    parts: list[tuple[NDArray[np.int32], NDArray[np.int64]]],
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    values = np.concatenate([np.zeros(0, np.int32), *(value for value, _ in parts)])
    lengths = np.concatenate([np.zeros(0, np.int64), *(np.diff(offsets) for _, offsets in parts)])
    return values, offsets_from_lengths(lengths)
