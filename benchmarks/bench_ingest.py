"""Rows per second from Kafka to committed Parquet with a scorer that costs nothing: `make bench-streaming`.

One process, one real broker on this machine, the full row schema, files on the local disk. Prints one JSON object; the
median of `--runs` runs, each with a consumer group and a storage of its own.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np
from pydantic import PositiveInt
from pydantic.dataclasses import dataclass

from sentiment.cli import STRICT, read_settings, run_command
from sentiment.records import Scores
from streaming.local_broker import broker_address
from streaming.producer import KafkaProducer
from streaming.settings import KafkaSettings, StreamSettings
from streaming.worker import run_stream


@dataclass(frozen=True, kw_only=True, config=STRICT)
class IngestSettings:
    """The benchmark."""

    rows: PositiveInt = 200_000
    """messages of about 200 bytes [rows]"""
    runs: PositiveInt = 3
    """the median of so many is printed [runs]"""


class NullScorer:
    """Answers at once, the same for every text."""

    def submit(self, texts: Sequence[str]) -> Future[Scores]:
        """One row per text."""
        rows = len(texts)
        answer: Future[Scores] = Future()
        answer.set_result(
            Scores(
                probabilities=np.tile(np.float32([0.25, 0.25, 0.5]), (rows, 1)),
                gate=np.tile(np.float32([0.75, 0.25]), (rows, 1)),
                expert=np.zeros(rows, np.int8),
                experts_run=np.ones(rows, np.int8),
                disagreement=np.full(rows, np.nan, np.float32),
                experts=("news", "forum"),
                bundle_id="null",
            )
        )
        return answer

    def close(self) -> None:
        """Nothing to let go."""


def publish(kafka: KafkaSettings, topic: str, rows: int) -> None:
    """Fill the topic's two partitions."""
    with KafkaProducer(kafka) as producer:
        producer.ensure_topic(topic, 2)
        for number in range(rows):
            text = f"post {number}: quarterly profit up {number % 90}.{number % 10}% on strong demand, shares rise"
            fields = {"id": f"b-{number}", "text": text, "source": "bench", "domain": "news", "symbols": ["BNCH"]}
            producer.send(topic, str(number).encode(), json.dumps(fields).encode())
            if number % 20_000 == 0:
                producer.flush(60.0)
        producer.flush(60.0)


def main(argv: Sequence[str] | None = None) -> None:
    """Run and print."""
    settings = read_settings(
        IngestSettings,
        argv,
        prog="python -m benchmarks.bench_ingest",
        summary="Kafka to Parquet with a null scorer.",
        example="python -m benchmarks.bench_ingest --rows 200000 --runs 3",
    )
    rates = []
    with broker_address() as servers, tempfile.TemporaryDirectory() as directory:
        kafka, topic = KafkaSettings(bootstrap_servers=servers), f"bench-{os.getpid()}-{time.time_ns()}"
        publish(kafka, topic, settings.rows)
        for run in range(settings.runs):
            stream = StreamSettings(
                topics=(topic,),
                storage=str(Path(directory) / str(run)),
                group_id=f"{topic}-{run}",
                kafka=kafka,
                until_end=True,
            )
            report = run_stream(stream, NullScorer(), stop=threading.Event())
            if report.rows != settings.rows:
                raise AssertionError(f"{report.rows} rows of {settings.rows}")
            rates.append(report.rows / report.seconds)
    figures = {
        "ingest_rows_s": round(statistics.median(rates)),
        "runs": [round(rate) for rate in rates],
        "rows": settings.rows,
        "includes": "join, chain opening, drain, leaving the group",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }
    os.write(1, (json.dumps(figures) + "\n").encode())


if __name__ == "__main__":
    run_command(main)
