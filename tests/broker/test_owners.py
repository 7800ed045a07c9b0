"""Two owners of a fresh partition: whoever is first, and whatever each decided before, there is one chain."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, TopicPartition
from kafka_streams import Topic, Worker, fresh, post, wait_for

from streaming.footer import footer_of
from streaming.settings import StartSettings

pytestmark = pytest.mark.broker

HOLD = {"max_rows": 100_000, "max_age_s": 600}
"""a worker that rolls only when it is told to stop"""
STOP_BEFORE_PUT = {"FINSA_FAILPOINT": "before-put:stop:1"}


@pytest.mark.parametrize("policy", ["latest", "earliest"])
@pytest.mark.parametrize("first", ["origin", "rows"])
def test_two_first_owners_make_one_chain(kafka: str, tmp_path: Path, policy: str, first: str) -> None:
    """One owner found the log beginning (or ending) at 0 and has rows for [0, ...); the other skips to a later offset.

    They are members of different groups, so that both own the partition at once, as an owner and a zombie do.
    """
    topic = Topic(kafka, tmp_path / "out", partitions=1)
    if policy == "earliest":
        topic.produce(post(number) for number in range(100))
    early_stop = STOP_BEFORE_PUT if first == "origin" else {}
    start = {"policy": policy}
    with Worker(topic, tmp_path / "early", environment=early_stop, roll=HOLD, start=start) as early:
        wait_for(lambda: "partition open" in early.text(), "the early owner")
        if policy == "latest":
            topic.produce(post(number) for number in range(100))
        time.sleep(1.0)  # the early owner reads
        if policy == "earliest":
            _delete_before(topic, 40)
        topic.group = fresh("other")
        if first == "origin":
            early.process.send_signal(signal.SIGTERM)
            wait_for(lambda: _is_stopped(early), "the early owner to stop before its put")
            topic.run(start=StartSettings(policy=policy))
            early.process.send_signal(signal.SIGCONT)
        else:
            late_start = {**start}
            with Worker(
                topic, tmp_path / "late", environment=STOP_BEFORE_PUT, start=late_start, until_end=True
            ) as late:
                wait_for(lambda: _is_stopped(late), "the late owner to stop before its put")
                early.process.send_signal(signal.SIGTERM)
                assert early.process.wait(timeout=30) == 0, early.text()
                late.process.send_signal(signal.SIGCONT)
                assert late.process.wait(timeout=30) == 0, late.text()
                assert "lost" in late.text()
        assert early.process.wait(timeout=30) == 0, early.text()
    topic.produce(post(number) for number in range(100, 150))
    topic.run(start=StartSettings(policy=policy))
    proof = topic.audit()
    assert proof.ok, proof.to_text()
    kinds = [footer_of(path.read_bytes()).kind for path in topic.files()]
    expected = {"origin": "origin", "rows": "rows"}[first]
    assert kinds[0] == expected
    skipped = {"latest": 100, "earliest": 40}[policy] if first == "origin" else 0
    assert topic.offsets(0) == list(range(skipped, 150))


def _delete_before(topic: Topic, offset: int) -> None:
    """What retention does, at once."""
    admin = KafkaAdminClient(bootstrap_servers=topic.kafka.bootstrap_servers)
    try:
        admin.delete_records({TopicPartition(topic.name, 0): offset})
    finally:
        admin.close()
    wait_for(lambda: topic.log_range(0)[0] == offset, "the records to go")


def _is_stopped(worker: Worker) -> bool:
    state = Path(f"/proc/{worker.process.pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state == "T"
