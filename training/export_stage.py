"""Fourth stage: calibrate the mixture as it is served, and write the bundle to `<storage>/bundles/<bundle id>/`."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sentiment.bundle import Bundle, BundleFacts, BundleParts, save_bundle
from sentiment.encoder import TextEncoder
from sentiment.model.adapter import merge_adapter, read_adapter
from sentiment.model.backbone import load_backbone
from sentiment.model.combine import Calibration
from sentiment.model.expert import Expert, ExpertModel, read_head
from sentiment.model.router import ROUTER_FILE, RouterModel, read_router
from training.calibrate import fit_calibration
from training.data import CALIBRATION, LabelledTexts
from training.stages import BUNDLES_DIR, POINTER_FILE, read_complete
from training.work import ADAPTER_DIR, BACKBONE_DIR, ENCODER_DIR, Work

Answers = tuple[NDArray[np.float32], Mapping[str, NDArray[np.float32]], NDArray[np.int64]]


def run(work: Work) -> dict[str, float]:
    """Calibrate and export; the artefact is a pointer to the bundle.

    Returns:
        `threshold` and `temperature`.
    """
    if not work.world.first:
        return {}
    calibration = _calibrate(work)
    bundle = _save(work, calibration)
    pointer = json.dumps({"bundle_id": bundle.manifest.bundle_id})
    (work.output / POINTER_FILE).write_text(pointer + "\n", encoding="utf-8")
    return {"threshold": calibration.threshold, "temperature": calibration.temperature}


def _calibrate(work: Work) -> Calibration:
    settings = work.settings.calibration
    own = work.texts.where(CALIBRATION)
    # Texts whose annotators had fewer than three labels cannot tell how probable the missing one is.
    own = own.take(np.flatnonzero(own.label_space.all(1)))
    encoder = TextEncoder.load(work.inputs["base"] / ENCODER_DIR)
    router = RouterModel(read_router(work.inputs["joint"] / ROUTER_FILE))
    experts = {name: ExpertModel(_expert(work, name)) for name in work.domains}

    def answers(texts: LabelledTexts) -> Answers:
        encoded = encoder.encode(texts.texts)
        return router.gate(encoded), {name: model.logits(encoded) for name, model in experts.items()}, texts.labels

    gate, logits, labels = answers(own)
    left_out = work.left_out
    return fit_calibration(
        gate,
        logits,
        labels,
        own.domain_index(work.domains),
        strength=settings.scaling_strength,
        one_pass_share=settings.one_pass_share,
        left_out=(lambda: answers(left_out)) if left_out is not None and len(left_out) else None,
    )


def _expert(work: Work, name: str) -> Expert:
    backbone = load_backbone(work.inputs["base"] / BACKBONE_DIR)
    merge_adapter(backbone.encoder, read_adapter(work.inputs["joint"] / name / ADAPTER_DIR))
    return Expert(backbone, read_head(work.inputs["joint"] / name))


def _save(work: Work, calibration: Calibration) -> Bundle:
    joint, base = work.inputs["joint"], work.inputs["base"]
    metrics = {name: read_complete(folder)["metrics"] for name, folder in sorted(work.inputs.items())}
    parts = BundleParts(
        backbone=load_backbone(base / BACKBONE_DIR),
        encoder=TextEncoder.load(base / ENCODER_DIR),
        router=read_router(joint / ROUTER_FILE),
        experts={name: (read_adapter(joint / name / ADAPTER_DIR), read_head(joint / name)) for name in work.domains},
        calibration=calibration,
        facts=BundleFacts(
            metrics=metrics,
            data_fingerprints={name: value for name, value in work.fingerprints.items() if name != "heldout"},
            # A day, not an instant: what the newest training text knew, everything up to that day may have known.
            knowledge_cutoff=max((moment[:10] for moment in work.texts.published), default="") or None,
            licence_notes=("Trained from scratch on the files named by data_fingerprints; no third-party weights.",),
        ),
    )
    bundles = work.storage / BUNDLES_DIR
    draft = save_bundle(bundles / f".{uuid.uuid4().hex}", parts)
    final = bundles / draft.manifest.bundle_id
    return _at(draft, final)


def _at(draft: Bundle, final: Path) -> Bundle:
    """Rename a bundle to its id; if that very bundle is there already, drop the draft (a bundle never changes)."""
    try:
        draft.path.rename(final)
    except OSError:
        if not final.is_dir():
            raise
        shutil.rmtree(draft.path)
    return Bundle(final, draft.manifest)
