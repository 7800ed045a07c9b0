"""The stream's workers as Ray actors: each runs `run_stream` with the served model, and comes back when it dies."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from pydantic import PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import RayServeException

from sentiment.cli import STRICT
from sentiment.errors import SetupError
from serve.client import HandleScorer
from serve.deploy import APP_NAME
from streaming.progress import Progress, StreamReport
from streaming.settings import STOP_GRACE_S, StreamSettings
from streaming.status import StatusFile
from streaming.store import open_store
from streaming.worker import new_writer_id, run_stream

LOOK_S = 0.5
"""how often the workers are asked how far they are [s]"""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class StreamJobSettings(StreamSettings):
    """A stream on a Ray cluster."""

    workers: PositiveInt = 1
    """workers; more than partitions are idle [actors]"""
    worker_num_cpus: PositiveFloat = 0.2
    """CPUs reserved by a worker [CPUs]"""
    address: str = ""
    """the Ray cluster; empty: $RAY_ADDRESS or the one running here [address]"""
    app: str = APP_NAME
    """name of the Serve application that scores [name]"""


class StreamWorker:
    """The body of an actor. `run` blocks; `stop` and `progress` are called beside it on other threads."""

    def __init__(self, settings: StreamJobSettings) -> None:
        logging.basicConfig(level=logging.INFO)
        logging.getLogger("kafka").setLevel(logging.CRITICAL)
        self._settings = settings
        self._stop = threading.Event()
        self._latest: Progress | None = None

    def run(self) -> StreamReport:
        """Stream until `stop`, or as the settings say."""
        scorer = HandleScorer(serve.get_app_handle(self._settings.app), deadline_s=self._settings.scoring.timeout_s)
        writer_id = new_writer_id()
        settings = self._settings
        file = StatusFile(open_store(settings.storage), writer_id, settings.group_id, settings.report_every_s)

        def show(progress: Progress) -> None:
            # A copy: the counts go on changing on this thread while another one pickles them.
            counts = dataclasses.replace(progress.counts, dead_letters=progress.counts.dead_letters.copy())
            self._latest = dataclasses.replace(progress, counts=counts)
            file(progress)

        try:
            report = run_stream(settings, scorer, stop=self._stop, on_progress=show, writer_id=writer_id)
        finally:
            scorer.close()
        if not report.failed:
            file.remove()
        return report

    def stop(self) -> None:
        """Drain and commit; `run` returns then."""
        self._stop.set()

    def progress(self) -> Progress | None:
        """Where it is; None before the first turn."""
        return self._latest


def run_workers(
    settings: StreamJobSettings, stop: threading.Event, on_progress: Callable[[Sequence[Progress]], None]
) -> list[StreamReport]:
    """Start the workers, wait until they end or `stop` is set, drain them.

    Raises:
        SetupError: no application of that name is served here.
    """
    try:
        serve.get_app_handle(settings.app)
    except RayServeException as error:
        raise SetupError(
            f"nothing is served as `{settings.app}`: `python -m ray_jobs.deploy --bundle ...` first ({error})"
        ) from error
    actor: Any = ray.remote(StreamWorker).options(
        num_cpus=settings.worker_num_cpus, max_restarts=-1, max_task_retries=-1, max_concurrency=4
    )
    workers = [actor.remote(settings) for _ in range(settings.workers)]
    try:
        return _wait(workers, settings, stop, on_progress)
    finally:
        for worker in workers:
            ray.kill(worker)


def _wait(
    workers: Sequence[Any],
    settings: StreamJobSettings,
    stop: threading.Event,
    on_progress: Callable[[Sequence[Progress]], None],
) -> list[StreamReport]:
    runs = [worker.run.remote() for worker in workers]
    deadline = float("inf")
    while True:
        done, pending = ray.wait(runs, num_returns=len(runs), timeout=LOOK_S)
        if not pending or time.monotonic() >= deadline:
            return [ray.get(run) for run in done]
        if stop.is_set() and deadline == float("inf"):
            deadline = time.monotonic() + settings.drain_timeout_s + 2 * STOP_GRACE_S
            for worker in workers:
                worker.stop.remote()
        on_progress(_progress(workers))


def _progress(workers: Sequence[Any]) -> list[Progress]:
    found = []
    for worker in workers:
        try:
            progress = ray.get(worker.progress.remote(), timeout=LOOK_S)
        except (RayActorError, TimeoutError):  # it is being started again
            continue
        if progress is not None:
            found.append(progress)
    return found


def merged(parts: Sequence[Progress]) -> Progress | None:
    """All workers as one, for the live line."""
    if not parts:
        return None
    first, *others = parts
    counts = dataclasses.replace(first.counts, dead_letters=first.counts.dead_letters.copy())
    for part in others:
        counts.rows += part.counts.rows
        counts.files += part.counts.files
        counts.dead_letters.update(part.counts.dead_letters)
    return dataclasses.replace(
        first,
        counts=counts,
        partitions=tuple(view for part in parts for view in part.partitions),
        in_flight=sum(part.in_flight for part in parts),
        rows_per_s=sum(part.rows_per_s for part in parts),
        scorer_trouble=next((part.scorer_trouble for part in parts if part.scorer_trouble), ""),
    )
