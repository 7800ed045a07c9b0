"""The one artefact that travels: everything needed to score, verified by hash on every load. No pickle anywhere.

```
bundle.json                    manifest (sentiment/manifest.py); its own hash is the bundle id
tokenizer/                     tokenizer.json, encoder.json
base/                          the tiny base (a pretrained one is named by hub name, revision and hash instead)
router.safetensors
experts/<name>/                peft's adapter_config.json and adapter_model.safetensors, head.safetensors
```
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from pydantic import JsonValue

from sentiment.encoder import TextEncoder
from sentiment.errors import BundleError
from sentiment.manifest import BaseSpec, BundleManifest, check_files, read_manifest, write_manifest
from sentiment.model.adapter import Adapter, merge_adapter, read_adapter, write_adapter
from sentiment.model.backbone import Backbone, load_backbone, load_encoder, save_backbone, weights_hash
from sentiment.model.combine import Calibration
from sentiment.model.expert import Expert, ExpertModel, Head, read_head, write_head
from sentiment.model.router import ROUTER_FILE, Router, RouterModel, read_router, write_router


@dataclass(frozen=True, kw_only=True)
class BundleFacts:
    """What training knows and a bundle records, beside the model itself; the fields of `BundleManifest`."""

    metrics: Mapping[str, JsonValue] = field(default_factory=dict)
    data_fingerprints: Mapping[str, str] = field(default_factory=dict)
    knowledge_cutoff: str | None = None
    licence_notes: tuple[str, ...] = ()
    training_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class BundleParts:
    """What `save_bundle` writes.

    Attributes:
        backbone: the bare base, without adapters.
        encoder: as used in training.
        router: over the experts in their order.
        experts: adapter and head by name, in the gate's order; a name is a folder's name.
        calibration: with one entry per expert.
        facts: metrics and provenance.
        pretrained: hub name and revision of a base that does not travel; None puts the base's weights into the bundle.
    """

    backbone: Backbone
    encoder: TextEncoder
    router: Router
    experts: Mapping[str, tuple[Adapter, Head]]
    calibration: Calibration
    facts: BundleFacts = BundleFacts()
    pretrained: tuple[str, str | None] | None = None


@dataclass(frozen=True)
class Bundle:
    """A verified bundle on disk. Each method loads fresh objects, so replicas share nothing."""

    path: Path
    manifest: BundleManifest

    def encoder(self) -> TextEncoder:
        """Tokenizer and n-grams."""
        return TextEncoder.load(self.path / "tokenizer")

    def router(self) -> RouterModel:
        """The router, on the CPU."""
        return RouterModel(read_router(self.path / ROUTER_FILE))

    def backbone(self) -> Backbone:
        """The bare base, in evaluation mode.

        Raises:
            BundleError: a pretrained base has other weights than the one the experts were trained on.
        """
        base = self.manifest.base
        if base.kind == "tiny":
            return load_backbone(self.path / "base")
        backbone = Backbone(load_encoder(base.name, base.revision), base.shape.pooling).eval()
        if weights_hash(backbone) != base.sha256:
            raise BundleError(f"base {base.name} (revision {base.revision}) is not the one this bundle was trained on")
        return backbone

    def expert(self, name: str, device: torch.device | str = "cpu") -> ExpertModel:
        """One expert, its adapter merged into its own copy of the base.

        Raises:
            BundleError: no such expert, or its adapter does not fit the base.
        """
        adapter = self.adapter(name)
        backbone = self.backbone()
        merge_adapter(backbone.encoder, adapter)
        return ExpertModel(Expert(backbone, read_head(self.path / "experts" / name)), device)

    def adapter(self, name: str) -> Adapter:
        """One expert's adapter, as stored.

        Raises:
            BundleError: no such expert.
        """
        if name not in self.manifest.experts:
            raise BundleError(f"no expert {name!r} in {self.path}; it has {', '.join(self.manifest.experts)}")
        return read_adapter(self.path / "experts" / name)


def load_bundle(path: Path | str) -> Bundle:
    """Open a bundle and verify all of it.

    Raises:
        BundleError: absent, damaged (names the file), of another format or with other labels, or an expert equals its
            base; the message holds the remedy.
    """
    root = Path(path)
    manifest = read_manifest(root)
    check_files(root, manifest)
    bundle = Bundle(root, manifest)
    for name in manifest.experts:
        if not bundle.adapter(name).moves():
            raise BundleError(f"expert {name!r} of {root} equals its base: train it, then export again")
    return bundle


def save_bundle(directory: Path, parts: BundleParts) -> Bundle:
    """Write a bundle beside its final place, then rename it there: a reader sees all of it or nothing.

    Args:
        directory: final path; it must not exist unless it already holds this very bundle (a bundle that is being
            served must not change under its replicas).
        parts: what to write.

    Raises:
        BundleError: the place is taken, the parts do not fit together, or an expert equals its base.
    """
    _check_parts(parts)
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        _write_files(staging, parts)
        manifest = write_manifest(staging, _content(parts))
        _make_readable(staging)
        if not directory.exists():
            staging.rename(directory)
        elif read_manifest(directory).bundle_id != manifest.bundle_id:
            raise BundleError(f"{directory} already holds another bundle; a bundle never changes, choose a new path")
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return load_bundle(directory)


def _check_parts(parts: BundleParts) -> None:
    experts, scaled = tuple(parts.experts), set(parts.calibration.experts)
    if len(experts) != parts.router.experts or set(experts) != scaled:
        raise BundleError(f"experts {experts}, but calibrated {sorted(scaled)}, router over {parts.router.experts}")
    for name, (adapter, _) in parts.experts.items():
        if not name.isidentifier():
            raise BundleError(f"expert name {name!r} must be letters, digits and underscores: it is a folder's name")
        if not adapter.moves():
            raise BundleError(f"expert {name!r} equals its base: train it before export")
    if parts.pretrained is not None and parts.backbone.ngrams is not None:
        raise BundleError("a pretrained base is named, not stored, so it cannot have an n-gram bag")


def _write_files(root: Path, parts: BundleParts) -> None:
    parts.encoder.save(root / "tokenizer")
    if parts.pretrained is None:
        save_backbone(parts.backbone, root / "base")
    write_router(parts.router, root / ROUTER_FILE)
    base_name = parts.pretrained[0] if parts.pretrained else "base"
    for name, (adapter, head) in parts.experts.items():
        write_adapter(adapter, root / "experts" / name, base_name)
        write_head(head, root / "experts" / name)


def _make_readable(root: Path) -> None:
    """Undo the owner-only modes of mkdtemp and safetensors: a server often runs as another user."""
    for path in (root, *root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _content(parts: BundleParts) -> dict[str, object]:
    name, revision = parts.pretrained or ("tiny", None)
    base = BaseSpec(
        kind="pretrained" if parts.pretrained else "tiny",
        name=name,
        revision=revision,
        sha256=weights_hash(parts.backbone),
        shape=parts.backbone.shape,
    )
    return {
        "experts": tuple(parts.experts),
        "base": base,
        "readout": "classifier",
        "max_length": parts.encoder.settings.max_length,
        "prompt": parts.encoder.settings.prompt,
        "router": parts.router.settings,
        "calibration": parts.calibration,
        "metrics": dict(parts.facts.metrics),
        "data_fingerprints": dict(parts.facts.data_fingerprints),
        "knowledge_cutoff": parts.facts.knowledge_cutoff,
        "licence_notes": parts.facts.licence_notes,
        "training_seconds": parts.facts.training_seconds,
    }
