"""Digests of rows by their values, however the file is cut into row groups, pages or dictionaries.

A block is `BLOCK_ROWS` rows. One changed value changes its block's digest, so an audit can say within which offsets.
A digest protects against accidents and edits by hand; who rewrites a file, its footer and its successors forges all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pyarrow as pa

BLOCK_ROWS: Final = 1024
_DIGEST_CHARS: Final = 32


def block_digests(table: pa.Table) -> tuple[str, ...]:
    """One hexadecimal digest of 128 bits per block of `BLOCK_ROWS` rows (the last may be shorter), in order."""
    return tuple(batch_digest(batch) for batch in blocks(table))


def blocks(table: pa.Table) -> Iterator[pa.RecordBatch]:
    """The rows in record batches of `BLOCK_ROWS`, each contiguous."""
    plain = pa.table([_plain(column) for column in table.columns], names=table.column_names)
    whole = plain.combine_chunks()
    for start in range(0, len(whole), BLOCK_ROWS):
        yield from whole.slice(start, BLOCK_ROWS).to_batches()


def batch_digest(batch: pa.RecordBatch) -> str:
    """The digest of one block whose columns are plain (no dictionaries)."""
    digest = hashlib.sha256()
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        digest.update(f"{name}:{column.type}:{len(column)};".encode())
        for part in _parts(column):
            digest.update(part)
    return digest.hexdigest()[:_DIGEST_CHARS]


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _parts(column: pa.Array) -> Iterator[Any]:
    """Buffers that hold exactly this column's values: validity, then lengths and bytes, or fixed-width values."""
    if column.null_count:
        yield np.packbits(column.is_valid().to_numpy(zero_copy_only=False))
    kind = column.type
    if pa.types.is_list(kind):
        yield np.diff(column.offsets.to_numpy())
        yield from _parts(column.flatten())
    elif pa.types.is_string(kind):
        bounds = np.frombuffer(column.buffers()[1], dtype=np.int32)[column.offset : column.offset + len(column) + 1]
        yield np.diff(bounds)
        yield memoryview(column.buffers()[2] or b"")[bounds[0] : bounds[-1]]
    elif pa.types.is_boolean(kind):
        yield np.packbits(column.fill_null(False).to_numpy(zero_copy_only=False))
    else:
        values = column.fill_null(0) if column.null_count and not pa.types.is_timestamp(kind) else column
        yield from _fixed(values)


def _fixed(column: pa.Array) -> Iterator[Any]:
    kind = column.type
    if pa.types.is_timestamp(kind):
        column = column.cast(pa.int64())
        column = column.fill_null(0) if column.null_count else column
    yield np.ascontiguousarray(column.to_numpy(zero_copy_only=False))
