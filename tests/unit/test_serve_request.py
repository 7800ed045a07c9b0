"""The body of `POST /v1/score`: every refusal names its field and says what to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.http_request import BadRequest, HttpLimits, parse_score_request, read_body

LIMITS = HttpLimits(max_texts=4, max_text_chars=20, max_body_bytes=100)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=6) | st.dictionaries(st.sampled_from(["texts", "text", "x"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("body", "status", "field", "says"),
    [
        (b"{", 400, "body", "not valid JSON"),
        (b"\xff\xfe", 400, "body", "not valid JSON"),
        (b'{"texts": NaN}', 400, "body", "not valid JSON"),
        (b'{"texts": "\\ud800"}', 400, "body", "not valid JSON"),
        (b"[" * 3_000, 400, "body", "not valid JSON"),
        (b"[]", 422, "body", "is a list, expected an object"),
        (b"null", 422, "body", "is null"),
        (b"{}", 422, "texts", "is missing"),
        (b'{"text": "up"}', 422, "text", "did you mean `texts`?"),
        (b'{"texts": "up", "zzzz": 1}', 422, "zzzz", "valid fields: texts"),
        (b'{"texts": null}', 422, "texts", "is null"),
        (b'{"texts": 1.5}', 422, "texts", "is a number"),
        (b'{"texts": []}', 422, "texts", "is an empty list"),
        (b'{"texts": "  \\n"}', 422, "texts", "empty or only white space"),
        (b'{"texts": ["up", ""]}', 422, "texts[1]", "empty or only white space"),
        (b'{"texts": ["up", "up", "up", true]}', 422, "texts[3]", "is a boolean"),
        (b'{"texts": ["up", {}]}', 422, "texts[1]", "is an object"),
        (b'{"texts": ["up", "012345678901234567890"]}', 422, "texts[1]", "has 21 characters, at most 20"),
        (b'{"texts": ["a","a","a","a","a"]}', 413, "texts", "holds 5 texts, at most 4"),
    ],
)
def test_a_refusal_names_field_and_remedy(body: bytes, status: int, field: str, says: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_score_request(body, LIMITS)
    assert (refused.value.status, refused.value.field) == (status, field)
    assert says in f"{refused.value.message} {refused.value.remedy}"
    assert refused.value.remedy


def test_one_text_and_a_list() -> None:
    assert parse_score_request('{"texts": "利好"}'.encode(), LIMITS) == ["利好"]
    assert parse_score_request(b'{"texts": ["a", "b", "a"]}', LIMITS) == ["a", "b", "a"]


@given(JSON)
def test_any_json_is_texts_or_a_refusal(payload: object) -> None:
    try:
        texts = parse_score_request(orjson.dumps(payload), LIMITS)
    except BadRequest as refused:
        assert 400 <= refused.status < 500
        orjson.dumps([refused.field, refused.message, refused.remedy])
    else:
        assert isinstance(payload, dict)
        assert payload == {"texts": payload["texts"]}
        assert texts == (payload["texts"] if isinstance(payload["texts"], list) else [payload["texts"]])
        assert all(text.strip() and len(text) <= LIMITS.max_text_chars for text in texts)


@given(st.binary(max_size=60))
def test_any_bytes_are_texts_or_a_refusal(body: bytes) -> None:
    try:
        assert parse_score_request(body, LIMITS)
    except BadRequest as refused:
        assert 400 <= refused.status < 500


def test_a_body_is_refused_before_it_is_read_when_its_announced_size_is_too_large() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        pytest.fail("must not be read")
        yield b""  # type: ignore[unreachable]  # makes it a generator

    with pytest.raises(BadRequest) as refused:
        asyncio.run(read_body(chunks(), "101", 100))
    assert refused.value.status == 413


@pytest.mark.parametrize("announced", [None, "5", "junk"])
def test_a_body_is_refused_as_soon_as_it_is_too_large(announced: str | None) -> None:
    read = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(1_000):
            read += 60
            yield b"x" * 60

    with pytest.raises(BadRequest) as refused:
        asyncio.run(read_body(chunks(), announced, 100))
    assert refused.value.status == 413
    assert read == 120
