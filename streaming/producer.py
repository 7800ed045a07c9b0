"""A producer whose flush means what it says: dead letters and replays are written through it.

One of the four files that import kafka (docs/architecture.md names them).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Self

from kafka import KafkaProducer as _Client
from kafka.errors import KafkaError, MessageSizeTooLargeError

from sentiment.errors import DataError, SetupError
from streaming.kafka_admin import KafkaAdmin, broker_errors, client_config
from streaming.protocols import BrokerUnavailable
from streaming.settings import KafkaSettings


class KafkaProducer:
    """Implements `streaming.protocols.Producer` (idempotent, acknowledged by all replicas in sync)."""

    def __init__(self, settings: KafkaSettings, *, linger_ms: int = 5, batch_bytes: int = 128 * 1024) -> None:
        self._settings = settings
        self._pending: list[Any] = []
        self._known: set[str] = set()
        try:
            self._client = _Client(
                **client_config(settings),
                linger_ms=linger_ms,
                batch_size=batch_bytes,
                max_request_size=settings.max_message_bytes,
                allow_auto_create_topics=False,
            )
        except (KafkaError, OSError) as error:
            raise SetupError(f"no Kafka broker answers at {', '.join(settings.servers())}: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def ensure_topic(self, topic: str, partitions: int) -> None:
        """Create the topic unless it exists; asked of the broker once per topic."""
        if topic in self._known:
            return
        with KafkaAdmin(self._settings) as admin:
            admin.ensure_topic(topic, partitions)
        self._known.add(topic)

    def send(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]] = ()
    ) -> None:
        """Queue one message; blocks while the client's buffer is full.

        The Kafka timestamp is the time of sending, never a time from the payload: retention goes by it, and an old
        one is deleted within seconds.

        Raises:
            DataError: larger than `max_message_bytes`.
            BrokerUnavailable: the topic's metadata cannot be had.
        """
        try:
            with broker_errors(f"sending to {topic}"):
                self._pending.append(self._client.send(topic, key=key, value=value, headers=list(headers)))
        except BrokerUnavailable as error:
            if isinstance(error.__cause__, MessageSizeTooLargeError):
                limit = self._settings.max_message_bytes
                raise DataError(f"a message for {topic} exceeds kafka.max_message_bytes={limit:,}") from error
            raise

    def flush(self, timeout_s: float) -> None:
        """Return when everything sent is acknowledged; see the protocol.

        Raises:
            BrokerUnavailable: at least one message was not; after this nothing is pending, send all again.
        """
        deadline = time.monotonic() + timeout_s
        pending, self._pending = self._pending, []
        with broker_errors("flushing messages"):
            self._client.flush(timeout=timeout_s)
            for future in pending:
                future.get(timeout=max(0.1, deadline - time.monotonic()))

    def close(self) -> None:
        """Close without waiting for what was never flushed."""
        self._client.close(timeout=5)
