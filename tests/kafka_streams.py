"""What tests on a real Kafka share: topics of their own, posts, workers in this process or as one to be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
from stream_scorers import TestScorer

from streaming.audit import AuditReport, audit
from streaming.footer import read_footer
from streaming.kafka_admin import KafkaAdmin
from streaming.kafka_audit import KafkaView
from streaming.producer import KafkaProducer
from streaming.progress import Progress, StreamReport
from streaming.protocols import TopicPartition
from streaming.scorer import Scorer
from streaming.settings import KafkaSettings, ScoringSettings, StreamSettings
from streaming.sink import AvailabilitySettings, RollSettings
from streaming.store import LocalStore
from streaming.worker import run_stream

ROOT = Path(__file__).resolve().parent.parent


def fresh(name: str) -> str:
    """A name nobody else uses."""
    return f"{name}-{uuid.uuid4().hex[:8]}"


def post(number: int) -> bytes:
    return orjson.dumps({"id": f"id-{number}", "text": f"post number {number}", "domain": "news"})


class Topic:
    """A topic of one test, with its storage and its group."""

    def __init__(self, kafka: str, root: Path, partitions: int = 2, name: str = "posts") -> None:
        self.kafka = KafkaSettings(bootstrap_servers=kafka)
        self.name = fresh(name)
        self.root = root
        self.group = fresh("group")
        self.create(partitions)

    def create(self, partitions: int) -> None:
        with KafkaAdmin(self.kafka) as admin:
            assert admin.ensure_topic(self.name, partitions)

    def delete(self) -> None:
        with KafkaAdmin(self.kafka) as admin:
            admin.delete_topic(self.name)
            wait_for(lambda: admin.identity(self.name) is None, "the topic to go")

    def uuid(self) -> str:
        with KafkaAdmin(self.kafka) as admin:
            identity = admin.identity(self.name)
        assert identity is not None
        return identity.topic_uuid

    def log_range(self, partition: int) -> tuple[int, int]:
        with KafkaAdmin(self.kafka) as admin:
            return admin.log_range(TopicPartition(self.name, partition))

    def produce(self, values: Iterable[bytes | None]) -> None:
        """Values in turn to the partitions, by key."""
        with KafkaProducer(self.kafka) as producer:
            for number, value in enumerate(values):
                producer.send(self.name, str(number).encode(), value)
            producer.flush(60)

    def settings(self, **more: Any) -> StreamSettings:
        made = {
            "topics": self.name,
            "storage": str(self.root),
            "group_id": self.group,
            "kafka": self.kafka,
            "until_end": True,
            "session_timeout_s": 6,
            "roll": RollSettings(max_rows=500, max_age_s=0.5),
            "availability": AvailabilitySettings(slack_s=1.0, put_timeout_s=0.5),
            "scoring": ScoringSettings(linger_ms=5, max_call_rows=200, retry_s=0.1),
        }
        return StreamSettings(**{**made, **more})

    def run(self, scorer: Scorer | None = None, **more: Any) -> StreamReport:
        """One worker in this process until the end of the topic."""
        scorer = scorer or TestScorer()
        try:
            return run_stream(self.settings(**more), scorer, stop=threading.Event())
        finally:
            scorer.close()

    def audit(self, **more: Any) -> AuditReport:
        """Against files and broker, everything read."""
        with KafkaView(
            self.kafka, group_id=self.group, dead_letter_suffix=".dlq", isolation_level="read_uncommitted"
        ) as broker:
            options = {"topics": [self.name], "require_all_read": True, **more}
            return audit(LocalStore(self.root), broker=broker, **options)

    def files(self, partition: int = 0) -> list[Path]:
        return sorted(self.root.glob(f"scored/{self.name}@*/{partition}/*.parquet"))

    def offsets(self, partition: int) -> list[int]:
        """The offset column of a partition, in file order."""
        found: list[int] = []
        for path in self.files(partition):
            found += pq.read_table(path, columns=["offset"], partitioning=None)["offset"].to_pylist()
        return found

    def committed_rows(self) -> int:
        """By the footers, so cheap enough to be asked often."""
        store = LocalStore(self.root)
        return sum(read_footer(store, path).rows for path in store.list("scored/"))


class Worker:
    """A worker as a process of its own, to be killed; see `stream_process.py`."""

    def __init__(self, topic: Topic, log: Path, *, environment: dict[str, str] | None = None, **settings: Any) -> None:
        self.topic = topic
        self.log = log
        spec = {"topics": topic.name, "storage": str(topic.root), "group_id": topic.group, "session_timeout_s": 6}
        spec |= {"kafka": {"bootstrap_servers": topic.kafka.bootstrap_servers}, **settings}
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "tests" / "stream_process.py"), json.dumps(spec)],
                cwd=ROOT,
                stdout=out,
                stderr=out,
                env={**os.environ, **(environment or {})},
            )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(timeout=30)

    def text(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    """Until the condition holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s in vain for {what}"
        time.sleep(0.05)


class Background:
    """A worker on a thread of this process; leaving the block stops it and shows its report."""

    def __init__(self, settings: StreamSettings, scorer: Scorer | None = None) -> None:
        self._settings = settings
        self._scorer = scorer or TestScorer()
        self.stop = threading.Event()
        self.progress: Progress | None = None
        self.report: StreamReport | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        self.report = run_stream(self._settings, self._scorer, stop=self.stop, on_progress=self._see)

    def _see(self, progress: Progress) -> None:
        self.progress = progress

    @property
    def rows(self) -> int:
        return self.progress.counts.rows if self.progress else 0

    def __enter__(self) -> Background:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop.set()
        self._thread.join(timeout=60)
        self._scorer.close()
        assert not self._thread.is_alive(), "the worker did not stop"
