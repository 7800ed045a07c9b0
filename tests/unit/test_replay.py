"""What a replay publishes, where, and when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from memory_kafka import MemoryProducer

from sentiment.errors import ConfigError, DataError
from sentiment.records import parse_post
from streaming.replay import Clock, Line, ReplaySettings, read_lines, replay

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def test_lines_go_out_as_the_bytes_they_are_topic_by_domain(tmp_path: Path) -> None:
    good = b'{"id":"a","text":"x","domain":"forum","odd" : 1}'
    lines = [good, b"{broken", b'["list"]', b'{"text":"y"}', b'{"text":"\xff","domain":"forum"}', b'{"domain": 5}']
    path = tmp_path / "posts.jsonl"
    path.write_bytes(b"\r\n".join(lines) + b"\n\n")
    producer = MemoryProducer()
    counts = replay(read_lines(path), producer, ReplaySettings(file=str(path)))
    assert counts == {"posts.forum": 1, "posts.news": 5}
    assert sorted(sent.value or b"" for sent in producer.flushed) == sorted(lines)
    assert next((sent.topic, sent.key) for sent in producer.flushed) == ("posts.forum", b"a")
    assert producer.topics == {"posts.forum": 2, "posts.news": 2}


def test_a_csv_becomes_posts(tmp_path: Path) -> None:
    path = tmp_path / "posts.csv"
    path.write_text(
        "id,text,label,domain,published_at,symbols\n1,涨停了,positive,forum,2026-01-01T00:00:00Z,600519 000001\n",
        encoding="utf-8",
    )
    (line,) = read_lines(path)
    post = parse_post(line.value)
    assert (post.id, post.text, post.domain_hint, post.symbols) == ("1", "涨停了", "forum", ("600519", "000001"))
    assert post.published_at == BEGAN
    assert "label" not in orjson.loads(line.value)


def test_a_parquet_file_becomes_posts(tmp_path: Path) -> None:
    path = tmp_path / "posts.parquet"
    table = {
        "text": ["a", "b"],
        "domain": ["news", None],
        "published_at": pa.array([BEGAN, None], pa.timestamp("us", "UTC")),
        "symbols": [["X"], None],
        "label": ["neutral", None],
    }
    pq.write_table(pa.table(table), path)
    lines = list(read_lines(path))
    posts = [parse_post(line.value) for line in lines]
    assert [(post.text, post.published_at, post.symbols) for post in posts] == [("a", BEGAN, ("X",)), ("b", None, ())]
    assert [line.domain for line in lines] == ["news", None]


@pytest.mark.parametrize(
    ("name", "content", "error"), [("a.txt", "x", ConfigError), ("a.csv", "id,label\n1,x\n", DataError)]
)
def test_files_that_cannot_be_read_are_named(tmp_path: Path, name: str, content: str, error: type[Exception]) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(error, match=name):
        list(read_lines(path))
    with pytest.raises(ConfigError, match="no file"):
        list(read_lines(tmp_path / "absent.jsonl"))


def test_posts_come_in_their_own_rhythm_times_the_speed() -> None:
    now = [100.0]
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    clock = Clock(60.0, now=lambda: now[0], sleep=sleep)
    moments = [BEGAN, BEGAN + timedelta(minutes=1), None, BEGAN + timedelta(minutes=3), BEGAN]
    lines = (Line(b"{}", None, "news", moment) for moment in moments)
    producer = MemoryProducer()
    replay(lines, producer, ReplaySettings(file="unused"), clock=clock)
    assert slept == pytest.approx([1.0, 2.0])
    assert len(producer.flushed) == 5


def test_the_limit_ends_it() -> None:
    lines = (Line(b"{}", None, "news", None) for _ in range(100))
    assert replay(lines, MemoryProducer(), ReplaySettings(file="unused", limit=7)) == {"posts.news": 7}
