"""One worker of the stream, put together: `run_stream` is what every way of starting it calls."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable

from streaming.dead_letters import DeadLetterQueue
from streaming.finish import Finish
from streaming.lanes import Lanes
from streaming.opening import Opener
from streaming.pipeline import Pipeline
from streaming.producer import KafkaProducer
from streaming.progress import Progress, StreamReport
from streaming.scorer import Scorer
from streaming.settings import STOP_GRACE_S, StreamSettings
from streaming.source import KafkaSource
from streaming.store import open_store

log = logging.getLogger(__name__)


def new_writer_id() -> str:
    """Unique per worker: host, process and chance."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


def run_stream(
    settings: StreamSettings,
    scorer: Scorer,
    *,
    stop: threading.Event,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    writer_id: str | None = None,
) -> StreamReport:
    """Stream until `stop` is set, or as `until_end` and `stop_when_idle_s` say; then drain and leave the group.

    Args:
        settings: what to stream where.
        scorer: who scores; the caller closes it.
        stop: set it from a signal handler or another thread.
        on_progress: called on this thread several times a second; it must be quick.
        writer_id: goes into every file; a new one by default.

    Returns:
        What was done. `report.failed` names the partitions that are paused by an error.

    Raises:
        SetupError: no broker answers at the start, or it refuses us.
        ConfigError: a setting is impossible.
    """
    started = time.monotonic()
    writer_id = writer_id or new_writer_id()
    store = open_store(settings.storage)
    if settings.start.policy == "timestamp":
        settings.start.timestamp_ms()  # refuse it now, not at the first partition
    with KafkaProducer(settings.kafka) as producer:
        source = KafkaSource(settings)
        try:
            opener = Opener(
                source,
                store,
                start=settings.start,
                availability=settings.availability,
                accept_gaps=settings.accept_gaps,
                writer_id=writer_id,
            )
            lanes = Lanes(source, scorer, opener, settings)
            pipeline = Pipeline(source, lanes, DeadLetterQueue(producer, settings.dead_letters))
            log.info("stream started topics=%s group=%s writer=%s", settings.topics, settings.group_id, writer_id)
            drained = pipeline.run(Finish(settings, stop, source), on_progress)
            on_progress(pipeline.progress())
        finally:
            source.close(STOP_GRACE_S)
    return StreamReport(
        rows=lanes.counts.rows,
        files=lanes.counts.files,
        dead_letters=dict(lanes.counts.dead_letters),
        seconds=time.monotonic() - started,
        faults=tuple(lanes.counts.faults),
        storage=settings.storage,
        drained=drained,
    )
