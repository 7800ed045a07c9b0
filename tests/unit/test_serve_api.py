"""The HTTP interface over a stage that is not a model."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import pytest
from fastapi.testclient import TestClient
from serve_fakes import BUNDLE_ID, FakeStage, fake_scores

from sentiment.errors import ScorerUnavailable
from sentiment.records import Scores
from serve.api import create_api
from serve.http_answer import ErrorAnswer, ScoreAnswer, ScoreRequest, scores_json
from serve.http_request import HttpLimits
from serve.model_card import ModelCard
from streaming.scorer import scores_from_json

LIMITS = HttpLimits(max_texts=4, max_text_chars=100, max_body_bytes=1_000)


def client_of(stage: FakeStage) -> TestClient:
    return TestClient(create_api(stage, LIMITS), raise_server_exceptions=False)


def test_one_text_and_a_list_are_answered_alike() -> None:
    stage = FakeStage()
    client = client_of(stage)
    one = client.post("/v1/score", json={"texts": "profit up"})
    many = client.post("/v1/score", json={"texts": ["profit up", "down it goes"]})
    assert one.status_code == many.status_code == 200
    assert one.headers["content-type"] == "application/json"
    assert one.json()["results"] == many.json()["results"][:1]
    assert stage.calls == [["profit up"], ["profit up", "down it goes"]]
    answer = ScoreAnswer.model_validate_json(many.content)
    assert answer.bundle_id == BUNDLE_ID
    first = answer.results[0]
    assert (first.label, first.expert, first.experts_run, first.disagreement) == ("negative", "news", 1, None)
    assert first.probabilities.positive == pytest.approx(0.009)
    assert first.score == pytest.approx(0.009 - 0.741)
    assert first.confidence == pytest.approx(0.741)
    assert first.gate == {"news": 0.75, "forum": 0.25}


def test_json_carries_every_bit_of_the_scores() -> None:
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet([1, 1, 1], 50).astype(np.float32)
    scores = dataclasses.replace(
        fake_scores(["x"] * 50),
        probabilities=probabilities,
        gate=generator.dirichlet([1, 1], 50).astype(np.float32),
        disagreement=np.where(np.arange(50) % 2, generator.random(50), np.nan).astype(np.float32),
    )
    document = scores_json(scores)
    back = scores_from_json(orjson.loads(document), scores.experts)
    for field in ("probabilities", "gate", "expert", "experts_run", "disagreement"):
        np.testing.assert_array_equal(getattr(back, field), getattr(scores, field), err_msg=field)
    assert len(ScoreAnswer.model_validate_json(document).results) == 50


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b'{"texts": ["up", " "]}', 422, "texts[1]"),
        (b"nonsense", 400, "body"),
        (b'{"texts": "' + b"x" * 2_000 + b'"}', 413, "body"),
        (b'{"texts": ["a","a","a","a","a"]}', 413, "texts"),
    ],
)
def test_a_bad_request_never_reaches_the_model(body: bytes, status: int, field: str) -> None:
    stage = FakeStage()
    answer = client_of(stage).post("/v1/score", content=body)
    assert answer.status_code == status
    assert ErrorAnswer.model_validate_json(answer.content).error.field == field
    assert stage.calls == []


def test_a_scorer_that_does_not_answer_is_503_with_retry_after() -> None:
    answer = client_of(FakeStage(ScorerUnavailable("expert `news` did not answer"))).post(
        "/v1/score", json={"texts": "up"}
    )
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert "news" in ErrorAnswer.model_validate_json(answer.content).error.message


def test_a_fault_is_json_and_tells_no_internals() -> None:
    answer = client_of(FakeStage(RuntimeError("secret path /etc/x"))).post("/v1/score", json={"texts": "up"})
    assert answer.status_code == 500
    assert ErrorAnswer.model_validate_json(answer.content).error.field == "service"
    assert "secret" not in answer.text


def test_numbers_that_are_not_finite_are_never_answered() -> None:
    def broken(texts: Sequence[str]) -> Scores:
        return dataclasses.replace(fake_scores(texts), probabilities=np.full((len(texts), 3), np.nan, np.float32))

    answer = client_of(FakeStage(answer=broken)).post("/v1/score", json={"texts": "up"})
    assert answer.status_code == 500
    assert "NaN" not in answer.text
    assert "results" not in answer.json()


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nope", 404), ("GET", "/v1/score", 405)])
def test_a_wrong_path_or_method_is_json_too(method: str, path: str, status: int) -> None:
    answer = client_of(FakeStage()).request(method, path)
    assert answer.status_code == status
    assert path in ErrorAnswer.model_validate_json(answer.content).error.message


def test_model_and_health() -> None:
    client = client_of(FakeStage())
    card = ModelCard.model_validate_json(client.get("/v1/model").content)
    assert (card.bundle_id, card.experts, card.labels) == (
        BUNDLE_ID,
        ["news", "forum"],
        ["negative", "neutral", "positive"],
    )
    assert client.get("/healthz").json() == {"status": "ok", "bundle_id": BUNDLE_ID}


def test_openapi_is_complete_and_its_examples_run() -> None:
    client = client_of(FakeStage())
    document: dict[str, Any] = client.get("/openapi.json").json()
    assert set(document["paths"]) == {"/v1/score", "/v1/model", "/healthz"}
    score = document["paths"]["/v1/score"]["post"]
    assert {"200", "400", "413", "422", "503"} <= set(score["responses"])
    examples = score["requestBody"]["content"]["application/json"]["schema"]["examples"]
    assert examples
    for example in examples:
        ScoreRequest.model_validate(example)
        assert client.post("/v1/score", json=example).status_code == 200


def test_docs_need_no_other_machine() -> None:
    page = client_of(FakeStage()).get("/docs")
    assert page.status_code == 200
    assert "openapi.json" in page.text
    assert not re.search(r"http|(src|href)=.//|@import", page.text)
