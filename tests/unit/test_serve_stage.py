"""The router stage with real models, without Ray: the scores of the in-process predictor, whatever is cut how."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import ActorUnavailableError, RayTaskError
from serve_fakes import ReplicaHandle, task_error
from small_bundle import EXPERTS, TEXTS, make_small_bundle

from sentiment.batching import EncodedTexts
from sentiment.bundle import Bundle
from sentiment.errors import BundleError, ScorerUnavailable
from sentiment.model.predict import MixturePredictor
from sentiment.records import Scores
from serve.replica import ExpertReplica
from serve.router_stage import RouterStage, StageLimits
from serve.served_bundle import CallLimits, ServedBundle, bounded_parts


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_small_bundle(tmp_path_factory.mktemp("bundle") / "b")


def many_texts(count: int) -> list[str]:
    generator = random.Random(7)
    return [" ".join(generator.choices(TEXTS, k=generator.randint(1, 4))) for _ in range(count)]


def stage_of(bundle: Bundle, **limits: Any) -> tuple[RouterStage, dict[str, ReplicaHandle]]:
    where: Any = {"bundle_path": str(bundle.path), "bundle_id": bundle.manifest.bundle_id}
    handles = {name: ReplicaHandle(ExpertReplica(**where, expert=name, max_padded_tokens=256)) for name in EXPERTS}
    experts: dict[str, Any] = dict(handles)
    return RouterStage(**where, experts=experts, limits=StageLimits(calls=CallLimits(**limits))), handles


def assert_same(left: Scores, right: Scores) -> None:
    np.testing.assert_allclose(left.probabilities, right.probabilities, atol=1e-5)
    np.testing.assert_allclose(left.gate, right.gate, atol=1e-5)
    np.testing.assert_array_equal(left.experts_run, right.experts_run)
    np.testing.assert_array_equal(left.expert, right.expert)
    np.testing.assert_allclose(left.disagreement, right.disagreement, atol=1e-5)
    assert (left.experts, left.bundle_id) == (right.experts, right.bundle_id)


@pytest.mark.parametrize("limits", [{}, {"max_rows": 7}, {"max_tokens": 60}, {"max_rows": 1}])
def test_serving_equals_the_in_process_predictor(bundle: Bundle, limits: dict[str, int]) -> None:
    texts = many_texts(300)
    stage, _ = stage_of(bundle, **limits)
    scores = asyncio.run(stage.score(texts))
    expected = MixturePredictor(bundle).score(texts)
    assert_same(scores, expected)
    assert set(scores.experts_run.tolist()) == {1, 2}, "the texts must exercise both routes"
    assert set(scores.expert.tolist()) == {0, 1}


def test_every_text_alone_scores_as_in_a_batch(bundle: Bundle) -> None:
    stage, _ = stage_of(bundle)

    async def both() -> tuple[Scores, list[Scores]]:
        return await stage.score(TEXTS), [await stage.score([text]) for text in TEXTS]

    batch, singles = asyncio.run(both())
    for row, single in enumerate(singles):
        np.testing.assert_allclose(single.probabilities[0], batch.probabilities[row], atol=1e-5)


def test_only_the_experts_that_are_needed_are_asked(bundle: Bundle) -> None:
    stage, handles = stage_of(bundle)
    expected = MixturePredictor(bundle).score(TEXTS)
    sure = [row for row in range(len(TEXTS)) if expected.experts_run[row] == 1]
    assert sure
    for row in sure:
        for handle in handles.values():
            handle.batches.clear()
        asyncio.run(stage.score([TEXTS[row]]))
        asked = [name for name, handle in handles.items() if handle.batches]
        assert asked == [EXPERTS[expected.expert[row]]]


def test_no_text_gives_no_scores(bundle: Bundle) -> None:
    stage, handles = stage_of(bundle)
    scores = asyncio.run(stage.score([]))
    assert (len(scores), scores.gate.shape) == (0, (0, 2))
    assert not any(handle.batches for handle in handles.values())


def test_http_answers_with_the_models_scores(bundle: Bundle) -> None:
    stage, _ = stage_of(bundle)
    client = TestClient(stage.__serve_build_asgi_app__())
    answer = client.post("/v1/score", json={"texts": TEXTS}).json()
    expected = MixturePredictor(bundle).score(TEXTS)
    assert answer["bundle_id"] == bundle.manifest.bundle_id
    positive = [row["probabilities"]["positive"] for row in answer["results"]]
    np.testing.assert_allclose(positive, expected.probabilities[:, 2], atol=1e-5)
    assert client.get("/v1/model").json()["max_length"] == bundle.manifest.max_length


def test_another_bundle_at_the_same_path_is_refused(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="was deployed"):
        ExpertReplica(bundle_path=str(bundle.path), bundle_id="f" * 16, expert="news")
    with pytest.raises(BundleError, match="was deployed"):
        RouterStage(bundle_path=str(bundle.path), bundle_id="f" * 16, experts={})


def served(bundle: Bundle, call: Callable[[EncodedTexts], Awaitable[Any]], deadline_s: float) -> ServedBundle:
    return ServedBundle(
        bundle,
        dict.fromkeys(EXPERTS, call),
        limits=CallLimits(deadline_s=deadline_s),
        thread=ThreadPoolExecutor(max_workers=1),
    )


def test_a_replica_that_dies_is_asked_again(bundle: Bundle) -> None:
    failures = iter([ActorUnavailableError("gone", None), TimeoutError()])
    asked = 0

    async def call(batch: EncodedTexts) -> Any:
        nonlocal asked
        asked += 1
        for failure in failures:
            raise failure
        return np.zeros((len(batch), 3), np.float32)

    scores = asyncio.run(served(bundle, call, 30.0).score(TEXTS))
    assert len(scores) == len(TEXTS)
    assert asked >= 4


def test_a_replica_that_stays_away_is_unavailable(bundle: Bundle) -> None:
    async def gone(_: EncodedTexts) -> Any:
        raise ActorUnavailableError("gone", None)

    async def silent(_: EncodedTexts) -> Any:
        await asyncio.sleep(60)

    for call in (gone, silent):
        with pytest.raises(ScorerUnavailable, match="expert `"):
            asyncio.run(served(bundle, call, 0.3).score(TEXTS))


def test_a_fault_of_the_model_is_not_tried_again(bundle: Bundle) -> None:
    asked = 0

    async def faulty(_: EncodedTexts) -> Any:
        nonlocal asked
        asked += 1
        raise task_error(ValueError("bad row"))

    with pytest.raises(RayTaskError):
        asyncio.run(served(bundle, faulty, 30.0).score([TEXTS[0]]))
    assert asked <= len(EXPERTS)


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 10), st.integers(1, 120))
def test_calls_are_cut_within_their_bounds(lengths: list[int], max_rows: int, max_tokens: int) -> None:
    parts = bounded_parts(np.array(lengths, np.int64), CallLimits(max_rows=max_rows, max_tokens=max_tokens))
    assert [row for part in parts for row in part.tolist()] == list(range(len(lengths)))
    for part in parts:
        assert 1 <= len(part) <= max_rows
        assert len(part) == 1 or sum(lengths[row] for row in part) <= max_tokens


def test_a_short_call_overtakes_a_long_one(bundle: Bundle, tmp_path: Path) -> None:
    """Calls take turns between micro-batches: one text does not wait until a thousand are done."""
    stage, _ = stage_of(bundle)

    async def race() -> list[str]:
        done: list[str] = []

        async def run(name: str, texts: list[str]) -> None:
            await stage.score(texts)
            done.append(name)

        long = asyncio.create_task(run("long", many_texts(1_500)))
        await asyncio.sleep(0.02)
        await asyncio.gather(long, run("short", TEXTS[:1]))
        return done

    assert asyncio.run(race()) == ["short", "long"]
