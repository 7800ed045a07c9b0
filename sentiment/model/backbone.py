"""A base model and its pooling: any transformers encoder or decoder, with an optional n-gram bag beside the pool.

Shapes: B texts, L tokens, H hidden size, G size of the n-gram embedding (0 without a bag), P = H + G.
"""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sentiment.cli import STRICT
from sentiment.model.inputs import TextBatch

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Pooling = Literal["mean", "last"]
_BACKBONE_FILE: Final = "backbone.json"
_WEIGHTS_FILE: Final = "model.safetensors"
_NGRAM_FILE: Final = "ngrams.safetensors"


class NgramBag(nn.Module):
    """Mean embedding of a text's hashed n-grams, `[B, G]`; while training each n-gram is dropped with `dropout`."""

    def __init__(self, buckets: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        # Sparse gradients: a step touches a few thousand of the rows, a dense optimizer would walk through all of them.
        self.bag = nn.EmbeddingBag(buckets, dim, mode="sum", sparse=True)
        # From zero, not from noise: most n-grams of a new text were never trained, and must say nothing.
        nn.init.zeros_(self.bag.weight)

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """`ids [total]`, `offsets [B]` → `[B, G]`; a text without n-grams gives zeros."""
        counts = torch.diff(offsets, append=offsets.new_tensor([len(ids)]))
        if self.training and self.dropout > 0:
            keep = torch.rand(len(ids), device=ids.device) >= self.dropout
            kept_before = torch.cat([offsets.new_zeros(1), keep.cumsum(0)])
            ends = offsets + counts
            counts = kept_before[ends] - kept_before[offsets]
            offsets = kept_before[offsets]
            ids = ids[keep]
        total: Tensor = self.bag(ids, offsets)
        # Divided by the root of the count, not the count: a mean of hundreds of n-grams would all but vanish.
        return total / counts.clamp(min=1).sqrt().unsqueeze(1).to(total.dtype)


def pool(hidden: Tensor, attention_mask: Tensor, pooling: Pooling) -> Tensor:
    """`hidden [B, L, H]` → `[B, H]`: mean of the real tokens, or the last real token by the mask (never by its id)."""
    if pooling == "last":
        last = attention_mask.shape[1] - 1 - attention_mask.flip(1).argmax(1)
        return hidden[torch.arange(len(hidden), device=hidden.device), last]
    weight = attention_mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BackboneShape:
    """What `save_backbone` records beside the transformers config."""

    pooling: Pooling
    ngram_buckets: int = 0
    ngram_dim: int = 0
    ngram_dropout: float = 0.0


class Backbone(nn.Module):
    """A transformers model, its pooling and an optional n-gram bag.

    Args:
        encoder: the transformers model (`AutoModel`, without a head).
        pooling: `mean` for encoders, `last` for decoders.
        ngrams: the bag beside the pool, or None.
    """

    def __init__(self, encoder: nn.Module, pooling: Pooling, ngrams: NgramBag | None = None) -> None:
        super().__init__()
        config: Any = encoder.config
        config.use_cache = False  # a cache costs memory and does nothing for one forward pass
        self.hidden_size = int(config.hidden_size)
        self.encoder = encoder
        self.pooling: Pooling = pooling
        self.ngrams = ngrams

    @property
    def features(self) -> int:
        """P, the size of a pooled text."""
        return self.hidden_size + (self.ngrams.bag.embedding_dim if self.ngrams is not None else 0)

    @property
    def shape(self) -> BackboneShape:
        """The settings that `load_backbone` needs beside the weights."""
        if self.ngrams is None:
            return BackboneShape(pooling=self.pooling)
        bag = self.ngrams.bag
        return BackboneShape(
            pooling=self.pooling,
            ngram_buckets=bag.num_embeddings,
            ngram_dim=bag.embedding_dim,
            ngram_dropout=self.ngrams.dropout,
        )

    def forward(self, batch: TextBatch) -> Tensor:
        """Pooled texts `[B, P]`."""
        output = self.encoder(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        pooled = pool(output.last_hidden_state, batch.attention_mask, self.pooling)
        if self.ngrams is None:
            return pooled
        return torch.cat([pooled, self.ngrams(batch.ngram_ids, batch.ngram_offsets)], dim=1)

    def freeze(self) -> None:
        """No gradient for any weight that is there now (adapters added later train)."""
        self.requires_grad_(False)

    def token_embeddings(self) -> Tensor:
        """`[vocabulary, H]`, the encoder's own table, detached."""
        encoder: Any = self.encoder
        weight: Tensor = encoder.get_input_embeddings().weight
        return weight.detach()


def save_backbone(backbone: Backbone, directory: Path) -> None:
    """Write a directory that `AutoModel.from_pretrained` reads, plus the bag and the pooling; safetensors only."""
    from transformers import PreTrainedModel  # seconds to import: the router stage and the driver do without it

    encoder = backbone.encoder
    if not isinstance(encoder, PreTrainedModel):
        raise TypeError(f"save the bare base, not a {type(encoder).__name__}: adapters are stored apart")
    # Not `save_pretrained` and `from_pretrained`: they print progress bars, and this is all we need of them.
    encoder.config.save_pretrained(directory)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    save_file(state, directory / _WEIGHTS_FILE, metadata={"format": "pt"})
    (directory / _BACKBONE_FILE).write_bytes(TypeAdapter(BackboneShape).dump_json(backbone.shape, indent=2))
    if backbone.ngrams is not None:
        save_file({"weight": backbone.ngrams.bag.weight.detach().cpu().contiguous()}, directory / _NGRAM_FILE)


def load_backbone(directory: Path) -> Backbone:
    """Read what `save_backbone` wrote, in evaluation mode."""
    from transformers import AutoConfig, AutoModel

    shape = TypeAdapter(BackboneShape).validate_json((directory / _BACKBONE_FILE).read_bytes())
    bag = None
    if shape.ngram_dim > 0:
        bag = NgramBag(shape.ngram_buckets, shape.ngram_dim, shape.ngram_dropout)
        bag.bag.load_state_dict(load_file(directory / _NGRAM_FILE))
    config = AutoConfig.from_pretrained(directory)
    encoder: nn.Module = AutoModel.from_config(config, **_without_pooler(config))
    encoder.load_state_dict(load_file(directory / _WEIGHTS_FILE))
    return Backbone(encoder, shape.pooling, bag).eval()


def load_encoder(name: str, revision: str | None = None, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A transformers encoder or decoder without any head or pooler, by hub name or path; no remote code, no pickle."""
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(name, revision=revision)
    bare = _without_pooler(config)
    model: nn.Module = AutoModel.from_pretrained(name, revision=revision, dtype=dtype, use_safetensors=True, **bare)
    return model


def _without_pooler(config: PretrainedConfig) -> dict[str, bool]:
    from transformers import MODEL_MAPPING

    parameters = inspect.signature(MODEL_MAPPING[type(config)].__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in parameters else {}


def weights_hash(module: nn.Module) -> str:
    """sha256 (hex) over names, types, shapes and bytes of all weights: the same however files are cut."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
