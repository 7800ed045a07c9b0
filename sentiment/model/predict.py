"""The mixture in one process: encode, gate, route, score. What serving must equal, and what evaluation runs."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sentiment.bundle import Bundle
from sentiment.model.expert import DEFAULT_MAX_PADDED_TOKENS
from sentiment.model.routing import assemble_scores, plan_routes
from sentiment.records import Scores


class MixturePredictor:
    """All of a bundle in this process.

    Args:
        bundle: a verified bundle.
        device: where the experts run; the router stays on the CPU.
        max_padded_tokens: budget of one forward pass.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: torch.device | str = "cpu",
        max_padded_tokens: int = DEFAULT_MAX_PADDED_TOKENS,
    ) -> None:
        self.manifest = bundle.manifest
        self.max_padded_tokens = max_padded_tokens
        self.encoder = bundle.encoder()
        self.router = bundle.router()
        self.experts = {name: bundle.expert(name, device) for name in bundle.manifest.experts}

    def score(self, texts: Sequence[str]) -> Scores:
        """Scores of N texts, in input order."""
        encoded = self.encoder.encode(texts)
        gate = self.router.gate(encoded)
        calibration = self.manifest.calibration
        routes = dict(zip(self.experts, plan_routes(gate, calibration.threshold), strict=True))
        answers = {
            name: (rows, self.experts[name].logits(encoded.take(rows), self.max_padded_tokens))
            for name, rows in routes.items()
            if len(rows)
        }
        return assemble_scores(gate, answers, calibration, self.manifest.experts, self.manifest.bundle_id)
