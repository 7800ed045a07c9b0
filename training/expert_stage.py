"""Second stage, once per domain: a LoRA adapter and a head on the frozen base, from the domain's texts only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sentiment.encoder import TextEncoder
from sentiment.model.adapter import attach_lora, trained_adapter, write_adapter
from sentiment.model.backbone import load_backbone
from sentiment.model.expert import Expert, read_head, write_head
from training.data import TRAIN, VALIDATION, LabelledTexts
from training.loop import train_epochs
from training.plan import epoch_steps, rank_share
from training.texts import encode_texts, validation_score
from training.work import ADAPTER_DIR, BACKBONE_DIR, ENCODER_DIR, Work


def run(work: Work) -> dict[str, float]:
    """Train one domain's expert; the artefact is peft's adapter files and the head, started from the base's joint head.

    Returns:
        `validation_macro_f1` on the domain's own validation texts.
    """
    settings, base = work.settings.expert, work.inputs["base"]
    encoder = TextEncoder.load(base / ENCODER_DIR)
    own = _of_domain(work.texts, work.own_domain)
    texts = encode_texts(own.where(TRAIN), encoder, work.domains, work.settings.task)
    check = encode_texts(own.where(VALIDATION), encoder, work.domains, work.settings.task)
    backbone = load_backbone(base / BACKBONE_DIR)
    work.seed(f"expert-{work.own_domain}")
    attach_lora(backbone, settings.lora)
    model = Expert(backbone, read_head(base))

    def step_loss(step: NDArray[np.int64]) -> Tensor:
        part = rank_share(step, work.world.rank, work.world.size)
        pooled = backbone(texts.noisy_batch(part, work.settings.task))
        return texts.branched_loss(model.head, pooled, backbone.hidden_size, part, step, work.settings.task)

    work.seed_dropout(f"expert-{work.own_domain}")
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
        write_adapter(trained_adapter(backbone), work.output / ADAPTER_DIR, "base")
        write_head(model.head, work.output)
    return {"validation_macro_f1": validation_score(model, check)}


def _of_domain(texts: LabelledTexts, domain: str) -> LabelledTexts:
    return texts.take(row for row, name in enumerate(texts.domains) if name == domain)
