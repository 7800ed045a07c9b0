"""Score Kafka topics with the served bundle: `python -m ray_jobs.stream --topics posts.news --storage /data/stream`.

N workers run as Ray actors beside the Serve application and are started again when they die. Ctrl-C and SIGTERM drain
and commit.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import ray

from ray_jobs.stream_worker import StreamJobSettings, merged, run_workers
from sentiment.cli import read_settings, run_command
from serve.deploy import connect
from streaming.live import LiveLine
from streaming.progress import Progress
from streaming.run import stop_on_signals, summary
from streaming.store import open_store


def main(argv: Sequence[str] | None = None) -> int:
    """Run the workers until they are told to stop; 1 where a partition is paused by an error."""
    settings = read_settings(
        StreamJobSettings,
        argv,
        prog="python -m ray_jobs.stream",
        summary="Score Kafka topics with the served bundle, exactly once, on a Ray cluster.",
        example="python -m ray_jobs.stream --topics posts.news,posts.forum --storage $PWD/out/stream --workers 2",
    )
    open_store(settings.storage)  # refuse a relative path before anything is started
    connect(settings.address, start=False)
    try:
        with stop_on_signals() as stop, LiveLine(settings.report_every_s) as live:

            def show(parts: Sequence[Progress]) -> None:
                if (progress := merged(parts)) is not None:
                    live(progress)

            reports = run_workers(settings, stop, show)
    finally:
        ray.shutdown()
    for report in reports:
        sys.stdout.write(summary(report) + "\n")
    uri = settings.storage if "://" in settings.storage else Path(settings.storage).as_uri()
    sys.stdout.write(f"{uri}/scored\n")
    return 1 if any(report.failed for report in reports) or len(reports) < settings.workers else 0


if __name__ == "__main__":
    run_command(main)
