"""What travels along the stream: a Post in, Scores from the model, a row of the live log out.

No torch and no ray here: a consumer container and a reader's laptop import this file.
Shapes: N rows, E experts, 3 labels in the order of `sentiment.labels.LABELS`.
"""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from sentiment.errors import MessageError

SCHEMA_VERSION: Final = 1
MAX_TEXT_CHARS: Final = 100_000
"""Longer texts are dead letters: no model reads them, and one of them must not fill a partition's budget."""

_TIMESTAMP: Final = pa.timestamp("us", tz="UTC")
_CATEGORY: Final = pa.dictionary(pa.int32(), pa.string())

SCORED_SCHEMA: Final = pa.schema(
    [
        pa.field("topic", pa.string(), nullable=False),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string()),
        pa.field("lang", pa.string()),
        pa.field("domain_hint", pa.string()),
        pa.field("symbols", pa.list_(pa.field("element", pa.string(), nullable=False)), nullable=False),
        pa.field("text", pa.string()),
        pa.field("content_hash", pa.string(), nullable=False),
        pa.field("published_at", _TIMESTAMP),
        pa.field("kafka_timestamp", _TIMESTAMP, nullable=False),
        pa.field("ingested_at", _TIMESTAMP, nullable=False),
        pa.field("scored_at", _TIMESTAMP, nullable=False),
        pa.field("available_at", _TIMESTAMP, nullable=False),
        pa.field("label", _CATEGORY, nullable=False),
        pa.field("p_negative", pa.float32(), nullable=False),
        pa.field("p_neutral", pa.float32(), nullable=False),
        pa.field("p_positive", pa.float32(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("confidence", pa.float32(), nullable=False),
        pa.field("expert", _CATEGORY, nullable=False),
        pa.field("gate", pa.float32(), nullable=False),
        pa.field("experts_run", pa.int8(), nullable=False),
        pa.field("disagreement", pa.float32()),
        pa.field("bundle_id", pa.string(), nullable=False),
        pa.field("schema_version", pa.int16(), nullable=False),
        pa.field("vintage", pa.string(), nullable=False),
        pa.field("is_backfill", pa.bool_(), nullable=False),
    ]
)
"""One row of the live log, schema version 1. A new column is appended and nullable; any other change is Breaking."""


@dataclass(frozen=True, slots=True)
class Post:
    """A parsed message. `published_at` is the producer's clock, kept raw."""

    text: str
    id: str | None = None
    source: str | None = None
    lang: str | None = None
    domain_hint: str | None = None
    symbols: tuple[str, ...] = ()
    published_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Scores:
    """The model's answer for N texts, in input order.

    Attributes:
        probabilities: `[N, 3]` float32, calibrated, rows sum to 1.
        gate: `[N, E]` float32, the router's weights, rows sum to 1.
        expert: `[N]` int8, index into `experts` of the expert with the largest weight.
        experts_run: `[N]` int8, how many experts were run for the text (1 where the gate was sure).
        disagreement: `[N]` float32, largest difference between the experts' probabilities; NaN where one ran.
        experts: E names.
        bundle_id: content hash of the bundle that scored every row of this answer.
    """

    probabilities: NDArray[np.float32]
    gate: NDArray[np.float32]
    expert: NDArray[np.int8]
    experts_run: NDArray[np.int8]
    disagreement: NDArray[np.float32]
    experts: tuple[str, ...]
    bundle_id: str

    def __len__(self) -> int:
        return len(self.probabilities)


def _optional_string(payload: dict[str, object], key: str) -> str | None:
    value = payload.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise MessageError("wrong-type", f"field `{key}` is {type(value).__name__}, expected a string or null")
    return value


def _text(payload: dict[str, object]) -> str:
    if "text" not in payload or payload["text"] is None:
        raise MessageError("missing-text", "field `text` is missing or null")
    text = payload["text"]
    if not isinstance(text, str):
        raise MessageError("wrong-type", f"field `text` is {type(text).__name__}, expected a string")
    if not text.strip():
        raise MessageError("empty-text", "field `text` is empty or only white space")
    if len(text) > MAX_TEXT_CHARS:
        raise MessageError("text-too-long", f"field `text` has {len(text):,} characters, at most {MAX_TEXT_CHARS:,}")
    return text


def _symbols(payload: dict[str, object]) -> tuple[str, ...]:
    symbols = payload.get("symbols")
    if symbols is None:
        return ()
    if not isinstance(symbols, list) or not all(isinstance(item, str) for item in symbols):
        raise MessageError("wrong-type", "field `symbols` is not a list of strings")
    return tuple(symbols)


def parse_timestamp(raw: object) -> datetime | None:
    """A time in UTC from ISO-8601 text with an offset (or `Z`), or epoch milliseconds; null stays null.

    Raises:
        MessageError: not a time, out of range, or without an offset (a naive time would be a guess).
    """
    if raw is None:
        return None
    try:
        if isinstance(raw, str):
            moment = datetime.fromisoformat(raw)
            if moment.tzinfo is None:
                raise MessageError("bad-timestamp", f"field `published_at` has no UTC offset: {raw!r}")
            return moment.astimezone(UTC)
        if isinstance(raw, int) and not isinstance(raw, bool):
            return datetime.fromtimestamp(raw / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    raise MessageError(
        "bad-timestamp", f"field `published_at` is {str(raw)[:80]!r}, expected ISO-8601 with an offset or epoch ms"
    )


def parse_post(value: bytes | None) -> Post:
    """A Post from a message's bytes: one JSON object in UTF-8; unknown fields are ignored.

    Raises:
        MessageError: the bytes are not a post; `reason` is one of null-value, not-utf8, not-json, not-an-object,
            missing-text, empty-text, text-too-long, wrong-type, bad-timestamp.
    """
    if value is None:
        raise MessageError("null-value", "the message has no value (a tombstone)")
    try:
        payload = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        try:
            value.decode("utf-8")
        except UnicodeDecodeError as not_utf8:
            raise MessageError("not-utf8", str(not_utf8)[:200]) from None
        # orjson refuses NaN, lone surrogates and nesting beyond 1,024: none of them is JSON that others could read.
        raise MessageError("not-json", str(error)[:200]) from None
    if not isinstance(payload, dict):
        raise MessageError("not-an-object", f"the message is a JSON {type(payload).__name__}, expected an object")
    return Post(
        text=_text(payload),
        id=_optional_string(payload, "id"),
        source=_optional_string(payload, "source"),
        lang=_optional_string(payload, "lang"),
        domain_hint=_optional_string(payload, "domain"),
        symbols=_symbols(payload),
        published_at=parse_timestamp(payload.get("published_at")),
    )


def content_hash(text: str) -> str:
    """sha256 (hex) of the NFC-normalised text: equal for texts that look equal."""
    return hashlib.sha256(unicodedata.normalize("NFC", text).encode("utf-8")).hexdigest()
