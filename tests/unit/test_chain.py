from __future__ import annotations

import dataclasses
import logging
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from chainkit import CHAIN_ID, PROMISE, MemoryStore, make_rows, write_chain

from sentiment.errors import ChainError
from streaming.audit import audit
from streaming.chain import Chain, ChainId, LostRace
from streaming.failures import REMEDIES, chain_error
from streaming.footer import footer_of
from streaming.sink import encode
from streaming.store import LocalStore


def reopen(store: MemoryStore | LocalStore, hint: str | None = None, chain_id: ChainId = CHAIN_ID) -> Chain:
    return Chain.open(store, chain_id, hint=hint, writer_id="other", availability=PROMISE)


def paths(store: MemoryStore) -> list[str]:
    return sorted(store.files)


def forge(store: MemoryStore, path: str, **changes: object) -> None:
    """Write the file again with another footer."""
    footer = dataclasses.replace(footer_of(store.files[path]), **changes)
    store.files[path] = encode(
        make_rows(range(footer.start, footer.start + footer.rows)).table(footer.available_at), footer
    )


def test_a_chain_begins_at_zero_and_each_file_is_named_by_its_predecessors_end() -> None:
    store = MemoryStore()
    write_chain(store, 7, 12, first=4)
    assert [int(path[-28:-8]) for path in paths(store)] == [0, 4, 7]
    footers = [footer_of(store.files[path]) for path in paths(store)]
    assert [(footer.kind, footer.start, footer.end, footer.rows) for footer in footers] == [
        ("origin", 0, 4, 0),
        ("rows", 4, 7, 3),
        ("rows", 7, 12, 5),
    ]
    assert footers[0].reason == "start policy: latest"
    assert [footer.predecessor and footer.predecessor.name for footer in footers] == [
        None,
        f"{0:020d}.parquet",
        f"{4:020d}.parquet",
    ]
    assert reopen(store).end == 12


def test_ranges_without_rows_move_the_chain_on() -> None:
    store = MemoryStore()
    chain = write_chain(store, 3)
    chain.append_rows(make_rows([]), 6, dead=[3, 5], holes=[4])
    chain.append_gap(10, "retention overtook the reader")
    chain.append_rows(make_rows([11]), 12, holes=[(10, 11)])
    assert reopen(store).end == 12
    report = audit(store)
    assert report.ok
    part = report.partitions[0]
    assert (part.rows, part.dead, part.holes, part.skipped) == (4, 2, 2, 4)


@pytest.mark.parametrize(
    ("rows", "end", "dead", "holes", "what"),
    [
        ([3, 5], 6, [], [], "missing 4"),
        ([3, 4, 5], 6, [4], [], "doubled 4"),
        ([3, 4, 5], 6, [], [(5, 7)], "doubled 5"),
        ([2, 3], 4, [], [], "given 2-3"),
        ([3, 4], 4, [], [], "given 3-4"),
        ([3], 4, [4], [], "given 3, 4"),
        ([], 3, [], [], "must move the chain on"),
    ],
)
def test_a_file_that_could_not_be_proved_is_never_written(
    rows: list[int], end: int, dead: list[int], holes: list[tuple[int, int]], what: str
) -> None:
    store = MemoryStore()
    chain = write_chain(store, 3)
    with pytest.raises(ValueError, match=what):
        chain.append_rows(make_rows(rows), end, dead=dead, holes=holes)
    assert len(store.files) == 1
    chain.append_rows(make_rows([3]), 4)  # the chain is still good


def test_only_an_empty_chain_has_an_origin_and_a_gap_needs_a_head() -> None:
    store = MemoryStore()
    with pytest.raises(ValueError, match="origin"):
        reopen(store).append_gap(3, "no")
    with pytest.raises(ValueError, match="empty chain"):
        write_chain(store, 3).append_origin(9, "no")
    with pytest.raises(ValueError, match="does not belong"):
        reopen(store).append_rows(make_rows([3], dataclasses.replace(CHAIN_ID, partition=1)), 4)


@pytest.mark.parametrize("latest_first", [True, False])
def test_two_first_owners_with_other_views_of_the_log_make_one_chain(latest_first: bool) -> None:
    """One starts at the log's end (100), one at its beginning after retention (40): both saw an empty directory."""
    store = MemoryStore()
    latest, earliest = reopen(store), reopen(store)
    owners = [(latest, 100, "latest"), (earliest, 40, "earliest after retention")]
    if not latest_first:
        owners.reverse()
    (winner, won, reason), (loser, lost, other) = owners
    winner.append_origin(won, reason)
    with pytest.raises(LostRace):
        loser.append_origin(lost, other)
    with pytest.raises(ValueError, match="open it again"):
        loser.append_origin(lost, other)
    again = reopen(store)
    assert again.end == won
    again.append_rows(make_rows(range(won, 120)), 120)
    with pytest.raises(LostRace):  # the winner went on from the same place
        winner.append_rows(make_rows(range(won, 130)), 130)
    assert audit(store).ok
    assert [int(path[-28:-8]) for path in paths(store)] == [0, won]


@pytest.mark.parametrize("origin_first", [True, False])
def test_an_origin_and_first_rows_fight_for_the_same_name(origin_first: bool) -> None:
    store = MemoryStore()
    latest, earliest = reopen(store), reopen(store)
    steps = [lambda: latest.append_origin(8, "latest"), lambda: earliest.append_rows(make_rows(range(5)), 5)]
    first, second = steps if origin_first else reversed(steps)
    first()
    with pytest.raises(LostRace):
        second()
    assert reopen(store).end == (8 if origin_first else 5)


class CountingStore(MemoryStore):
    listed = 0

    def list(self, prefix: str, *, after: str | None = None) -> list[str]:
        found = super().list(prefix, after=after)
        self.listed += len(found)
        return found


def test_a_hint_shortens_the_listing_and_is_never_believed() -> None:
    store = CountingStore()
    chain = write_chain(store, *range(2, 40, 2))
    assert chain.head is not None
    expected = chain.end
    store.listed = 0
    assert reopen(store, hint=paths(store)[-3]).end == expected
    assert store.listed == 3
    other = ChainId("cluster-1", "posts", str(uuid.uuid4()), 0)
    for hint in (
        "",
        "nonsense",
        chain.head.name,
        other.path(2),
        CHAIN_ID.path(1),
        CHAIN_ID.path(10**15),
        paths(store)[0],
    ):
        assert reopen(store, hint=hint).end == expected
    assert reopen(MemoryStore(), hint=chain.head.path).head is None


def refused(store: MemoryStore, chain_id: ChainId = CHAIN_ID) -> str:
    with pytest.raises(ChainError) as caught:
        reopen(store, chain_id=chain_id)
    assert REMEDIES[caught.value.code] in str(caught.value)
    return caught.value.code


def test_each_disagreement_at_opening_has_its_own_name() -> None:
    store = MemoryStore()
    write_chain(store, 3, 6, 9)
    good, (first, second, third) = dict(store.files), paths(store)

    def after(**files: bytes | None) -> str:
        store.files = dict(good)
        for name, data in files.items():
            path = {"first": first, "second": second, "third": third}.get(name, name)
            store.files.pop(path) if data is None else store.files.__setitem__(path, data)
        return refused(store)

    assert after(third=good[third][:-1]) == "head-unreadable"
    assert after(third=b"") == "head-unreadable"
    assert after(second=None) == "predecessor-missing"
    assert after(second=good[first]) == "predecessor-changed"
    assert after(**{CHAIN_ID.path(9): good[second]}) == "file-misplaced"
    store.files = dict(good)
    assert refused(store, dataclasses.replace(CHAIN_ID, cluster_id="cluster-2")) == "other-cluster"
    same_eight = "12345678-0000-0000-0000-000000000000"
    assert refused(store, dataclasses.replace(CHAIN_ID, topic_uuid=same_eight)) == "topic-recreated"
    forge(store, third, schema_version=2)
    assert refused(store) == "schema-newer"
    store.files = dict(good)
    forge(store, third, predecessor=None)
    assert refused(store) == "predecessor-missing"
    store.files = {third: good[third]}
    assert refused(store) == "predecessor-missing"
    store.files = dict(good)
    assert reopen(store).end == 9


def test_every_code_has_a_remedy() -> None:
    for code in REMEDIES:
        assert "Remedy: " in str(chain_error(code, "x"))
    with pytest.raises(KeyError):
        chain_error("no-such-code", "x")


def test_foreign_files_are_reported_and_passed_by(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    write_chain(store, 3)
    store.files[f"{CHAIN_ID.directory}/copy of 1.parquet"] = b"x"
    with caplog.at_level(logging.WARNING):
        assert reopen(store).end == 3
    assert "copy of 1.parquet" in caplog.text


class Clock:
    """Time that moves by `step_s` at each look; `jumps` maps a look's number to seconds added there."""

    def __init__(self, step_s: float = 0.0, jumps: dict[int, float] | None = None) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.step_s, self.jumps, self.looks = step_s, jumps or {}, 0

    def __call__(self) -> datetime:
        self.looks += 1
        self.now += timedelta(seconds=self.step_s + self.jumps.get(self.looks, 0.0))
        return self.now


class WatchingStore(MemoryStore):
    """Knows when each put started."""

    def __init__(self, clock: Clock, put_takes_s: float = 0.0) -> None:
        super().__init__()
        self.clock, self.started, self.put_takes_s = clock, {}, put_takes_s

    def put_if_absent(self, path: str, data: bytes) -> bool:
        self.started[path] = self.clock.now
        self.clock.now += timedelta(seconds=self.put_takes_s)
        return super().put_if_absent(path, data)


@pytest.mark.parametrize("step_s", [0.0, 0.5, 1.0, 4.0, 30.0])
def test_a_put_starts_only_while_it_can_keep_the_promise(step_s: float) -> None:
    clock = Clock(step_s)
    store = WatchingStore(clock)
    chain = Chain.open(store, CHAIN_ID, writer_id="w", availability=PROMISE, clock=clock)
    rolled = clock.now
    head = chain.append_rows(make_rows(range(3), now_us=0), 3)
    assert head.footer.available_at >= rolled + timedelta(seconds=5)
    assert store.started[head.path] + timedelta(seconds=3) <= head.footer.available_at
    table = pa.parquet.read_table(pa.BufferReader(store.files[head.path]))
    assert set(table.column("available_at").to_pylist()) == {head.footer.available_at}


def test_promises_never_go_back_even_when_the_clock_does() -> None:
    clock = Clock()
    store = MemoryStore()
    chain = Chain.open(store, CHAIN_ID, writer_id="w", availability=PROMISE, clock=clock)
    first = chain.append_rows(make_rows([0], now_us=0), 1).footer.available_at
    clock.now -= timedelta(hours=1)
    ingested_us = 1_900_000_000_000_000  # a clock that was far ahead when the rows came in
    assert chain.append_rows(make_rows([1], now_us=0), 2).footer.available_at == first
    late = chain.append_rows(make_rows([2], now_us=ingested_us), 3).footer.available_at
    assert late == datetime.fromtimestamp(ingested_us / 1e6, UTC)
    assert chain.append_rows(make_rows([3], now_us=0), 4).footer.available_at == late
    assert audit(store).ok


def test_a_late_confirmation_stands_in_the_next_footer() -> None:
    clock = Clock()
    store = WatchingStore(clock, put_takes_s=60)
    chain = Chain.open(store, CHAIN_ID, writer_id="w", availability=PROMISE, clock=clock)
    first = chain.append_rows(make_rows([0], now_us=0), 1)
    store.put_takes_s = 0
    second = chain.append_rows(make_rows([1], now_us=0), 2)
    assert second.footer.prev_confirmed_at == first.footer.available_at + timedelta(seconds=55)
    third = chain.append_rows(make_rows([2], now_us=0), 3)
    assert third.footer.prev_confirmed_at is not None
    assert third.footer.prev_confirmed_at <= second.footer.available_at
    assert audit(store).partitions[0].late_files == 1


def test_after_a_restart_the_stores_own_time_says_when_the_head_appeared(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    head = write_chain(store, 3).head
    assert head is not None
    days_later = datetime.now(UTC) + timedelta(days=3)
    chain = Chain.open(store, CHAIN_ID, writer_id="w", availability=PROMISE, clock=lambda: days_later)
    confirmed = chain.append_rows(make_rows([3]), 4).footer.prev_confirmed_at
    assert confirmed is not None
    assert confirmed < head.footer.available_at


def test_a_chain_id_wants_the_canonical_uuid() -> None:
    assert CHAIN_ID.path(7) == "scored/posts@12345678/0/00000000000000000007.parquet"
    for wrong in ("EjRWeBI0VngSNFZ4EjRWeA", "12345678123456781234567812345678", ""):
        with pytest.raises(ValueError, match=r"UUID|uuid"):
            ChainId("c", "t", wrong, 0)
