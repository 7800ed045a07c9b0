"""Random small backbones, adapters and mixtures: real model classes, no training."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    BertConfig,
    BertModel,
    Glm4Config,
    Glm4Model,
    LlamaConfig,
    LlamaModel,
    PreTrainedModel,
    Qwen2Config,
    Qwen2Model,
)

from sentiment.batching import EncodedTexts, offsets_from_lengths
from sentiment.model.adapter import Adapter, read_adapter
from sentiment.model.backbone import Backbone, NgramBag, load_backbone, save_backbone
from sentiment.model.expert import Head
from sentiment.model.lora import gated_layers
from sentiment.model.mixture import SHARED, Mixture, MixtureSettings
from sentiment.model.router import Router, RouterSettings

torch.set_num_threads(1)  # models this small only lose time to threads

VOCABULARY: Final = 97
BUCKETS: Final = 512
EXPERTS: Final = 2
ARCHITECTURES: Final = ("bert", "qwen2", "llama", "glm4")
DECODERS: Final = ("qwen2", "llama", "glm4")

_DECODER: Final[dict[str, Any]] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}


def random_encoder(architecture: str) -> PreTrainedModel:
    if architecture == "bert":
        config = BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=48,
            max_position_embeddings=64,
            initializer_range=0.2,
        )
        return BertModel(config, add_pooling_layer=False).eval()
    if architecture == "qwen2":
        return Qwen2Model(Qwen2Config(**_DECODER)).eval()
    if architecture == "llama":
        return LlamaModel(LlamaConfig(**_DECODER)).eval()
    return Glm4Model(Glm4Config(head_dim=16, **_DECODER)).eval()


def random_backbone(architecture: str) -> Backbone:
    if architecture in DECODERS:
        return Backbone(random_encoder(architecture), "last").eval()
    bag = NgramBag(BUCKETS, 8, dropout=0.5)
    torch.nn.init.normal_(bag.bag.weight, std=0.1)  # a new bag is all zeros: it would hide every mistake
    return Backbone(random_encoder(architecture), "mean", bag).eval()


def random_texts(count: int, *, longest: int = 23, seed: int = 0) -> EncodedTexts:
    """Ragged texts of 1 to `longest` tokens; ids from 1, so that 0 can be a pad id that occurs nowhere else."""
    rng = np.random.default_rng(seed)
    token_offsets = offsets_from_lengths(rng.integers(1, longest + 1, count))
    ngram_offsets = offsets_from_lengths(rng.integers(0, 40, count))
    return EncodedTexts(
        rng.integers(1, VOCABULARY, token_offsets[-1], dtype=np.int32),
        token_offsets,
        rng.integers(0, BUCKETS, ngram_offsets[-1], dtype=np.int32),
        ngram_offsets,
    )


def peft_model(base: Path, *, rank: int = 4, alpha: int = 8) -> PeftModel:
    """A plain peft model over its own copy of the base in `base`, with a random B (peft starts at 0)."""
    encoder: Any = load_backbone(base).encoder
    model = get_peft_model(encoder, LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    return model.eval()


def write_peft_adapters(base: Path, directory: Path) -> list[Adapter]:
    """One adapter per expert, written by peft itself, read by us."""
    for expert in range(EXPERTS):
        peft_model(base).save_pretrained(directory / str(expert))
    return [read_adapter(directory / str(expert)) for expert in range(EXPERTS)]


def random_mixture(directory: Path, architecture: str = "bert", **settings: Any) -> Mixture:
    """A mixture over the base it writes to `directory / "base"`; the shared adapter has a random B, not 0."""
    save_backbone(random_backbone(architecture), directory / "base")
    adapters = write_peft_adapters(directory / "base", directory / "peft")
    backbone = load_backbone(directory / "base")
    router = Router(backbone.token_embeddings(), EXPERTS, RouterSettings(hidden=16, ngram_buckets=128, ngram_dim=8))
    torch.nn.init.normal_(router.ngrams.weight)
    heads = [Head(backbone.features, dropout=0.0) for _ in range(EXPERTS)]
    mixture = Mixture(backbone, adapters, heads, router, MixtureSettings(**settings))
    with torch.no_grad():
        for layer in gated_layers(backbone.encoder).values():
            layer.b[SHARED].normal_(std=0.2)
    return mixture.eval()
