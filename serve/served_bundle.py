"""ServedBundle: one bundle as the router stage sees it, and the four steps that score texts with it.

Encode and gate here, then logits from the experts that are needed, then assemble. The object never changes: a call
captures it once, so an answer comes whole from one bundle even while another takes its place.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sentiment.batching import EncodedTexts
from sentiment.bundle import Bundle
from sentiment.labels import LABELS
from sentiment.model.routing import assemble_scores, plan_routes
from sentiment.records import Scores
from serve.retries import call_again

ExpertCall = Callable[[EncodedTexts], Awaitable[NDArray[np.float32]]]
"""Logits `[N, 3]` of N texts by one expert, in their order: a deployment's handle, or a stand-in."""

GATE_ROWS = 256
"""Rows encoded and gated in one go, so that a long call lets short ones in between [rows]."""


@dataclass(frozen=True, slots=True)
class CallLimits:
    """Bounds of one call to an expert."""

    max_rows: int = 1_024
    """[rows]"""
    max_tokens: int = 65_536
    """[tokens]"""
    deadline_s: float = 30.0
    """how long a call is tried again [s]"""


class ServedBundle:
    """The router of one bundle and the way to its experts; immutable."""

    __slots__ = ("_bundle", "_encoder", "_experts", "_limits", "_router", "_thread")

    def __init__(
        self, bundle: Bundle, experts: Mapping[str, ExpertCall], *, limits: CallLimits, thread: Executor
    ) -> None:
        """Put a loaded bundle and its experts together.

        Args:
            bundle: loaded and verified.
            experts: for every expert of the bundle, how to ask it.
            limits: bounds of one call to an expert.
            thread: where the encoder and the router compute, off the event loop.
        """
        self._bundle = bundle
        self._encoder = bundle.encoder()
        self._router = bundle.router()
        self._experts = dict(experts)
        self._limits = limits
        self._thread = thread

    @property
    def bundle(self) -> Bundle:
        """The bundle that every answer of this object comes from."""
        return self._bundle

    async def score(self, texts: Sequence[str]) -> Scores:
        """Scores of N texts, in their order.

        Raises:
            ScorerUnavailable: an expert gave no answer within the deadline.
        """
        deadline = time.monotonic() + self._limits.deadline_s
        manifest = self._bundle.manifest
        batch, gate = await self._encode_and_gate(texts)
        if not manifest.uses_ngrams:
            batch = batch.without_ngrams()  # only the router needed them: they need not travel
        routes = plan_routes(gate, manifest.calibration.threshold)
        logits = await asyncio.gather(
            *(
                self._logits(expert, batch, rows, deadline)
                for expert, rows in zip(manifest.experts, routes, strict=True)
            )
        )
        answers = {
            expert: (rows, rows_logits)
            for expert, rows, rows_logits in zip(manifest.experts, routes, logits, strict=True)
        }
        return assemble_scores(gate, answers, manifest.calibration, manifest.experts, manifest.bundle_id)

    async def _encode_and_gate(self, texts: Sequence[str]) -> tuple[EncodedTexts, NDArray[np.float32]]:
        loop = asyncio.get_running_loop()
        pieces = [
            await loop.run_in_executor(self._thread, self._gate_piece, texts[start : start + GATE_ROWS])
            for start in range(0, len(texts), GATE_ROWS)
        ] or [self._gate_piece([])]
        if len(pieces) == 1:
            return pieces[0]
        return EncodedTexts.concatenate([batch for batch, _ in pieces]), np.concatenate([gate for _, gate in pieces])

    def _gate_piece(self, texts: Sequence[str]) -> tuple[EncodedTexts, NDArray[np.float32]]:
        batch = self._encoder.encode(texts)
        return batch, self._router.gate(batch)

    async def _logits(
        self, expert: str, batch: EncodedTexts, rows: NDArray[np.int64], deadline: float
    ) -> NDArray[np.float32]:
        if len(rows) == 0:
            return np.empty((0, len(LABELS)), dtype=np.float32)
        ask = self._experts[expert]

        async def one_call(part: EncodedTexts) -> NDArray[np.float32]:
            return await call_again(lambda: ask(part), deadline=deadline, what=f"expert `{expert}`")

        needed = batch if len(rows) == len(batch) else batch.take(rows)
        parts = bounded_parts(needed.lengths, self._limits)
        if len(parts) == 1:
            return await one_call(needed)
        answers = await asyncio.gather(*(one_call(needed.take(part)) for part in parts))
        return np.concatenate(answers)


def bounded_parts(lengths: NDArray[np.int64], limits: CallLimits) -> list[NDArray[np.int64]]:
    """Cut N rows into runs of consecutive rows, each within the limits (a single longer row stands alone)."""

    def runs() -> Iterator[NDArray[np.int64]]:
        ends = np.cumsum(lengths, dtype=np.int64)
        start = 0
        while start < len(lengths):
            before = int(ends[start - 1]) if start else 0
            fits = int(np.searchsorted(ends, before + limits.max_tokens, side="right"))
            stop = min(max(fits, start + 1), start + limits.max_rows)
            yield np.arange(start, stop, dtype=np.int64)
            start = stop

    return list(runs())
