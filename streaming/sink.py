"""Rows of one partition, collected as columns, and the Parquet bytes of one file.

`RowBuffer` takes answers of the scorer in offset order; `encode` makes the file. Nothing here writes anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from sentiment.cli import STRICT
from sentiment.errors import ConfigError, ScorerRejected
from sentiment.labels import LABELS, NEGATIVE, NEUTRAL, POSITIVE
from sentiment.records import SCHEMA_VERSION, SCORED_SCHEMA, Post, Scores, content_hash
from streaming.footer import FOOTER_KEY, Footer

SUM_TOLERANCE: Final = 1e-4
"""How far from 1 the three probabilities of a row may sum (float32 from a softmax is within 1e-6)."""

_ROW_GROUP_ROWS: Final = 16_384
_PAGE_BYTES: Final = 256 * 1024
_DICTIONARY_COLUMNS: Final = (
    *("topic", "source", "lang", "domain_hint", "symbols.list.element"),
    *("label", "expert", "bundle_id", "vintage"),
)
_DELTA_COLUMNS: Final = ("offset", "kafka_timestamp", "ingested_at", "scored_at", "available_at")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RollSettings:
    """When a partition's buffer becomes a file: at whichever comes first, and at a change of bundle."""

    max_rows: PositiveInt = 50_000
    """roll after this many rows [rows]"""
    max_bytes: PositiveInt = 64 * 1024 * 1024
    """roll at this size in memory; the file is about a third of it [bytes]"""
    max_age_s: PositiveFloat = 10.0
    """roll this long after the first polled record, rows or not [s]"""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AvailabilitySettings:
    """The promise `available_at` that every row carries."""

    slack_s: PositiveFloat = 5.0
    """promise rows this long after the roll [s]"""
    put_timeout_s: PositiveFloat = 3.0
    """a put starts only if it could take this long and still keep the promise [s]"""

    def __post_init__(self) -> None:
        if self.slack_s <= self.put_timeout_s:
            raise ConfigError(
                f"setting `slack_s`: {self.slack_s} must be greater than `put_timeout_s`, {self.put_timeout_s}"
            )


class RowBuffer:
    """Scored rows of one partition in offset order, held as Arrow columns.

    Args:
        topic: Kafka topic.
        partition: partition number.
        keep_text: False leaves the column `text` null; the hash stays.
        vintage: `live`, or the name of a rescoring run.
        is_backfill: whether the rows were scored long after they were published.
    """

    def __init__(
        self, topic: str, partition: int, *, keep_text: bool = True, vintage: str = "live", is_backfill: bool = False
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.nbytes = 0
        self.bundle_ids: tuple[str, ...] = ()
        self.latest_us = 0
        self._keep_text = keep_text
        self._constants = {"vintage": vintage, "is_backfill": is_backfill}
        self._batches: list[pa.RecordBatch] = []
        self._offsets: list[NDArray[np.int64]] = []
        self._rows = 0
        self._last_offset = -1

    def __len__(self) -> int:
        return self._rows

    @property
    def offsets(self) -> NDArray[np.int64]:
        """`[N]` int64, strictly increasing."""
        return np.concatenate(self._offsets) if self._offsets else np.empty(0, dtype=np.int64)

    def due(self, roll: RollSettings) -> bool:
        """Whether rows or bytes say that this buffer must be rolled (its age is the pipeline's to know)."""
        return self._rows >= roll.max_rows or self.nbytes >= roll.max_bytes

    def add(  # noqa: PLR0913  # the columns of N rows
        self,
        offsets: Sequence[int] | NDArray[np.int64],
        kafka_timestamps_ms: Sequence[int] | NDArray[np.int64],
        ingested_at_us: Sequence[int] | NDArray[np.int64],
        posts: Sequence[Post],
        scores: Scores,
        *,
        scored_at_us: int,
    ) -> None:
        """Append N rows, all of them or none.

        Args:
            offsets: `[N]`, strictly increasing and after every offset added before.
            kafka_timestamps_ms: `[N]`, the records' timestamps, raw [ms since the epoch; -1 = the record has none].
            ingested_at_us: `[N]`, when this worker polled each record [us since the epoch].
            posts: N parsed posts.
            scores: the scorer's answer for their texts, in the same order.
            scored_at_us: when that answer arrived; a row ingested later by a clock since set back gets that time
                instead, so that ingested_at <= scored_at always holds [us since the epoch].

        Raises:
            ScorerRejected: the answer has another length, or its probabilities are not finite or do not sum to 1.
            ValueError: lengths differ, or offsets do not increase (an error of the caller).
        """
        check_scores(scores, len(posts))
        if not len(posts):
            return
        where = np.asarray(offsets, dtype=np.int64)
        ingested = np.asarray(ingested_at_us, dtype=np.int64)
        if not len(where) == len(ingested) == len(kafka_timestamps_ms) == len(posts):
            raise ValueError("offsets, timestamps and posts differ in length")
        if (np.diff(where, prepend=self._last_offset) <= 0).any():
            raise ValueError(f"offsets must increase: {where[0]} after {self._last_offset}")
        scored = np.maximum(ingested, scored_at_us)
        columns = {
            "offset": pa.array(where),
            "kafka_timestamp": _timestamps(np.asarray(kafka_timestamps_ms, dtype=np.int64) * 1000),
            "ingested_at": _timestamps(ingested),
            "scored_at": _timestamps(scored),
            **_post_columns(posts, [f"{self.topic}-{self.partition}-{offset}" for offset in where.tolist()]),
            **_score_columns(scores),
        }
        if not self._keep_text:
            columns["text"] = pa.nulls(len(posts), pa.string())
        self._keep(columns, where)
        self.latest_us = max(self.latest_us, int(scored.max()))
        self.bundle_ids = tuple(dict.fromkeys((*self.bundle_ids, scores.bundle_id)))

    def _keep(self, columns: dict[str, pa.Array], offsets: NDArray[np.int64]) -> None:
        batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
        self._batches.append(batch)
        self._offsets.append(offsets)
        self._rows += len(offsets)
        self._last_offset = int(offsets[-1])
        self.nbytes += batch.nbytes

    def table(self, available_at: datetime) -> pa.Table:
        """All rows as `SCORED_SCHEMA`, promised for `available_at` [UTC]; zero rows have the same schema."""
        if not self._batches:
            return SCORED_SCHEMA.empty_table()
        collected = pa.Table.from_batches(self._batches).unify_dictionaries()
        constants = {
            "topic": self.topic,
            "partition": self.partition,
            "available_at": available_at,
            "schema_version": SCHEMA_VERSION,
            **self._constants,
        }
        columns = [
            pa.chunked_array([pa.repeat(pa.scalar(constants[field.name], field.type), self._rows)])
            if field.name in constants
            else collected.column(field.name)
            for field in SCORED_SCHEMA
        ]
        return pa.Table.from_arrays(columns, schema=SCORED_SCHEMA)


def check_scores(scores: Scores, rows: int) -> None:
    """Refuse an answer that cannot be stored as scores of `rows` texts.

    Raises:
        ScorerRejected: another length, probabilities that are not finite or do not sum to 1 within `SUM_TOLERANCE`.
    """
    if scores.probabilities.shape != (rows, len(LABELS)):
        raise ScorerRejected(f"the scorer answered {scores.probabilities.shape} for {rows} texts")
    if not (np.abs(scores.probabilities.sum(axis=1) - 1) <= SUM_TOLERANCE).all() or (scores.probabilities < 0).any():
        raise ScorerRejected("the scorer's probabilities are not finite or do not sum to 1")


def encode(table: pa.Table, footer: Footer) -> bytes:
    """The Parquet file of one roll.

    Row groups, data pages and dictionary pages are capped: readers failed on huge dictionary pages, and an audit
    streams row group by row group.
    """
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        table.schema,
        compression="zstd",
        use_dictionary=list(_DICTIONARY_COLUMNS),
        column_encoding=dict.fromkeys(_DELTA_COLUMNS, "DELTA_BINARY_PACKED"),
        data_page_size=_PAGE_BYTES,
        dictionary_pagesize_limit=_PAGE_BYTES,
        write_page_index=True,
    ) as writer:
        writer.write_table(table, row_group_size=_ROW_GROUP_ROWS)
        writer.add_key_value_metadata({FOOTER_KEY.decode(): footer.to_json().decode()})
    return bytes(sink.getvalue())


def _timestamps(values_us: NDArray[np.int64]) -> pa.Array:
    return pa.array(values_us).cast(pa.timestamp("us", tz="UTC"))


def _post_columns(posts: Sequence[Post], default_ids: Sequence[str]) -> dict[str, pa.Array]:
    lengths = np.fromiter((len(post.symbols) for post in posts), dtype=np.int32, count=len(posts))
    starts = np.concatenate((np.zeros(1, dtype=np.int32), np.cumsum(lengths, dtype=np.int32)))
    symbols = pa.array([symbol for post in posts for symbol in post.symbols], pa.string())
    return {
        "id": pa.array([post.id or default for post, default in zip(posts, default_ids, strict=True)], pa.string()),
        "source": pa.array([post.source for post in posts], pa.string()),
        "lang": pa.array([post.lang for post in posts], pa.string()),
        "domain_hint": pa.array([post.domain_hint for post in posts], pa.string()),
        "symbols": pa.ListArray.from_arrays(pa.array(starts), symbols, type=SCORED_SCHEMA.field("symbols").type),
        "text": pa.array([post.text for post in posts], pa.string()),
        "content_hash": pa.array([content_hash(post.text) for post in posts], pa.string()),
        "published_at": pa.array([post.published_at for post in posts], SCORED_SCHEMA.field("published_at").type),
    }


def _score_columns(scores: Scores) -> dict[str, pa.Array]:
    probabilities = np.asarray(scores.probabilities, dtype=np.float32)
    rows = np.arange(len(probabilities))
    return {
        "label": pa.DictionaryArray.from_arrays(probabilities.argmax(axis=1).astype(np.int32), list(LABELS)),
        "p_negative": pa.array(np.ascontiguousarray(probabilities[:, NEGATIVE])),
        "p_neutral": pa.array(np.ascontiguousarray(probabilities[:, NEUTRAL])),
        "p_positive": pa.array(np.ascontiguousarray(probabilities[:, POSITIVE])),
        "score": pa.array(probabilities[:, POSITIVE] - probabilities[:, NEGATIVE]),
        "confidence": pa.array(probabilities.max(axis=1)),
        "expert": pa.DictionaryArray.from_arrays(scores.expert.astype(np.int32), list(scores.experts)),
        "gate": pa.array(scores.gate[rows, scores.expert].astype(np.float32)),
        "experts_run": pa.array(scores.experts_run.astype(np.int8)),
        "disagreement": pc.replace_with_mask(
            pa.array(scores.disagreement, pa.float32()),
            pa.array(np.isnan(scores.disagreement)),
            pa.scalar(None, pa.float32()),
        ),
        "bundle_id": pa.repeat(scores.bundle_id, len(probabilities)),
    }
