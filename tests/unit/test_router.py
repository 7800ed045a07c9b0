from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from random_mixture import BUCKETS, VOCABULARY, random_texts

from sentiment.model.inputs import pad_batch
from sentiment.model.router import MIN_TEMPERATURE, Router, RouterModel, RouterSettings, read_router, write_router

SETTINGS = RouterSettings(hidden=16, ngram_buckets=BUCKETS, ngram_dim=8)


def make_router(experts: int = 2) -> Router:
    torch.manual_seed(0)
    router = Router(torch.randn(VOCABULARY, 12) * 0.02, experts, SETTINGS)
    torch.nn.init.normal_(router.ngrams.weight)  # a new one is all zeros
    return router


def test_different_texts_get_different_gates() -> None:
    gate = RouterModel(make_router()).gate(random_texts(32))
    assert len(np.unique(gate.round(5), axis=0)) == 32
    assert gate.std(0).min() > 0.01
    np.testing.assert_allclose(gate.sum(1), 1, atol=1e-6)


@pytest.mark.parametrize("part", ["token_ids", "ngram_ids"])
def test_tokens_and_ngrams_each_move_the_gate(part: str) -> None:
    model, texts = RouterModel(make_router()), random_texts(16)
    before = model.gate(texts)
    getattr(texts, part)[:] = getattr(texts, part)[::-1].copy()
    assert np.abs(model.gate(texts) - before).max() > 0.01


def test_a_gate_does_not_depend_on_padding_order_or_neighbours() -> None:
    router, texts = make_router(), random_texts(16)
    model = RouterModel(router)
    gate = model.gate(texts)
    alone = np.concatenate([model.gate(texts.take([index])) for index in range(16)])
    np.testing.assert_allclose(gate, alone, atol=1e-6)
    order = np.random.default_rng(3).permutation(16)
    np.testing.assert_allclose(model.gate(texts.take(order)), gate[order], atol=1e-6)
    with torch.no_grad():  # the training path, padded with a real token's id
        padded = router(pad_batch(texts, pad_id=7)).softmax(1).numpy()
    np.testing.assert_allclose(padded, gate, atol=1e-6)


def test_the_prior_offset_multiplies_the_odds() -> None:
    router, texts = make_router(), random_texts(8)
    before = RouterModel(router).gate(texts).astype(np.float64)
    router.set_prior(sampled=np.array([0.5, 0.5]), true=np.array([0.995, 0.005]))
    after = RouterModel(router).gate(texts).astype(np.float64)
    odds = (after[:, 0] / after[:, 1]) / (before[:, 0] / before[:, 1])
    np.testing.assert_allclose(odds, 199.0, rtol=1e-3)


def test_the_temperature_has_a_floor() -> None:
    router, texts = make_router(), random_texts(8)
    with torch.no_grad():
        router.temperature.fill_(MIN_TEMPERATURE)
        floor = RouterModel(router).gate(texts)
        router.temperature.fill_(-3.0)
        np.testing.assert_array_equal(RouterModel(router).gate(texts), floor)
        router.temperature.fill_(2.0)
        assert np.abs(RouterModel(router).gate(texts) - floor).max() > 0.01


def test_a_stored_router_is_the_same_router(tmp_path: Path) -> None:
    router, texts = make_router(experts=3), random_texts(8)
    router.set_prior(np.array([0.2, 0.3, 0.5]), np.array([0.6, 0.3, 0.1]))
    write_router(router, tmp_path / "router.safetensors")
    again = read_router(tmp_path / "router.safetensors")
    assert again.settings == router.settings
    np.testing.assert_array_equal(RouterModel(again).gate(texts), RouterModel(router).gate(texts))


def test_the_token_table_is_a_copy_that_never_trains() -> None:
    table = torch.randn(VOCABULARY, 12)
    router = Router(table, 2, SETTINGS)
    stored = router.tokens.weight.clone()
    table.zero_()
    assert torch.equal(router.tokens.weight, stored)
    assert not router.tokens.weight.requires_grad
