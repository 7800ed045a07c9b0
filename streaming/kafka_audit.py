"""An audit's view of the brokers: what the logs still hold, and what lies in the dead-letter topics. Read only."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from typing import Any, Self

import kafka
from kafka import KafkaConsumer

from streaming.kafka_admin import KafkaAdmin, broker_errors, client_config
from streaming.protocols import BrokerUnavailable, TopicPartition
from streaming.settings import KafkaSettings

SILENCE_S = 10.0
"""a broker that delivers nothing for so long has nothing more in the range [s]"""
_POLL_MS = 500


class KafkaView:
    """Implements `streaming.audit.BrokerView`. It joins no group and commits nothing."""

    def __init__(
        self, settings: KafkaSettings, *, group_id: str, dead_letter_suffix: str, isolation_level: str
    ) -> None:
        self._group_id = group_id
        self._dlq_suffix = dead_letter_suffix
        self._admin = KafkaAdmin(settings, isolation_level=isolation_level)
        self._consumer: Any = KafkaConsumer(
            **client_config(settings),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            allow_auto_create_topics=False,
            isolation_level=isolation_level,
            max_poll_records=5_000,
            metrics_enabled=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._consumer.close(autocommit=False, timeout_ms=5_000)
        self._admin.close()

    def cluster_id(self) -> str:
        """The cluster's id."""
        return self._admin.cluster_id()

    def topic_uuid(self, topic: str) -> str | None:
        """The topic's UUID, or None where there is no such topic."""
        identity = self._admin.identity(topic)
        return identity.topic_uuid if identity else None

    def partitions(self, topic: str) -> Sequence[int]:
        """The topic's partition numbers."""
        return [partition.partition for partition in self._admin.partitions(topic)]

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """(first offset held, first offset not given out yet)."""
        return self._admin.log_range(TopicPartition(topic, partition))

    def committed(self, topic: str, partition: int) -> int | None:
        """The group's committed offset, where it is of the topic as it is now."""
        asked, identity = TopicPartition(topic, partition), self._admin.identity(topic)
        mirror = self._admin.mirrors(self._group_id, [asked]).get(asked)
        if mirror is None or identity is None or mirror.topic_uuid not in ("", identity.topic_uuid):
            return None
        return mirror.end

    def read(self, topic: str, partition: int, start: int, stop: int) -> Iterator[tuple[int, bytes | None]]:
        """(offset, value) of every record of `[start, stop)` that the broker still has."""
        for record in self._records(topic, partition, start, stop):
            yield record.offset, record.value

    def _records(self, topic: str, partition: int, start: int, stop: int) -> Iterator[Any]:
        first, last = self.bounds(topic, partition)
        start, stop = max(start, first), min(stop, last)
        if start >= stop:
            return
        asked = kafka.TopicPartition(topic, partition)
        with broker_errors(f"reading {topic}/{partition}"):
            if self._consumer.assignment() != {asked}:
                self._consumer.assign([asked])
            self._consumer.seek(asked, start)
        waited_s = 0.0
        while (position := self._consumer.position(asked)) < stop:
            with broker_errors(f"reading {topic}/{partition}"):
                records = self._consumer.poll(timeout_ms=_POLL_MS).get(asked, [])
            yield from (record for record in records if record.offset < stop)
            waited_s = 0.0 if self._consumer.position(asked) > position else waited_s + _POLL_MS / 1000
            if waited_s >= SILENCE_S:
                raise BrokerUnavailable(f"{topic}/{partition}: nothing delivered from {position} for {SILENCE_S:.0f} s")

    def dead_letters(self, topic: str) -> Container[tuple[int, int]] | None:
        """(partition, offset) of every dead letter of the topic; None where retention may have deleted some."""
        queue = topic + self._dlq_suffix
        found: set[tuple[int, int]] = set()
        for partition in self.partitions(queue):
            first, last = self.bounds(queue, partition)
            if first > 0:
                return None
            for record in self._records(queue, partition, first, last):
                # By the key, which is ours: headers may be anybody's.
                source, _, place = (record.key or b"").decode("utf-8", "replace").partition(f"{topic}-")
                number, _, offset = place.partition("-")
                if not source and number.isdecimal() and offset.isdecimal():
                    found.add((int(number), int(offset)))
        return found
