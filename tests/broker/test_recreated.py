"""A topic deleted and created again: the old chain ends with a named error, a new one begins, nothing is mixed."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from kafka_streams import Background, Topic, post, wait_for

from streaming.settings import StartSettings

pytestmark = pytest.mark.broker


def _ids(topic: Topic, uuid: str) -> set[str]:
    paths = (topic.root / "scored" / f"{topic.name}@{uuid[:8]}").rglob("*.parquet")
    return {row for path in paths for row in pq.read_table(path, partitioning=None)["id"].to_pylist()}


@pytest.mark.parametrize("new_posts", [50, 900], ids=["shorter than the old log", "longer than the old log"])
def test_under_a_running_worker(kafka: str, tmp_path: Path, new_posts: int) -> None:
    topic = Topic(kafka, tmp_path)
    topic.produce(post(number) for number in range(400))
    old = topic.uuid()
    with Background(topic.settings(until_end=False)) as worker:
        wait_for(lambda: worker.rows == 400, "the old log's rows")
        topic.delete()
        topic.create(2)
        topic.produce(post(number) for number in range(10_000, 10_000 + new_posts))
        wait_for(lambda: worker.rows == 400 + new_posts, "the new log's rows")
    assert worker.report is not None
    faults = worker.report.faults
    assert {fault.code for fault in faults} == {"topic-recreated"}
    assert not worker.report.failed
    new = topic.uuid()
    assert new != old
    assert _ids(topic, old) == {f"id-{number}" for number in range(400)}
    assert _ids(topic, new) == {f"id-{number}" for number in range(10_000, 10_000 + new_posts)}
    assert topic.audit().ok


def test_under_a_stopped_worker(kafka: str, tmp_path: Path) -> None:
    topic = Topic(kafka, tmp_path)
    topic.produce(post(number) for number in range(100))
    assert topic.run().rows == 100
    old = topic.uuid()
    topic.delete()
    topic.create(2)
    topic.produce(post(number) for number in range(10_000, 10_030))
    report = topic.run(start=StartSettings(policy="latest"))
    assert {fault.code for fault in report.faults} == {"topic-recreated"}
    assert report.rows == 30  # `latest` skips nothing of a log that came after ours
    assert _ids(topic, old) == {f"id-{number}" for number in range(100)}
    assert _ids(topic, topic.uuid()) == {f"id-{number}" for number in range(10_000, 10_030)}
    assert topic.run().faults == ()
