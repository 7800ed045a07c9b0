"""What one worker needs of the others: sums, and one answer for all. Plain all-reduce, for any number of workers.

Losses are normalised by the totals of the whole optimizer step, so gradients are *summed* over workers, and a weight
that took no part on one worker (an expert that got no text) counts as zero there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed


@dataclass(frozen=True, slots=True)
class World:
    """This worker's place among `size` workers."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this worker writes and reports."""
        return self.rank == 0

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace every gradient by its sum over all workers."""
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = parameter.grad.coalesce()
                distributed.all_reduce(parameter.grad)
        parameters = [p for p in parameters if p.grad is None or not p.grad.is_sparse]
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        distributed.all_reduce(flat)
        pieces = torch.split(flat, [gradient.numel() for gradient in gradients])
        for parameter, piece in zip(parameters, pieces, strict=True):
            parameter.grad = piece.view_as(parameter).clone()

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all workers; only this worker's own part carries a gradient."""
        if self.size == 1:
            return tensor
        total = tensor.detach().clone()
        distributed.all_reduce(total)
        return total + (tensor - tensor.detach())

    def from_first(self, value: float) -> float:
        """Rank 0's value on every worker, so that all take the same decision."""
        if self.size == 1:
            return value
        box = torch.tensor([value], dtype=torch.float64)
        distributed.broadcast(box, src=0)
        return float(box.item())

    def text_from_first(self, text: str) -> str:
        """Rank 0's text on every worker."""
        if self.size == 1:
            return text
        box: list[str] = [text]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def same_start(self, parameters: Sequence[Tensor]) -> None:
        """Every worker takes rank 0's weights."""
        if self.size > 1:
            for parameter in parameters:
                distributed.broadcast(parameter.data, src=0)

    def wait(self) -> None:
        """Until all workers are here."""
        if self.size > 1:
            distributed.barrier()
