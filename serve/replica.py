"""ExpertReplica: one expert with its LoRA merged in, answering logits for arrays of token ids."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from sentiment.batching import EncodedTexts, token_budget_batches
from sentiment.bundle import Bundle, load_bundle
from sentiment.errors import BundleError
from sentiment.labels import LABELS
from sentiment.model.expert import DEFAULT_MAX_PADDED_TOKENS


class ExpertReplica:
    """Serves one expert of one bundle."""

    def __init__(
        self,
        *,
        bundle_path: str,
        bundle_id: str,
        expert: str,
        threads: int = 1,
        max_padded_tokens: int = DEFAULT_MAX_PADDED_TOKENS,
    ) -> None:
        """Load, verify and self-test the expert.

        Args:
            bundle_path: the bundle's directory on this node.
            bundle_id: the content hash that must be found there.
            expert: its name in the bundle.
            threads: threads torch computes with.
            max_padded_tokens: size of a micro-batch [rows times longest row].

        Raises:
            BundleError: the bundle is damaged, another than the one deployed, or answers with non-numbers.
        """
        torch.set_num_threads(threads)
        bundle = load_deployed(bundle_path, bundle_id)
        self._max_padded_tokens = max_padded_tokens
        self._expert = bundle.expert(expert)
        # One thread computes, and a call enters it once per micro-batch: calls take turns, and the replica's event loop
        # stays free for health checks.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"expert-{expert}")
        trial = self._expert.logits(bundle.encoder().encode(["a", "profit up 3%"]))
        if trial.shape != (2, len(LABELS)) or not np.isfinite(trial).all():
            raise BundleError(f"expert `{expert}` of {bundle_path} fails its self-test: {trial!r}")

    async def logits(self, batch: EncodedTexts) -> NDArray[np.float32]:
        """Uncalibrated logits `[N, 3]` of N texts, in their order."""
        logits = np.empty((len(batch), len(LABELS)), dtype=np.float32)
        loop = asyncio.get_running_loop()
        for rows in token_budget_batches(batch.lengths, self._max_padded_tokens):
            logits[rows] = await loop.run_in_executor(self._thread, self._forward, batch, rows)
        return logits

    def _forward(self, batch: EncodedTexts, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._expert.forward(batch.take(rows))


def load_deployed(path: str, bundle_id: str) -> Bundle:
    """The bundle at `path` on this node, if it is the one that was deployed.

    Raises:
        BundleError: it is absent, damaged or another one.
    """
    bundle = load_bundle(path)
    if bundle.manifest.bundle_id != bundle_id:
        raise BundleError(
            f"{path} holds bundle {bundle.manifest.bundle_id}, but {bundle_id} was deployed; deploy again"
        )
    return bundle
