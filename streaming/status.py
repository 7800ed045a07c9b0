"""Where a stream stands: per partition its lag, the end of its files, their age, and why it waits, if it does.

Lag and ends are facts from broker and files. Who works on what, and why it is paused, the workers say in small files
under `<storage>/status/`, one each, replaced every few seconds and removed when a worker leaves without an error.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from pydantic import Field
from pydantic.dataclasses import dataclass as settings_dataclass
from rich.console import Console
from rich.table import Table

from sentiment.cli import STRICT, read_settings
from sentiment.errors import ChainError
from streaming.head import ChainId, Head, find_head
from streaming.kafka_admin import KafkaAdmin
from streaming.progress import Progress
from streaming.protocols import Mirror, TopicPartition
from streaming.settings import KafkaSettings, split_names
from streaming.store import LocalStore, Store, open_store

DIRECTORY: Final = "status"
STALE_S: Final = 30.0
"""a worker that has not written its status for so long is gone or stuck [s]"""


class StatusFile:
    """A worker's status, written at most every `every_s`; call it with every Progress. Local storage only."""

    def __init__(self, store: Store, writer_id: str, group_id: str, every_s: float) -> None:
        self._path = store.root / DIRECTORY / f"{writer_id}.json" if isinstance(store, LocalStore) else None
        self._facts = {"writer_id": writer_id, "group_id": group_id, "pid": os.getpid()}
        self._every_s = every_s
        self._write_at = 0.0

    def __call__(self, progress: Progress) -> None:
        """Write it if it is time."""
        if time.monotonic() >= self._write_at:
            self._write_at = time.monotonic() + self._every_s
            self.write(progress)

    def write(self, progress: Progress) -> None:
        """Write it now. A full disk must not stop the stream for the sake of a status."""
        if self._path is None:
            return
        body = {**self._facts, "updated_at": datetime.now(UTC).isoformat(), **progress.as_dict()}
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._path.with_suffix(".json.tmp")
            temporary.write_bytes(orjson.dumps(body))
            temporary.replace(self._path)

    def remove(self) -> None:
        """The worker has left in peace."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """One partition as broker, files and workers see it. `error` makes the command's status non-zero."""

    topic: str
    partition: int
    log_start: int
    log_end: int
    head_end: int
    lag: int
    mirror: int | None
    head_age_s: float | None
    worker: str | None
    state: str
    why: str

    @property
    def is_error(self) -> bool:
        """Whether a person should act."""
        return self.state in ("failed", "error")


@settings_dataclass(frozen=True, kw_only=True, config=STRICT)
class StatusSettings:
    """Which stream to look at."""

    topics: tuple[str, ...] | str
    """topics: a list in YAML, or names separated by commas"""
    storage: str
    """absolute path or file URI of the stream's output"""
    group_id: str = "finsa"
    """the stream's consumer group"""
    kafka: KafkaSettings = Field(default_factory=KafkaSettings)
    json: bool = False
    """print JSON instead of a table"""


def workers(store: Store) -> list[dict[str, Any]]:
    """What the workers wrote, stale ones included."""
    if not isinstance(store, LocalStore):
        return []
    found = []
    for path in sorted((store.root / DIRECTORY).glob("*.json")):
        with contextlib.suppress(OSError, orjson.JSONDecodeError):  # a worker may be leaving
            found.append(orjson.loads(path.read_bytes()))
    return found


def status(admin: KafkaAdmin, store: Store, topics: Sequence[str], group_id: str) -> list[PartitionStatus]:
    """Every partition of the topics, in order."""
    partitions = [partition for topic in topics for partition in admin.partitions(topic)]
    mirrors = admin.mirrors(group_id, partitions) if partitions else {}
    told = _told_by_workers(workers(store), group_id)
    return [_status(admin, store, part, mirrors.get(part), told.get(part, {})) for part in partitions]


def _told_by_workers(found: Sequence[dict[str, Any]], group_id: str) -> dict[TopicPartition, dict[str, Any]]:
    told: dict[TopicPartition, dict[str, Any]] = {}
    for worker in sorted(found, key=lambda worker: str(worker.get("updated_at"))):
        if worker.get("group_id") != group_id:
            continue
        age_s = (datetime.now(UTC) - datetime.fromisoformat(worker["updated_at"])).total_seconds()
        for view in worker["partitions"]:
            if age_s > STALE_S and view["state"] != "failed":
                view = {**view, "state": "stale", "why": f"its worker was last heard of {age_s:,.0f} s ago"}  # noqa: PLW2901
            told[TopicPartition(view["topic"], view["partition"])] = {**view, "worker": worker["writer_id"]}
    return told


def _status(
    admin: KafkaAdmin, store: Store, partition: TopicPartition, mirror: Mirror | None, told: dict[str, Any]
) -> PartitionStatus:
    first, last = admin.log_range(partition)
    state, why, head = str(told.get("state", "no worker")), str(told.get("why", "")), None
    try:
        head = _head(admin, store, partition, mirror)
    except ChainError as error:
        state, why = "error", str(error)
    end = head.end if head else 0
    return PartitionStatus(
        topic=partition.topic,
        partition=partition.partition,
        log_start=first,
        log_end=last,
        head_end=end,
        lag=max(0, last - max(end, first)),
        mirror=mirror.end if mirror else None,
        head_age_s=None if head is None else (datetime.now(UTC) - head.confirmed_at).total_seconds(),
        worker=told.get("worker"),
        state=state,
        why=why,
    )


def _head(admin: KafkaAdmin, store: Store, partition: TopicPartition, mirror: Mirror | None) -> Head | None:
    identity = admin.identity(partition.topic)
    if identity is None:
        return None
    chain_id = ChainId(identity.cluster_id, partition.topic, identity.topic_uuid, partition.partition)
    return find_head(store, chain_id, mirror.head if mirror else None, lambda: datetime.now(UTC))


def table(rows: Sequence[PartitionStatus]) -> Table:
    """For people."""
    made = Table(title=f"lag {sum(row.lag for row in rows):,}", title_justify="left")
    for name in ("partition", "log", "files end", "lag", "mirror", "age of head", "state", "why"):
        made.add_column(name, justify="right" if name in ("files end", "lag", "mirror") else "left", overflow="fold")
    for row in rows:
        age = "-" if row.head_age_s is None else f"{row.head_age_s:,.0f} s"
        log_range = f"{row.log_start:,}..{row.log_end:,}"
        mirror = "-" if row.mirror is None else f"{row.mirror:,}"
        name = f"{row.topic}/{row.partition}"
        made.add_row(name, log_range, f"{row.head_end:,}", f"{row.lag:,}", mirror, age, row.state, row.why)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m streaming status`; 1 where a partition is in error."""
    settings = read_settings(
        StatusSettings,
        argv,
        prog="python -m streaming status",
        summary="Lag, end of files and trouble of every partition.",
        example="python -m streaming status --topics posts.news,posts.forum --storage $PWD/out/stream",
    )
    with KafkaAdmin(settings.kafka) as admin:
        rows = status(admin, open_store(settings.storage), split_names(settings.topics), settings.group_id)
    console = Console()
    if settings.json:
        console.file.write(orjson.dumps([asdict(row) for row in rows], option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        console.print(table(rows))
    return 1 if any(row.is_error for row in rows) else 0
