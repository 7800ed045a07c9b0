"""The last proof: the ends that an audit against the broker confirmed, kept beside the files in `audit.json`.

By files alone nobody can tell that the newest file of a chain, or a whole chain, was removed. With an earlier proof
everybody can: a chain never gets shorter.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

import orjson

from streaming.audit_report import AuditReport, Finding

PROOF: Final = "audit.json"


def keep_proof(root: Path, report: AuditReport) -> None:
    """Write the report where the next audit finds it, if it proved anything."""
    if report.ok and report.against_broker:
        partial = root / f".{PROOF}.tmp"
        partial.write_bytes(report.to_json())
        partial.replace(root / PROOF)


def compare_with_proof(root: Path, report: AuditReport, topics: Collection[str]) -> None:
    """Add a finding for every chain that is shorter than the last proof found it."""
    if not (root / PROOF).is_file():
        if not report.against_broker:
            report.notes.append(
                "no earlier audit against the broker is kept here: a removed newest file could not be noticed"
            )
        return
    ends = {part.directory: part.end for part in report.partitions}
    proof: dict[str, Any] = orjson.loads((root / PROOF).read_bytes())
    for part in proof["partitions"]:
        directory, proved, end = part["directory"], part["end"], ends.get(part["directory"], 0)
        if end < proved and (not topics or part["topic"] in topics):
            detail = "in the files when an audit last proved them against the broker: the newest file was removed"
            report.findings.append(Finding("missing", "shorter-than-proved", directory, ((end, proved),), detail))
