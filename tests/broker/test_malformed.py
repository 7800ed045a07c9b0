"""Every kind of malformed message on a real Kafka: a dead letter with its reason, and the stream goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import kafka as client
import pytest
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from kafka_streams import Topic, post

pytestmark = pytest.mark.broker

TEN_MB: Final = b'{"text": "' + b"x" * 10_000_000 + b'"}'
MALFORMED: Final[list[tuple[str, bytes | None, str]]] = [
    ("not JSON", b"plain words", "not-json"),
    ("an empty value", b"", "not-json"),
    ("cut off", b'{"text": "half', "not-json"),
    ("not UTF-8", '{"text": "caf\u00e9"}'.encode("latin-1"), "not-utf8"),
    ("a list", b'["text"]', "not-an-object"),
    ("a number", b"42", "not-an-object"),
    ("no text", b'{"id": "1"}', "missing-text"),
    ("null text", b'{"text": null}', "missing-text"),
    ("empty text", b'{"text": ""}', "empty-text"),
    ("blank text", b'{"text": " \\n\\t"}', "empty-text"),
    ("text is a number", b'{"text": 5}', "wrong-type"),
    ("id is a list", b'{"text": "a", "id": []}', "wrong-type"),
    ("symbols is a string", b'{"text": "a", "symbols": "AAPL"}', "wrong-type"),
    ("symbols holds a number", b'{"text": "a", "symbols": [1]}', "wrong-type"),
    ("a time without offset", b'{"text": "a", "published_at": "2026-01-01T00:00:00"}', "bad-timestamp"),
    ("a time that is none", b'{"text": "a", "published_at": "soon"}', "bad-timestamp"),
    ("ten megabytes", TEN_MB, "text-too-long"),
    ("a lone surrogate", b'{"text": "\\ud800"}', "not-json"),
    ("a lone surrogate as bytes", b'{"text": "\xed\xa0\x80"}', "not-utf8"),
    ("NaN", b'{"text": "a", "published_at": NaN}', "not-json"),
    ("deep nesting", b'{"text": "a", "x": ' + b"[" * 5_000 + b"]" * 5_000 + b"}", "not-json"),
    ("null value", None, "null-value"),
]


@pytest.fixture
def topic(kafka: str, tmp_path: Path) -> Topic:
    made = Topic(kafka, tmp_path, partitions=1)
    admin = KafkaAdminClient(bootstrap_servers=kafka)
    try:
        limit = {"max.message.bytes": "20000000"}
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, made.name, configs=limit)])
    finally:
        admin.close()
    return made


def _dead_letters(topic: Topic) -> Iterator[Any]:
    queue = client.TopicPartition(f"{topic.name}.dlq", 0)
    consumer = client.KafkaConsumer(
        bootstrap_servers=topic.kafka.bootstrap_servers, auto_offset_reset="earliest", metrics_enabled=False
    )
    try:
        consumer.assign([queue])
        end = consumer.end_offsets([queue])[queue]
        while consumer.position(queue) < end:
            yield from consumer.poll(timeout_ms=1_000).get(queue, [])
    finally:
        consumer.close()


def test_each_is_a_dead_letter_with_its_reason(topic: Topic) -> None:
    values = [value for _, bad, _ in MALFORMED for value in (post(0), bad)] + [post(1)]
    topic.produce(values)
    report = topic.run()
    assert report.drained
    assert not report.faults
    assert report.rows == len(MALFORMED) + 1
    assert topic.offsets(0) == list(range(0, len(values), 2))
    letters = {int(dict(letter.headers)["error.offset"]): letter for letter in _dead_letters(topic)}
    assert sorted(letters) == list(range(1, len(values), 2))
    for number, (what, value, reason) in enumerate(MALFORMED):
        letter = letters[2 * number + 1]
        headers = dict(letter.headers)
        assert headers["error.reason"] == reason.encode(), what
        assert headers["error.topic"] == topic.name.encode()
        assert headers["error.key"] == str(2 * number + 1).encode()
        assert int(headers["error.timestamp"]) > 0
        assert letter.key == f"{topic.name}-0-{2 * number + 1}".encode()
        if value is TEN_MB:
            assert letter.value == b""
            assert headers["error.value_sha256"] == hashlib.sha256(TEN_MB).hexdigest().encode()
            assert headers["error.value_bytes"] == str(len(TEN_MB)).encode()
        else:
            assert letter.value == (value or b""), what
    assert topic.audit().ok
