"""Stand-ins for Ray Serve's handles and for the router stage, behind the same protocols."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from ray.exceptions import RayTaskError

from sentiment.records import Scores
from serve.model_card import Calibration, ModelCard

BUNDLE_ID = "0123456789abcdef"


def fake_scores(texts: Sequence[str]) -> Scores:
    """Scores that can be told apart: p_positive is the text's length over 1,000."""
    positive = np.array([len(text) / 1_000 for text in texts], np.float32)
    count = len(texts)
    return Scores(
        probabilities=np.stack([1 - positive - 0.25, np.full(count, 0.25), positive], axis=1).astype(np.float32),
        gate=np.tile(np.array([[0.75, 0.25]], np.float32), (count, 1)),
        expert=np.zeros(count, np.int8),
        experts_run=np.ones(count, np.int8),
        disagreement=np.full(count, np.nan, np.float32),
        experts=("news", "forum"),
        bundle_id=BUNDLE_ID,
    )


def task_error(cause: Exception) -> Exception:
    """What a caller gets when the replica's own code raised `cause`."""
    ray_error: Any = RayTaskError
    error: Exception = ray_error("score", "traceback", cause).as_instanceof_cause()
    return error


class FakeStage:
    """A router stage that answers `fake_scores`, or raises."""

    def __init__(self, error: Exception | None = None, answer: Callable[[Sequence[str]], Scores] = fake_scores) -> None:
        self.calls: list[list[str]] = []
        self._error = error
        self._answer = answer

    async def score(self, texts: Sequence[str]) -> Scores:
        self.calls.append(list(texts))
        if self._error is not None:
            raise self._error
        return self._answer(texts)

    def describe(self) -> ModelCard:
        return ModelCard(
            bundle_id=BUNDLE_ID,
            labels=["negative", "neutral", "positive"],
            experts=["news", "forum"],
            base={"kind": "tiny"},
            max_length=64,
            calibration=Calibration(temperature=1.0, threshold=0.9),
            metrics={"accuracy": {"news": 0.5}},
            knowledge_cutoff=None,
        )


class ReplicaHandle:
    """What a DeploymentHandle of an ExpertReplica looks like to the router stage."""

    def __init__(self, replica: Any) -> None:
        self.batches: list[int] = []
        self._replica = replica
        self.logits = SimpleNamespace(remote=self._remote)

    def _remote(self, batch: Any) -> Any:
        self.batches.append(len(batch))
        return self._replica.logits(batch)


class StageHandle:
    """A DeploymentHandle of the router stage whose answers are given one after another; an exception is raised."""

    is_initialized = True

    def __init__(self, outcomes: Iterator[Exception | Callable[[list[str]], object]]) -> None:
        self.calls: list[list[str]] = []
        self._outcomes = outcomes
        self.score = SimpleNamespace(remote=self._remote)

    def _remote(self, texts: list[str]) -> Any:
        self.calls.append(texts)
        outcome = next(self._outcomes)

        def result(timeout_s: float) -> object:
            assert timeout_s <= 0.5, "a thread must look often whether it should stop"
            if isinstance(outcome, Exception):
                raise outcome
            return outcome(texts)

        return SimpleNamespace(result=result, cancel=lambda: None)
