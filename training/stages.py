"""The stages of training as data: what each reads, which settings it depends on, where its artefact goes.

A stage's fingerprint covers its settings, the data, its upstream stages' fingerprints and `CODE_VERSION`; so the
fingerprints of all stages are known before any of them runs, and a finished stage is one whose directory is complete.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, Final

CODE_VERSION: Final = 1
"""Raise it when a change of code changes what a stage produces: finished stages of older versions then run again."""

COMPLETE: Final = "complete.json"
"""Written last and atomically; a stage directory without it is unfinished."""

BUNDLES_DIR: Final = "bundles"
POINTER_FILE: Final = "bundle_id.json"
"""In the export stage's directory: which bundle it made. The bundle itself exists once, under `BUNDLES_DIR`."""
REPORT_FILE: Final = "report.json"


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage, ready to run in a worker.

    Attributes:
        name: `base`, `expert-<domain>`, `joint`, `export` or `report`.
        function: `module:function`, imported only where it runs.
        fingerprint: sha256 (hex).
        directory: where the artefact is, or will be.
        inputs: the artefact directories of the stages it reads.
        domain: the expert's domain, for expert stages.
    """

    name: str
    function: str
    fingerprint: str
    directory: Path
    inputs: Mapping[str, Path]
    domain: str | None = None

    @property
    def complete(self) -> bool:
        """Whether the artefact is there."""
        return (self.directory / COMPLETE).is_file()


def fingerprint(parts: Mapping[str, Any]) -> str:
    """sha256 (hex) of settings and other fingerprints, independent of key order."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=_plain).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} cannot be part of a fingerprint")


def read_complete(directory: Path) -> dict[str, Any]:
    """The metrics that a finished stage recorded."""
    content: dict[str, Any] = json.loads((directory / COMPLETE).read_text(encoding="utf-8"))
    return content


def write_complete(directory: Path, content: Mapping[str, Any]) -> None:
    """Mark the artefact in `directory` as finished."""
    partial = directory / f"{COMPLETE}.tmp"
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(directory / COMPLETE)


def bundle_path(storage: Path, export_directory: Path) -> Path:
    """Where a finished export put its bundle."""
    pointer = json.loads((export_directory / POINTER_FILE).read_text(encoding="utf-8"))
    return storage / BUNDLES_DIR / str(pointer["bundle_id"])
