"""Parsing a message: each malformed one has its reason, and no bytes crash it."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentiment.errors import DataError, MessageError
from sentiment.labels import LABELS, parse_label
from sentiment.records import MAX_TEXT_CHARS, SCORED_SCHEMA, Post, content_hash, parse_post, parse_timestamp

MALFORMED = {
    "null-value": [None],
    "not-utf8": [b'{"text": "\xff\xfe"}', "{'text': '利好'}".encode("gbk")],
    "not-json": [b"", b"hello", b'{"text": "a"', b'{"text": "\\ud83d"}', b'{"text": "a", "x": NaN}', b"[" * 3000],
    "not-an-object": [b"[]", b'"text"', b"3", b"null", b"true"],
    "missing-text": [b"{}", b'{"text": null}', b'{"Text": "a"}'],
    "empty-text": [b'{"text": ""}', b'{"text": " \\n\\t"}', '{"text": "\u3000"}'.encode()],
    "text-too-long": [json.dumps({"text": "x" * (MAX_TEXT_CHARS + 1)}).encode()],
    "wrong-type": [
        b'{"text": 3}',
        b'{"text": ["a"]}',
        b'{"text": "a", "id": {}}',
        b'{"text": "a", "id": 7}',
        b'{"text": "a", "symbols": "AAPL"}',
        b'{"text": "a", "symbols": [1]}',
        b'{"text": "a", "lang": false}',
    ],
    "bad-timestamp": [
        b'{"text": "a", "published_at": "yesterday"}',
        b'{"text": "a", "published_at": "2026-01-01T00:00:00"}',
        b'{"text": "a", "published_at": true}',
        b'{"text": "a", "published_at": 1e400}',
        b'{"text": "a", "published_at": 99999999999999999}',
    ],
}


@pytest.mark.parametrize(
    ("reason", "value"), [(reason, value) for reason, values in MALFORMED.items() for value in values]
)
def test_malformed_message_has_its_reason(reason: str, value: bytes | None) -> None:
    with pytest.raises(MessageError) as raised:
        parse_post(value)
    # 1e400 overflows to infinity for some parsers and is refused as JSON by others: either way a dead letter.
    assert raised.value.reason in ({reason, "not-json"} if value and b"1e400" in value else {reason})
    assert raised.value.detail


def test_whole_post() -> None:
    value = """{"id": "a1", "text": "净利润同比增长 35%，超预期", "source": "x", "lang": "zh", "domain": "news",
        "symbols": ["SH600000"], "published_at": "2026-01-05T09:30:00+08:00", "likes": 3}""".encode()
    assert parse_post(value) == Post(
        text="净利润同比增长 35%，超预期",
        id="a1",
        source="x",
        lang="zh",
        domain_hint="news",
        symbols=("SH600000",),
        published_at=datetime(2026, 1, 5, 1, 30, tzinfo=UTC),
    )


def test_epoch_milliseconds_and_iso_agree() -> None:
    assert parse_timestamp(1_767_576_600_000) == parse_timestamp("2026-01-05T01:30:00Z")


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_bytes_are_a_post_or_a_message_error(value: bytes) -> None:
    try:
        assert parse_post(value).text.strip()
    except MessageError as error:
        assert error.reason in MALFORMED


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(st.sampled_from(["id", "text", "source", "lang", "domain", "symbols", "published_at"]), JSON_VALUES)
)
def test_any_object_is_a_post_or_a_message_error(payload: dict[str, object]) -> None:
    try:
        post = parse_post(json.dumps(payload).encode())
    except MessageError as error:
        assert error.reason in MALFORMED
    else:
        assert post.text == payload["text"]


def test_content_hash_sees_through_unicode_forms() -> None:
    assert content_hash("caf\u00e9") == content_hash("cafe\u0301") != content_hash("cafe")


def test_schema_is_version_1_as_documented() -> None:
    assert SCORED_SCHEMA.names[:5] == ["topic", "partition", "offset", "id", "source"]
    assert len(SCORED_SCHEMA) == 29
    nullable = {field.name for field in SCORED_SCHEMA if field.nullable}
    assert nullable == {"source", "lang", "domain_hint", "text", "published_at", "disagreement"}


@pytest.mark.parametrize(
    ("raw", "label"), [("利好", "positive"), (" Bearish ", "negative"), (1, "neutral"), ("POSITIVE", "positive")]
)
def test_labels_by_their_usual_names(raw: object, label: str) -> None:
    assert LABELS[parse_label(raw)] == label


def test_an_unknown_label_is_never_neutral() -> None:
    with pytest.raises(DataError, match="unknown label 'mixed'"):
        parse_label("mixed")
