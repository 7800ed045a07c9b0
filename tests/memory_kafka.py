"""A Kafka of dictionaries behind the stream's protocols: for what the pipeline does, never for what Kafka promises."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from streaming.protocols import BrokerUnavailable, Identity, Mirror, Polled, TopicPartition


class MemoryRecord(NamedTuple):
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()


@dataclass
class Log:
    first: int = 0
    end: int = 0
    records: list[MemoryRecord] = field(default_factory=list)


class MemoryBroker:
    """Topics and one group's offsets. `down` makes every question fail."""

    def __init__(self) -> None:
        self.uuids: dict[str, str] = {}
        self.logs: dict[TopicPartition, Log] = {}
        self.mirrors: dict[TopicPartition, Mirror] = {}
        self.with_holes: set[str] = set()
        self.down = False

    def create(self, topic: str, partitions: int = 1) -> None:
        self.uuids[topic] = str(uuid.uuid4())
        for number in range(partitions):
            self.logs[TopicPartition(topic, number)] = Log()

    def delete(self, topic: str) -> None:
        del self.uuids[topic]
        for partition in [p for p in self.logs if p.topic == topic]:
            del self.logs[partition]
            self.mirrors.pop(partition, None)

    def produce(self, topic: str, value: bytes | None, partition: int = 0, key: bytes | None = None) -> int:
        log = self.logs[TopicPartition(topic, partition)]
        log.records.append(MemoryRecord(log.end, 1_700_000_000_000 + log.end, key, value))
        log.end += 1
        return log.end - 1

    def skip(self, topic: str, count: int, partition: int = 0) -> None:
        """Offsets without records, as compaction and transactions leave them."""
        self.logs[TopicPartition(topic, partition)].end += count

    def truncate(self, topic: str, first: int, partition: int = 0) -> None:
        log = self.logs[TopicPartition(topic, partition)]
        log.first = first
        log.records = [record for record in log.records if record.offset >= first]

    def ask(self) -> None:
        if self.down:
            raise BrokerUnavailable("down for the test")


class MemorySource:
    """One member of the group; `give` and `take` move partitions."""

    def __init__(self, broker: MemoryBroker, topics: Sequence[str], max_records: int = 7) -> None:
        self.broker = broker
        self.topics = topics
        self.max_records = max_records
        self.positions: dict[TopicPartition, int] = {}
        self.paused: set[TopicPartition] = set()
        self.restarts = 0
        self.polls = 0
        self.closed = False
        self._events = Polled()
        self._joined = False

    def give(self, *partitions: TopicPartition) -> None:
        self._events.assigned += partitions
        self._joined = True

    def take(self, *partitions: TopicPartition) -> None:
        self._events.lost += partitions
        for partition in partitions:
            self.positions.pop(partition, None)

    def poll(self, timeout_s: float) -> Polled:
        self.polls += 1
        if not self._joined:
            self.give(*self.partitions())
        polled, self._events = self._events, Polled()
        found: dict[TopicPartition, list[MemoryRecord]] = {}
        for partition, position in list(self.positions.items()):
            log = self.broker.logs.get(partition)
            if partition in self.paused or log is None:
                continue
            if not log.first <= position <= log.end:
                polled.out_of_range.append(partition)
                continue
            records = [record for record in log.records if record.offset >= position][: self.max_records]
            if records:
                found[partition] = records
            last = records[-1].offset + 1 if len(records) == self.max_records else log.end
            self.positions[partition] = last
        polled.records = found
        return polled

    def position(self, partition: TopicPartition) -> int:
        return self.positions[partition]

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self.positions[partition] = offset

    def pause(self, partition: TopicPartition) -> None:
        self.paused.add(partition)

    def resume(self, partition: TopicPartition) -> None:
        self.paused.discard(partition)

    def restart(self) -> None:
        self.restarts += 1
        self.positions.clear()
        self.paused.clear()
        self._events = Polled()
        self._joined = False

    def identity(self, topic: str) -> Identity | None:
        self.broker.ask()
        found = self.broker.uuids.get(topic)
        return None if found is None else Identity("memory-cluster", found)

    def log_range(self, partition: TopicPartition) -> tuple[int, int]:
        self.broker.ask()
        return self.broker.logs[partition].first, self.broker.logs[partition].end

    def log_end_seen(self, partition: TopicPartition) -> int | None:
        log = self.broker.logs.get(partition)
        return log.end if log else None

    def offset_at(self, partition: TopicPartition, timestamp_ms: int) -> int | None:
        later = [r.offset for r in self.broker.logs[partition].records if r.timestamp >= timestamp_ms]
        return later[0] if later else None

    def has_holes(self, topic: str) -> bool:
        return topic in self.broker.with_holes

    def partitions(self) -> list[TopicPartition]:
        return sorted(partition for partition in self.broker.logs if partition.topic in self.topics)

    def mirrors(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, Mirror]:
        self.broker.ask()
        return {p: self.broker.mirrors[p] for p in partitions if p in self.broker.mirrors}

    def mirror(self, mirrors: Mapping[TopicPartition, Mirror]) -> None:
        self.broker.mirrors.update(mirrors)

    def close(self, timeout_s: float) -> None:
        self.closed = True


@dataclass
class Sent:
    topic: str
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]


class MemoryProducer:
    """Keeps what was flushed; `fail_flushes` flushes fail first."""

    def __init__(self) -> None:
        self.topics: dict[str, int] = {}
        self.flushed: list[Sent] = []
        self.fail_flushes = 0
        self._pending: list[Sent] = []

    def ensure_topic(self, topic: str, partitions: int) -> None:
        self.topics.setdefault(topic, partitions)

    def send(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]] = ()
    ) -> None:
        assert topic in self.topics, "sent to a topic that was never ensured"
        self._pending.append(Sent(topic, key, value, dict(headers)))

    def flush(self, timeout_s: float) -> None:
        pending, self._pending = self._pending, []
        if self.fail_flushes:
            self.fail_flushes -= 1
            raise BrokerUnavailable("flush failed for the test")
        self.flushed += pending

    def close(self) -> None:
        self._pending = []
