"""What an audit says: findings, one line per partition, JSON, and an exit code."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal

import orjson

from streaming.ranges import Ranges, count, show


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it must be.

    Attributes:
        kind: what is the matter with the offsets.
        code: a stable slug of the check that failed.
        path: the file, or the directory where no file is to blame.
        offsets: which offsets, as half-open ranges; empty where that cannot be said.
        detail: one sentence for a person.
    """

    kind: Literal["missing", "doubled", "wrong"]
    code: str
    path: str
    offsets: Ranges
    detail: str

    def __str__(self) -> str:
        where = f" offsets {show(self.offsets)}" if self.offsets else ""
        return f"{self.kind}{where}: {self.detail} [{self.code}] {self.path}"


@dataclass(slots=True)
class PartitionReport:
    """One chain: offsets as half-open ranges, everything else counted in offsets unless it says otherwise."""

    directory: str
    topic: str = ""
    topic_uuid: str = ""
    cluster_id: str = ""
    partition: int = -1
    files: int = 0
    """files of the chain [files]"""
    end: int = 0
    """first offset that is not in the chain"""
    rows: int = 0
    dead: int = 0
    holes: int = 0
    skipped: int = 0
    """by origin and gap files"""
    late_files: int = 0
    """files confirmed after their promise; readers take the later time [files]"""
    proved: Ranges = ()
    """confirmed by the broker"""
    by_files_only: Ranges = ()
    """what the broker no longer has, or was not asked about"""
    lag: int | None = None
    """records between the chain's end and the log's end; None where the broker was not asked"""


@dataclass(slots=True)
class AuditReport:
    """What an audit found. `ok` means that nothing is missing, doubled or wrong."""

    partitions: list[PartitionReport] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    repeated: int = 0
    """rows whose (source, id) an earlier row has: no fault, but count them once [rows]"""
    against_broker: bool = False
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the log is whole."""
        return not self.findings

    @property
    def exit_code(self) -> int:
        """0 when whole, else 1."""
        return 0 if self.ok else 1

    def to_json(self) -> bytes:
        """One JSON object, indented."""
        totals = {
            name: sum(getattr(part, name) for part in self.partitions) for name in ("rows", "dead", "holes", "skipped")
        }
        return orjson.dumps({"ok": self.ok, **totals, **asdict(self)}, option=orjson.OPT_INDENT_2)

    def to_text(self) -> str:
        """For a person: a line per partition, then what is wrong."""
        lines = [_line(part, self.against_broker) for part in self.partitions]
        lines += [f"note: {note}" for note in self.notes]
        if self.repeated:
            lines.append(f"note: {self.repeated:,} rows repeat a (source, id) that another offset has")
        lines += [str(finding) for finding in self.findings]
        rows = sum(part.rows for part in self.partitions)
        verdict = "whole: every offset exactly once" if self.ok else f"NOT whole: {len(self.findings)} findings"
        lines.append(f"{verdict} ({rows:,} rows in {len(self.partitions)} partitions, {self.seconds:.1f} s)")
        return "\n".join(lines)


def _line(part: PartitionReport, against_broker: bool) -> str:
    proof = f"; proved against the broker {count(part.proved):,}, by files only {count(part.by_files_only):,}"
    lag = f"; not read yet {part.lag:,}" if part.lag else ""
    return (
        f"{part.topic}-{part.partition} [0, {part.end}): {part.rows:,} rows + {part.dead:,} dead + {part.holes:,} holes"
        f" + {part.skipped:,} skipped in {part.files:,} files{proof if against_broker else '; by files only'}{lag}"
    )
