"""Two writers, one chain, anything may fail anywhere: each offset is committed exactly once, in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest
from chainkit import CHAIN_ID, PROMISE, MemoryStore, make_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streaming.audit import audit
from streaming.chain import Chain, LostRace
from streaming.failpoints import STEPS
from streaming.sink import RowBuffer
from streaming.store import LocalStore, StoreError

LOG_END = 40


def is_dead(offset: int) -> bool:
    return offset % 7 == 3


def is_hole(offset: int) -> bool:
    return offset % 11 == 5


def take(chain: Chain, end: int) -> tuple[RowBuffer, list[int], list[int]]:
    """(rows, dead, holes) of the log from the chain's end on."""
    offsets = range(chain.end, end)
    rows = [offset for offset in offsets if not is_dead(offset) and not is_hole(offset)]
    holes = [offset for offset in offsets if is_hole(offset)]
    return make_rows(rows, now_us=0), [offset for offset in offsets if is_dead(offset) and not is_hole(offset)], holes


class Killed(Exception):
    """The process died here."""


class FaultyStore(MemoryStore):
    """Does what `fault` says at the next put, and may list what was there a while ago."""

    fault = "ok"

    def __init__(self) -> None:
        super().__init__()
        self.history: list[set[str]] = [set()]
        self.stale = 0

    def put_if_absent(self, path: str, data: bytes) -> bool:
        fault, self.fault = self.fault, "ok"
        if fault == "killed before":
            raise Killed
        if fault == "not written":
            raise StoreError("disk-full", path)
        done = super().put_if_absent(path, data)
        self.history.append(set(self.files))
        if fault == "killed after":
            raise Killed
        if fault == "answer lost":
            raise StoreError("store-unavailable", path)
        return done

    def list(self, prefix: str, *, after: str | None = None) -> list[str]:
        seen = self.history[max(0, len(self.history) - 1 - self.stale)]
        self.stale = 0
        return [path for path in super().list(prefix, after=after) if path in seen]


class Writer:
    """What the pipeline does with a chain, one action at a time."""

    def __init__(self, store: FaultyStore, start: int, name: str) -> None:
        self.store, self.start, self.name = store, start, name
        self.chain: Chain | None = None
        self.hint: str | None = None
        self.clock_s = 0.0

    def clock(self) -> datetime:
        self.clock_s += 0.01
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.clock_s)

    def act(self, fault: str, count: int, stale: int, jump_s: float) -> None:
        self.clock_s += jump_s
        try:
            if self.chain is None:
                self.store.stale = stale
                self.chain = Chain.open(
                    self.store, CHAIN_ID, hint=self.hint, writer_id=self.name, availability=PROMISE, clock=self.clock
                )
                return
            self.store.fault = fault
            if self.chain.head is None and self.start:
                head = self.chain.append_origin(self.start, "start policy")
            else:
                end = min(self.chain.end + count, LOG_END)
                if end == self.chain.end:
                    return
                rows, dead, holes = take(self.chain, end)
                head = self.chain.append_rows(rows, end, dead=dead, holes=holes)
            self.hint = head.path
        except (LostRace, StoreError):
            self.chain = None
        except Killed:
            self.chain, self.hint = None, None
        finally:
            self.store.fault = "ok"


faults = st.sampled_from(["ok", "ok", "ok", "killed before", "killed after", "not written", "answer lost"])
action = st.tuples(st.integers(0, 1), faults, st.integers(1, 9), st.integers(0, 3), st.sampled_from([0.0, 60.0, -60.0]))


def check(store: MemoryStore) -> None:
    report = audit(store)
    assert report.ok, report.to_text()
    (part,) = report.partitions
    assert part.end == LOG_END
    start = part.skipped
    expected = [offset for offset in range(start, LOG_END)]
    assert part.rows == sum(not is_dead(offset) and not is_hole(offset) for offset in expected)
    assert part.dead == sum(is_dead(offset) and not is_hole(offset) for offset in expected)
    assert part.holes == sum(map(is_hole, expected))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(action, max_size=30), st.sampled_from([0, 4]), st.sampled_from([0, 9]))
def test_two_writers_and_any_crashes_make_one_chain(
    actions: list[tuple[int, str, int, int, float]], first_start: int, second_start: int
) -> None:
    store = FaultyStore()
    writers = [Writer(store, first_start, "a"), Writer(store, second_start, "b")]
    for who, fault, count, stale, jump_s in actions:
        writers[who].act(fault, count, stale, jump_s)
    for writer in writers:  # without faults one reads the log to its end, and the other finds that it has
        for _ in range(8):
            writer.act("ok", 10, 0, 0.0)
    check(store)


class OverwritingStore(FaultyStore):
    """A store that ignores "only if absent", as some S3-like ones do."""

    def put_if_absent(self, path: str, data: bytes) -> bool:
        self.files.pop(path, None)
        return super().put_if_absent(path, data)


def test_the_property_above_can_fail() -> None:
    store = OverwritingStore()
    writers = [Writer(store, 0, "a"), Writer(store, 0, "b")]
    for who, count in ((0, 0), (1, 0), (0, 5), (0, 5), (1, 7), (1, 9)):
        writers[who].act("ok", count or 1, 0, 0.0)
    assert not audit(store).ok


def nth_call_fails(monkeypatch: pytest.MonkeyPatch, nth: int) -> Iterator[int]:
    """Every call of the put fails once, the `nth` in all; yields how many were made so far."""
    made = [0]
    for name in ("open", "fsync", "link", "unlink"):
        real = getattr(os, name)

        def call(*args: object, _real: object = real, **kwargs: object) -> object:
            made[0] += 1
            if made[0] == nth:
                raise OSError(5, "Input/output error")
            return _real(*args, **kwargs)  # type: ignore[operator]

        monkeypatch.setattr(os, name, call)
    while True:
        yield made[0]


@pytest.mark.parametrize("nth", range(1, 20))
def test_a_local_store_that_fails_at_any_call_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    store = LocalStore(tmp_path)
    (tmp_path / CHAIN_ID.directory).mkdir(parents=True)
    calls = nth_call_fails(monkeypatch, nth)
    next(calls)
    chain = Chain.open(store, CHAIN_ID, writer_id="a", availability=PROMISE)
    failures = 0
    while chain.end < LOG_END:
        end = min(chain.end + 14, LOG_END)
        rows, dead, holes = take(chain, end)
        try:
            chain.append_rows(rows, end, dead=dead, holes=holes)
        except StoreError:
            failures += 1
            chain = Chain.open(store, CHAIN_ID, writer_id="a", availability=PROMISE)
    monkeypatch.undo()
    assert failures <= 1
    check(store)


FILES_SIDE = STEPS[STEPS.index("before-open") :]
OPENING = ("before-open", "after-open")
KILLS = [(step, 1 if step in ("before-open", "after-open") else 2) for step in FILES_SIDE]

# One process that forks a child for every kill before Arrow has started a thread: a kill costs milliseconds.
KILLER = """
import os, signal, sys
sys.path[:0] = sys.argv[3:]
import pandas  # Arrow imports it at the first array where it is installed: once here, not in every child
from chainkit import CHAIN_ID, PROMISE
from test_chain_crashes import KILLS, LOG_END, take
from streaming.chain import Chain, LostRace
from streaming.store import LocalStore

root, step_file = sys.argv[1:3]

def start(failpoint, stop=LOG_END):
    child = os.fork()
    if child:
        return child
    os.environ["FINSA_FAILPOINT"] = failpoint
    os.environ["FINSA_STEP_FILE"] = step_file
    chain = Chain.open(LocalStore(root), CHAIN_ID, writer_id=str(os.getpid()), availability=PROMISE)
    try:
        while chain.end < stop:
            rows, dead, holes = take(chain, chain.end + 1)
            chain.append_rows(rows, chain.end + 1, dead=dead, holes=holes)
    except LostRace:
        os._exit(7)
    os._exit(0)

def end(child):
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), open(step_file).read().strip(chr(0)), flush=True)

for step, hit in KILLS:
    end(start(f"{step}:kill:{hit}"))
zombie = start("before-link:stop:1")  # sleeps with its file written, but not yet under the final name
os.waitpid(zombie, os.WUNTRACED)
end(start(""))  # another owner reads the log to its end
os.kill(zombie, signal.SIGCONT)
end(zombie)
"""


def test_sigkill_at_every_step_and_a_zombie_that_wakes_too_late(tmp_path: Path) -> None:
    store, tests = tmp_path / "storage", Path(__file__).parents[1]
    search = [str(tests.parent), str(tests), str(tests / "unit")]
    command = [sys.executable, "-c", KILLER, str(store), str(tmp_path / "step"), *search]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    ends = [tuple(line.split()) for line in result.stdout.splitlines()]
    killed = [(f"-{signal.SIGKILL.value}", step) for step, _ in KILLS]
    assert ends == [*killed, ("0", "after-put"), ("7", "after-put")], result.stderr
    check(LocalStore(store))
    assert list(store.rglob("*.tmp")), "a kill between the temporary file and the link leaves it behind"
    query = 'SELECT "offset" FROM read_parquet(?) ORDER BY 1'
    rows = duckdb.execute(query, [f"{store}/**/*.parquet"]).fetchall()
    assert rows == [(offset,) for offset in range(LOG_END) if not is_dead(offset) and not is_hole(offset)]
