"""The HTTP scorer: what each answer of a server means for the rows."""

from __future__ import annotations

import numpy as np
import orjson
import pytest
from http_scorer import answer, scoring_server
from stream_scorers import EXPERTS, scores_of

from sentiment.errors import ScorerRejected, ScorerUnavailable
from streaming.scorer import HttpScorer

TEXTS = ["up 12%", "a lawsuit", "unchanged"]


def test_scores_come_back_as_the_server_made_them() -> None:
    with scoring_server() as url:
        scorer = HttpScorer(url)
        scores = scorer.submit(TEXTS).result(timeout=10)
        scorer.close()
    expected = scores_of(TEXTS)
    assert scores.experts == EXPERTS
    assert scores.bundle_id == "test-bundle"
    np.testing.assert_allclose(scores.probabilities, expected.probabilities, atol=1e-6)
    np.testing.assert_allclose(scores.gate, expected.gate, atol=1e-6)
    np.testing.assert_array_equal(scores.expert, expected.expert)
    assert np.isnan(scores.disagreement).all()


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (503, ScorerUnavailable),
        (429, ScorerUnavailable),
        (404, ScorerUnavailable),
        (502, ScorerUnavailable),
        (413, ScorerRejected),
        (422, ScorerRejected),
        (500, ScorerRejected),
    ],
)
def test_a_status_says_whether_to_wait_or_to_bisect(status: int, expected: type[Exception]) -> None:
    with scoring_server(lambda texts: (status, b'{"error": {}}')) as url:
        scorer = HttpScorer(url)
        with pytest.raises(expected):
            scorer.submit(TEXTS).result(timeout=10)
        scorer.close()


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        orjson.dumps({**answer(TEXTS), "results": answer(TEXTS)["results"][:2]}),
        orjson.dumps({"bundle_id": "test-bundle", "results": [{"label": "neutral"}] * 3}),
    ],
    ids=["not JSON", "too few results", "another version"],
)
def test_an_answer_that_cannot_be_read_keeps_the_rows(body: bytes) -> None:
    with scoring_server(lambda texts: (200, body)) as url:
        scorer = HttpScorer(url)
        with pytest.raises(ScorerUnavailable):
            scorer.submit(TEXTS).result(timeout=10)
        scorer.close()


def test_nobody_there_is_unavailable() -> None:
    scorer = HttpScorer("http://127.0.0.1:9", timeout_s=1)
    with pytest.raises(ScorerUnavailable):
        scorer.submit(TEXTS).result(timeout=20)
    scorer.close()


def test_a_dropped_connection_is_tried_again_within_the_call() -> None:
    calls = []

    def flaky(texts: list[str]) -> tuple[int, bytes]:
        calls.append(texts)
        if len(calls) == 1:
            raise ConnectionResetError
        return 200, orjson.dumps(answer(texts))

    with scoring_server(flaky) as url:
        scorer = HttpScorer(url)
        assert len(scorer.submit(TEXTS).result(timeout=10)) == 3
        scorer.close()
    assert len(calls) == 2
