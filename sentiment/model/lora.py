"""The concatenated-rank gated LoRA layer: all experts' adapters in one pass, one gate vector per text.

`A = [A_0; …; A_S-1]`, `B = [B_0, …, B_S-1]`, `y = W x + B((g ⊗ 1_r) ⊙ (A x))`; S segments, `g [B, S]` per text.
With a one-hot gate this equals running only that expert's adapter, so a trained layer splits back exactly.
Shapes: B texts, L tokens, R = sum of the segments' ranks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sentiment.errors import ConfigError
from sentiment.model.adapter import Adapter


class GateContext:
    """Carries the gate of a batch to the gated layers of one model: the base's forward has no argument for it."""

    def __init__(self) -> None:
        self._gate: Tensor | None = None

    @property
    def gate(self) -> Tensor:
        """`[B, S]`; reading it outside `using` is an error, never an ungated pass."""
        if self._gate is None:
            raise RuntimeError("a gated layer ran outside GateContext.using(gate)")
        return self._gate

    @contextmanager
    def using(self, gate: Tensor) -> Iterator[None]:
        """Let the layers see `gate [B, S]` inside the block; recomputed activations need it open until backward."""
        self._gate = gate
        try:
            yield
        finally:
            self._gate = None


class GatedLoraLinear(nn.Module):
    """A frozen linear layer with S gated LoRA segments.

    Args:
        base: the linear layer, kept as it is.
        segments: S pairs `A [r_s, in]`, `B [out, r_s]` with the scaling folded in; ranks may differ.
        context: where the gate comes from.
        dropout: dropout of the adapters' input while training.
    """

    def __init__(
        self, base: nn.Linear, segments: Sequence[tuple[Tensor, Tensor]], context: GateContext, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.base = base
        self.context = context
        self.dropout = nn.Dropout(dropout)
        # One parameter per segment, so that a segment can be frozen alone; joined in each pass, which costs little.
        self.a = nn.ParameterList([nn.Parameter(a.detach().clone()) for a, _ in segments])
        self.b = nn.ParameterList([nn.Parameter(b.detach().clone()) for _, b in segments])
        ranks = torch.tensor([a.shape[0] for a, _ in segments])
        self.segment_of_rank: Tensor
        self.register_buffer("segment_of_rank", torch.arange(len(segments)).repeat_interleave(ranks), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """`x [B, …, in]` → `[B, …, out]`."""
        y: Tensor = self.base(x)
        a = torch.cat(list(self.a))
        b = torch.cat(list(self.b), dim=1)
        gate = self.context.gate[:, self.segment_of_rank]  # [B, R]
        gate = gate.reshape(len(gate), *[1] * (x.dim() - 2), -1).to(a.dtype)
        inner = F.linear(self.dropout(x.to(a.dtype)), a) * gate
        return y + F.linear(inner, b).to(y.dtype)


def install_gated_lora(
    encoder: nn.Module, segments: Sequence[Adapter], context: GateContext, dropout: float = 0.0
) -> None:
    """Replace each adapted linear layer of `encoder`, in place, by a gated one with all `segments`.

    Raises:
        ConfigError: the adapters name different modules, or one that is not a linear layer of this encoder.
    """
    paths = segments[0].factors.keys()
    if any(adapter.factors.keys() != paths for adapter in segments):
        raise ConfigError("the experts adapt different modules: train them all with the same target_modules")
    modules = dict(encoder.named_modules())
    for path in paths:
        base = modules.get(path)
        if not isinstance(base, nn.Linear):
            raise ConfigError(f"the adapters' module {path} is not a linear layer of this base")
        parent, _, leaf = path.rpartition(".")
        layer = GatedLoraLinear(base, [adapter.factors[path] for adapter in segments], context, dropout)
        setattr(modules[parent], leaf, layer)


def gated_layers(encoder: nn.Module) -> Mapping[str, GatedLoraLinear]:
    """The gated layers by the module path they replaced."""
    return {path: module for path, module in encoder.named_modules() if isinstance(module, GatedLoraLinear)}


def segment(encoder: nn.Module, index: int) -> Adapter:
    """Segment `index` of all gated layers as it is now, as an adapter of its own (detached copies)."""
    layers = sorted(gated_layers(encoder).items())
    return Adapter(
        {path: (layer.a[index].detach().cpu().clone(), layer.b[index].detach().cpu().clone()) for path, layer in layers}
    )


def new_adapter_like(adapter: Adapter, rank: int) -> Adapter:
    """A fresh adapter on the same modules: random A (as peft starts it), B = 0, so it changes nothing yet."""
    factors = {}
    for path, (a, b) in adapter.factors.items():
        fresh = torch.empty(rank, a.shape[1], dtype=a.dtype)
        nn.init.kaiming_uniform_(fresh, a=math.sqrt(5))
        factors[path] = (fresh, torch.zeros(b.shape[0], rank, dtype=b.dtype))
    return Adapter(factors)
