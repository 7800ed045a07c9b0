"""What a bundle says about itself, and how that is checked. Hashes and JSON only; no weights are read here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from sentiment.errors import BundleError
from sentiment.labels import LABELS
from sentiment.model.backbone import BackboneShape
from sentiment.model.combine import Calibration
from sentiment.model.router import RouterSettings

FORMAT_VERSION: Final = 1
MANIFEST_FILE: Final = "bundle.json"
_ID_DIGITS: Final = 16
_STRICT: Final = ConfigDict(frozen=True, extra="forbid")


class BaseSpec(BaseModel):
    """Which base the experts sit on."""

    model_config = _STRICT
    kind: Literal["tiny", "pretrained"]
    """`tiny`: its weights are in the bundle; `pretrained`: fetched by name and revision, checked by hash"""
    name: str
    revision: str | None = None
    sha256: str
    """hash over all weights of the base without adapters"""
    shape: BackboneShape


class BundleManifest(BaseModel):
    """`bundle.json`."""

    model_config = _STRICT
    format_version: int
    bundle_id: str
    """first 16 hex digits of the sha256 over this manifest without the id; it covers every file's hash"""
    labels: tuple[str, ...]
    experts: tuple[str, ...]
    """names in the gate's order"""
    base: BaseSpec
    readout: Literal["classifier"]
    """how an expert's output becomes three logits: its own head over the pooled text"""
    max_length: int
    """tokens, prompt included"""
    prompt: str
    router: RouterSettings
    calibration: Calibration
    metrics: dict[str, JsonValue]
    data_fingerprints: dict[str, str]
    knowledge_cutoff: str | None
    """ISO date of the newest text any part was trained on; None = unknown"""
    licence_notes: tuple[str, ...]
    training_seconds: float | None
    files: dict[str, str]
    """sha256 of every other file, by path inside the bundle"""

    @property
    def uses_ngrams(self) -> bool:
        """Whether experts need n-gram ids at all (the router always does)."""
        return self.base.shape.ngram_dim > 0


def write_manifest(root: Path, content: Mapping[str, Any]) -> BundleManifest:
    """Hash all files under `root`, complete `content` with hashes, versions and id, write `bundle.json`."""
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    files = {name: file_hash(root / name) for name in paths}
    fixed = {"format_version": FORMAT_VERSION, "labels": LABELS, "files": files, "bundle_id": ""}
    draft = BundleManifest.model_validate({**content, **fixed})
    manifest = draft.model_copy(update={"bundle_id": content_id(draft.model_dump(mode="json"))})
    text = json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False)
    (root / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")
    return manifest


def read_manifest(root: Path) -> BundleManifest:
    """Read `bundle.json` and check it against its own id.

    Raises:
        BundleError: absent, damaged, changed after export, of another format or with other labels.
    """
    path = root / MANIFEST_FILE
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        version = int(raw["format_version"])
    except FileNotFoundError:
        raise BundleError(f"no bundle at {root}; make one with `python -m ray_jobs.train`") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path} is not a bundle's manifest ({error}); copy the bundle again") from None
    if version != FORMAT_VERSION:
        remedy = "update this program" if version > FORMAT_VERSION else "export the bundle again"
        raise BundleError(f"{path} has format {version}, this program reads {FORMAT_VERSION}; {remedy}")
    try:
        manifest = BundleManifest.model_validate(raw)
    except ValidationError as error:
        field = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise BundleError(f"{path} is damaged at `{field}`; copy the bundle again") from None
    if manifest.bundle_id != content_id(raw):
        raise BundleError(f"{path} was changed after export: its hash is not its id; copy the bundle again")
    if manifest.labels != LABELS:
        raise BundleError(f"{path} has labels {manifest.labels}, this program uses {LABELS}; export the bundle again")
    return manifest


def check_files(root: Path, manifest: BundleManifest) -> None:
    """Compare every file with its hash; files that the manifest does not name are never opened.

    Raises:
        BundleError: names the first file that is missing or differs.
    """
    for name, expected in manifest.files.items():
        path = root / name
        if not path.is_file():
            raise BundleError(f"{path} is missing; copy the bundle again or re-export it")
        if file_hash(path) != expected:
            raise BundleError(f"{path} is damaged (its sha256 differs); copy the bundle again or re-export it")


def file_hash(path: Path) -> str:
    """Sha256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_id(raw: Mapping[str, Any]) -> str:
    """The id that belongs to a manifest's JSON object."""
    content = {key: value for key, value in raw.items() if key != "bundle_id"}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:_ID_DIGITS]
