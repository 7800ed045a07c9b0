"""The demo's steps: what it trains on, how it streams, what it prints."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydantic import PositiveInt
from pydantic.dataclasses import dataclass
from rich.console import Console
from rich.table import Table

from ray_jobs.stream_worker import StreamJobSettings, merged, run_workers
from sentiment.cli import STRICT, read_settings
from sentiment.errors import SetupError
from streaming.audit import audit
from streaming.kafka_audit import KafkaView
from streaming.live import LiveLine
from streaming.local_broker import free_ports
from streaming.producer import KafkaProducer
from streaming.progress import Progress, StreamReport
from streaming.proof import keep_proof
from streaming.replay import ReplaySettings, read_lines, replay, topic_of
from streaming.settings import DeadLetterSettings, KafkaSettings
from streaming.sink import RollSettings
from streaming.store import open_store
from training.chain import ChainResult
from training.settings import TrainSettings

ROOT: Final = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DemoSettings:
    """The demo."""

    storage: str = "out/demo"
    """where the bundle and each run's files go [directory]"""
    posts: str = str(ROOT / "examples" / "posts.jsonl")
    """what is published to Kafka [.jsonl, .csv or .parquet file]"""
    training: str = str(ROOT / "ray_jobs" / "configs" / "tiny.yaml")
    """settings of the training; `storage` and the data's paths are the demo's own [YAML file]"""
    workers: PositiveInt = 2
    """stream workers [actors]"""


def free_port() -> int:
    """A port for the HTTP interface that nothing listens on."""
    return free_ports(1)[0]


def topics_of(posts: str) -> tuple[str, ...]:
    """Every topic that the posts will be published to."""
    replayed = ReplaySettings(file=posts)
    return tuple(sorted({topic_of(line, replayed) for line in read_lines(Path(posts))}))


def train_settings(settings: DemoSettings, storage: Path) -> TrainSettings:
    """The training file's settings, with paths that hold in any working directory."""
    examples = ROOT / "examples"
    paths = ["--data.train", str(examples / "train.csv"), "--data.heldout", str(examples / "heldout.csv")]
    return read_settings(
        TrainSettings,
        ["--config", settings.training, "--storage", str(storage), *paths],
        prog="python -m ray_jobs.demo",
        summary="The demo's training.",
        example="python -m ray_jobs.train --config ray_jobs/configs/tiny.yaml",
    )


def publish_and_score(settings: DemoSettings, servers: str, run: Path, console: Console) -> list[StreamReport]:
    """Publish the posts while the workers score them; ends when every message is in a committed file.

    Raises:
        SetupError: a partition failed, or not every message was committed.
    """
    kafka = KafkaSettings(bootstrap_servers=servers)
    topics = topics_of(settings.posts)
    stream = StreamJobSettings(
        topics=topics,
        storage=str(run),
        group_id=f"demo-{run.name}",
        kafka=kafka,
        roll=RollSettings(max_age_s=2.0),
        workers=settings.workers,
    )
    stop, published = threading.Event(), threading.Event()
    counts: Counter[str] = Counter()

    def publish() -> None:
        with KafkaProducer(kafka) as producer:
            counts.update(replay(read_lines(Path(settings.posts)), producer, ReplaySettings(file=settings.posts)))
        published.set()

    with KafkaProducer(kafka) as producer:
        for topic in topics:
            producer.ensure_topic(topic, 2)
    publisher = threading.Thread(target=publish, name="publisher", daemon=True)

    with LiveLine(2.0, console) as live:

        def show(parts: Sequence[Progress]) -> None:
            if (progress := merged(parts)) is None:
                return
            live(progress)
            if publisher.ident is None:
                publisher.start()  # the workers are up: posts arrive while they run
            committed = sum({view.partition: view.committed for view in progress.partitions}.values())
            failed = any(view.state == "failed" for view in progress.partitions)
            if failed or (published.is_set() and committed >= counts.total()):
                stop.set()

        reports = run_workers(stream, stop, show)
    faults = [f"{fault.partition} {fault.code}: {fault.detail}" for report in reports for fault in report.failed]
    if faults:
        raise SetupError("the stream stopped: " + "; ".join(faults))
    for topic, count in sorted(counts.items()):
        console.print(f"{topic}: {count:,} messages published and committed")
    return reports


def prove(settings: DemoSettings, servers: str, run: Path, console: Console) -> int:
    """Audit the files against the broker while it still has the messages; the exit code."""
    view = KafkaView(
        KafkaSettings(bootstrap_servers=servers),
        group_id=f"demo-{run.name}",
        dead_letter_suffix=DeadLetterSettings().suffix,
        isolation_level="read_uncommitted",
    )
    with view as broker:
        report = audit(open_store(str(run)), broker=broker, topics=topics_of(settings.posts), require_all_read=True)
    keep_proof(run, report)
    console.print(report.to_text())
    return report.exit_code


def print_results(result: ChainResult, reports: Sequence[StreamReport], run: Path, console: Console) -> None:
    """Rows by label and expert, dead letters by reason, rates, where it all is."""
    import duckdb

    files = f"{run}/scored/**/*.parquet"
    cells = duckdb.read_parquet(files).aggregate("domain_hint, expert, label, count(*)").order("all").fetchall()
    table = Table(title="Rows by the producer's domain, expert and label")
    for name in ("domain", "expert", "label"):
        table.add_column(name)
    table.add_column("rows", justify="right")
    for domain, expert, label, rows in cells:
        table.add_row(domain, expert, label, f"{rows:,}")
    console.print(table)
    dead = sum((Counter(report.dead_letters) for report in reports), Counter[str]())
    table = Table(title="Dead letters by reason")
    table.add_column("reason")
    table.add_column("messages", justify="right")
    for reason, count in sorted(dead.items()):
        table.add_row(reason, f"{count:,}")
    console.print(table)
    rows = sum(report.rows for report in reports)
    seconds = max(report.seconds for report in reports)
    console.print(f"{rows:,} rows in {seconds:.1f} s, start and drain included: {rows / seconds:,.0f} rows/s")
    console.print(f"bundle  {result.bundle_path}", soft_wrap=True)
    console.print(f"files   {run}/scored", soft_wrap=True)
    columns = "label, expert, count(*) as posts, avg(score) as mean_score"
    query = f"select {columns} from '{files}' group by all order by all"  # noqa: S608  # printed for a person
    console.print("\nRead it in one line:\n")
    sys.stdout.write(f'.venv/bin/python -c "import duckdb; print(duckdb.sql(\\"{query}\\"))"\n')
