"""Everything one file can be caught at, by its rows and its footer alone: streamed row group by row group."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sentiment.labels import LABELS, NEGATIVE, POSITIVE
from sentiment.records import SCORED_SCHEMA, content_hash
from streaming.audit_report import Finding
from streaming.digest import BLOCK_ROWS, batch_digest, blocks
from streaming.footer import Footer
from streaming.ranges import Ranges, clip, coverage, merge, ranges_of
from streaming.sink import SUM_TOLERANCE

_ROUNDING: Final = 1e-6


@dataclass(slots=True)
class FileRows:
    """What reading one file's rows brought to light."""

    offsets: list[NDArray[np.int64]] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def all_offsets(self) -> NDArray[np.int64]:
        """`[N]` int64, in the order of the rows."""
        return np.concatenate(self.offsets) if self.offsets else np.empty(0, dtype=np.int64)


def check_file(
    path: str, data: bytes, footer: Footer, *, on_rows: Callable[[pa.Table], None], keep_hashes: bool
) -> FileRows:
    """Check every row of a file against itself and against its footer.

    Args:
        path: for the findings.
        data: the whole file.
        footer: its footer, already known to belong to this path.
        on_rows: is called with each stretch of rows as it is read.
        keep_hashes: whether to return the column `content_hash` (the broker's proof needs it).
    """
    result = FileRows()
    whole: Ranges = ((footer.start, footer.end),)
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        if not file.schema_arrow.equals(SCORED_SCHEMA):
            detail = "the columns are not those of a scored row, schema version 1"
            result.findings.append(Finding("wrong", "schema", path, whole, detail))
            return result
        digests: list[str] = []
        for table in _aligned(file):
            _check_rows(path, table, footer, result)
            _check_digests(path, table, footer, digests, result)
            on_rows(table)
            if keep_hashes:
                result.hashes.extend(table.column("content_hash").to_pylist())
        if len(digests) != len(footer.row_digests):
            detail = f"the footer has {len(footer.row_digests)} row digests, the rows make {len(digests)}"
            result.findings.append(Finding("wrong", "row-digest", path, whole, detail))
    except (pa.ArrowException, OSError) as error:
        result.findings.append(Finding("wrong", "unreadable", path, whole, f"the rows cannot be read: {error}"))
        return result
    result.findings.extend(_check_offsets(path, result.all_offsets(), footer))
    return result


def _aligned(file: pq.ParquetFile) -> Iterator[pa.Table]:
    """Row group by row group, cut at multiples of `BLOCK_ROWS` whatever the row groups' sizes."""
    rest = SCORED_SCHEMA.empty_table()
    for index in range(file.num_row_groups):
        rest = pa.concat_tables([rest, file.read_row_group(index).cast(SCORED_SCHEMA)])
        whole = len(rest) // BLOCK_ROWS * BLOCK_ROWS
        if whole:
            yield rest.slice(0, whole)
            rest = rest.slice(whole)
    if len(rest):
        yield rest


def _check_digests(path: str, table: pa.Table, footer: Footer, seen: list[str], result: FileRows) -> None:
    for block in blocks(table):
        digest = batch_digest(block)
        if len(seen) < len(footer.row_digests) and footer.row_digests[len(seen)] != digest:
            offsets = block.column("offset").to_numpy()
            detail = f"at least one of these {len(offsets)} rows is not as it was written"
            result.findings.append(Finding("wrong", "row-digest", path, ranges_of(offsets), detail))
        seen.append(digest)


def _check_rows(path: str, table: pa.Table, footer: Footer, result: FileRows) -> None:
    offsets = table.column("offset").to_numpy()
    result.offsets.append(offsets)
    for code, detail, good in _row_checks(table, footer):
        if not good.all():
            result.findings.append(Finding("wrong", code, path, ranges_of(offsets[~good]), detail))


def _row_checks(table: pa.Table, footer: Footer) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    """(code, what is wrong where it fails, `[N]` whether each row passes)."""

    def column(name: str) -> NDArray[Any]:
        return table.column(name).to_numpy()  # type: ignore[no-any-return]  # pyarrow has no types

    def stamp(name: str) -> NDArray[np.int64]:
        return table.column(name).cast(pa.int64()).to_numpy()  # type: ignore[no-any-return]  # pyarrow has no types

    def equals(name: str, value: object) -> NDArray[np.bool_]:
        return pc.equal(table.column(name), pa.scalar(value, SCORED_SCHEMA.field(name).type)).to_numpy()  # type: ignore[no-any-return]  # pyarrow has no types

    yield (
        "wrong-partition",
        f"the row is not of {footer.topic}-{footer.partition}",
        (equals("topic", footer.topic) & equals("partition", footer.partition)),
    )
    yield "content-hash", "content_hash is not that of the text", _hash_matches(table)
    p = np.stack([column(f"p_{label}") for label in LABELS], axis=1)
    yield (
        "probabilities",
        "the probabilities are not in [0, 1] with sum 1",
        ((p >= 0).all(axis=1) & (np.abs(p.sum(axis=1) - 1) <= SUM_TOLERANCE)),
    )
    labels = pc.index_in(table.column("label").cast(pa.string()), pa.array(LABELS)).fill_null(-1).to_numpy()
    yield "label", "the label is not that of the largest probability", labels == p.argmax(axis=1)
    yield (
        "score",
        "score is not p_positive - p_negative",
        (np.abs(column("score") - (p[:, POSITIVE] - p[:, NEGATIVE])) <= _ROUNDING),
    )
    yield (
        "confidence",
        "confidence is not the largest probability",
        np.abs(column("confidence") - p.max(axis=1)) <= _ROUNDING,
    )
    gate, run = column("gate"), column("experts_run")
    yield "gate", "the gate is not in [0, 1]", (gate >= 0) & (gate <= 1 + SUM_TOLERANCE)
    yield "experts-run", "no expert ran", run >= 1
    ingested, scored, available = (stamp(name) for name in ("ingested_at", "scored_at", "available_at"))
    yield "time-order", "not ingested_at <= scored_at <= available_at", (ingested <= scored) & (scored <= available)
    yield "promise", "available_at is not the file's promise", equals("available_at", footer.available_at)
    bundles = pc.is_in(table.column("bundle_id"), value_set=pa.array(footer.bundle_ids, pa.string()))
    yield "bundle", "the bundle is not one that the footer names", bundles.to_numpy()
    yield "schema-version", "another schema version than the footer's", equals("schema_version", footer.schema_version)


def _hash_matches(table: pa.Table) -> NDArray[np.bool_]:
    texts, hashes = table.column("text").to_pylist(), table.column("content_hash").to_pylist()
    pairs = zip(texts, hashes, strict=True)
    return np.fromiter(
        (text is None or content_hash(text) == sha for text, sha in pairs), dtype=np.bool_, count=len(texts)
    )


def _check_offsets(path: str, offsets: NDArray[np.int64], footer: Footer) -> Iterator[Finding]:
    """Rows + dead + holes are the file's range, each offset once, in order (a gap or an origin has no rows)."""
    start, end = footer.start, footer.end
    if len(offsets) and (np.diff(offsets) <= 0).any():
        at = np.flatnonzero(np.diff(offsets) <= 0) + 1
        yield Finding(
            "wrong", "order", path, ranges_of(offsets[at]), "rows are not in strictly increasing offset order"
        )
    values, times = np.unique(offsets, return_counts=True)
    if (times > 1).any():
        yield Finding(
            "doubled", "offset-twice", path, ranges_of(values[times > 1]), "the file holds the offset more than once"
        )
    outside = values[(values < start) | (values >= end)]
    if len(outside):
        detail = f"the rows lie outside the file's range [{start}, {end})"
        yield Finding("wrong", "outside-range", path, ranges_of(outside), detail)
    claimed = (*footer.dead, *footer.holes)
    if footer.kind != "rows":
        if len(offsets) or claimed:
            yield Finding("wrong", "skip-with-rows", path, ((start, end),), f"a file of kind {footer.kind} holds rows")
        return
    missing, doubled = coverage((*clip(ranges_of(values), start, end), *claimed), start, end)
    if missing:
        yield Finding("missing", "rows-missing", path, missing, "neither a row, a dead letter nor a hole of its file")
    if doubled:
        yield Finding("doubled", "claimed-twice", path, merge(doubled), "a row as well as a dead letter or a hole")
