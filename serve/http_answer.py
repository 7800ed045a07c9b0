"""What the HTTP interface answers: the models its OpenAPI shows, and scores written as JSON.

The models describe; they do not serialise: `scores_json` writes a thousand rows without building a thousand objects of
them. A test holds both together.
"""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field

from sentiment.labels import LABELS, NEGATIVE, POSITIVE
from sentiment.records import Scores

_EXACT = ConfigDict(extra="forbid")
Share = Annotated[float, Field(ge=0, le=1)]


class ScoreRequest(BaseModel):
    """One text or a list of texts."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"texts": "Quarterly profit up 12%, guidance raised"},
                {"texts": ["公司三季度净利润同比增长35%", "this stock is toast, sold everything"]},
            ]
        },
    )

    texts: str | list[str] = Field(description="one text, or 1 to `max_texts` of them; none empty")


class Probabilities(BaseModel):
    """Calibrated probabilities, summing to 1."""

    model_config = _EXACT

    negative: Share
    neutral: Share
    positive: Share


class ScoredText(BaseModel):
    """The answer for one text."""

    model_config = _EXACT

    label: str = Field(description="the most probable label")
    probabilities: Probabilities
    score: Annotated[float, Field(ge=-1, le=1)] = Field(description="positive minus negative")
    confidence: Share = Field(description="the largest probability")
    expert: str = Field(description="the expert with the largest weight")
    gate: dict[str, Share] = Field(description="the router's weight of every expert, summing to 1")
    experts_run: int = Field(description="1 where the router was sure, else all experts were mixed")
    disagreement: Share | None = Field(description="largest difference between the experts; null where one ran")


class ScoreAnswer(BaseModel):
    """One result per text, in the order of the request, all by one bundle."""

    model_config = _EXACT

    bundle_id: str
    results: list[ScoredText]


class ErrorDetail(BaseModel):
    """What is wrong, where, and what to do."""

    field: str = Field(description="the field's path, e.g. `texts[3]`")
    message: str
    remedy: str


class ErrorAnswer(BaseModel):
    """Every answer that is not 2xx."""

    error: ErrorDetail


class Health(BaseModel):
    """The process answers."""

    status: str
    bundle_id: str


def scores_json(scores: Scores) -> bytes:
    """Scores as the JSON of a `ScoreAnswer`; float32 values keep every digit they have, none of them is not finite."""
    labels = scores.probabilities.argmax(axis=1).tolist()
    experts = scores.experts
    results = []
    for label, row, gate, expert, run, disagreement in zip(
        labels,
        scores.probabilities,
        scores.gate,
        scores.expert.tolist(),
        scores.experts_run.tolist(),
        scores.disagreement,
        strict=True,
    ):
        results.append(
            {
                "label": LABELS[label],
                "probabilities": dict(zip(LABELS, row, strict=True)),
                "score": row[POSITIVE] - row[NEGATIVE],
                "confidence": row[label],
                "expert": experts[expert],
                "gate": dict(zip(experts, gate, strict=True)),
                "experts_run": run,
                "disagreement": None if math.isnan(disagreement) else disagreement,
            }
        )
    return orjson.dumps({"bundle_id": scores.bundle_id, "results": results}, option=orjson.OPT_SERIALIZE_NUMPY)


def all_finite(scores: Scores) -> bool:
    """Whether every probability and gate weight is a number."""
    return bool(np.isfinite(scores.probabilities).all() and np.isfinite(scores.gate).all())
