"""The whole way on a real Kafka: every message once, draining, two members, an outage."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from http_scorer import scoring_server
from kafka_streams import ROOT, Background, Topic, Worker, post, wait_for
from stream_scorers import TestScorer

from streaming.kafka_admin import KafkaAdmin
from streaming.progress import Progress
from streaming.status import status
from streaming.store import LocalStore

pytestmark = pytest.mark.broker


def test_every_message_is_a_row_or_a_dead_letter_once(kafka: str, tmp_path: Path) -> None:
    topic = Topic(kafka, tmp_path)
    topic.produce(b"junk" if number % 50 == 49 else post(number) for number in range(2_000))
    report = topic.run()
    assert (report.rows, report.dead_letters, report.drained) == (1_960, {"not-json": 40}, True)
    proof = topic.audit()
    assert proof.ok, proof.to_text()
    for partition in (0, 1):
        assert topic.offsets(partition) == sorted(topic.offsets(partition))
    again = topic.run()
    assert (again.rows, again.files) == (0, 0)


def test_two_members_share_the_partitions_and_lose_nothing_when_one_joins_and_leaves(
    kafka: str, tmp_path: Path
) -> None:
    topic = Topic(kafka, tmp_path, partitions=4)
    topic.produce(post(number) for number in range(3_000))

    def slow(_: Sequence[str]) -> None:
        time.sleep(0.01)

    running = topic.settings(until_end=False)
    with Background(running, TestScorer(slow)) as first:
        wait_for(lambda: first.rows > 0, "the first member's rows")
        with Background(running, TestScorer(slow)) as second:
            wait_for(lambda: _owned(second.progress) >= 1, "the second member's share")
            topic.produce(post(number) for number in range(3_000, 6_000))
            wait_for(lambda: second.rows > 0, "the second member's rows")
        wait_for(lambda: topic.committed_rows() == 6_000, "all rows")
    assert first.report is not None
    assert first.report.drained
    assert topic.audit().ok


def _owned(progress: Progress | None) -> int:
    return len(progress.partitions) if progress else 0


def test_sigterm_drains_commits_and_leaves(kafka: str, tmp_path: Path) -> None:
    topic = Topic(kafka, tmp_path / "out")
    topic.produce(post(number) for number in range(1_000))
    roll = {"max_rows": 100_000, "max_age_s": 600}
    with Worker(topic, tmp_path / "log", roll=roll) as worker:
        wait_for(lambda: "partition open" in worker.text(), "the worker")
        time.sleep(1.0)
        assert topic.committed_rows() == 0
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(timeout=30) == 0, worker.text()
    assert topic.committed_rows() == 1_000
    assert topic.audit().ok
    began = time.monotonic()
    assert topic.run().rows == 0
    assert time.monotonic() - began < 5  # it left the group, so nobody waits for its session to end


def test_status_shows_lag_and_what_a_worker_says(kafka: str, tmp_path: Path) -> None:
    topic = Topic(kafka, tmp_path)
    topic.produce(post(number) for number in range(100))
    topic.run()
    topic.produce(post(number) for number in range(7))
    with KafkaAdmin(topic.kafka) as admin:
        rows = status(admin, LocalStore(tmp_path), [topic.name], topic.group)
    assert sum(row.lag for row in rows) == 7
    assert sum(row.head_end for row in rows) == 100
    assert all(row.mirror == row.head_end for row in rows)
    assert not any(row.is_error for row in rows)


_WITHOUT_TORCH_AND_RAY = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "ray", "transformers", "peft", "sklearn"):
            raise ImportError(f"{name} is not installed here")
sys.meta_path.insert(0, Blocker())
sys.argv[0] = "streaming"
import runpy
runpy.run_module("streaming", run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def scorer_url() -> Iterator[str]:
    with scoring_server() as url:
        yield url


def test_run_needs_neither_torch_nor_ray(kafka: str, tmp_path: Path, scorer_url: str) -> None:
    topic = Topic(kafka, tmp_path / "out")
    topic.produce(post(number) for number in range(200))
    arguments = ["run", "--topics", topic.name, "--storage", str(topic.root), "--kafka.bootstrap_servers", kafka]
    arguments += ["--group_id", topic.group, "--scoring.url", scorer_url, "--until_end", "true"]
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_TORCH_AND_RAY, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "200 rows" in done.stdout
    assert topic.audit().ok
