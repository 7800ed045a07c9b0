"""The whole path on this machine: a real Kafka, a trained mixture, Ray Serve, scored Parquet, and its audit.

`make demo` runs it. The first run trains (about two minutes on 2 cores), later ones find the bundle and only stream.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from ray_jobs.demo_steps import DemoSettings, free_port, print_results, prove, publish_and_score, train_settings
from sentiment.cli import read_settings, run_command
from serve.deploy import DeploySettings, connect, deploy, disconnect, http_url
from streaming.local_broker import broker_address
from training.chain import run_chain


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; 1 where the audit finds anything."""
    settings = read_settings(
        DemoSettings,
        argv,
        prog="python -m ray_jobs.demo",
        summary="From a Kafka topic to scored Parquet, everything real, on this machine.",
        example="python -m ray_jobs.demo --storage $PWD/out/demo",
    )
    logging.getLogger().setLevel(logging.WARNING)
    console = Console(highlight=False)
    storage = Path(settings.storage).absolute()
    run = storage / "runs" / f"{datetime.now(UTC):%Y%m%dT%H%M%S}"
    started = time.monotonic()
    with ExitStack() as stack:
        console.rule("1. Kafka and Ray")
        servers = stack.enter_context(broker_address())
        console.print(f"Kafka answers at {servers}")
        if connect("local"):
            stack.callback(disconnect)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.default_int_handler)  # after Ray has set handlers of its own
        console.rule("2. Train: base, an expert per domain, mixture (finished stages are skipped)")
        result = run_chain(train_settings(settings, storage / "training"), console=console)
        console.rule("3. Serve: a router stage and one replica per expert")
        serving = DeploySettings(bundle=result.bundle_path, port=free_port())
        deploy(serving)
        console.print(f"HTTP at {http_url(serving)} while this runs")
        console.rule("4. Stream: Kafka to Parquet")
        reports = publish_and_score(settings, servers, run, console)
        console.rule("5. Audit: every offset exactly once?")
        exit_code = prove(settings, servers, run, console)
    print_results(result, reports, run, console)
    console.print(f"\nDone in {time.monotonic() - started:.0f} s.")
    return exit_code


if __name__ == "__main__":
    run_command(main)
