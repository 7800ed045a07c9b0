"""What the pipeline needs from Kafka, as protocols: tests use in-memory sources, workers `streaming.source`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from sentiment.errors import SentimentError


class BrokerUnavailable(SentimentError):
    """The broker gave no answer for now. Nothing was decided, so the caller keeps what it has and asks again."""


class TopicPartition(NamedTuple):
    """One partition of a topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}"


class Record(Protocol):
    """One message as fetched. kafka-python's own record fits, so that nothing is copied per row."""

    @property
    def offset(self) -> int:
        """Its place in the partition."""
        ...

    @property
    def timestamp(self) -> int:
        """The broker's or the producer's clock [ms since 1970, UTC]; -1 where there is none."""
        ...

    @property
    def key(self) -> bytes | None:
        """Chosen by the producer."""
        ...

    @property
    def value(self) -> bytes | None:
        """The message; None is a tombstone."""
        ...

    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]:
        """In the order they were written."""
        ...


@dataclass(frozen=True, slots=True)
class Identity:
    """Which log this is: a topic deleted and created again has the same name and another UUID."""

    cluster_id: str
    topic_uuid: str


@dataclass(frozen=True, slots=True)
class Mirror:
    """The group's committed offset: a copy of the chain's end, never the truth."""

    end: int
    topic_uuid: str
    head: str | None
    """name of the chain's newest file, a hint where to start looking"""


@dataclass(slots=True)
class Polled:
    """What one poll brought, in the order in which it must be acted on: lost, assigned, out of range, records."""

    lost: list[TopicPartition] = field(default_factory=list)
    """no longer ours"""
    assigned: list[TopicPartition] = field(default_factory=list)
    """newly ours: nothing of it may be used before its chain is open and the source was told to seek"""
    out_of_range: list[TopicPartition] = field(default_factory=list)
    """the broker has nothing at our position: retention overtook it, or the log is shorter than we know"""
    records: Mapping[TopicPartition, Sequence[Record]] = field(default_factory=dict)
    """messages in offset order"""


class Source(Protocol):
    """A consumer-group member. Every method is called from the poll thread only.

    Calls that ask the broker raise BrokerUnavailable when it does not answer.
    """

    def poll(self, timeout_s: float) -> Polled:
        """Wait at most `timeout_s` for messages; keeps the membership alive, so it is called even when paused."""
        ...

    def position(self, partition: TopicPartition) -> int:
        """The next offset to be delivered: past control records and compacted ones, unlike 'last offset + 1'."""
        ...

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Deliver from this offset on."""
        ...

    def pause(self, partition: TopicPartition) -> None:
        """Deliver nothing of this partition until `resume`."""
        ...

    def resume(self, partition: TopicPartition) -> None:
        """Deliver again."""
        ...

    def restart(self) -> None:
        """Forget everything fetched and join anew: what was fetched may belong to a log that is gone."""
        ...

    def identity(self, topic: str) -> Identity | None:
        """The log behind the name, asked of the broker now; None when there is no such topic."""
        ...

    def log_range(self, partition: TopicPartition) -> tuple[int, int]:
        """The first offset the broker still has, and the next one it will give out."""
        ...

    def log_end_seen(self, partition: TopicPartition) -> int | None:
        """The log's end as the last fetch told it, without asking; None before the first."""
        ...

    def offset_at(self, partition: TopicPartition, timestamp_ms: int) -> int | None:
        """The first offset with this Kafka timestamp or a later one; None when there is none."""
        ...

    def has_holes(self, topic: str) -> bool:
        """Whether offsets may be missing from this topic by design (compaction, transactions)."""
        ...

    def partitions(self) -> list[TopicPartition]:
        """Every partition of the subscribed topics, whoever owns it."""
        ...

    def mirrors(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, Mirror]:
        """The group's committed offsets."""
        ...

    def mirror(self, mirrors: Mapping[TopicPartition, Mirror]) -> None:
        """Commit to the group without waiting. A failure is harmless and only counted."""
        ...

    def close(self, timeout_s: float) -> None:
        """Leave the group."""
        ...


class Producer(Protocol):
    """Writes messages; `flush` is the only promise."""

    def ensure_topic(self, topic: str, partitions: int) -> None:
        """Create the topic unless it exists."""
        ...

    def send(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]] = ()
    ) -> None:
        """Queue one message."""
        ...

    def flush(self, timeout_s: float) -> None:
        """Return when every message sent since the last flush is acknowledged.

        Raises:
            BrokerUnavailable: at least one was not.
        """
        ...

    def close(self) -> None:
        """Give up what was never flushed."""
        ...
