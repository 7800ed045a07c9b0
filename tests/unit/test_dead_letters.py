"""What a dead letter carries, and what it leaves out."""

from __future__ import annotations

import hashlib

import pytest
from memory_kafka import MemoryProducer, MemoryRecord

from streaming.dead_letters import MAX_HEADER_BYTES, DeadLetter, DeadLetterQueue
from streaming.protocols import BrokerUnavailable, TopicPartition
from streaming.settings import DeadLetterSettings

SOURCE = TopicPartition("posts.news", 3)


def letter(value: bytes | None, **record: object) -> DeadLetter:
    fields = {"offset": 7, "timestamp": 1_700_000_000_123, "key": b"k\xff", "headers": (), **record}
    return DeadLetter(SOURCE, MemoryRecord(value=value, **fields), "parse", "not-json", "line 1")  # type: ignore[arg-type]


def publish(*letters: DeadLetter, max_value_bytes: int = 100) -> MemoryProducer:
    producer = MemoryProducer()
    DeadLetterQueue(producer, DeadLetterSettings(max_value_bytes=max_value_bytes)).publish(letters)
    return producer


def test_the_original_bytes_travel_with_where_and_why() -> None:
    (sent,) = publish(letter(b"\xffjunk", headers=[("trace", b"abc")])).flushed
    assert (sent.topic, sent.key, sent.value) == ("posts.news.dlq", b"posts.news-3-7", b"\xffjunk")
    assert sent.headers == {
        "error.reason": b"not-json",
        "error.detail": b"line 1",
        "error.stage": b"parse",
        "error.topic": b"posts.news",
        "error.partition": b"3",
        "error.offset": b"7",
        "error.timestamp": b"1700000000123",
        "error.key": b"k\xff",
        "trace": b"abc",
    }


def test_over_the_size_limit_only_hash_and_coordinates_travel() -> None:
    value = b"x" * 101
    (sent,) = publish(letter(value, headers=[("big", b"y" * 5_000)])).flushed
    assert sent.value == b""
    assert sent.headers["error.value_sha256"] == hashlib.sha256(value).hexdigest().encode()
    assert sent.headers["error.value_bytes"] == b"101"
    assert sent.headers["error.offset"] == b"7"
    assert "big" not in sent.headers


def test_a_null_value_does_not_become_a_tombstone() -> None:
    (sent,) = publish(letter(None)).flushed
    assert sent.value == b""
    assert sent.headers["error.value_null"] == b"true"


def test_long_headers_are_cut() -> None:
    (sent,) = publish(letter(b"x", key=b"k" * 5_000)).flushed
    assert len(sent.headers["error.key"]) == MAX_HEADER_BYTES


def test_the_topic_is_made_and_nothing_is_done_for_nothing() -> None:
    assert publish(letter(b"x")).topics == {"posts.news.dlq": 1}
    assert publish().topics == {}


def test_what_is_not_acknowledged_is_an_error() -> None:
    producer = MemoryProducer()
    producer.fail_flushes = 1
    queue = DeadLetterQueue(producer, DeadLetterSettings())
    with pytest.raises(BrokerUnavailable):
        queue.publish([letter(b"x")])
    queue.publish([letter(b"x")])
    assert len(producer.flushed) == 1


def test_header_names_count_towards_the_size_limit() -> None:
    (sent,) = publish(letter(b"bad", headers=[(f"name-{number:04d}", b"") for number in range(50)])).flushed
    assert sent.value == b""
    assert not any(name.startswith("name-") for name in sent.headers)


def test_headers_of_an_earlier_death_do_not_shadow_ours() -> None:
    again = letter(b"bad", headers=[("error.offset", b"77"), ("error.reason", b"old")])
    (sent,) = publish(again, max_value_bytes=1_000).flushed
    assert (sent.headers["error.offset"], sent.headers["original.error.offset"]) == (b"7", b"77")
    assert sent.headers["error.reason"] == b"not-json"
