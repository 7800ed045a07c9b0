"""Who turns texts into scores: the protocol, and the scorer over HTTP for a process without ray and torch.

A future's error says what to do with the rows: ScorerUnavailable - keep them and send them again; ScorerRejected - the
scorer works but not on these, so bisect. Anything else is a defect and ends the worker; nothing is lost by that.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from http import HTTPStatus
from typing import Any, Final, Protocol

import httpx
import numpy as np
import orjson
import stamina

from sentiment.errors import ScorerRejected, ScorerUnavailable
from sentiment.labels import LABELS
from sentiment.records import Scores

ATTEMPTS: Final = 3
"""tries within one call, for a connection that breaks; longer outages are the stream's to wait out"""
# These say "not now" or "not here yet" and nothing about the rows. 500 may be a row's fault: it is bisected, and the
# known-good row decides.
_NOT_NOW: Final = frozenset(
    {
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)


class Scorer(Protocol):
    """Scores texts, several calls at a time."""

    def submit(self, texts: Sequence[str]) -> Future[Scores]:
        """Score `texts`, N at least one; the future holds N scores in the same order.

        The future raises ScorerUnavailable or ScorerRejected; `submit` itself does not raise them.
        """
        ...

    def close(self) -> None:
        """Give up what is in flight."""
        ...


class HttpScorer:
    """A Scorer that talks to `POST <url>/v1/score`."""

    def __init__(self, url: str, *, timeout_s: float = 60.0, calls_in_flight: int = 8) -> None:
        limits = httpx.Limits(max_connections=calls_in_flight)
        self._client = httpx.Client(base_url=url.rstrip("/"), timeout=timeout_s, limits=limits)
        self._pool = ThreadPoolExecutor(calls_in_flight, thread_name_prefix="http-scorer")
        self._experts: dict[str, tuple[str, ...]] = {}

    def submit(self, texts: Sequence[str]) -> Future[Scores]:
        """See Scorer.submit."""
        return self._pool.submit(self._score, list(texts))

    def close(self) -> None:
        """See Scorer.close."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _score(self, texts: list[str]) -> Scores:
        answer = self._call("POST", "/v1/score", orjson.dumps({"texts": texts}))
        results = answer["results"]
        if len(results) != len(texts):
            raise ScorerUnavailable(f"{len(results)} results for {len(texts)} texts")
        return scores_from_json(answer, self._experts_of(answer["bundle_id"]))

    def _experts_of(self, bundle_id: str) -> tuple[str, ...]:
        """The experts of a bundle in order, asked for once per bundle."""
        if bundle_id not in self._experts:
            model = self._call("GET", "/v1/model", None)
            if model["bundle_id"] != bundle_id:  # swapped between the two calls: score again with the new one
                raise ScorerUnavailable("the bundle was just swapped")
            self._experts[bundle_id] = tuple(model["experts"])
        return self._experts[bundle_id]

    def _call(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        try:
            for attempt in stamina.retry_context(on=_is_transient, attempts=ATTEMPTS, wait_initial=0.1, wait_max=1.0):
                with attempt:
                    response = self._client.request(
                        method, path, content=body, headers={"Content-Type": "application/json"}
                    )
                    if response.status_code in _NOT_NOW:
                        response.raise_for_status()
        except (httpx.HTTPError, httpx.InvalidURL, RuntimeError) as error:
            raise ScorerUnavailable(f"{method} {path}: {type(error).__name__}: {error}") from error
        if response.is_error:
            raise ScorerRejected(f"{method} {path}: HTTP {response.status_code}: {response.text[:200]}")
        try:
            parsed: dict[str, Any] = orjson.loads(response.content)
        except orjson.JSONDecodeError as error:
            raise ScorerUnavailable(f"{method} {path}: the answer is not JSON: {error}") from error
        return parsed


def scores_from_json(answer: dict[str, Any], experts: tuple[str, ...]) -> Scores:
    """The Scores behind the JSON answer of `/v1/score`.

    Raises:
        ScorerUnavailable: the answer lacks a field or names an unknown expert, so the two versions do not fit.
    """
    results = answer["results"]
    place = {name: index for index, name in enumerate(experts)}
    try:
        return Scores(
            probabilities=np.array([[row["probabilities"][label] for label in LABELS] for row in results], np.float32),
            gate=np.array([[row["gate"][name] for name in experts] for row in results], np.float32),
            expert=np.array([place[row["expert"]] for row in results], np.int8),
            experts_run=np.array([row["experts_run"] for row in results], np.int8),
            disagreement=np.array([_or_nan(row["disagreement"]) for row in results], np.float32),
            experts=experts,
            bundle_id=str(answer["bundle_id"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ScorerUnavailable(f"the scorer's answer is of another version: {error!r}") from error


def _or_nan(raw: float | None) -> float:
    return float("nan") if raw is None else raw


def _is_transient(error: Exception) -> bool:
    # A timeout already took its time; trying again within the call would only pile up work.
    return isinstance(error, httpx.TransportError) and not isinstance(error, httpx.TimeoutException)
