"""Scorers for tests of the stream: fast, deterministic, with faults on demand. The protocol is what is tested."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from sentiment.records import Scores

EXPERTS = ("news", "forum")


def scores_of(texts: Sequence[str], bundle_id: str = "test-bundle") -> Scores:
    """Scores that depend on the text alone, so that a test can tell one row's from another's."""
    raw = np.array([list(hashlib.blake2b(text.encode(), digest_size=4).digest()) for text in texts], np.float64)
    weights = raw[:, :3] + 1.0
    probabilities = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    gate = np.stack([raw[:, 3] / 255, 1 - raw[:, 3] / 255], axis=1).astype(np.float32)
    return Scores(
        probabilities=probabilities,
        gate=gate,
        expert=gate.argmax(axis=1).astype(np.int8),
        experts_run=np.ones(len(texts), np.int8),
        disagreement=np.full(len(texts), np.nan, np.float32),
        experts=EXPERTS,
        bundle_id=bundle_id,
    )


class TestScorer:
    """Answers from threads, so that calls finish out of order; `before` may raise or wait for a call's texts."""

    __test__ = False

    def __init__(self, before: Callable[[Sequence[str]], None] | None = None, bundle_id: str = "test-bundle") -> None:
        self._before = before
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="test-scorer")
        self.bundle_id = bundle_id
        self.calls = 0

    def submit(self, texts: Sequence[str]) -> Future[Scores]:
        self.calls += 1
        return self._pool.submit(self._score, list(texts))

    def _score(self, texts: list[str]) -> Scores:
        if self._before is not None:
            self._before(texts)
        return scores_of(texts, self.bundle_id)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


class NullScorer:
    """Answers at once with constants: what remains is the stream's own cost."""

    def __init__(self) -> None:
        self._made: dict[int, Scores] = {}

    def submit(self, texts: Sequence[str]) -> Future[Scores]:
        future: Future[Scores] = Future()
        if len(texts) not in self._made:
            self._made[len(texts)] = scores_of(["constant"] * len(texts))
        future.set_result(self._made[len(texts)])
        return future

    def close(self) -> None:
        """Nothing is in flight."""


class ScoringStage:
    """What `serve.app` would deploy, without a model. It is here because replicas import it by this module's name."""

    async def score(self, texts: list[str]) -> Scores:
        return scores_of(texts)
