"""The tiny base: a small BERT with an n-gram bag, trained from scratch, whose weights travel in the bundle."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass

from sentiment.cli import STRICT
from sentiment.errors import ConfigError
from sentiment.model.backbone import Backbone, NgramBag

Probability = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TinySettings:
    """Shape of the tiny base."""

    vocab_size: PositiveInt = 8_192
    """size of the vocabulary its tokenizer is trained for [tokens]"""
    layers: PositiveInt = 2
    """transformer layers [layers]"""
    hidden: PositiveInt = 128
    """width of the residual stream [features]"""
    heads: PositiveInt = 2
    """attention heads [heads]"""
    ffn: PositiveInt = 512
    """inner width of the feed-forward blocks [features]"""
    max_position: PositiveInt = 512
    """longest text the base can read [tokens]"""
    dropout: Probability = 0.1
    """dropout of hidden states and attention while training [probability]"""
    ngram_dim: NonNegativeInt = 16
    """size of the n-gram embedding beside the pool, 0 for none [features]"""
    ngram_dropout: Probability = 0.3
    """share of a text's n-grams dropped while training [probability]"""


def build_tiny(settings: TinySettings, *, vocab_size: int, ngram_buckets: int) -> Backbone:
    """A tiny base with random weights (seed torch first).

    Args:
        settings: its shape.
        vocab_size: number of ids of the trained tokenizer; it may be smaller than what was asked for [tokens].
        ngram_buckets: `NgramSettings.buckets` of the encoder [buckets].

    Raises:
        ConfigError: the width cannot be divided among the heads.
    """
    from transformers import BertConfig, BertModel  # seconds to import: not where nobody trains

    if settings.hidden % settings.heads:
        raise ConfigError(f"setting `hidden` = {settings.hidden} must be a multiple of `heads` = {settings.heads}")
    config = BertConfig(
        vocab_size=vocab_size,
        hidden_size=settings.hidden,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        intermediate_size=settings.ffn,
        max_position_embeddings=settings.max_position,
        hidden_dropout_prob=settings.dropout,
        attention_probs_dropout_prob=settings.dropout,
    )
    bag = NgramBag(ngram_buckets, settings.ngram_dim, settings.ngram_dropout) if settings.ngram_dim else None
    return Backbone(BertModel(config, add_pooling_layer=False), "mean", bag)
