"""Questions to the brokers: which log is behind a name, what it still holds, what a group has committed.

One of the four files that import kafka (docs/architecture.md names them).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any, Self

import kafka
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, OffsetSpec
from kafka.errors import (
    AuthorizationError,
    InvalidTopicError,
    KafkaError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
)
from kafka.net.compat import KafkaNetClient
from kafka.protocol.consumer import IsolationLevel

from sentiment.errors import ConfigError, SetupError
from streaming.protocols import BrokerUnavailable, Identity, Mirror, TopicPartition
from streaming.settings import KafkaSettings

log = logging.getLogger(__name__)

RECONNECT_MAX_MS = 1_000
"""kafka-python waits up to 30 s between two attempts; a broker that is back should be noticed in a second [ms]"""

OFFSETS_TIMEOUT_MS = 5_000
"""a partition that is being deleted has no offsets; the poll thread must not wait for them for long [ms]"""


def client_config(settings: KafkaSettings) -> dict[str, Any]:
    """What every Kafka client of ours is told."""
    return {
        "bootstrap_servers": settings.servers(),
        "client_id": "finsa",
        "reconnect_backoff_max_ms": RECONNECT_MAX_MS,
        "request_timeout_ms": int(settings.request_timeout_s * 1000),
        "kafka_client": _never_creating_topics,
    }


def _never_creating_topics(**config: Any) -> KafkaNetClient:
    """The network client of every Kafka client of ours.

    kafka-python 3.0.12 drops the setting `allow_auto_create_topics` on its way to the metadata requests: a consumer
    would bring a deleted topic back to life at its next look (brokers create topics by themselves by default).
    """
    client = KafkaNetClient(**config)
    client.cluster.config["allow_auto_create_topics"] = False
    return client


@contextlib.contextmanager
def broker_errors(doing: str) -> Iterator[None]:
    """Turn kafka-python's errors into ours: denied is for a person, the rest may pass.

    Raises:
        SetupError: the brokers refuse this client.
        BrokerUnavailable: they do not answer, or not now.
    """
    try:
        yield
    except AuthorizationError as denied:
        raise SetupError(f"Kafka refuses {doing}: {denied}; ask for the right in its ACLs") from denied
    except (KafkaError, OSError) as error:
        raise BrokerUnavailable(f"{doing}: {type(error).__name__}: {str(error)[:200]}") from error


def encode_mirror(mirror: Mirror) -> kafka.OffsetAndMetadata:
    """A mirror as Kafka stores it: the offset, and `<topic uuid> <file name>` in the metadata."""
    return kafka.OffsetAndMetadata(mirror.end, f"{mirror.topic_uuid} {mirror.head or ''}".strip(), -1)


def decode_mirror(committed: kafka.OffsetAndMetadata) -> Mirror:
    """The inverse; metadata of another writer is no hint."""
    words = (committed.metadata or "").split(" ")
    return Mirror(end=committed.offset, topic_uuid=words[0], head=words[1] if len(words) > 1 else None)


class KafkaAdmin:
    """An admin client with the few questions this project asks. Not thread-safe."""

    def __init__(self, settings: KafkaSettings, *, isolation_level: str = "read_uncommitted") -> None:
        self._read_committed = isolation_level == "read_committed"
        self._cluster_id: str | None = None
        servers = settings.servers()
        try:
            self._client = KafkaAdminClient(**client_config(settings))
        except (KafkaError, OSError, ValueError) as error:
            raise SetupError(
                f"no Kafka broker answers at {', '.join(servers)} ({type(error).__name__}); "
                "check --kafka.bootstrap_servers, or start one with `make kafka`"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _described(self, topic: str) -> dict[str, Any] | None:
        with broker_errors(f"describing topic {topic}"):
            (described,) = self._client.describe_topics([topic])
        if described["error_code"] == UnknownTopicOrPartitionError.errno:
            return None
        if described["error_code"] == InvalidTopicError.errno:
            raise ConfigError(f"setting `topics`: {topic!r} is not a valid name of a topic")
        if described["error_code"]:
            raise BrokerUnavailable(f"topic {topic}: Kafka error {described['error_code']}")
        return dict(described)

    def cluster_id(self) -> str:
        """The cluster's id; it never changes, so it is asked once."""
        if self._cluster_id is None:
            with broker_errors("describing the cluster"):
                self._cluster_id = str(self._client.describe_cluster()["cluster_id"])
        return self._cluster_id

    def identity(self, topic: str) -> Identity | None:
        """The log behind the name now, or None without such a topic."""
        described = self._described(topic)
        return None if described is None else Identity(self.cluster_id(), str(described["topic_id"]))

    def partitions(self, topic: str) -> list[TopicPartition]:
        """The topic's partitions in order; none where there is no such topic."""
        described = self._described(topic)
        found = [] if described is None else described["partitions"]
        return sorted(TopicPartition(topic, part["partition_index"]) for part in found)

    def log_range(self, partition: TopicPartition) -> tuple[int, int]:
        """First offset held, and the next to be given out (as a consumer of our isolation level sees it)."""
        return self._offset(partition, OffsetSpec.EARLIEST), self._offset(partition, OffsetSpec.LATEST)

    def _offset(self, partition: TopicPartition, spec: OffsetSpec | int) -> int:
        asked = kafka.TopicPartition(*partition)
        level = IsolationLevel.READ_COMMITTED if self._read_committed else IsolationLevel.READ_UNCOMMITTED
        with broker_errors(f"asking {partition} for its offsets"):
            found = self._client.list_partition_offsets({asked: spec}, level, timeout_ms=OFFSETS_TIMEOUT_MS)
        return int(found[asked].offset)

    def offset_at(self, partition: TopicPartition, timestamp_ms: int) -> int | None:
        """First offset with this Kafka timestamp or a later one."""
        found = self._offset(partition, timestamp_ms)
        return found if found >= 0 else None

    def has_holes(self, topic: str) -> bool:
        """Whether offsets may be missing by design: the topic is compacted, or we skip aborted transactions."""
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, configs={"cleanup.policy": None})
        with broker_errors(f"reading the configuration of {topic}"):
            answer = self._client.describe_configs([resource], config_filter="all")
        policy = answer["topic"][topic]["cleanup.policy"]["value"]
        return self._read_committed or "compact" in policy

    def mirrors(self, group_id: str, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, Mirror]:
        """What the group has committed for these partitions."""
        asked = {group_id: [kafka.TopicPartition(*partition) for partition in partitions]}
        with broker_errors(f"reading the offsets of group {group_id}"):
            answer = self._client.list_group_offsets(asked)[group_id]
        return {TopicPartition(*tp): decode_mirror(found) for tp, found in answer.items() if found.offset >= 0}

    def ensure_topic(self, topic: str, partitions: int) -> bool:
        """Create the topic unless it exists; True when this call made it."""
        if self._described(topic) is not None:
            return False
        with broker_errors(f"creating topic {topic}"):
            try:
                self._client.create_topics({topic: {"num_partitions": partitions}}, wait_for_metadata=True)
            except TopicAlreadyExistsError:
                return False
        log.info("topic created topic=%s partitions=%d", topic, partitions)
        return True

    def delete_topic(self, topic: str) -> None:
        """Delete the topic and everything in it; for tests and `make clean`-like tools."""
        with broker_errors(f"deleting topic {topic}"):
            self._client.delete_topics([topic])
