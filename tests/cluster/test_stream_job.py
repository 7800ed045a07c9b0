"""The stream's workers as Ray actors on a real Kafka: killed, they come back and nothing is lost or doubled."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import ray
from kafka_streams import Topic, post, wait_for
from ray import serve
from stream_scorers import ScoringStage

from ray_jobs.stream_worker import StreamJobSettings, run_workers
from sentiment.errors import SetupError
from streaming.progress import Progress, StreamReport
from streaming.status import workers
from streaming.store import LocalStore

pytestmark = [pytest.mark.cluster, pytest.mark.broker]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    environment = {"env_vars": {"PYTHONPATH": os.pathsep.join([str(Path.cwd()), str(Path.cwd() / "tests")])}}
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=environment)
    serve.start(proxy_location="Disabled")
    try:
        yield
    finally:
        serve.shutdown()
        ray.shutdown()


def _settings(topic: Topic, app: str) -> StreamJobSettings:
    base = topic.settings(until_end=False, report_every_s=0.2)
    fields = {name: getattr(base, name) for name in base.__dataclass_fields__}
    return StreamJobSettings(**fields, workers=2, app=app)


@pytest.mark.usefixtures("cluster")
def test_a_killed_worker_comes_back(kafka: str, tmp_path: Path) -> None:
    serve.run(
        serve.deployment(ScoringStage, ray_actor_options={"num_cpus": 0.1}).bind(),
        name="stream-test",
        route_prefix=None,
    )
    topic = Topic(kafka, tmp_path, partitions=4)
    topic.produce(post(number) for number in range(1_000))
    stop, reports = threading.Event(), []
    seen: list[Sequence[Progress]] = []

    def run() -> None:
        reports.append(run_workers(_settings(topic, "stream-test"), stop, seen.append))

    job = threading.Thread(target=run, daemon=True)
    job.start()
    try:
        wait_for(lambda: topic.committed_rows() == 1_000, "the first rows", timeout_s=120)
        victim = workers(LocalStore(tmp_path))[0]["pid"]
        os.kill(victim, signal.SIGKILL)
        topic.produce(post(number) for number in range(1_000, 2_000))
        wait_for(lambda: topic.committed_rows() == 2_000, "the other rows", timeout_s=120)
    finally:
        stop.set()
        job.join(timeout=120)
    assert not job.is_alive()
    finished: list[StreamReport] = reports[0]
    assert len(finished) == 2
    assert all(report.drained and not report.failed for report in finished)
    assert topic.audit().ok
    assert any(progress for progress in seen)


@pytest.mark.usefixtures("cluster")
def test_without_an_application_the_message_says_what_to_do(kafka: str, tmp_path: Path) -> None:
    topic = Topic(kafka, tmp_path)
    with pytest.raises(SetupError, match=r"ray_jobs\.deploy"):
        run_workers(_settings(topic, "absent"), threading.Event(), lambda parts: None)
