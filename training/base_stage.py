"""First stage: tokenizer and tiny base from scratch, supervised, all weights, all domains together; then frozen.

LoRA on a random base learns little, so the base is first trained fully; experts then specialise it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn

from sentiment.encoder import TextEncoder
from sentiment.model.backbone import Backbone, save_backbone
from sentiment.model.expert import Expert, Head, write_head
from sentiment.model.tiny import build_tiny
from sentiment.tokenizer import train_tokenizer
from training.data import TRAIN, VALIDATION
from training.loop import train_epochs
from training.plan import epoch_steps, rank_share
from training.texts import encode_texts, validation_score
from training.work import BACKBONE_DIR, ENCODER_DIR, Work


def run(work: Work) -> dict[str, float]:
    """Train the base; the artefact is `backbone/`, `tokenizer/` and the joint head.

    Returns:
        `validation_macro_f1`, the mean over domains.
    """
    settings = work.settings.base
    train, validation = work.texts.where(TRAIN), work.texts.where(VALIDATION)
    encoder = TextEncoder(_tokenizer(work, train.texts), settings.encoder)
    texts = encode_texts(train, encoder, work.domains, work.settings.task)
    work.seed("base")
    backbone = build_tiny(settings.tiny, vocab_size=encoder.vocab_size, ngram_buckets=settings.encoder.ngrams.buckets)
    model = Expert(backbone, _head(backbone, settings.head_dropout))

    def step_loss(step: NDArray[np.int64]) -> Tensor:
        part = rank_share(step, work.world.rank, work.world.size)
        batch = texts.noisy_batch(part, work.settings.task)
        return texts.branched_loss(model.head, backbone(batch), backbone.hidden_size, part, step, work.settings.task)

    check = encode_texts(validation, encoder, work.domains, work.settings.task)
    work.seed_dropout("base")
    lengths = texts.encoded.lengths
    train_epochs(
        model,
        settings.optim,
        plan=lambda epoch: epoch_steps(lengths, settings.optim.step_texts, seed=work.settings.seed, epoch=epoch),
        step_loss=step_loss,
        step_tokens=texts.tokens,
        validate=lambda: validation_score(model, check),
        world=work.world,
        reporter=work.reporter,
    )
    if work.world.first:
        encoder.save(work.output / ENCODER_DIR)
        save_backbone(backbone, work.output / BACKBONE_DIR)
        write_head(model.head, work.output)
    return {"validation_macro_f1": validation_score(model, check)}


def _head(backbone: Backbone, dropout: float) -> Head:
    head = Head(backbone.features, dropout=dropout)
    # The bag starts at zero: its columns must be large, or its rows get hardly any gradient.
    nn.init.normal_(head.output.weight[:, backbone.hidden_size :], std=0.5)
    return head


def _tokenizer(work: Work, texts: list[str]) -> Tokenizer:
    """Trained by rank 0; every worker gets the very same one."""
    text = train_tokenizer(texts, work.settings.base.tiny.vocab_size).to_str() if work.world.first else ""
    return Tokenizer.from_str(work.world.text_from_first(text))
