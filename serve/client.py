"""HandleScorer: futures of Scores from a DeploymentHandle[Any], for plain threads in a driver or a Ray actor."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from ray.exceptions import RayTaskError

from sentiment.errors import ScorerRejected, ScorerUnavailable
from sentiment.records import Scores
from serve.retries import describe, is_temporary, pauses

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

MAX_CALL_CHARS = 500_000
"""Most characters in one call: at 4 bytes each half of gRPC's 4 MB limit [characters]"""
_LOOK_S = 0.5
"""How often a waiting thread looks whether it should stop [s]"""


class HandleScorer:
    """Scores texts through the router stage; calls are made again after temporary errors, until a deadline."""

    def __init__(
        self, handle: DeploymentHandle[Any], *, deadline_s: float = 60.0, calls: int = 8, max_call_rows: int = 1_024
    ) -> None:
        """Wrap a handle.

        Args:
            handle: of the router stage, as `serve.get_app_handle` or `deploy` return it.
            deadline_s: how long one `submit` is tried before ScorerUnavailable [s].
            calls: most calls in flight; further ones wait their turn.
            max_call_rows: most rows in one call; more are cut.
        """
        self._handle: Any = for_threads(handle)
        self._deadline_s = deadline_s
        self._max_call_rows = max_call_rows
        self._closing = threading.Event()
        self._threads = ThreadPoolExecutor(max_workers=calls, thread_name_prefix="scorer")

    def submit(self, texts: Sequence[str]) -> Future[Scores]:
        """Scores of N texts, in their order, later.

        The future raises ScorerUnavailable (send the rows again later) or ScorerRejected (the scorer answers, but not
        for these rows: bisect).
        """
        try:
            return self._threads.submit(self._score, list(texts))
        except RuntimeError as closed:  # the pool takes nothing after `close`
            future: Future[Scores] = Future()
            future.set_exception(ScorerUnavailable(f"the scorer is closed ({closed})"))
            return future

    def close(self) -> None:
        """Let go: waiting calls end with ScorerUnavailable, none is started any more."""
        self._closing.set()
        self._threads.shutdown(wait=True)

    def _score(self, texts: list[str]) -> Scores:
        deadline = time.monotonic() + self._deadline_s
        return concatenate_scores([self._call(part, deadline) for part in self._parts(texts)])

    def _parts(self, texts: list[str]) -> list[list[str]]:
        parts: list[list[str]] = [[]]
        chars = 0
        for text in texts:
            if parts[-1] and (len(parts[-1]) >= self._max_call_rows or chars + len(text) > MAX_CALL_CHARS):
                parts.append([])
                chars = 0
            parts[-1].append(text)
            chars += len(text)
        return parts

    def _call(self, texts: list[str], deadline: float) -> Scores:
        for pause in pauses():
            if self._closing.is_set():
                raise ScorerUnavailable(f"the scorer is closed; {len(texts)} rows were not scored")
            try:
                return self._one_call(texts, deadline)
            except ScorerRejected:
                raise
            except Exception as error:  # over gRPC the replica's own exception arrives as it was raised
                if not is_temporary(error):
                    raise ScorerRejected(f"{len(texts)} rows: {describe(error)}") from error
                if time.monotonic() + pause >= deadline or self._closing.wait(pause):
                    raise ScorerUnavailable(f"no answer for {len(texts)} rows: {describe(error)}") from error
        raise AssertionError("pauses() never ends")

    def _one_call(self, texts: list[str], deadline: float) -> Scores:
        response = self._handle.score.remote(texts)
        while True:
            left = deadline - time.monotonic()
            try:
                answer = response.result(timeout_s=max(0.0, min(left, _LOOK_S)))
            except TimeoutError as error:
                # Ours, unless the replica's own code raised one: that one comes wrapped.
                if left > _LOOK_S and not self._closing.is_set() and not isinstance(error, RayTaskError):
                    continue
                response.cancel()
                raise
            if not isinstance(answer, Scores) or len(answer) != len(texts):
                raise ScorerRejected(f"{len(texts)} rows sent, the answer is {describe_answer(answer)}")
            return answer


def for_threads(handle: DeploymentHandle[Any]) -> DeploymentHandle[Any]:
    """The handle, able to be called from threads without an event loop.

    Under RAY_SERVE_THROUGHPUT_OPTIMIZED handles run on the caller's event loop, which a plain thread does not have.
    """
    unlocked: Any = handle
    if not unlocked.is_initialized:
        unlocked._init(_run_router_in_separate_loop=True)
    return handle


def describe_answer(answer: object) -> str:
    """What came instead of one row per text."""
    return f"{len(answer)} rows" if isinstance(answer, Scores) else type(answer).__name__


def concatenate_scores(parts: Sequence[Scores]) -> Scores:
    """One answer from the answers to consecutive parts.

    Raises:
        ScorerUnavailable: the bundle changed between the parts; asked again, all come from the new one.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    if any(part.bundle_id != first.bundle_id for part in parts):
        raise ScorerUnavailable("the bundle changed between two parts of one answer; send the rows again")
    return Scores(
        probabilities=np.concatenate([part.probabilities for part in parts]),
        gate=np.concatenate([part.gate for part in parts]),
        expert=np.concatenate([part.expert for part in parts]),
        experts_run=np.concatenate([part.experts_run for part in parts]),
        disagreement=np.concatenate([part.disagreement for part in parts]),
        experts=first.experts,
        bundle_id=first.bundle_id,
    )
