"""SIGKILL at ten different steps of the protocol while 20,000 posts flow: every offset once, in order."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Final

import pytest
from kafka_streams import Topic, Worker, post

from streaming.failpoints import last_step
from streaming.producer import KafkaProducer

pytestmark = pytest.mark.broker

POSTS: Final = 20_000
DEAD_EVERY: Final = 97
# Steps at which a worker kills itself, with the turn at which it does: late enough for rows of its own before it.
STEPS: Final = {
    "after-poll": 40,
    "after-score": 20,
    "before-dead-letters": 4,
    "after-dead-letters": 4,
    "after-topic-check": 4,
    "after-encode": 4,
    "after-temporary": 4,
    "before-link": 4,
    "after-link": 4,
    "before-mirror": 4,
}


def test_ten_kills_lose_and_double_nothing(kafka: str, tmp_path: Path) -> None:
    topic = Topic(kafka, tmp_path / "out")
    flow = Flow(topic)
    flow.start()
    # A static member takes its partitions back at once; a dynamic one would wait for its dead self's session to end.
    more = {"roll": {"max_rows": 100, "max_age_s": 0.2}, "group_instance_id": "the-one"}
    before, hit = 0, set()
    for number, (step, turn) in enumerate(STEPS.items()):
        environment = {"FINSA_FAILPOINT": f"{step}:kill:{turn}", "FINSA_STEP_FILE": str(tmp_path / f"step-{number}")}
        with Worker(topic, tmp_path / f"log-{number}", environment=environment, **more) as worker:
            assert worker.process.wait(timeout=60) == -signal.SIGKILL, worker.text()
            hit.add(last_step(tmp_path / f"step-{number}"))
        rows = topic.committed_rows()
        assert rows > before, f"{step}: no rows were committed between the kills before it and this one"
        before = rows
        flow.kills += 1
    assert hit == set(STEPS)
    flow.join(timeout=60)
    assert not flow.is_alive()
    report = topic.run(group_instance_id="the-one")
    assert report.rows > 0
    proof = topic.audit()
    assert proof.ok, proof.to_text()
    offsets = [topic.offsets(partition) for partition in (0, 1)]
    assert all(found == sorted(found) for found in offsets)
    dead = len(range(0, flow.sent, DEAD_EVERY))
    assert sum(map(len, offsets)) == sum(len(set(found)) for found in offsets) == flow.sent - dead


class Flow(threading.Thread):
    """Produces all the time: at least POSTS, and until the last kill is done."""

    def __init__(self, topic: Topic) -> None:
        super().__init__(daemon=True)
        self.topic = topic
        self.kills = 0
        self.sent = 0

    def run(self) -> None:
        with KafkaProducer(self.topic.kafka) as producer:
            while self.sent < POSTS or self.kills < len(STEPS):
                value = b"junk" if self.sent % DEAD_EVERY == 0 else post(self.sent)
                producer.send(self.topic.name, str(self.sent).encode(), value)
                self.sent += 1
                if self.sent % 50 == 0:
                    producer.flush(60)
                    if self.kills < len(STEPS):
                        time.sleep(0.03)
