"""What `GET /v1/model` tells about the bundle that is served."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from sentiment.manifest import BundleManifest


class Calibration(BaseModel):
    """How the outputs of the experts become probabilities."""

    temperature: float
    """last temperature on the mixture"""
    threshold: float
    """gate weight from which one expert is enough"""


class ModelCard(BaseModel):
    """The bundle behind every answer."""

    bundle_id: str
    labels: list[str]
    experts: list[str]
    base: dict[str, Any]
    max_length: int
    """tokens of a text that the model reads [tokens]"""
    calibration: Calibration
    metrics: dict[str, Any]
    knowledge_cutoff: str | None


def model_card(manifest: BundleManifest) -> ModelCard:
    """The public part of a bundle's manifest."""
    fields = manifest.model_dump(mode="json")
    return ModelCard(
        bundle_id=manifest.bundle_id,
        labels=list(manifest.labels),
        experts=list(manifest.experts),
        base=fields["base"],
        max_length=manifest.max_length,
        calibration=Calibration(temperature=manifest.calibration.temperature, threshold=manifest.calibration.threshold),
        metrics=fields["metrics"],
        knowledge_cutoff=fields["knowledge_cutoff"],
    )
