"""`python -m streaming run`: one worker as a plain process that scores over HTTP; neither ray nor torch is needed."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from types import FrameType

from sentiment.cli import read_settings
from streaming.live import LiveLine
from streaming.progress import Progress, StreamReport
from streaming.scorer import HttpScorer
from streaming.settings import StreamSettings
from streaming.status import StatusFile
from streaming.store import open_store
from streaming.worker import new_writer_id, run_stream

log = logging.getLogger(__name__)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and Ctrl-C set. A second Ctrl-C ends the process at once; nothing is lost by that."""
    stop = threading.Event()

    def handle(number: int, _: FrameType | None) -> None:
        if stop.is_set() and number == signal.SIGINT:
            os.write(2, b"stopped at once; what was not committed is read again by the next worker\n")
            os._exit(130)
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def summary(report: StreamReport) -> str:
    """What was done, in a few lines for people."""
    dead = ", ".join(f"{reason} {count:,}" for reason, count in sorted(report.dead_letters.items())) or "none"
    lines = [
        f"{report.rows:,} rows in {report.files:,} files in {report.seconds:,.1f} s",
        f"dead letters: {dead}",
        f"files: {report.storage}",
    ]
    lines += [f"paused: {fault.partition} {fault.code}: {fault.detail}" for fault in report.failed]
    others = Counter(fault.code for fault in report.faults if not fault.fatal)
    lines += [f"noticed: {code} ({count})" for code, count in sorted(others.items())]
    if not report.drained:
        lines.append("not everything that was read is committed; the next worker reads it again")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run until it is told to stop; 1 where a partition is paused by an error."""
    settings = read_settings(
        StreamSettings,
        argv,
        prog="python -m streaming run",
        summary="Read posts from Kafka, score them over HTTP, write them to Parquet exactly once.",
        example="python -m streaming run --topics posts.news,posts.forum --storage $PWD/out/stream",
    )
    scoring, writer_id = settings.scoring, new_writer_id()
    scorer = HttpScorer(scoring.url, timeout_s=scoring.timeout_s)
    file = StatusFile(open_store(settings.storage), writer_id, settings.group_id, settings.report_every_s)
    try:
        with stop_on_signals() as stop, LiveLine(settings.report_every_s) as live:

            def show(progress: Progress) -> None:
                live(progress)
                file(progress)

            report = run_stream(settings, scorer, stop=stop, on_progress=show, writer_id=writer_id)
    finally:
        scorer.close()
    if not report.failed:
        file.remove()
    sys.stdout.write(summary(report) + "\n")
    return 1 if report.failed or not report.drained else 0
