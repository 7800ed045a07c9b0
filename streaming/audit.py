"""Proof of what the files hold: every offset once, as a row, a dead letter, a hole or an accepted skip.

From the files alone, and, with a `BrokerView`, against what the broker still has; the two are reported apart. An audit
reads the offset column, never row counts. It finds what is missing, doubled or changed; it cannot find a head (the
newest file, which has no successor to vouch for it) rewritten together with its footer and digests, unless the broker
still has those records.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Container, Iterable
from dataclasses import dataclass
from typing import Literal

from sentiment.records import Post, parse_post
from streaming.audit_broker import BrokerView, prove_file
from streaming.audit_file import FileRows, check_file
from streaming.audit_report import AuditReport, Finding, PartitionReport
from streaming.footer import Footer, FooterError, footer_of
from streaming.head import ROOT, ChainId, file_name, start_in_name
from streaming.ranges import Ranges, count, merge, subtract
from streaming.repeats import Repeats
from streaming.store import Store

__all__ = ["AuditReport", "BrokerView", "Finding", "PartitionReport", "audit"]


@dataclass(slots=True)
class _Member:
    """A file that is where its footer says it belongs."""

    path: str
    sha256: str
    footer: Footer


def audit(  # noqa: PLR0913  # one call is the whole audit
    store: Store,
    *,
    broker: BrokerView | None = None,
    topics: Iterable[str] = (),
    parse: Callable[[bytes | None], Post] = parse_post,
    require_all_read: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> AuditReport:
    """Audit every chain in a store, or those of some topics.

    Args:
        store: where the files lie.
        broker: what to compare with; None audits the files alone.
        topics: only these; empty means every topic found. A topic named here without files counts as not read.
        parse: how the worker made posts of messages.
        require_all_read: whether records the chain has not reached yet count as missing.
        on_progress: called with the number of rows of each file once it is checked.

    Raises:
        StoreError: the store did not answer, so nothing can be said.
    """
    started = time.monotonic()
    run = _Audit(store, broker, parse, require_all_read, on_progress)
    wanted = frozenset(topics)
    run.read_mirrors(wanted or {_chain_of(path)[0] for path in store.list(f"{ROOT}/")})
    chains: dict[str, list[str]] = {}
    for path in sorted(store.list(f"{ROOT}/")):
        topic, directory = _chain_of(path)
        if directory is None:
            run.foreign(path)  # whatever the topic: readers that glob open it
        elif not wanted or topic in wanted:
            chains.setdefault(directory, []).append(path)
    for directory, paths in sorted(chains.items()):
        run.chain(directory, paths)
    run.unread(wanted)
    run.report.repeated = run.repeats.count()
    run.report.seconds = time.monotonic() - started
    return run.report


def _chain_of(path: str) -> tuple[str, str | None]:
    """(topic, chain directory) that a path belongs to; no directory for a file that no chain could have named."""
    parts = path.split("/")
    topic = parts[1].partition("@")[0] if len(parts) > 1 else ""
    named = len(parts) == 4 and "@" in parts[1] and parts[2].isdigit() and start_in_name(parts[3]) is not None
    return topic, "/".join(parts[:3]) if named else None


class _Audit:
    """One run: the report grows chain by chain, one file in memory at a time."""

    def __init__(
        self,
        store: Store,
        broker: BrokerView | None,
        parse: Callable[[bytes | None], Post],
        require_all_read: bool,
        on_progress: Callable[[int], None] | None,
    ) -> None:
        self.report = AuditReport(against_broker=broker is not None)
        self.repeats = Repeats()
        self._store = store
        self._broker = broker
        self._cluster_id = broker.cluster_id() if broker else None
        self._parse = parse
        self._dead: dict[str, Container[tuple[int, int]] | None] = {}
        self._mirrors: dict[tuple[str, int], int | None] = {}
        self._require_all_read = require_all_read
        self._on_progress = on_progress

    def read_mirrors(self, topics: Collection[str]) -> None:
        """The group's offsets, read before the files are listed: a running stream goes on while we look."""
        for topic in sorted(topics) if self._broker else ():
            if self._broker is not None and self._broker.topic_uuid(topic) is not None:
                for partition in self._broker.partitions(topic):
                    self._mirrors[topic, partition] = self._broker.committed(topic, partition)

    def foreign(self, path: str) -> None:
        """A file where no chain puts one: its rows, if it has any, are counted by every reader that globs."""
        if not path.endswith(".parquet"):
            self.report.notes.append(f"{path} is not of the log; readers of *.parquet pass it by")
            return
        try:
            footer = footer_of(self._store.get(path))
        except FooterError as error:
            self._find("wrong", "foreign-file", path, (), f"not a file of the log, yet readers open it: {error}")
            return
        self._misplaced(path, footer, doubled=True)

    def chain(self, directory: str, paths: list[str]) -> None:
        """Check the files of one chain, given in the order of their names."""
        part = PartitionReport(directory)
        self.report.partitions.append(part)
        previous: _Member | None = None
        bounds: tuple[int, int] | None = None
        for path in paths:
            data = self._store.get(path)
            try:
                member = _Member(path, hashlib.sha256(data).hexdigest(), footer_of(data))
            except FooterError as error:
                self._find("wrong", "unreadable", path, (), str(error))
                continue
            if _home(member.footer) != path:
                self._misplaced(path, member.footer, doubled=_home(member.footer) in paths)
                continue
            if part.files == 0:
                _introduce(part, member.footer)
                bounds = self._bounds(part)
            self._link(part, previous, member)
            rows = self._rows(member, data, bounds is not None)
            self._prove(part, member, rows, bounds)
            _count(part, member.footer, rows)
            previous = member
        if bounds is not None:
            self._compare_ends(part, bounds)

    def unread(self, topics: frozenset[str]) -> None:
        """Partitions without any file, of the topics asked for or found."""
        current = {(part.topic, part.partition) for part in self.report.partitions if part.lag is not None}
        found = {part.topic for part in self.report.partitions if part.topic}
        for topic in sorted(topics | {name for name, _ in current}):
            uuid = self._broker.topic_uuid(topic) if self._broker else None
            if self._broker is None or uuid is None:
                if topic not in found:
                    self._find("missing", "no-files", f"{ROOT}/{topic}@", (), f"topic {topic} has no files")
                continue
            for partition in self._broker.partitions(topic):
                if (topic, partition) in current:
                    continue
                part = PartitionReport(ChainId(str(self._cluster_id), topic, uuid, partition).directory, topic, uuid)
                part.partition, part.cluster_id = partition, str(self._cluster_id)
                self.report.partitions.append(part)
                begin, end = self._broker.bounds(topic, partition)
                self._compare_ends(part, (0, end) if begin < end else (0, 0))

    def _find(
        self, kind: Literal["missing", "doubled", "wrong"], code: str, path: str, offsets: Ranges, detail: str
    ) -> None:
        self.report.findings.append(Finding(kind, code, path, offsets, detail))

    def _misplaced(self, path: str, footer: Footer, *, doubled: bool) -> None:
        offsets = ((footer.start, footer.end),) if footer.rows else ()
        detail = f"a copy or a renamed file of {_home(footer)}, whose rows readers find here"
        self._find("doubled" if doubled else "wrong", "file-misplaced", path, offsets, detail)

    def _link(self, part: PartitionReport, previous: _Member | None, member: _Member) -> None:
        """The file follows the one before it: by range, by name, by content, by promise, in the same log."""
        footer, path = member.footer, member.path
        if footer.start > part.end:
            detail = "no file holds these offsets"
            self._find("missing", "file-missing", part.directory, ((part.end, footer.start),), detail)
        elif footer.start < part.end:
            detail = "another file of the chain holds these offsets, too"
            self._find("doubled", "fork", path, ((footer.start, min(part.end, footer.end)),), detail)
        if (footer.cluster_id, footer.topic_uuid) != (part.cluster_id, part.topic_uuid):
            detail = f"of cluster {footer.cluster_id}, topic {footer.topic_uuid}, unlike the chain's first file"
            self._find("wrong", "other-log", path, ((footer.start, footer.end),), detail)
        if previous is None or previous.footer.end != footer.start:
            if previous is None and footer.start == 0 and footer.predecessor is not None:
                self._find("wrong", "predecessor", path, ((0, footer.end),), "the first file names a predecessor")
            return
        before = previous.footer
        named = footer.predecessor.name if footer.predecessor else None
        if named != previous.path.rpartition("/")[2]:
            detail = f"names {named} as its predecessor, yet {previous.path} ends where it starts"
            self._find("wrong", "predecessor", path, ((footer.start, footer.end),), detail)
        elif footer.predecessor and footer.predecessor.sha256 != previous.sha256:
            detail = f"changed after it was committed: {path} was written after other bytes"
            self._find("wrong", "predecessor-changed", previous.path, ((before.start, before.end),), detail)
        if footer.available_at < before.available_at:
            detail = "promises rows for a time before its predecessor's promise"
            self._find("wrong", "promise-order", path, ((footer.start, footer.end),), detail)
        if footer.prev_confirmed_at and footer.prev_confirmed_at > before.available_at:
            part.late_files += 1

    def _rows(self, member: _Member, data: bytes, keep_hashes: bool) -> FileRows:
        rows = check_file(member.path, data, member.footer, on_rows=self.repeats.add, keep_hashes=keep_hashes)
        self.report.findings.extend(rows.findings)
        if self._on_progress:
            self._on_progress(member.footer.rows)
        return rows

    def _bounds(self, part: PartitionReport) -> tuple[int, int] | None:
        """The log's first and end offset, or None where the broker has no such log (any more)."""
        if self._broker is None:
            return None
        if self._cluster_id != part.cluster_id:
            self.report.notes.append(
                f"{part.directory} is of cluster {part.cluster_id}, not of {self._cluster_id}: by files only"
            )
            return None
        if self._broker.topic_uuid(part.topic) != part.topic_uuid:
            self.report.notes.append(f"{part.directory} is of a topic that was deleted since: by files only")
            return None
        return self._broker.bounds(part.topic, part.partition)

    def _prove(self, part: PartitionReport, member: _Member, rows: FileRows, bounds: tuple[int, int] | None) -> None:
        footer = member.footer
        if footer.kind != "rows":
            return
        proved: Ranges = ()
        if self._broker is not None and bounds is not None and len(rows.hashes) == len(rows.all_offsets()):
            dead_letters = self._dead_letters(part.topic)
            proof = prove_file(
                member.path, footer, rows, self._broker, bounds=bounds, dead_letters=dead_letters, parse=self._parse
            )
            self.report.findings.extend(proof.findings)
            proved = proof.proved
        part.proved = merge((*part.proved, *proved))
        part.by_files_only = merge((*part.by_files_only, *subtract(((footer.start, footer.end),), proved)))

    def _dead_letters(self, topic: str) -> Container[tuple[int, int]] | None:
        if self._broker is not None and topic not in self._dead:
            self._dead[topic] = self._broker.dead_letters(topic)
        return self._dead.get(topic)

    def _compare_ends(self, part: PartitionReport, bounds: tuple[int, int]) -> None:
        begin, end = bounds
        part.lag = max(0, end - part.end)
        mirrored = self._mirrors.get((part.topic, part.partition))
        if mirrored is not None and mirrored > part.end:
            detail = "committed to the group, which happens only after a file is there: the newest file was removed"
            self._find("missing", "mirror-ahead", part.directory, ((part.end, mirrored),), detail)
        if part.end > end:
            detail = f"the files hold offsets that the log, which ends at {end}, has not"
            self._find("wrong", "head-past-log-end", part.directory, ((end, part.end),), detail)
        if part.end < begin:
            detail = f"deleted from the log, which begins at {begin}, before they were read"
            self._find("missing", "log-truncated", part.directory, ((part.end, begin),), detail)
        elif self._require_all_read and part.lag:
            self._find("missing", "not-read", part.directory, ((part.end, end),), "in the log, not yet in the files")


def _home(footer: Footer) -> str:
    """The path a file with this footer belongs under."""
    return f"{ROOT}/{footer.topic}@{footer.topic_uuid[:8]}/{footer.partition}/{file_name(footer.start)}"


def _introduce(part: PartitionReport, footer: Footer) -> None:
    part.topic, part.topic_uuid = footer.topic, footer.topic_uuid
    part.cluster_id, part.partition = footer.cluster_id, footer.partition


def _count(part: PartitionReport, footer: Footer, rows: FileRows) -> None:
    part.files += 1
    part.end = max(part.end, footer.end)
    part.rows += len(rows.all_offsets())
    part.dead += count(footer.dead)
    part.holes += count(footer.holes)
    part.skipped += 0 if footer.kind == "rows" else footer.end - footer.start
