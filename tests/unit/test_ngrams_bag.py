"""The n-gram bag beside the pool: a scaled sum per text, with whole n-grams dropped while training."""

from __future__ import annotations

import torch

from sentiment.model.backbone import NgramBag

IDS = torch.tensor([3, 3, 7, 1, 9, 2, 2, 2])
OFFSETS = torch.tensor([0, 3, 3, 7])  # four texts, the second without n-grams


def random_bag() -> NgramBag:
    bag = NgramBag(10, 4, dropout=0.5)
    torch.nn.init.normal_(bag.bag.weight)  # a new one is all zeros
    return bag


def expected(bag: NgramBag, keep: torch.Tensor) -> torch.Tensor:
    rows = []
    for start, end in zip(OFFSETS.tolist(), [*OFFSETS.tolist()[1:], len(IDS)], strict=True):
        kept = IDS[start:end][keep[start:end]]
        rows.append(bag.bag.weight[kept].sum(0) / max(len(kept), 1) ** 0.5)
    return torch.stack(rows)


def test_evaluation_uses_every_ngram() -> None:
    bag = random_bag().eval()
    torch.testing.assert_close(bag(IDS, OFFSETS), expected(bag, torch.ones(len(IDS), dtype=torch.bool)))
    assert bag(IDS, OFFSETS)[1].abs().sum() == 0


def test_training_drops_whole_ngrams_and_rescales_to_what_is_left() -> None:
    bag = random_bag().train()
    seen = set()
    for seed in range(8):
        torch.manual_seed(seed)
        output = bag(IDS, OFFSETS)
        torch.manual_seed(seed)
        keep = torch.rand(len(IDS)) >= 0.5
        torch.testing.assert_close(output, expected(bag, keep))
        seen.add(int(keep.sum()))
    assert len(seen) > 1


def test_ngrams_that_were_never_trained_say_nothing() -> None:
    bag = NgramBag(10, 4, dropout=0.5)
    bag(IDS[:4], OFFSETS[:1]).sum().backward()
    assert bag.bag.weight.grad is not None
    assert bag.bag.weight.grad.is_sparse
    torch.optim.SparseAdam(bag.parameters(), lr=0.1).step()
    seen = bag.bag.weight.abs().sum(1) > 0
    assert not seen[[0, 2, 4, 5, 6, 8, 9]].any()
    assert seen[3] or seen[7] or seen[1]
