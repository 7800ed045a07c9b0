"""HandleScorer against handles that fail in every way a real one does; tests/cluster shows that these are the ways."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.serve.exceptions import BackPressureError, RayServeException
from serve_fakes import StageHandle, fake_scores, task_error

from sentiment.errors import ScorerRejected, ScorerUnavailable
from sentiment.records import Scores
from serve.client import MAX_CALL_CHARS, HandleScorer
from serve.retries import is_temporary

Outcome = Exception | Callable[[list[str]], object]


def scorer_of(*outcomes: Outcome, deadline_s: float = 20.0, **options: Any) -> tuple[HandleScorer, StageHandle]:
    handle = StageHandle(itertools.chain(outcomes, itertools.repeat(outcomes[-1])))
    fake: Any = handle
    return HandleScorer(fake, deadline_s=deadline_s, **options), handle


TEMPORARY = [
    ActorDiedError(),
    ActorUnavailableError("gone", None),
    BackPressureError(num_queued_requests=9, max_queued_requests=8),
    RayServeException("the application is being deployed"),
    task_error(ScorerUnavailable("expert `news` did not answer")),
    task_error(ActorDiedError()),
]


@pytest.mark.parametrize("error", TEMPORARY, ids=lambda error: type(error).__name__)
def test_what_passes_is_tried_again(error: Exception) -> None:
    scorer, handle = scorer_of(error, error, fake_scores)
    scores = scorer.submit(["a", "bb"]).result(timeout=20)
    np.testing.assert_array_equal(scores.probabilities, fake_scores(["a", "bb"]).probabilities)
    assert len(handle.calls) == 3
    scorer.close()


@pytest.mark.parametrize("error", TEMPORARY, ids=lambda error: type(error).__name__)
def test_what_does_not_pass_in_time_is_unavailable(error: Exception) -> None:
    scorer, handle = scorer_of(error, deadline_s=0.2)
    with pytest.raises(ScorerUnavailable):
        scorer.submit(["a"]).result(timeout=20)
    assert len(handle.calls) > 1
    scorer.close()


@pytest.mark.parametrize("cause", [ValueError("bad row"), TimeoutError("in user code"), KeyError("x")])
def test_a_fault_of_the_scoring_code_is_rejected_at_once(cause: Exception) -> None:
    errors: list[Exception] = [task_error(cause)]
    if not isinstance(cause, TimeoutError):
        errors.append(cause)  # over gRPC it arrives bare
    for error in errors:
        scorer, handle = scorer_of(error)
        with pytest.raises(ScorerRejected):
            scorer.submit(["a"]).result(timeout=20)
        assert len(handle.calls) == 1
        scorer.close()


@pytest.mark.parametrize("answer", [lambda texts: fake_scores(texts[1:]), lambda _: None])
def test_an_answer_of_another_length_is_never_passed_on(answer: Callable[[list[str]], object]) -> None:
    scorer, _ = scorer_of(answer)
    with pytest.raises(ScorerRejected, match="2 rows sent"):
        scorer.submit(["a", "b"]).result(timeout=20)
    scorer.close()


def test_large_calls_are_cut_and_put_together_in_order() -> None:
    scorer, handle = scorer_of(fake_scores, max_call_rows=3)
    texts = ["x" * length for length in range(1, 9)]
    scores = scorer.submit(texts).result(timeout=20)
    np.testing.assert_array_equal(scores.probabilities, fake_scores(texts).probabilities)
    assert [len(call) for call in handle.calls] == [3, 3, 2]
    scorer.close()


def test_long_texts_are_cut_by_characters() -> None:
    scorer, handle = scorer_of(fake_scores)
    texts = ["x" * (MAX_CALL_CHARS // 2)] * 3 + ["y" * (MAX_CALL_CHARS + 1)]
    scorer.submit(texts).result(timeout=20)
    assert [len(call) for call in handle.calls] == [2, 1, 1]
    scorer.close()


def test_two_bundles_never_share_one_answer() -> None:
    def other_bundle(texts: list[str]) -> Scores:
        scores = fake_scores(texts)
        return Scores(
            probabilities=scores.probabilities,
            gate=scores.gate,
            expert=scores.expert,
            experts_run=scores.experts_run,
            disagreement=scores.disagreement,
            experts=scores.experts,
            bundle_id="another",
        )

    scorer, _ = scorer_of(fake_scores, other_bundle, max_call_rows=1)
    with pytest.raises(ScorerUnavailable, match="bundle changed"):
        scorer.submit(["a", "b"]).result(timeout=20)
    scorer.close()


def test_close_lets_go_of_calls_that_wait() -> None:
    waiting = threading.Event()

    def never(timeout_s: float) -> object:
        waiting.set()
        raise TimeoutError

    silent: Any = SimpleNamespace(
        is_initialized=True,
        score=SimpleNamespace(remote=lambda _: SimpleNamespace(result=never, cancel=lambda: None)),
    )
    scorer = HandleScorer(silent, deadline_s=600.0, calls=1)
    futures = [scorer.submit(["a"]) for _ in range(3)]
    assert waiting.wait(10)
    scorer.close()
    for future in [*futures, scorer.submit(["too late"])]:
        with pytest.raises(ScorerUnavailable):
            future.result(timeout=10)


def test_errors_of_our_own_code_are_not_temporary() -> None:
    assert not is_temporary(ValueError())
    assert not is_temporary(ScorerRejected("rows"))
    assert is_temporary(ConnectionError()) is False
