"""What every file of a chain says about itself: one JSON object under the key `finsa` of the Parquet metadata."""

from __future__ import annotations

from dataclasses import field
from datetime import datetime
from typing import Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from sentiment.records import SCHEMA_VERSION
from streaming.ranges import Ranges
from streaming.store import Store

FOOTER_KEY: Final = b"finsa"
_TAIL_BYTES: Final = 64 * 1024
_STRICT: Final = ConfigDict(extra="forbid")


class FooterError(ValueError):
    """The bytes are not a whole Parquet file with our footer (torn, foreign, or damaged)."""


class NewerFooterError(FooterError):
    """The footer is of a schema version this program does not know."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Predecessor:
    """The file before this one, by name and by content."""

    name: str
    """file name, e.g. `00000000000000000000.parquet`"""
    sha256: str
    """of the whole file, hexadecimal"""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Footer:
    """One file's own account: every offset of `[start, end)` is a row, a dead letter, a hole, or skipped as a whole."""

    schema_version: int
    """of the rows and of this footer"""
    cluster_id: str
    """Kafka's cluster id"""
    topic: str
    """topic name"""
    topic_uuid: str
    """the topic's UUID: a topic created again has another"""
    partition: int
    """partition number"""
    kind: Literal["origin", "gap", "rows"]
    """`origin`: skipped by the start policy; `gap`: lost and accepted; `rows`: read"""
    reason: str = ""
    """why an origin or a gap skips its range"""
    start: int
    """first offset of the range, the file's name and the predecessor's end [offset]"""
    end: int
    """first offset after the range, the successor's name [offset]"""
    rows: int
    """rows in the file"""
    dead: Ranges = ()
    """offsets that went to the dead-letter topic, as half-open ranges"""
    holes: Ranges = ()
    """offsets the broker never delivered (compacted away, control records), as half-open ranges"""
    predecessor: Predecessor | None
    """null in the first file only, which starts at 0"""
    prev_confirmed_at: datetime | None
    """the first moment at which the predecessor was known to be visible [UTC]; later than its available_at = late"""
    available_at: datetime
    """the promise: no reader could rely on these rows before, every reader sees them after [UTC]"""
    writer_id: str
    """who wrote the file"""
    bundle_ids: tuple[str, ...] = ()
    """bundles that scored the rows, in order of appearance"""
    row_digests: tuple[str, ...] = field(default_factory=tuple)
    """one per block of rows (streaming/digest.py), so that a changed row is found"""

    def to_json(self) -> bytes:
        """The value under `FOOTER_KEY`."""
        return _ADAPTER.dump_json(self)


_ADAPTER: Final = TypeAdapter(Footer)
_VERSION: Final = TypeAdapter(dict[str, object])


def parse_footer(raw: bytes) -> Footer:
    """A Footer from its JSON.

    Raises:
        NewerFooterError: of a newer schema version.
        FooterError: not a footer of ours.
    """
    try:
        version = _VERSION.validate_json(raw).get("schema_version")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise NewerFooterError(f"schema version {version}, this program knows up to {SCHEMA_VERSION}")
        return _ADAPTER.validate_json(raw)
    except ValidationError as error:
        raise FooterError(f"footer is not ours: {error.errors()[0]['msg']}") from error


def footer_of(data: bytes) -> Footer:
    """The footer of a Parquet file given as bytes, or as its tail when that holds the whole Parquet footer.

    Raises:
        FooterError: not a Parquet file, torn, or without our key.
    """
    try:
        metadata = pq.read_metadata(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise FooterError(f"not a whole Parquet file: {error}") from error
    keys = metadata.metadata or {}
    if FOOTER_KEY not in keys:
        raise FooterError("no `finsa` footer: not written by this program")
    footer = parse_footer(keys[FOOTER_KEY])
    if footer.rows != metadata.num_rows:
        raise FooterError(f"the footer promises {footer.rows} rows, the file has {metadata.num_rows}")
    return footer


def read_footer(store: Store, path: str) -> Footer:
    """The footer of a file in a store, mostly without reading its rows.

    Raises:
        FooterError: as `footer_of`.
        FileNotFoundError, StoreError: as `Store.get`.
    """
    tail = store.tail(path, _TAIL_BYTES)
    needed = int.from_bytes(tail[-8:-4], "little") + 8 if len(tail) >= 8 and tail[-4:] == b"PAR1" else 0
    if needed > len(tail):
        tail = store.tail(path, needed)
    return footer_of(tail)
