"""RouterStage: the target of every handle and the HTTP ingress in one.

It tokenises once, gates, asks the experts that are needed and answers in input order; the weights of the experts live
in deployments of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from sentiment.batching import EncodedTexts
from sentiment.records import Scores
from serve.api import create_api
from serve.http_request import HttpLimits
from serve.model_card import ModelCard, model_card
from serve.replica import load_deployed
from serve.served_bundle import CallLimits, ExpertCall, ServedBundle

if TYPE_CHECKING:
    from fastapi import FastAPI
    from ray.serve.handle import DeploymentHandle


@dataclass(frozen=True, slots=True, kw_only=True)
class StageLimits:
    """What bounds a router stage."""

    calls: CallLimits = field(default_factory=CallLimits)
    """one call to an expert"""
    http: HttpLimits = field(default_factory=HttpLimits)
    """one HTTP request"""
    threads: int = 1
    """threads torch computes with"""


class RouterStage:
    """Scores texts with the bundle it currently serves."""

    def __init__(
        self,
        *,
        bundle_path: str,
        bundle_id: str,
        experts: dict[str, DeploymentHandle[Any]],
        limits: StageLimits = StageLimits(),
    ) -> None:
        """Load the bundle's tokenizer and router; the experts are asked through their handles.

        Args:
            bundle_path: the bundle's directory on this node.
            bundle_id: the content hash that must be found there.
            experts: a handle per expert of the bundle.
            limits: what bounds its calls, requests and threads.

        Raises:
            BundleError: the bundle is damaged or another than the one deployed.
        """
        torch.set_num_threads(limits.threads)
        bundle = load_deployed(bundle_path, bundle_id)
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="router")
        calls = {name: _ask(handle) for name, handle in experts.items()}
        self._http_limits = limits.http
        self._served = ServedBundle(bundle, calls, limits=limits.calls, thread=thread)

    async def score(self, texts: Sequence[str]) -> Scores:
        """Scores of N texts, in their order.

        Raises:
            ScorerUnavailable: an expert gave no answer within the deadline.
        """
        served = self._served  # captured once: the whole answer comes from this bundle
        return await served.score(texts)

    def describe(self) -> ModelCard:
        """What is being served."""
        return model_card(self._served.bundle.manifest)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Serve asks an ingress for its application by this name."""
        return create_api(self, self._http_limits)


def _ask(handle: DeploymentHandle[Any]) -> ExpertCall:
    async def logits(batch: EncodedTexts) -> NDArray[np.float32]:
        answer: NDArray[np.float32] = await handle.logits.remote(batch)
        return answer

    return logits
