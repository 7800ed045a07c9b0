"""`python -m streaming replay`: publish posts from a file to Kafka, as fast as it goes or as they came in real life.

JSONL lines go out as the bytes they are, malformed ones included: what a stream does with them is the stream's to show.
The payload's own time never becomes the Kafka timestamp: retention goes by that, and deletes old ones within seconds.
"""

from __future__ import annotations

import csv
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson
import pyarrow.parquet as pq
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass as settings_dataclass
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from sentiment.cli import STRICT, read_settings
from sentiment.errors import ConfigError, DataError, MessageError
from sentiment.records import parse_timestamp
from streaming.producer import KafkaProducer
from streaming.protocols import Producer
from streaming.settings import KafkaSettings

COLUMNS: Final = ("id", "text", "source", "lang", "domain", "symbols", "published_at")
"""of CSV and Parquet files; others (labels, splits) are not published"""
FLUSH_TIMEOUT_S: Final = 60.0


@settings_dataclass(frozen=True, kw_only=True, config=STRICT)
class ReplaySettings:
    """What to publish where, and how fast."""

    file: str
    """a .jsonl, .csv or .parquet file"""
    topic: str = "posts.{domain}"
    """topic of a post; `{domain}` is replaced by its domain"""
    default_topic: str = "posts.news"
    """topic of a line whose domain cannot be read"""
    speed: NonNegativeFloat = 0.0
    """1 is real time by `published_at`, 60 a minute per second, 0 as fast as it goes [times real time]"""
    limit: NonNegativeInt = 0
    """publish this many lines, 0 all of them [lines]"""
    partitions: PositiveInt = 2
    """partitions of a topic that must be created [partitions]"""
    flush_rows: PositiveInt = 5_000
    """wait for the brokers' word after this many lines [lines]"""
    kafka: KafkaSettings = Field(default_factory=KafkaSettings)


@dataclass(frozen=True, slots=True)
class Line:
    """One message to be published; `domain` and `published_at` are None where they cannot be read."""

    value: bytes
    key: bytes | None
    domain: str | None
    published_at: datetime | None


def read_lines(path: Path) -> Iterator[Line]:
    """The messages of a file in order.

    Raises:
        ConfigError: there is no such file, or it is of an unknown kind.
        DataError: a CSV or Parquet file without a column `text`.
    """
    if not path.is_file():
        raise ConfigError(f"setting `file`: there is no file {path}")
    readers = {".jsonl": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise ConfigError(f"setting `file`: {path.name} is none of {', '.join(readers)}")
    return readers[path.suffix](path)


def _read_jsonl(path: Path) -> Iterator[Line]:
    with path.open("rb") as file:
        for raw in file:
            value = raw.rstrip(b"\r\n")
            if value:
                yield _line(value, _fields_of(value))


def _fields_of(value: bytes) -> Mapping[str, Any]:
    try:
        fields = orjson.loads(value)
    except orjson.JSONDecodeError:
        return {}
    return fields if isinstance(fields, dict) else {}


def _read_csv(path: Path) -> Iterator[Line]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        _check_columns(path, reader.fieldnames or ())
        for row in reader:
            fields: dict[str, Any] = {name: row[name] for name in COLUMNS if row.get(name)}
            if symbols := fields.get("symbols"):
                fields["symbols"] = _symbols(symbols)
            yield _line(orjson.dumps(fields), fields)


def _symbols(cell: str) -> list[str]:
    if cell.startswith("["):
        parsed = orjson.loads(cell)
        return [str(symbol) for symbol in parsed]
    return [word for word in cell.replace(",", " ").replace(";", " ").replace("|", " ").split() if word]


def _read_parquet(path: Path) -> Iterator[Line]:
    with pq.ParquetFile(path) as file:
        _check_columns(path, file.schema_arrow.names)
        for batch in file.iter_batches(columns=[name for name in COLUMNS if name in file.schema_arrow.names]):
            for row in batch.to_pylist():
                fields = {name: value for name, value in row.items() if value is not None}
                if isinstance(moment := fields.get("published_at"), datetime):
                    fields["published_at"] = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
                yield _line(orjson.dumps(fields), fields)


def _check_columns(path: Path, names: Sequence[str]) -> None:
    if "text" not in names:
        raise DataError(f"{path.name} has no column `text`; it has {', '.join(names) or 'none'}")


def _line(value: bytes, fields: Mapping[str, Any]) -> Line:
    key, domain, published_at = fields.get("id"), fields.get("domain"), fields.get("published_at")
    try:
        moment = published_at if isinstance(published_at, datetime) else parse_timestamp(published_at)
    except MessageError:
        moment = None
    return Line(
        value=value,
        key=key.encode("utf-8", "replace") if isinstance(key, str) and key else None,
        domain=domain if isinstance(domain, str) and domain else None,
        published_at=moment,
    )


class Clock:
    """Waits so that posts come in their own rhythm, `speed` times as fast."""

    def __init__(
        self, speed: float, now: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._speed = speed
        self._now = now
        self._sleep = sleep
        self._first: tuple[datetime, float] | None = None

    def wait_s(self, moment: datetime | None) -> float:
        """How long until a post of this time is due; posts without a time, and late ones, are due at once [s]."""
        if not self._speed or moment is None:
            return 0.0
        if self._first is None:
            self._first = (moment, self._now())
        began, since = self._first
        return max(0.0, since + (moment - began).total_seconds() / self._speed - self._now())

    def wait(self, seconds: float) -> None:
        """Sleep."""
        self._sleep(seconds)


def topic_of(line: Line, settings: ReplaySettings) -> str:
    """Where a line is published."""
    return settings.default_topic if line.domain is None else settings.topic.format(domain=line.domain)


def replay(
    lines: Iterator[Line],
    producer: Producer,
    settings: ReplaySettings,
    *,
    clock: Clock | None = None,
    on_line: Callable[[int], None] = lambda count: None,
) -> dict[str, int]:
    """Publish the lines; messages per topic, once all are acknowledged.

    Raises:
        BrokerUnavailable: some were not acknowledged.
    """
    clock = clock or Clock(settings.speed)
    counts: Counter[str] = Counter()
    sent = 0
    for line in lines:
        wait_s = clock.wait_s(line.published_at)
        if wait_s > 0:
            producer.flush(FLUSH_TIMEOUT_S)
            clock.wait(wait_s)
        topic = topic_of(line, settings)
        producer.ensure_topic(topic, settings.partitions)
        producer.send(topic, line.key, line.value)
        counts[topic] += 1
        sent += 1
        if sent % settings.flush_rows == 0:
            producer.flush(FLUSH_TIMEOUT_S)
        on_line(sent)
        if sent == settings.limit:
            break
    producer.flush(FLUSH_TIMEOUT_S)
    return dict(counts)


def main(argv: Sequence[str] | None = None) -> int:
    """Publish a file and say how many messages went where."""
    settings = read_settings(
        ReplaySettings,
        argv,
        prog="python -m streaming replay",
        summary="Publish posts from JSONL, CSV or Parquet to Kafka, topic by domain.",
        example="python -m streaming replay --file examples/posts.jsonl --speed 3600",
    )
    lines = read_lines(Path(settings.file))
    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} messages"), TimeElapsedColumn())
    started = time.monotonic()
    with KafkaProducer(settings.kafka) as producer, Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None)

        def show(sent: int) -> None:
            if sent % 200 == 0:
                bar.update(task, completed=sent)

        counts = replay(lines, producer, settings, on_line=show)
    seconds = time.monotonic() - started
    for topic, count in sorted(counts.items()):
        sys.stdout.write(f"{topic}: {count:,} messages\n")
    sys.stdout.write(f"{sum(counts.values()):,} messages in {seconds:,.1f} s\n")
    return 0
