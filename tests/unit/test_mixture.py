"""Who learns when: warm-up leaves adapters and base byte-identical, joint training moves every expert."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from random_mixture import EXPERTS, random_mixture, random_texts
from torch import Tensor

from sentiment.batching import EncodedTexts
from sentiment.model.inputs import TextBatch, pad_batch
from sentiment.model.lora import gated_layers
from sentiment.model.mixture import Mixture, MixtureOutput, straight_through

ROWS = 16


def labelled_batch() -> tuple[TextBatch, Tensor, Tensor]:
    """Two domains that share no token and no n-gram bucket, with random labels."""
    texts = random_texts(ROWS)
    domain = np.arange(ROWS) % EXPERTS
    tokens = 1 + (texts.token_ids - 1) // 2 * 2 + np.repeat(domain, texts.lengths).astype(np.int32)
    ngrams = texts.ngram_ids // 2 * 2 + np.repeat(domain, np.diff(texts.ngram_offsets)).astype(np.int32)
    texts = EncodedTexts(tokens, texts.token_offsets, ngrams, texts.ngram_offsets)
    labels = np.random.default_rng(2).integers(0, 3, ROWS)
    return pad_batch(texts), torch.from_numpy(domain), torch.from_numpy(labels)


def loss_of(output: MixtureOutput, domain: Tensor, labels: Tensor) -> Tensor:
    task = -output.probabilities[torch.arange(ROWS), labels].log().mean()
    return task + torch.nn.functional.cross_entropy(output.router_logits, domain)


def snapshot(mixture: Mixture) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in mixture.state_dict().items()}


def train(mixture: Mixture, steps: int, lr: float) -> None:
    batch, domain, labels = labelled_batch()
    parameters = [parameter for parameter in mixture.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=lr)
    mixture.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(mixture(batch), domain, labels).backward()
        optimizer.step()


def test_warm_up_moves_only_the_router_then_joint_training_moves_every_expert(tmp_path: Path) -> None:
    torch.manual_seed(0)
    mixture = random_mixture(tmp_path, domain_dropout=0.4)
    start = snapshot(mixture)

    mixture.freeze_for_warmup()
    train(mixture, steps=40, lr=0.02)
    warm = snapshot(mixture)
    learned = {name for name in start if start[name] != warm[name]}
    frozen_in_router = {"router.tokens.weight", "router.prior_offset"}
    assert learned == {name for name in start if name.startswith("router.")} - frozen_in_router
    batch, domain, _ = labelled_batch()
    chosen = mixture.eval()(batch).gate.argmax(1)
    assert torch.equal(chosen, domain), "the router has learned the domains, so both experts get texts below"

    mixture.unfreeze()
    train(mixture, steps=3, lr=0.01)
    joint = snapshot(mixture)
    for path in gated_layers(mixture.backbone.encoder):
        for segment in range(1 + EXPERTS):
            for factor in "ab":
                name = f"backbone.encoder.{path}.{factor}.{segment}"
                assert joint[name] != warm[name], f"{name} did not move in joint training"
    for expert in range(EXPERTS):
        assert joint[f"heads.{expert}.output.weight"] != warm[f"heads.{expert}.output.weight"]
    assert joint["router.layers.0.weight"] != warm["router.layers.0.weight"]
    paths = gated_layers(mixture.backbone.encoder)
    gated = tuple(f"backbone.encoder.{path}.{factor}." for path in paths for factor in "ab")
    base = {name for name in start if name.startswith("backbone.")} - {n for n in start if n.startswith(gated)}
    assert len(base) > 20
    assert all(joint[name] == start[name] for name in base | frozen_in_router)


def test_one_backward_pass_reaches_every_expert_head_and_the_router(tmp_path: Path) -> None:
    torch.manual_seed(0)
    mixture = random_mixture(tmp_path, domain_dropout=0.4).train()
    batch, domain, labels = labelled_batch()
    gate = torch.nn.functional.one_hot(domain, EXPERTS).float()
    loss_of(mixture(batch, gate), domain, labels).backward()
    parameters = dict(mixture.named_parameters())
    silent = [name for name, p in parameters.items() if p.requires_grad and (p.grad is None or not p.grad.abs().sum())]
    # A temperature's gradient may be tiny but is not zero; nothing else may be silent either.
    assert silent == []


def test_an_expert_without_texts_gets_no_gradient_but_the_shared_adapter_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    mixture = random_mixture(tmp_path, domain_dropout=0.0).train()
    batch, domain, labels = labelled_batch()
    gate = torch.tensor([[1.0, 0.0]]).expand(ROWS, -1)
    loss_of(mixture(batch, gate), domain, labels).backward()
    for layer in gated_layers(mixture.backbone.encoder).values():
        sums = [float(a.grad.abs().sum() + b.grad.abs().sum()) for a, b in zip(layer.a, layer.b, strict=True)]
        assert sums[0] > 0
        assert sums[1] > 0
        assert sums[2] == 0


def test_the_router_learns_from_the_task_through_the_hard_gate(tmp_path: Path) -> None:
    torch.manual_seed(0)
    mixture = random_mixture(tmp_path).train()
    batch, _, labels = labelled_batch()
    output = mixture(batch)
    assert set(output.gate.detach().unique().tolist()) <= {0.0, 1.0}
    (-output.probabilities[torch.arange(ROWS), labels].log().mean()).backward()
    gradient = mixture.router.layers[0].weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_straight_through_is_exactly_one_hot_with_the_soft_gradient() -> None:
    soft = torch.tensor([[0.2, 0.8], [0.6, 0.4]], requires_grad=True)
    hard = straight_through(soft)
    assert hard.tolist() == [[0.0, 1.0], [1.0, 0.0]]
    (hard * torch.tensor([[1.0, 2.0], [3.0, 4.0]])).sum().backward()
    assert soft.grad is not None
    assert soft.grad.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_domain_dropout_leaves_single_texts_to_the_shared_adapter(tmp_path: Path) -> None:
    torch.manual_seed(0)
    mixture = random_mixture(tmp_path, domain_dropout=0.5)
    for module in mixture.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    mixture.backbone.encoder.config.attention_probs_dropout_prob = 0.0
    mixture.backbone.ngrams.dropout = 0.0
    batch, domain, _ = labelled_batch()
    gate = torch.nn.functional.one_hot(domain, EXPERTS).float()
    with torch.no_grad():
        whole = mixture.eval()(batch, gate).expert_logits
        shared_only = mixture(batch, torch.zeros_like(gate)).expert_logits
        mixture.train()
        for layer in mixture.backbone.encoder.encoder.layer:
            layer.attention.self.eval()  # its dropout is not a module
        dropped = mixture(batch, gate).expert_logits
    near_whole = (dropped - whole).abs().amax((1, 2)) < 1e-5
    near_shared = (dropped - shared_only).abs().amax((1, 2)) < 1e-5
    assert torch.equal(near_whole, ~near_shared)
    assert 0 < int(near_shared.sum()) < ROWS


def test_probabilities_are_those_of_the_chosen_expert(tmp_path: Path) -> None:
    torch.manual_seed(0)
    mixture = random_mixture(tmp_path)
    batch, _, _ = labelled_batch()
    with torch.no_grad():
        output = mixture(batch)
    chosen = output.gate.argmax(1)
    expected = output.expert_logits[torch.arange(ROWS), chosen].softmax(1)
    torch.testing.assert_close(output.probabilities, expected, atol=1e-6, rtol=0)
