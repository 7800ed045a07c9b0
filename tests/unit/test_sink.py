from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chainkit import make_post, make_rows, make_scores, write_chain

from sentiment.errors import ConfigError, ScorerRejected
from sentiment.records import SCORED_SCHEMA, content_hash
from streaming.digest import block_digests
from streaming.sink import AvailabilitySettings, RollSettings, RowBuffer
from streaming.store import LocalStore

WHEN = datetime(2026, 11, 20, 12, tzinfo=UTC)


def test_every_column_says_what_the_design_says() -> None:
    scores = make_scores(3)
    buffer = RowBuffer("posts", 7, vintage="rescored-1", is_backfill=True)
    buffer.add([4, 6, 9], [1000, -1, 2000], [50, 60, 70], [make_post(i) for i in (4, 6, 9)], scores, scored_at_us=65)
    table = buffer.table(WHEN)
    assert table.schema.equals(SCORED_SCHEMA)
    rows = table.to_pylist()
    assert [row["offset"] for row in rows] == [4, 6, 9]
    assert [row["id"] for row in rows] == ["posts-7-4", "posts-7-6", "id-9"]
    assert [row["symbols"] for row in rows] == [["SH600519"], [], []]
    assert [row["published_at"] is None for row in rows] == [True, False, False]
    assert table.column("kafka_timestamp").cast(pa.int64()).to_pylist() == [1_000_000, -1_000, 2_000_000]
    assert table.column("scored_at").cast(pa.int64()).to_pylist() == [65, 65, 70]  # never before ingested_at
    for index, row in enumerate(rows):
        p = scores.probabilities[index]
        assert (row["topic"], row["partition"], row["available_at"]) == ("posts", 7, WHEN)
        assert row["content_hash"] == content_hash(row["text"])
        assert row["label"] == ("negative", "neutral", "positive")[int(p.argmax())]
        assert row["score"] == pytest.approx(float(p[2] - p[0]))
        assert row["confidence"] == pytest.approx(float(p.max()))
        assert row["expert"] == scores.experts[scores.expert[index]]
        assert row["gate"] == pytest.approx(float(scores.gate[index].max()))
        assert (row["disagreement"] is None) == (row["experts_run"] == 1)
        assert (row["vintage"], row["is_backfill"], row["bundle_id"]) == ("rescored-1", True, "bundle-1")


def test_without_text_the_hash_stays() -> None:
    buffer = RowBuffer("posts", 0, keep_text=False)
    buffer.add([1], [0], [0], [make_post(1)], make_scores(1), scored_at_us=1)
    row = buffer.table(WHEN).to_pylist()[0]
    assert row["text"] is None
    assert row["content_hash"] == content_hash(make_post(1).text)


def test_two_bundles_with_other_experts_fit_in_one_buffer() -> None:
    buffer = RowBuffer("posts", 0)
    buffer.add([1], [0], [0], [make_post(1)], make_scores(1, bundle_id="b1"), scored_at_us=1)
    other = dataclasses.replace(make_scores(1, bundle_id="b2"), experts=("zh", "en"))
    buffer.add([2], [0], [0], [make_post(2)], other, scored_at_us=1)
    rows = buffer.table(WHEN).to_pylist()
    assert buffer.bundle_ids == ("b1", "b2")
    assert rows[0]["expert"] in ("news", "forum")
    assert rows[1]["expert"] in ("zh", "en")


@pytest.mark.parametrize("bad", [np.nan, -0.1, 0.9])
def test_an_answer_that_is_no_distribution_is_refused_whole(bad: float) -> None:
    scores = make_scores(2)
    scores.probabilities[1] = (bad, 0.5, 0.6)
    buffer = RowBuffer("posts", 0)
    with pytest.raises(ScorerRejected, match="sum to 1"):
        buffer.add([1, 2], [0, 0], [0, 0], [make_post(1), make_post(2)], scores, scored_at_us=1)
    with pytest.raises(ScorerRejected, match="for 1 texts"):
        buffer.add([1], [0], [0], [make_post(1)], make_scores(2), scored_at_us=1)
    assert len(buffer) == 0


def test_offsets_that_do_not_increase_are_an_error_of_the_caller() -> None:
    buffer = make_rows([5, 6])
    for offsets in ([6], [8, 8], [9, 7]):
        posts = [make_post(offset) for offset in offsets]
        with pytest.raises(ValueError, match="increase"):
            buffer.add(offsets, [0] * len(posts), [0] * len(posts), posts, make_scores(len(posts)), scored_at_us=1)
    assert buffer.offsets.tolist() == [5, 6]


def test_a_buffer_is_due_by_rows_or_bytes() -> None:
    buffer = make_rows(range(10))
    assert buffer.due(RollSettings(max_rows=10))
    assert not buffer.due(RollSettings(max_rows=11))
    assert buffer.due(RollSettings(max_bytes=buffer.nbytes))
    assert not make_rows([]).due(RollSettings(max_rows=1, max_bytes=1))


def test_slack_must_exceed_the_put_timeout() -> None:
    with pytest.raises(ConfigError, match="slack_s"):
        AvailabilitySettings(slack_s=1.0, put_timeout_s=1.0)


def test_digests_do_not_depend_on_how_the_rows_are_cut(tmp_path: Path) -> None:
    table = make_rows(range(3000)).table(WHEN)
    expected = block_digests(table)
    assert len(expected) == 3
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=700, use_dictionary=True)
    assert block_digests(pq.read_table(tmp_path / "x.parquet")) == expected
    pieces = pa.concat_tables([table.slice(0, 11), table.slice(11, 1500), table.slice(1511)])
    assert block_digests(pieces) == expected


@pytest.mark.parametrize("name", SCORED_SCHEMA.names)
def test_a_change_in_any_column_changes_the_digest_of_its_block_only(name: str) -> None:
    table = make_rows(range(3000)).table(WHEN)
    rows = table.column(name).to_pylist()
    other = next((value for value in rows if value not in (rows[2047], None)), None)
    row = rows[2047]
    changed = (
        other
        if other is not None
        else {str: "x", type(None): "x", bool: not row, int: 99}.get(type(row), WHEN.replace(year=2027))
    )
    assert changed != row
    column = pa.array([*rows[:2047], changed, *rows[2048:]], table.schema.field(name).type)
    tampered = table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)
    before, after = block_digests(table), block_digests(tampered)
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]


def test_a_null_and_an_empty_string_differ() -> None:
    table = make_rows(range(3)).table(WHEN)
    tables = [table.set_column(4, "source", pa.array(values)) for values in (["", "a", "b"], [None, "a", "b"])]
    assert block_digests(tables[0]) != block_digests(tables[1])


def test_pages_and_row_groups_are_capped(tmp_path: Path) -> None:
    chain = write_chain(LocalStore(tmp_path), 40_000)
    assert chain.head is not None
    metadata = pq.read_metadata(tmp_path / chain.head.path)
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [16_384, 16_384, 7_232]
    columns = {metadata.row_group(0).column(i).path_in_schema: metadata.row_group(0).column(i) for i in range(29)}
    assert {column.compression for column in columns.values()} == {"ZSTD"}
    assert columns["label"].has_dictionary_page
    assert columns["expert"].has_dictionary_page
    assert not columns["content_hash"].has_dictionary_page


def test_everybody_reads_it_in_one_line_with_a_zero_row_file_first(tmp_path: Path) -> None:
    write_chain(LocalStore(tmp_path), 150, 200, first=100)
    glob = f"{tmp_path}/scored/**/*.parquet"
    (tmp_path / "scored" / "posts@12345678" / "0" / ".half.parquet.1-a.tmp").write_bytes(b"torn")
    everything = duckdb.execute('SELECT count(*), min("offset"), max("offset") FROM read_parquet(?)', [glob])
    assert everything.fetchall() == [(100, 100, 199)]
    labels = duckdb.execute("SELECT DISTINCT label FROM read_parquet(?) ORDER BY 1", [glob]).fetchall()
    assert labels == [("negative",), ("neutral",), ("positive",)]
    assert pl.read_parquet(glob)["offset"].to_list() == list(range(100, 200))
    frame = pd.read_parquet(f"{tmp_path}/scored")
    assert frame["offset"].tolist() == list(range(100, 200))
    assert str(frame["available_at"].dtype) == "datetime64[us, UTC]"
    zero = pq.read_table(tmp_path / "scored" / "posts@12345678" / "0" / f"{0:020d}.parquet")
    assert zero.schema.equals(SCORED_SCHEMA)
    assert len(zero) == 0
