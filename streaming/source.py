"""A member of a consumer group: and where kafka-python's habits are kept.

- All its network work, and its listeners, run on a thread of its own: a listener that commits deadlocks, a slow one
  stops the heartbeats. Ours only records what changed; `poll` hands it to the poll thread.
- Joining happens inside `poll`, and the same call goes on to look for positions before we could seek. So a poll may
  complain about a missing position, and may bring messages of a partition that is not open yet: both are ignored.
- A join that outlasts a poll may never be finished (`_finish_join`).
- With `auto_offset_reset` other than "none" a paused consumer that retention overtook jumps ahead without an error.

One of the four files that import kafka (docs/architecture.md names them).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

import kafka
from kafka import KafkaConsumer
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import (
    IllegalStateError,
    KafkaError,
    LogTruncationError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)
from kafka.structs import MemberState

from streaming.kafka_admin import KafkaAdmin, broker_errors, client_config, encode_mirror
from streaming.protocols import BrokerUnavailable, Identity, Mirror, Polled, TopicPartition
from streaming.settings import StreamSettings

log = logging.getLogger(__name__)

METADATA_MAX_AGE_MS = 5_000
"""how soon new partitions and a topic created anew are noticed [ms]"""
MAX_POLL_INTERVAL_MS = 300_000
"""we poll all the time; only a stuck file system keeps us away for so long [ms]"""


class _Changes(ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python ships no types
    """What the group gave and took, in order, until the poll thread asks. Called on kafka-python's I/O thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: list[tuple[bool, TopicPartition]] = []

    def _record(self, given: bool, partitions: Iterable[kafka.TopicPartition]) -> None:
        with self._lock:
            self._events.extend((given, TopicPartition(*partition)) for partition in partitions)

    def on_partitions_assigned(self, assigned: Iterable[kafka.TopicPartition]) -> None:
        self._record(True, assigned)

    def on_partitions_revoked(self, revoked: Iterable[kafka.TopicPartition]) -> None:
        self._record(False, revoked)

    def take(self) -> list[tuple[bool, TopicPartition]]:
        with self._lock:
            events, self._events = self._events, []
        return events


class KafkaSource:
    """Implements `streaming.protocols.Source` on kafka-python."""

    def __init__(self, settings: StreamSettings) -> None:
        self._settings = settings
        self._topics = settings.topic_names()
        self._admin = KafkaAdmin(settings.kafka, isolation_level=settings.isolation_level)
        self._changes = _Changes()
        self._consumer = self._join()

    def _join(self) -> KafkaConsumer:
        settings = self._settings
        consumer = KafkaConsumer(
            **client_config(settings.kafka),
            group_id=settings.group_id,
            group_instance_id=settings.group_instance_id or None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            allow_auto_create_topics=False,
            isolation_level=settings.isolation_level,
            partition_assignment_strategy=[CooperativeStickyAssignor],
            session_timeout_ms=int(settings.session_timeout_s * 1000),
            heartbeat_interval_ms=min(3_000, int(settings.session_timeout_s * 1000 / 3)),
            max_poll_interval_ms=MAX_POLL_INTERVAL_MS,
            metadata_max_age_ms=METADATA_MAX_AGE_MS,
            max_poll_records=settings.scoring.max_call_rows * 2,
            fetch_max_wait_ms=100,
            max_partition_fetch_bytes=min(settings.kafka.max_message_bytes, 4 * 1024 * 1024),
            metrics_enabled=False,
        )
        consumer.subscribe(self._topics, listener=self._changes)
        return consumer

    def restart(self) -> None:
        """See the protocol: a new consumer has fetched nothing yet."""
        self._consumer.close(timeout_ms=5_000)
        self._changes.take()
        self._consumer = self._join()

    def poll(self, timeout_s: float) -> Polled:
        """See the protocol."""
        polled = Polled()
        try:
            with broker_errors("polling"):
                fetched = self._consumer.poll(timeout_ms=int(timeout_s * 1000))
            polled.records = {TopicPartition(*partition): records for partition, records in fetched.items()}
        except BrokerUnavailable as error:
            self._explain(error, polled)
        self._finish_join()
        owned = {TopicPartition(*partition) for partition in self._consumer.assignment()}
        events = self._changes.take()
        polled.lost = [partition for given, partition in events if not given]
        # Given and taken again within one poll leaves nothing to open.
        polled.assigned = [p for p in dict.fromkeys(p for given, p in events if given) if p in owned]
        return polled

    def _finish_join(self) -> None:
        """Make the next poll go on with a join that outlasted this one.

        kafka-python 3.0.12 asks "must I join again?" before it waits for a join in flight. Where new metadata was the
        reason to join, the leader's assignment has already taken the reason away: the join is never finished, no
        heartbeat is sent, and the member sits in the group with nothing, for ever.
        """
        if self._consumer.group_metadata().state == MemberState.REBALANCING:
            self._consumer._coordinator.request_rejoin()  # there is no public way

    def _explain(self, error: BrokerUnavailable, polled: Polled) -> None:
        cause = error.__cause__
        match cause:
            case NoOffsetForPartitionError():
                pass  # a new partition of ours: it gets its position when its chain is open
            case OffsetOutOfRangeError() | LogTruncationError():
                named = cause.args[0] if cause.args and isinstance(cause.args[0], dict) else {}
                divergent = getattr(cause, "divergent_offsets", None) or {}
                polled.out_of_range = [TopicPartition(*partition) for partition in {**named, **divergent}]
                if not polled.out_of_range:
                    raise error
            case KafkaError() if not cause.retriable:
                raise error
            case _:
                log.warning("poll failed, trying again error=%s", error)

    def position(self, partition: TopicPartition) -> int:
        """See the protocol.

        Raises:
            BrokerUnavailable: the partition was taken from us meanwhile, or has no position.
        """
        try:
            with broker_errors(f"asking for the position of {partition}"):
                found = self._consumer.position(kafka.TopicPartition(*partition), timeout_ms=1_000)
        except IllegalStateError as error:
            raise BrokerUnavailable(f"{partition} is no longer ours") from error
        if found is None:
            raise BrokerUnavailable(f"{partition} has no position")
        return int(found)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """See the protocol."""
        self._on_owned(partition, lambda tp: self._consumer.seek(tp, offset))

    def pause(self, partition: TopicPartition) -> None:
        """See the protocol."""
        self._on_owned(partition, self._consumer.pause)

    def resume(self, partition: TopicPartition) -> None:
        """See the protocol."""
        self._on_owned(partition, self._consumer.resume)

    def _on_owned(self, partition: TopicPartition, do: Callable[[kafka.TopicPartition], object]) -> None:
        asked = kafka.TopicPartition(*partition)
        if asked not in self._consumer.assignment():
            return  # the loss is already recorded and will be handed out by the next poll
        try:
            do(asked)
        except (IllegalStateError, KeyError, AssertionError) as error:
            log.info("partition lost meanwhile partition=%s error=%s", partition, error)

    def identity(self, topic: str) -> Identity | None:
        """See the protocol."""
        return self._admin.identity(topic)

    def log_range(self, partition: TopicPartition) -> tuple[int, int]:
        """See the protocol."""
        return self._admin.log_range(partition)

    def log_end_seen(self, partition: TopicPartition) -> int | None:
        """See the protocol."""
        try:
            seen: int | None = self._consumer.highwater(kafka.TopicPartition(*partition))
        except (IllegalStateError, KeyError):
            return None
        return seen

    def offset_at(self, partition: TopicPartition, timestamp_ms: int) -> int | None:
        """See the protocol."""
        return self._admin.offset_at(partition, timestamp_ms)

    def has_holes(self, topic: str) -> bool:
        """See the protocol."""
        return self._admin.has_holes(topic)

    def partitions(self) -> list[TopicPartition]:
        """See the protocol."""
        return [partition for topic in self._topics for partition in self._admin.partitions(topic)]

    def mirrors(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, Mirror]:
        """See the protocol."""
        return self._admin.mirrors(self._settings.group_id, partitions) if partitions else {}

    def mirror(self, mirrors: Mapping[TopicPartition, Mirror]) -> None:
        """See the protocol."""
        offsets = {kafka.TopicPartition(*partition): encode_mirror(mirror) for partition, mirror in mirrors.items()}
        if offsets:
            try:
                self._consumer.commit_async(offsets, callback=_mirrored)
            except KafkaError as error:
                _mirrored(offsets, error)

    def close(self, timeout_s: float) -> None:
        """See the protocol."""
        try:
            self._consumer.close(timeout_ms=int(timeout_s * 1000))
        except (KafkaError, OSError) as error:
            log.warning("could not leave the group in peace error=%s", error)
        self._admin.close()


def _mirrored(offsets: Mapping[kafka.TopicPartition, object], response: object) -> None:
    if isinstance(response, Exception):
        log.info("mirror not written, which is harmless partitions=%d error=%s", len(offsets), type(response).__name__)
