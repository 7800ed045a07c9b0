"""The joint layer under a one-hot gate, the merged expert in serving and a plain peft adapter are the same function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from random_mixture import ARCHITECTURES, DECODERS, EXPERTS, random_backbone, random_mixture, random_texts

from sentiment.batching import EncodedTexts
from sentiment.model.adapter import merge_adapter, write_adapter
from sentiment.model.backbone import load_backbone, pool
from sentiment.model.expert import Expert, ExpertModel, Head, read_head, write_head
from sentiment.model.inputs import pad_batch
from sentiment.model.mixture import Mixture

TOLERANCE = 1e-5


def joint_logits(mixture: Mixture, texts: EncodedTexts, experts: torch.Tensor) -> np.ndarray:
    """Logits of the chosen expert of each text, all texts in one batch under one-hot gates."""
    gate = torch.nn.functional.one_hot(experts, EXPERTS).float()
    with torch.inference_mode():
        output = mixture(pad_batch(texts), gate)
    return output.expert_logits[torch.arange(len(texts)), experts].numpy()


def plain_peft_logits(base: Path, adapter: Path, head: Head, texts: EncodedTexts) -> np.ndarray:
    """What somebody with peft and our files alone gets: unmerged, one text at a time, no padding."""
    backbone = load_backbone(base)
    model: Any = PeftModel.from_pretrained(backbone.encoder, adapter).eval()
    rows = []
    with torch.inference_mode():
        for index in range(len(texts)):
            batch = pad_batch(texts.take([index]))
            hidden = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
            pooled = pool(hidden, batch.attention_mask, backbone.pooling)
            if backbone.ngrams is not None:
                pooled = torch.cat([pooled, backbone.ngrams(batch.ngram_ids, batch.ngram_offsets)], dim=1)
            rows.append(head(pooled)[0].numpy())
    return np.stack(rows)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_joint_layer_merged_expert_and_plain_peft_give_the_same_logits(architecture: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    mixture = random_mixture(tmp_path, architecture)
    texts = random_texts(12)
    experts = torch.arange(len(texts)) % EXPERTS  # both experts in one batch
    joint = joint_logits(mixture, texts, experts)
    bare = ExpertModel(Expert(load_backbone(tmp_path / "base"), mixture.expert_head(0))).logits(texts)
    for expert in range(EXPERTS):
        directory = tmp_path / f"export{expert}"
        write_adapter(mixture.expert_adapter(expert), directory, "base")
        write_head(mixture.expert_head(expert), directory)
        head = read_head(directory)
        backbone = load_backbone(tmp_path / "base")
        merge_adapter(backbone.encoder, mixture.expert_adapter(expert))
        merged = ExpertModel(Expert(backbone, head)).logits(texts)
        plain = plain_peft_logits(tmp_path / "base", directory, head, texts)
        rows = np.flatnonzero(experts.numpy() == expert)
        np.testing.assert_allclose(joint[rows], merged[rows], atol=TOLERANCE)
        np.testing.assert_allclose(plain, merged, atol=TOLERANCE)
        assert np.abs(merged - bare).max() > 0.05, "an adapter that changes nothing would pass the rest"


def test_experts_of_one_mixture_differ(tmp_path: Path) -> None:
    torch.manual_seed(0)
    mixture = random_mixture(tmp_path)
    texts = random_texts(8)
    first = joint_logits(mixture, texts, torch.zeros(8, dtype=torch.int64))
    second = joint_logits(mixture, texts, torch.ones(8, dtype=torch.int64))
    assert np.abs(first - second).max() > 0.05


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("budget", [1, 64, 10_000])
def test_batch_equals_single_in_any_order(architecture: str, budget: int) -> None:
    torch.manual_seed(0)
    backbone = random_backbone(architecture)
    model = ExpertModel(Expert(backbone, Head(backbone.features)))
    texts = random_texts(16)
    single = np.concatenate([model.logits(texts.take([index])) for index in range(len(texts))])
    assert single.std(0).min() > 0.01  # texts differ, so a mixed-up order would show
    order = np.random.default_rng(1).permutation(len(texts))
    np.testing.assert_allclose(model.logits(texts, budget), single, atol=TOLERANCE)
    np.testing.assert_allclose(model.logits(texts.take(order), budget), single[order], atol=TOLERANCE)


def test_no_texts_give_no_logits() -> None:
    backbone = random_backbone("bert")
    model = ExpertModel(Expert(backbone, Head(backbone.features)))
    assert model.logits(random_texts(0)).shape == (0, 3)


@pytest.mark.parametrize("architecture", DECODERS)
def test_last_real_token_is_found_by_the_mask_not_by_its_id(architecture: str) -> None:
    torch.manual_seed(0)
    expert = Expert(random_backbone(architecture), Head(32)).eval()
    texts = random_texts(6)
    texts.token_ids[texts.token_offsets[1:] - 1] = 9  # texts end in the pad id itself, as GLM-4's do
    with torch.inference_mode():
        padded = [expert(pad_batch(texts, pad_id=pad_id)).numpy() for pad_id in (0, 9, 50)]
        alone = np.concatenate([expert(pad_batch(texts.take([index]))).numpy() for index in range(6)])
    for logits in padded:
        np.testing.assert_allclose(logits, alone, atol=TOLERANCE)


def test_pooling_takes_the_last_token_with_padding_on_either_side() -> None:
    hidden = torch.arange(8.0).reshape(2, 4, 1)
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]])
    assert pool(hidden, mask, "last").flatten().tolist() == [1.0, 7.0]
    assert pool(hidden, mask, "mean").flatten().tolist() == [0.5, 6.5]
