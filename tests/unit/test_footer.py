from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
from chainkit import MemoryStore, write_chain

from streaming.footer import Footer, FooterError, NewerFooterError, Predecessor, footer_of, parse_footer, read_footer
from streaming.store import LocalStore

FOOTER = Footer(
    schema_version=1,
    cluster_id="c",
    topic="posts",
    topic_uuid="12345678-1234-5678-1234-567812345678",
    partition=3,
    kind="rows",
    start=10,
    end=20,
    rows=7,
    dead=((12, 14),),
    holes=((19, 20),),
    predecessor=Predecessor(name="00000000000000000000.parquet", sha256="ab"),
    prev_confirmed_at=datetime(2026, 1, 1, 0, 0, 0, 1, UTC),
    available_at=datetime(2026, 1, 1, 0, 0, 5, 123456, UTC),
    writer_id="w",
    bundle_ids=("b1", "b2"),
    row_digests=("aa",),
)


def test_a_footer_survives_json_to_the_microsecond() -> None:
    assert parse_footer(FOOTER.to_json()) == FOOTER
    first = dataclasses.replace(FOOTER, predecessor=None, prev_confirmed_at=None)
    assert parse_footer(first.to_json()) == first


def test_a_newer_version_is_told_from_a_damaged_footer() -> None:
    payload = orjson.loads(FOOTER.to_json())
    with pytest.raises(NewerFooterError, match="schema version 2"):
        parse_footer(orjson.dumps({**payload, "schema_version": 2, "something_new": 1}))
    for broken in ({**payload, "end": "soon"}, {**payload, "surprise": 1}, {"schema_version": 1}, []):
        with pytest.raises(FooterError) as caught:
            parse_footer(orjson.dumps(broken))
        assert not isinstance(caught.value, NewerFooterError)


def test_a_torn_file_is_a_footer_error_at_every_length(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    path = write_chain(store, 5).head.path  # type: ignore[union-attr]
    whole = store.get(path)
    assert footer_of(whole).end == 5
    for length in (0, 3, 4, 100, len(whole) // 2, len(whole) - 1):
        with pytest.raises(FooterError):
            footer_of(whole[:length])


def test_the_tail_is_enough_even_when_the_footer_is_long() -> None:
    store = MemoryStore()
    chain = write_chain(store, 4)
    dead = [offset for offset in range(4, 60_000) if offset % 3]
    chain.append_rows(_only(chain.end, 60_000), 60_000, dead=dead)
    assert chain.head is not None
    assert len(chain.head.footer.to_json()) > 64 * 1024
    assert read_footer(store, chain.head.path) == chain.head.footer


def _only(start: int, stop: int) -> object:
    from chainkit import make_rows

    return make_rows(offset for offset in range(start, stop) if offset % 3 == 0)
