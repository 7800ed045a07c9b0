"""The commit protocol of one partition: a chain of files, each named by its predecessor's end.

Kafka's offsets are only a mirror; the files are the truth. A file `[start, end)` lies under its start, and its start
is its predecessor's end: nothing else may choose a position, so two writers always want the same name, and the store
lets one of them have it. Every chain begins at offset 0; what the start policy skips is a file of zero rows, too.

    chain = Chain.open(store, chain_id, hint=hint, writer_id=me)   # where are we? seek to chain.end, poll, score
    head = chain.append_rows(buffer, end, dead=dead)               # commit; LostRace: drop the buffer, open again
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

from sentiment.records import SCHEMA_VERSION
from streaming.digest import block_digests
from streaming.failpoints import failpoint
from streaming.footer import Footer, Predecessor
from streaming.head import ChainId, Head, find_head
from streaming.ranges import Ranges, clip, coverage, ranges_of, show
from streaming.sink import AvailabilitySettings, RowBuffer, encode
from streaming.store import Store

__all__ = ["Chain", "ChainId", "Head", "LostRace"]

log = logging.getLogger(__name__)


class LostRace(Exception):
    """Another writer has put a file where ours belongs, so ours was not written.

    The caller drops its buffer, opens the chain again and goes on from the new end. Nothing is lost or doubled.
    """


def _now() -> datetime:
    return datetime.now(UTC)


class Chain:
    """One partition's files, open for appending. Not for several threads at once.

    Made by `Chain.open`. After LostRace or StoreError it is spent: open it again.
    """

    def __init__(  # noqa: PLR0913  # made by `open` only
        self,
        store: Store,
        chain_id: ChainId,
        head: Head | None,
        *,
        writer_id: str,
        availability: AvailabilitySettings,
        clock: Callable[[], datetime],
    ) -> None:
        self.id = chain_id
        self.head = head
        self._store = store
        self._writer_id = writer_id
        self._availability = availability
        self._clock = clock
        self._spent = False

    @classmethod
    def open(  # noqa: PLR0913  # the last two are for tests and for settings
        cls,
        store: Store,
        chain_id: ChainId,
        *,
        hint: str | None = None,
        writer_id: str,
        availability: AvailabilitySettings | None = None,
        clock: Callable[[], datetime] = _now,
    ) -> Chain:
        """Find the head and check that it belongs here.

        1. List from the hint, or everything where the hint is not a file of this chain. The newest name is the head.
        2. Read its footer; check cluster id, topic UUID, name and schema version.
        3. Check that its predecessor is there and is the very file it was written after.

        Args:
            store: where the files lie.
            chain_id: which chain.
            hint: the head's path as the mirror remembers it. It only shortens the listing; it is never believed.
            writer_id: goes into every footer; unique per process, e.g. host-pid-random.
            availability: the promise stamped on rows.
            clock: the time in UTC (tests set it).

        Raises:
            ChainError: codes topic-recreated, other-cluster, head-unreadable, file-misplaced, predecessor-missing,
                predecessor-changed, schema-newer.
            StoreError: the store does not answer; try again after a pause.
        """
        failpoint("before-open")
        head = find_head(store, chain_id, hint, clock)
        failpoint("after-open")
        settings = availability or AvailabilitySettings()
        return cls(store, chain_id, head, writer_id=writer_id, availability=settings, clock=clock)

    @property
    def end(self) -> int:
        """The first offset that is not in the chain: where to seek, and the next file's name. 0 for an empty chain."""
        return self.head.end if self.head else 0

    def append_origin(self, end: int, reason: str) -> Head:
        """Begin the chain with `[0, end)` skipped, as the start policy says. Raises as `append_rows` does."""
        if self.head is not None:
            raise ValueError("only an empty chain can get an origin")
        return self._append("origin", end, self._no_rows(), reason=reason)

    def append_gap(self, end: int, reason: str) -> Head:
        """Skip `[self.end, end)`, offsets that are lost and accepted as such. Raises as `append_rows` does."""
        if self.head is None:
            raise ValueError("an empty chain begins with an origin, not with a gap")
        return self._append("gap", end, self._no_rows(), reason=reason)

    def append_rows(
        self, rows: RowBuffer, end: int, *, dead: Sequence[int] | Ranges = (), holes: Sequence[int] | Ranges = ()
    ) -> Head:
        """Commit `[self.end, end)`: once this returns, every reader sees the rows and no crash can undo it.

        Dead letters must be flushed and the topic's UUID checked before the call: afterwards it is too late.

        Args:
            rows: the buffer of this partition; it may be empty.
            end: the first offset after the range.
            dead: offsets of the range that went to the dead-letter topic, or their half-open ranges.
            holes: offsets the broker never delivered, or their half-open ranges.

        Raises:
            LostRace: somebody else committed this range; drop the buffer and open the chain again.
            StoreError: unknown outcome; drop the buffer, pause, open the chain again.
            ValueError: rows, dead and holes are not exactly the range (an error of the caller; nothing was written).
        """
        if (rows.topic, rows.partition) != (self.id.topic, self.id.partition):
            raise ValueError(f"a buffer of {rows.topic}-{rows.partition} does not belong to {self.id}")
        dead_ranges, hole_ranges = _ranges(dead), _ranges(holes)
        parts = (*ranges_of(rows.offsets), *dead_ranges, *hole_ranges)
        missing, doubled = coverage(parts, self.end, end)
        if missing or doubled or clip(parts, self.end, end) != parts:
            raise ValueError(
                f"rows + dead + holes are not exactly [{self.end}, {end}): missing {show(missing) or 'none'}, "
                f"doubled {show(doubled) or 'none'}, given {show(sorted(parts))}"
            )
        return self._append("rows", end, rows, dead=dead_ranges, holes=hole_ranges)

    def _no_rows(self) -> RowBuffer:
        return RowBuffer(self.id.topic, self.id.partition)

    def _append(  # noqa: PLR0913  # what a footer says
        self,
        kind: Literal["origin", "gap", "rows"],
        end: int,
        rows: RowBuffer,
        *,
        reason: str = "",
        dead: Ranges = (),
        holes: Ranges = (),
    ) -> Head:
        if self._spent:
            raise ValueError("this chain lost a race or its store; open it again")
        if end <= self.end:
            raise ValueError(f"a file must move the chain on: {end} is not after {self.end}")
        draft = Footer(
            schema_version=SCHEMA_VERSION,
            cluster_id=self.id.cluster_id,
            topic=self.id.topic,
            topic_uuid=self.id.topic_uuid,
            partition=self.id.partition,
            kind=kind,
            reason=reason,
            start=self.end,
            end=end,
            rows=len(rows),
            dead=dead,
            holes=holes,
            predecessor=Predecessor(name=self.head.name, sha256=self.head.sha256) if self.head else None,
            prev_confirmed_at=self.head.confirmed_at if self.head else None,
            available_at=self._clock(),
            writer_id=self._writer_id,
            bundle_ids=rows.bundle_ids,
        )
        failpoint("before-encode")
        data, footer = self._stamp(draft, rows)
        failpoint("after-encode")
        return self._put(data, footer)

    def _stamp(self, draft: Footer, rows: RowBuffer) -> tuple[bytes, Footer]:
        """The file's bytes, with a promise that a put started now would keep."""
        timeout = timedelta(seconds=self._availability.put_timeout_s)
        spent = timedelta(0)
        while True:
            started = self._clock()
            available_at = self._promise(rows, started + spent)
            table = rows.table(available_at)
            footer = dataclasses.replace(draft, available_at=available_at, row_digests=block_digests(table))
            data = encode(table, footer)
            ready = self._clock()
            if ready + timeout <= available_at:
                return data, footer
            spent += max(ready - started, timedelta(0))  # encoding ate the slack: promise that much later

    def _promise(self, rows: RowBuffer, now: datetime) -> datetime:
        """At least now + slack, never before the predecessor's promise or the newest of our stamps on the rows."""
        promise = now + timedelta(seconds=self._availability.slack_s)
        newest = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=rows.latest_us)
        previous = self.head.footer.available_at if self.head else promise
        return max(promise, newest, previous)

    def _put(self, data: bytes, footer: Footer) -> Head:
        path = self.id.path(footer.start)
        self._spent = True  # until the store has said yes
        failpoint("before-put")
        if not self._store.put_if_absent(path, data):
            raise LostRace(f"{path} is there already")
        failpoint("after-put")
        confirmed_at = self._clock()
        if confirmed_at > footer.available_at:
            log.warning(
                "file confirmed late path=%s late_s=%s", path, (confirmed_at - footer.available_at).total_seconds()
            )
        self.head = Head(path, hashlib.sha256(data).hexdigest(), footer, confirmed_at)
        self._spent = False
        return self.head


def _ranges(offsets: Sequence[int] | Ranges) -> Ranges:
    if all(isinstance(item, tuple) for item in offsets):
        return tuple(offsets)  # type: ignore[arg-type]  # just tested
    return ranges_of(offsets)  # type: ignore[arg-type]  # just tested
