"""Replay on a real Kafka: everything in a file arrives and is scored, also while the stream runs."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kafka_streams import ROOT, Background, Topic, fresh, wait_for

from streaming.kafka_admin import KafkaAdmin
from streaming.protocols import TopicPartition
from streaming.settings import KafkaSettings

pytestmark = pytest.mark.broker


def _replay(kafka: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "streaming", "replay", "--kafka.bootstrap_servers", kafka, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_row_of_a_parquet_file_arrives_while_the_stream_runs(kafka: str, tmp_path: Path) -> None:
    rows = 5_000
    began = datetime(2020, 1, 1, tzinfo=UTC)  # old times must not be what retention goes by
    columns = {
        "id": [f"p-{number}" for number in range(rows)],
        "text": [f"业绩预增 post {number}" for number in range(rows)],
        "label": ["neutral"] * rows,
        "domain": ["news"] * rows,
        "lang": ["zh"] * rows,
        "source": [None if number % 3 else "wire" for number in range(rows)],
        "published_at": pa.array([began + timedelta(seconds=n) for n in range(rows)], pa.timestamp("us", "UTC")),
        "symbols": [["600519"] if number % 2 else [] for number in range(rows)],
    }
    pq.write_table(pa.table(columns), tmp_path / "posts.parquet")
    topic = Topic(kafka, tmp_path / "out")
    with Background(topic.settings(until_end=False)) as worker:
        said = _replay(kafka, "--file", str(tmp_path / "posts.parquet"), "--topic", topic.name)
        assert f"{topic.name}: 5,000 messages" in said
        wait_for(lambda: worker.rows == rows, "all rows")
    assert worker.report is not None
    assert worker.report.dead_letters == {}
    assert topic.audit().ok
    table = pa.concat_tables(pq.read_table(path, partitioning=None) for path in topic.files(0) + topic.files(1))
    assert set(table["id"].to_pylist()) == set(columns["id"])
    assert set(table["published_at"].to_pylist()) == {began + timedelta(seconds=n) for n in range(rows)}


def test_topics_are_made_by_domain_and_malformed_lines_go_out_as_they_are(kafka: str, tmp_path: Path) -> None:
    prefix = fresh("replay")
    lines = [b'{"text": "a", "domain": "news"}', b'{"text": "b", "domain": "forum"}', b"{broken", b'{"text": "c"}']
    (tmp_path / "posts.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    file, template = str(tmp_path / "posts.jsonl"), prefix + ".{domain}"
    _replay(kafka, "--file", file, "--topic", template, "--default_topic", f"{prefix}.news", "--partitions", "3")
    with KafkaAdmin(KafkaSettings(bootstrap_servers=kafka)) as admin:
        ends = {
            domain: sum(admin.log_range(TopicPartition(f"{prefix}.{domain}", number))[1] for number in range(3))
            for domain in ("news", "forum")
        }
    assert ends == {"news": 3, "forum": 1}
