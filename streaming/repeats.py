"""Posts that arrived more than once: the same (source, id) at different offsets.

Exactly once per offset is not once per post: producers retry, crawlers fetch again. That is no fault of the log, so an
audit counts them and goes on. 8 bytes a row while counting, so that 10 M rows fit beside everything else.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


class Repeats:
    """Counts repeated (source, id) pairs by their 64-bit hash (of 10 M pairs, two share one with p = 3e-6)."""

    def __init__(self) -> None:
        self._hashes: list[NDArray[np.int64]] = []

    def add(self, table: pa.Table) -> None:
        """Count these rows."""
        pairs = zip(table.column("source").to_pylist(), table.column("id").to_pylist(), strict=True)
        self._hashes.append(np.fromiter(map(hash, pairs), dtype=np.int64, count=len(table)))

    def count(self) -> int:
        """Rows whose (source, id) an earlier row has."""
        if not self._hashes:
            return 0
        self._hashes = [np.concatenate(self._hashes)]
        self._hashes[0].sort()
        return int((np.diff(self._hashes[0]) == 0).sum())
