"""Hashed character n-grams: a fixed function of the text, the same in every process and on every machine.

Each text is NFKC-normalised, lower-cased, its white space collapsed, and framed by one space on either side, so that
`" up"` differs from the `up` inside `supply`. n-grams run over code points and never cross texts.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt
from pydantic.dataclasses import dataclass

from sentiment.batching import offsets_from_lengths
from sentiment.cli import STRICT

_BASIS: Final = np.uint64(0xCBF29CE484222325)
_PRIME: Final = np.uint64(0x100000001B3)
_FINAL: Final = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NgramSettings:
    """How texts become n-gram buckets; part of what a bundle fixes."""

    sizes: tuple[PositiveInt, ...] = (1, 2, 3, 4, 5)
    """lengths of the n-grams [code points]"""
    buckets: PositiveInt = 262_144
    """size of the hash table [buckets]"""


def normalise(text: str) -> str:
    """The text that is hashed: NFKC, lower case, single spaces, one space before and after."""
    return f" {' '.join(unicodedata.normalize('NFKC', text).lower().split())} "


def hashed_ngrams(texts: Sequence[str], settings: NgramSettings) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Bucket ids of every n-gram of every text.

    The hash of one n-gram is FNV-1a (64 bit, http://www.isthe.com/chongo/tech/comp/fnv/) over its code points taken as
    32-bit units and started from the basis xor its length, then one multiply-shift, modulo the number of buckets.

    Returns:
        `ids [total]` int32, grouped by text, in a text by size, then by position; `offsets [N + 1]` int64.
    """
    clean = [normalise(text) for text in texts]
    text_offsets = offsets_from_lengths([len(text) for text in clean])
    # Lone surrogates are legal in a Python str: they hash like any other code point.
    points = np.frombuffer("".join(clean).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    lengths = np.diff(text_offsets)
    counts = [np.maximum(lengths - size + 1, 0) for size in settings.sizes]  # per size: [N]
    offsets = offsets_from_lengths(np.sum(counts, axis=0, dtype=np.int64))
    ids = np.empty(offsets[-1], np.int32)
    start = offsets[:-1].copy()  # [N] where the next size of each text goes
    for size, count in zip(settings.sizes, counts, strict=True):
        rank = np.arange(count.sum()) - np.repeat(offsets_from_lengths(count)[:-1], count)
        source = np.repeat(text_offsets[:-1], count) + rank
        ids[np.repeat(start, count) + rank] = _bucket(points, size, settings.buckets)[source]
        start += count
    return ids, offsets


def _bucket(points: NDArray[np.uint64], size: int, buckets: int) -> NDArray[np.int32]:
    """`[len(points) - size + 1]` bucket of the n-gram that starts at each code point, texts ignored."""
    windows = max(len(points) - size + 1, 0)
    value = np.full(windows, _BASIS ^ np.uint64(size), np.uint64)
    for step in range(size):
        value ^= points[step : step + windows]
        value *= _PRIME  # wraps at 64 bits on purpose
    value *= _FINAL
    value >>= np.uint64(32)
    value %= np.uint64(buckets)
    return value.astype(np.int32)
