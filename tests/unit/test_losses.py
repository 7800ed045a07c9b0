"""Losses: closed forms, golden values for a fixed seed, and what the classic mistakes would give."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from training.losses import balance_loss, class_balanced_weights, domain_loss, mixture_likelihood_loss, task_loss

GOLDEN = Path(__file__).parent.parent / "golden" / "losses.json"
FINNF_NEWS = np.array([215_034, 635_353, 775_905])
FINNF_FORUM = np.array([3_854, 889, 3_532])


def example() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(6, 3, generator=generator), torch.tensor([0, 1, 2, 2, 1, 0])


@pytest.mark.parametrize("counts", [FINNF_NEWS, FINNF_FORUM])
def test_class_balanced_weights_differ_at_real_counts(counts: np.ndarray) -> None:
    weights = class_balanced_weights(counts)
    assert weights.max() / weights.min() > 1.5
    assert np.argmax(weights) == np.argmin(counts)
    assert (weights * counts).sum() / counts.sum() == pytest.approx(1.0)


def test_a_fixed_beta_of_099_weighs_nothing_at_these_counts() -> None:
    assert np.ptp(class_balanced_weights(FINNF_NEWS, beta=0.99)) < 1e-6
    assert np.ptp(class_balanced_weights(FINNF_NEWS)) > 0.5


def test_weights_follow_the_paper_formula_and_ignore_absent_classes() -> None:
    counts, beta = np.array([10, 100, 0]), 0.9
    raw = (1 - beta) / (1 - beta ** counts[:2])
    expected = raw * 110 / (raw * counts[:2]).sum()
    weights = class_balanced_weights(counts, beta)
    np.testing.assert_allclose(weights[:2], expected, rtol=1e-6)
    assert weights[2] == 1.0


def test_plain_task_loss_is_cross_entropy() -> None:
    logits, labels = example()
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="none", label_smoothing=0.1)
    torch.testing.assert_close(task_loss(logits, labels, smoothing=0.1), expected)


def test_focal_loss_forgives_what_is_already_right() -> None:
    logits, labels = torch.tensor([[4.0, 0.0, 0.0], [-4.0, 0.0, 0.0]]), torch.tensor([0, 0])
    plain, focal = task_loss(logits, labels), task_loss(logits, labels, focal_gamma=2.0)
    kept = focal / plain
    assert kept[0] < 0.01
    assert kept[1] > 0.9


def test_impossible_labels_take_no_part() -> None:
    logits, labels = example()
    labels = torch.tensor([0, 2, 2, 0, 2, 0])
    space = torch.tensor([[True, False, True]]).expand(6, 3)
    logits.requires_grad_(True)
    loss = task_loss(logits, labels, label_space=space, smoothing=0.1)
    two = torch.nn.functional.cross_entropy(logits[:, [0, 2]], labels // 2, reduction="none", label_smoothing=0.1)
    torch.testing.assert_close(loss, two)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert gradient[:, 1].abs().max() == 0
    assert gradient[:, 0].abs().min() > 0


def test_likelihood_of_a_mixture_is_exact() -> None:
    gate_logits = torch.tensor([[0.3, -0.2], [2.0, 1.0]])
    expert_p = torch.tensor([[0.9, 0.2], [0.1, 0.6]])
    expected = -(gate_logits.softmax(1) * expert_p).sum(1).log()
    torch.testing.assert_close(mixture_likelihood_loss(gate_logits, expert_p), expected)
    certain_wrong = mixture_likelihood_loss(torch.tensor([[50.0, -50.0]]), torch.tensor([[0.0, 1.0]]))
    assert torch.isfinite(certain_wrong).all()


def test_balance_is_against_the_shares_of_the_step_not_uniform() -> None:
    shares = torch.tensor([0.995, 0.005])
    assert balance_loss(shares, shares).abs() < 1e-6
    assert balance_loss(torch.tensor([0.5, 0.5]), shares) > 1.0


def test_golden_values_for_a_fixed_seed(update_golden: bool) -> None:
    logits, labels = example()
    generator = torch.Generator().manual_seed(8)
    gate_logits, expert_p = torch.randn(6, 2, generator=generator), torch.rand(6, 2, generator=generator)
    domains = torch.tensor([0, 0, 1, 1, 0, 1])
    weights = torch.from_numpy(class_balanced_weights(FINNF_FORUM))[labels]
    space = torch.ones(6, 3, dtype=torch.bool)
    space[3, 1] = False
    values = {
        "task": task_loss(logits, labels, weights=weights, label_space=space, smoothing=0.1, focal_gamma=2.0),
        "domain": domain_loss(gate_logits, domains),
        "likelihood": mixture_likelihood_loss(gate_logits, expert_p),
        "balance": balance_loss(gate_logits.softmax(1).mean(0), torch.tensor([0.5, 0.5]))[None],
    }
    if update_golden:
        rounded = {name: [round(float(x), 7) for x in value.flatten()] for name, value in values.items()}
        GOLDEN.write_text(json.dumps(rounded, indent=2) + "\n", encoding="utf-8")
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert values.keys() == golden.keys()
    for name, value in values.items():
        np.testing.assert_allclose(value.numpy(), golden[name], rtol=1e-5, err_msg=name)
