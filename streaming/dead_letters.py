"""Messages that cannot be scored: what is kept of them, and how they reach the dead-letter topic.

A dead letter's key is `<topic>-<partition>-<offset>`, its value the original bytes, its headers say why and where from.
It is written at least once, before the file that counts its offset as dead; the key makes a second copy recognisable.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from streaming.protocols import Producer, Record, TopicPartition
from streaming.settings import DeadLetterSettings

STAGE_PARSE = "parse"
STAGE_SCORE = "score"
REASON_REJECTED = "scorer-rejected"
MAX_HEADER_BYTES = 1_000
"""longer header values are cut: a header is for reading, the value has the whole [bytes]"""
FLUSH_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One message that became no row.

    Attributes:
        source: where it lies in Kafka.
        record: the message as fetched.
        stage: `parse` or `score`.
        reason: a short stable slug; metrics are counted by it.
        detail: for a person.
    """

    source: TopicPartition
    record: Record
    stage: str
    reason: str
    detail: str

    @property
    def offset(self) -> int:
        """The message's offset."""
        return self.record.offset

    @property
    def key(self) -> bytes:
        """The same for every copy of this dead letter, and for no other."""
        return f"{self.source.topic}-{self.source.partition}-{self.offset}".encode()

    def headers(self, *, with_value: bool) -> list[tuple[str, bytes]]:
        """The error headers, then the original ones under their own names.

        Args:
            with_value: False where the value does not travel; its size and sha256 do instead.
        """
        value = self.record.value
        fields: list[tuple[str, object]] = [
            ("error.reason", self.reason),
            ("error.detail", self.detail),
            ("error.stage", self.stage),
            ("error.topic", self.source.topic),
            ("error.partition", self.source.partition),
            ("error.offset", self.offset),
            ("error.timestamp", self.record.timestamp),
        ]
        headers = [(name, _cut(str(field).encode("utf-8", "replace"))) for name, field in fields]
        if self.record.key is not None:
            headers.append(("error.key", _cut(self.record.key)))
        if value is not None and not with_value:
            headers.append(("error.value_bytes", str(len(value)).encode()))
            headers.append(("error.value_sha256", hashlib.sha256(value).hexdigest().encode()))
        elif value is None:
            headers.append(("error.value_null", b"true"))
        # A dead letter that is published again and dies again brings our headers: they must not shadow the new ones.
        originals = [
            (f"original.{name}" if name.startswith("error.") else name, _cut(raw or b""))
            for name, raw in self.record.headers or ()
        ]
        return headers + (originals if with_value else [])


def rejected(source: TopicPartition, record: Record, why: str) -> DeadLetter:
    """The dead letter of a message that parsed but that the scorer refuses, alone, while it scores others."""
    return DeadLetter(source, record, STAGE_SCORE, REASON_REJECTED, why)


class DeadLetterQueue:
    """The dead-letter topics of all topics of one worker."""

    def __init__(self, producer: Producer, settings: DeadLetterSettings) -> None:
        self._producer = producer
        self._settings = settings

    def publish(self, letters: Sequence[DeadLetter]) -> None:
        """Write and flush; only then may their offsets be counted as dead.

        Raises:
            BrokerUnavailable: at least one is not acknowledged; send all again.
        """
        if not letters:
            return
        for topic in _topics(letters):
            self._producer.ensure_topic(topic + self._settings.suffix, self._settings.partitions)
        for letter in letters:
            self._send(letter)
        self._producer.flush(FLUSH_TIMEOUT_S)

    def _send(self, letter: DeadLetter) -> None:
        value = letter.record.value
        originals = sum(len(name) * 4 + len(raw or b"") + 8 for name, raw in letter.record.headers or ())
        fits = len(value or b"") + originals <= self._settings.max_value_bytes
        headers = letter.headers(with_value=fits)
        # A null value would be a tombstone on a compacted topic, so a dead letter always has one.
        body = b"" if value is None or not fits else value
        self._producer.send(letter.source.topic + self._settings.suffix, letter.key, body, headers)


def _topics(letters: Iterable[DeadLetter]) -> list[str]:
    return sorted({letter.source.topic for letter in letters})


def _cut(raw: bytes) -> bytes:
    return raw[:MAX_HEADER_BYTES]
