"""What a worker has done and is doing, counted once and shown three ways: live line, status file, report."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from streaming.protocols import TopicPartition


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that a person should know about one partition."""

    code: str
    detail: str
    partition: TopicPartition
    fatal: bool
    """True: the partition stays paused until the worker is started again"""


@dataclass(frozen=True, slots=True)
class PartitionView:
    """One owned partition at this moment; `state` is opening, running, waiting or failed, the last two with `why`."""

    partition: TopicPartition
    state: str
    why: str
    committed: int
    position: int
    log_end: int | None

    @property
    def lag(self) -> int | None:
        """Messages of the log that are in no file yet; None until the broker has said how long it is."""
        return None if self.log_end is None else max(0, self.log_end - self.committed)


@dataclass(slots=True)
class Counts:
    """Totals since the worker started. A row counts when its file is committed."""

    polled: int = 0
    rows: int = 0
    files: int = 0
    dead_letters: Counter[str] = field(default_factory=Counter)
    lost_races: int = 0
    faults: list[Fault] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Progress:
    """A snapshot."""

    counts: Counts
    partitions: tuple[PartitionView, ...]
    in_flight: int
    waiting: int
    rows_per_s: float
    scorer_trouble: str
    seconds: float

    @property
    def lag(self) -> int:
        """Messages of all owned partitions that are in no file yet."""
        return sum(view.lag or 0 for view in self.partitions)

    def as_dict(self) -> dict[str, Any]:
        """For the status file."""
        return {
            "rows": self.counts.rows,
            "polled": self.counts.polled,
            "files": self.counts.files,
            "dead_letters": dict(self.counts.dead_letters),
            "in_flight": self.in_flight,
            "rows_per_s": round(self.rows_per_s, 1),
            "scorer_trouble": self.scorer_trouble,
            "partitions": [
                {
                    "topic": view.partition.topic,
                    "partition": view.partition.partition,
                    "state": view.state,
                    "why": view.why,
                    "committed": view.committed,
                    "position": view.position,
                    "lag": view.lag,
                }
                for view in self.partitions
            ],
        }


@dataclass(frozen=True, slots=True)
class StreamReport:
    """What a worker did, when it has stopped.

    Attributes:
        rows: committed rows.
        files: committed files, those without rows included.
        dead_letters: committed dead letters by reason.
        seconds: from start to stop.
        faults: named errors; those with `fatal` paused their partition.
        storage: where the files are.
        drained: whether everything polled was committed before the worker stopped.
    """

    rows: int
    files: int
    dead_letters: dict[str, int]
    seconds: float
    faults: tuple[Fault, ...]
    storage: str
    drained: bool

    @property
    def failed(self) -> tuple[Fault, ...]:
        """The faults that paused a partition: any of them makes a command's status non-zero."""
        return tuple(fault for fault in self.faults if fault.fatal)


class RateMeter:
    """Rows per second over the last few seconds."""

    def __init__(self, window_s: float = 5.0) -> None:
        self._window_s = window_s
        self._marks: list[tuple[float, int]] = [(time.monotonic(), 0)]

    def rate(self, total: int) -> float:
        """The rate now, given the total so far."""
        now = time.monotonic()
        self._marks.append((now, total))
        while len(self._marks) > 2 and self._marks[1][0] <= now - self._window_s:
            self._marks.pop(0)
        since, before = self._marks[0]
        return (total - before) / max(now - since, 1e-3)
