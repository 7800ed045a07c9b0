"""The body of `POST /v1/score`: read within its limit, checked by hand so that every refusal names its field.

By hand because a list of a thousand texts is checked in microseconds this way, and because a union type (one text or a
list) makes a validation library answer with two unrelated complaints.
"""

from __future__ import annotations

import difflib
from collections.abc import AsyncIterable
from dataclasses import dataclass
from typing import Final

import orjson

from sentiment.records import MAX_TEXT_CHARS

FIELDS: Final = ("texts",)
BAD_REQUEST: Final = 400
TOO_LARGE: Final = 413
UNPROCESSABLE: Final = 422


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds of one HTTP request."""

    max_texts: int = 1_024
    """[texts]"""
    max_text_chars: int = MAX_TEXT_CHARS
    """[characters]"""
    max_body_bytes: int = 8 * 1024 * 1024
    """[bytes]"""


class BadRequest(Exception):
    """A request that cannot be answered; becomes a 4xx answer that names the field and the remedy."""

    def __init__(self, field: str, message: str, remedy: str, *, status: int = UNPROCESSABLE) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message
        self.remedy = remedy
        self.status = status


async def read_body(chunks: AsyncIterable[bytes], content_length: str | None, limit: int) -> bytes:
    """The whole body, refused as soon as it is known to be too large.

    Args:
        chunks: the body as it arrives.
        content_length: what the client announced, if it did.
        limit: largest body [bytes].

    Raises:
        BadRequest: larger than the limit.
    """
    too_large = BadRequest(
        "body", f"larger than {limit:,} bytes", "send fewer or shorter texts per request", status=TOO_LARGE
    )
    if content_length is not None and content_length.isdecimal() and int(content_length) > limit:
        raise too_large
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > limit:
            raise too_large
    return bytes(body)


def parse_score_request(body: bytes, limits: HttpLimits) -> list[str]:
    """The texts of a request, one or many.

    Raises:
        BadRequest: with the field's name (`texts`, `texts[3]`, an unknown field, `body`) and what to do.
    """
    try:
        payload = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        remedy = 'send one JSON object in UTF-8, e.g. {"texts": ["profit up 12%"]}'
        raise BadRequest("body", f"not valid JSON: {str(error)[:200]}", remedy, status=BAD_REQUEST) from None
    if not isinstance(payload, dict):
        raise BadRequest("body", f"is {_kind(payload)}, expected an object", 'send {"texts": ["..."]}')
    for field in payload:
        if field not in FIELDS:
            near = difflib.get_close_matches(field[:64], FIELDS, n=1, cutoff=0.5)
            remedy = f"did you mean `{near[0]}`?" if near else f"valid fields: {', '.join(FIELDS)}"
            raise BadRequest(field[:64], "unknown field", remedy)
    if "texts" not in payload:
        raise BadRequest("texts", "is missing", "give one text or a list of texts")
    return _texts(payload["texts"], limits)


def _texts(texts: object, limits: HttpLimits) -> list[str]:
    if isinstance(texts, str):
        _check_text("texts", texts, limits)
        return [texts]
    if not isinstance(texts, list):
        raise BadRequest("texts", f"is {_kind(texts)}, expected a string or a list of strings", "give the text itself")
    if not texts:
        raise BadRequest("texts", "is an empty list", "give at least one text")
    if len(texts) > limits.max_texts:
        message = f"holds {len(texts):,} texts, at most {limits.max_texts:,}"
        raise BadRequest("texts", message, "split them over several requests", status=TOO_LARGE)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise BadRequest(f"texts[{index}]", f"is {_kind(text)}, expected a string", "give the text itself")
        _check_text(f"texts[{index}]", text, limits)
    return texts


def _check_text(field: str, text: str, limits: HttpLimits) -> None:
    if not text or text.isspace():
        raise BadRequest(field, "is empty or only white space", "leave it out")
    if len(text) > limits.max_text_chars:
        message = f"has {len(text):,} characters, at most {limits.max_text_chars:,}"
        raise BadRequest(field, message, "send the part that carries the opinion")


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    return {"str": "a string", "list": "a list", "dict": "an object"}[type(value).__name__]
