"""The joint model: one frozen base with a shared and E gated adapters, E heads, one router. B texts, E experts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Final, cast

import torch
from pydantic import Field, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from sentiment.cli import STRICT
from sentiment.model.adapter import Adapter
from sentiment.model.backbone import Backbone
from sentiment.model.combine import combine_experts
from sentiment.model.expert import Head
from sentiment.model.inputs import TextBatch
from sentiment.model.lora import GateContext, gated_layers, install_gated_lora, new_adapter_like, segment
from sentiment.model.router import Router

SHARED: Final = 0
"""Segment of the always-on adapter; expert e owns segment e + 1."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MixtureSettings:
    """The joint model."""

    shared_rank: PositiveInt = 8
    """rank of the always-on shared adapter [1]"""
    domain_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.4
    """share of texts that train without their gated adapter, so the shared one learns to stand alone [probability]"""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """dropout of the adapters' input while training [probability]"""


@plain_dataclass(frozen=True, slots=True)
class MixtureOutput:
    """What the losses need.

    Attributes:
        probabilities: `[B, 3]` combined through `combine_experts`.
        expert_logits: `[B, E, 3]` every head on the same pooled text; only the chosen one's counts.
        router_logits: `[B, E]`, before the softmax.
        soft_gate: `[B, E]` softmax of the router's logits.
        gate: `[B, E]` hard one-hot forwards, gradient of the soft gate backwards.
        pooled: `[B, P]` what the heads read.
    """

    probabilities: Tensor
    expert_logits: Tensor
    router_logits: Tensor
    soft_gate: Tensor
    gate: Tensor
    pooled: Tensor


def straight_through(soft_gate: Tensor) -> Tensor:
    """Exactly one-hot at the largest weight, with the soft gate's gradient (Bengio et al. 2013, arXiv 1308.3432)."""
    hard = nn.functional.one_hot(soft_gate.argmax(1), soft_gate.shape[1]).to(soft_gate.dtype)
    return hard + (soft_gate - soft_gate.detach())


class Mixture(nn.Module):
    """Joint training of adapters, heads and router on a frozen base.

    Args:
        backbone: the bare base; frozen and changed in place.
        adapters: E adapters on the same modules, in the gate's order.
        heads: E heads, in the same order.
        router: over E experts.
        settings: of the joint model.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapters: Sequence[Adapter],
        heads: Sequence[Head],
        router: Router,
        settings: MixtureSettings,
    ) -> None:
        super().__init__()
        if not len(adapters) == len(heads) == router.experts:
            raise ValueError(f"{len(adapters)} adapters, {len(heads)} heads, router over {router.experts} experts")
        self.settings = settings
        self.context = GateContext()
        backbone.freeze()
        shared = new_adapter_like(adapters[0], settings.shared_rank)
        install_gated_lora(backbone.encoder, [shared, *adapters], self.context, settings.lora_dropout)
        self.backbone = backbone
        self.heads = nn.ModuleList(heads)
        self.router = router
        self.unfreeze()

    def forward(self, batch: TextBatch, gate: Tensor | None = None) -> MixtureOutput:
        """One pass of the base for the whole batch.

        Args:
            batch: B texts.
            gate: `[B, E]` used instead of the router's straight-through gate, e.g. the true domains.
        """
        router_logits: Tensor = self.router(batch)
        soft_gate = router_logits.softmax(1)
        if gate is None:
            gate = straight_through(soft_gate)
        with self.context.using(self._segment_gate(gate)):
            pooled = self.backbone(batch)
        expert_logits = torch.stack([head(pooled) for head in self.heads], dim=1)
        probabilities = combine_experts(expert_logits.float().softmax(-1), gate)
        return MixtureOutput(probabilities, expert_logits, router_logits, soft_gate, gate, pooled)

    def _segment_gate(self, gate: Tensor) -> Tensor:
        """`[B, E]` → `[B, 1 + E]`: the shared adapter always on, the gated ones dropped for some texts in training."""
        always = torch.ones_like(gate[:, :1])
        if self.training and self.settings.domain_dropout > 0:
            keep = torch.rand_like(always) >= self.settings.domain_dropout
            gate = gate * keep
        return torch.cat([always, gate], dim=1)

    def freeze_for_warmup(self) -> None:
        """Only the router learns; adapters, heads and base stay byte-identical."""
        self.unfreeze()
        for parameter in (*self.adapter_parameters(), *self.heads.parameters()):
            parameter.requires_grad_(False)

    def unfreeze(self) -> None:
        """Adapters, heads and router learn; the base and the router's copy of its token embeddings never do."""
        for parameters in (self.adapter_parameters(), self.heads.parameters(), self.router.parameters()):
            for parameter in parameters:
                parameter.requires_grad_(True)
        self.router.tokens.requires_grad_(False)

    def adapter_parameters(self) -> Iterator[nn.Parameter]:
        """A and B of all segments of all gated layers."""
        for layer in gated_layers(self.backbone.encoder).values():
            yield from layer.a
            yield from layer.b

    def expert_adapter(self, expert: int) -> Adapter:
        """Expert `expert` alone: the shared segment and its own, joined along the rank."""
        return segment(self.backbone.encoder, SHARED).joined(segment(self.backbone.encoder, expert + 1))

    def expert_head(self, expert: int) -> Head:
        """The head of expert `expert` (not a copy)."""
        return cast("Head", self.heads[expert])
