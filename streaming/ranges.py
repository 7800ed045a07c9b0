"""Sets of offsets as sorted, disjoint, half-open ranges: small even where a million offsets are dead or missing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Range = tuple[int, int]
Ranges = tuple[Range, ...]
"""`((3, 7), (12, 13))` holds the offsets 3, 4, 5, 6 and 12."""


def ranges_of(offsets: Iterable[int] | NDArray[np.int64]) -> Ranges:
    """The ranges that hold exactly these offsets, given in any order; an offset given twice counts once."""
    values = np.unique(np.asarray(offsets if isinstance(offsets, np.ndarray) else list(offsets), dtype=np.int64))
    if not len(values):
        return ()
    breaks = np.flatnonzero(np.diff(values) != 1)
    firsts = values[np.concatenate(([0], breaks + 1))]
    lasts = values[np.concatenate((breaks, [len(values) - 1]))]
    return tuple(zip(firsts.tolist(), (lasts + 1).tolist(), strict=True))


def count(ranges: Iterable[Range]) -> int:
    """How many offsets the ranges hold."""
    return sum(stop - start for start, stop in ranges)


def coverage(parts: Iterable[Range], start: int, stop: int) -> tuple[Ranges, Ranges]:
    """Where `parts`, taken together, miss `[start, stop)`, and where they hold an offset more than once.

    Returns:
        (missing within `[start, stop)`, doubled anywhere).
    """
    missing: list[Range] = []
    doubled: list[Range] = []
    reached, cursor = None, start
    for first, last in sorted(parts):
        if first > cursor:
            missing.append((cursor, min(first, stop)))
        if reached is not None and first < reached:
            doubled.append((first, min(last, reached)))
        reached = max(last, last if reached is None else reached)
        cursor = max(cursor, last)
    missing.append((cursor, stop))
    return merge(missing), merge(doubled)


def merge(ranges: Iterable[Range]) -> Ranges:
    """The union of the ranges, which may overlap or touch."""
    merged: list[Range] = []
    for start, stop in sorted(ranges):
        if start >= stop:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
        else:
            merged.append((start, stop))
    return tuple(merged)


def clip(ranges: Iterable[Range], start: int, stop: int) -> Ranges:
    """The part of the ranges that lies in `[start, stop)`."""
    return tuple((max(a, start), min(b, stop)) for a, b in ranges if max(a, start) < min(b, stop))


def show(ranges: Sequence[Range], *, limit: int = 8) -> str:
    """For a person: `3-6, 12 and 4 more ranges` (both ends included)."""
    words = [str(start) if stop == start + 1 else f"{start}-{stop - 1}" for start, stop in ranges[:limit]]
    more = f" and {len(ranges) - limit:,} more ranges" if len(ranges) > limit else ""
    return ", ".join(words) + more


def subtract(ranges: Iterable[Range], taken: Iterable[Range]) -> Ranges:
    """The part of the disjoint `ranges` that is not in `taken`."""
    left: list[Range] = []
    holes = merge(taken)
    for start, stop in ranges:
        cursor = start
        for first, last in clip(holes, start, stop):
            left.append((cursor, first))
            cursor = last
        left.append((cursor, stop))
    return merge(left)


def expand(ranges: Iterable[Range]) -> NDArray[np.int64]:
    """`[count]` int64, every offset of the ranges."""
    return np.concatenate([np.empty(0, dtype=np.int64), *(np.arange(start, stop) for start, stop in ranges)])
