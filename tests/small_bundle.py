"""A real bundle, small and untrained: random weights, two experts, a router that is sure of about half of the texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from sentiment.bundle import Bundle, BundleFacts, BundleParts, save_bundle
from sentiment.encoder import EncoderSettings, TextEncoder
from sentiment.model.adapter import Adapter, LoraSettings, attach_lora, trained_adapter
from sentiment.model.backbone import Backbone
from sentiment.model.combine import Calibration, VectorScaling
from sentiment.model.expert import Head
from sentiment.model.router import Router, RouterModel, RouterSettings
from sentiment.model.tiny import TinySettings, build_tiny
from sentiment.ngrams import NgramSettings
from sentiment.tokenizer import train_tokenizer

EXPERTS = ("news", "forum")
TEXTS = [
    "Quarterly profit up 12%, guidance raised",
    "sold everything, this stock is toast",
    "公司三季度净利润同比增长35%",
    "利空出尽，明天还得跌",
    "to the moon 🚀🚀 $TSLA",
    "Regulator fines the bank 40 million euros after a two-year investigation into its controls",
    "not bad, not good either",
    "央行宣布下调存款准备金率0.5个百分点，释放长期资金约1万亿元",
]


SHAPE = TinySettings(layers=1, hidden=32, heads=2, ffn=64, max_position=64, ngram_dim=8)


def make_small_bundle(directory: Path, *, seed: int = 0, shape: TinySettings = SHAPE) -> Bundle:
    """Write a bundle with random weights; another seed gives another bundle with the same experts."""
    torch.manual_seed(seed)
    encoder = TextEncoder(
        train_tokenizer(TEXTS * 3, 400), EncoderSettings(max_length=64, ngrams=NgramSettings(buckets=1 << 10))
    )
    backbone = build_tiny(shape, vocab_size=encoder.vocab_size, ngram_buckets=1 << 10)
    if backbone.ngrams is not None:  # a new bag is all zeros: it would hide every mistake
        torch.nn.init.normal_(backbone.ngrams.bag.weight, std=0.1)
    settings = RouterSettings(hidden=16, ngram_buckets=256, ngram_dim=8, initial_temperature=0.1)
    router = Router(backbone.token_embeddings(), len(EXPERTS), settings)
    torch.nn.init.normal_(router.ngrams.weight)
    logits = np.log(RouterModel(router).gate(encoder.encode(TEXTS)))
    with torch.no_grad():  # so that each expert is the best one for half of the texts
        router.prior_offset[1] += float(np.median(logits[:, 0] - logits[:, 1]))
    gate = RouterModel(router).gate(encoder.encode(TEXTS))
    calibration = Calibration(
        experts={
            "news": VectorScaling(scale=(1.1, 0.9, 1.0), bias=(0.0, 0.1, -0.1)),
            "forum": VectorScaling(scale=(0.8, 1.2, 1.0), bias=(0.2, 0.0, -0.2)),
        },
        threshold=float(np.median(gate.max(1))),
        temperature=1.3,
    )
    return save_bundle(
        directory,
        BundleParts(
            backbone=backbone,
            encoder=encoder,
            router=router,
            experts={name: _expert(backbone) for name in EXPERTS},
            calibration=calibration,
            facts=BundleFacts(metrics={"accuracy": {"news": 0.5}}, data_fingerprints={"train": "none"}),
        ),
    )


def _expert(backbone: Backbone) -> tuple[Adapter, Head]:
    attach_lora(backbone, LoraSettings(rank=2))
    with torch.no_grad():
        for name, parameter in backbone.encoder.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)  # peft starts at 0, and an expert equal to its base is refused
    adapter = trained_adapter(backbone)
    peft_model: Any = backbone.encoder
    backbone.encoder = peft_model.unload()
    return adapter, Head(backbone.features)
