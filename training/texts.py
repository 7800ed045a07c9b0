"""Labelled texts as tensors: encoded once per stage, weighted by class within each domain, cut into steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat
from pydantic.dataclasses import dataclass as settings_dataclass
from torch import Tensor

from sentiment.batching import EncodedTexts, token_budget_batches
from sentiment.cli import STRICT
from sentiment.encoder import TextEncoder
from sentiment.labels import LABELS
from sentiment.model.inputs import TextBatch, pad_batch
from sentiment.tokenizer import SPECIAL_TOKENS
from training.data import LabelledTexts
from training.losses import class_balanced_weights, task_loss
from training.scores import mean_macro_f1

Rows = NDArray[np.int64]

_EVAL_PADDED_TOKENS = 2_048
"""Padded tokens of one forward pass outside training."""


@settings_dataclass(frozen=True, kw_only=True, config=STRICT)
class TaskSettings:
    """How the task is learned, the same in every stage."""

    class_weights: Literal["none", "effective"] = "effective"
    """classes weighed by their effective number of texts, or not at all"""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """mass spread over the possible labels [share]"""
    focal_gamma: NonNegativeFloat = 0.0
    """exponent of (1 - p); 0 is plain cross entropy, the paper has 2 [1]"""
    token_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """tokens replaced by the mask while training; less for a pretrained base [share]"""
    branch_weight: NonNegativeFloat = 1.0
    """of the losses of the encoder alone and of the n-gram bag alone, beside that of both [1]"""


@dataclass(frozen=True, slots=True)
class TaskTexts:
    """N encoded texts with what the losses need.

    Attributes:
        encoded: ragged token and n-gram ids.
        labels: `[N]` int64.
        domains: `[N]` int64, index of the domain's expert.
        weights: `[N]` float32, weight of the text's class in its domain.
        label_space: `[N, 3]` bool.
    """

    encoded: EncodedTexts
    labels: Tensor
    domains: Tensor
    weights: Tensor
    label_space: Tensor

    def __len__(self) -> int:
        return len(self.encoded)

    def batch(self, rows: Rows) -> TextBatch:
        """The texts at `rows`, padded."""
        return pad_batch(self.encoded.take(rows))

    def noisy_batch(self, rows: Rows, task: TaskSettings) -> TextBatch:
        """The same for training: some tokens are replaced by the mask."""
        return mask_tokens(self.batch(rows), task.token_dropout)

    def tokens(self, rows: Rows) -> int:
        """Non-padding tokens of the texts at `rows`."""
        return int(self.encoded.lengths[rows].sum())

    def loss(self, logits: Tensor, part: Rows, step: Rows, task: TaskSettings) -> Tensor:
        """One worker's part of a step's task loss: weighted mean over the *whole* step.

        Args:
            logits: `[len(part), 3]`.
            part: rows of this worker.
            step: rows of all workers.
            task: settings.
        """
        loss_B = task_loss(
            logits,
            self.labels[part],
            weights=self.weights[part],
            label_space=self.label_space[part],
            smoothing=task.label_smoothing,
            focal_gamma=task.focal_gamma,
        )
        return loss_B.sum() / self.weights[step].sum()

    def branched_loss(  # noqa: PLR0913, PLR0917  # where the answer comes from, and which rows it is for
        self,
        answer: Callable[[Tensor], Tensor],
        pooled: Tensor,
        hidden: int,
        part: Rows,
        step: Rows,
        task: TaskSettings,
    ) -> Tensor:
        """`loss` of the answer from all features, and from the encoder's and the n-gram bag's alone.

        Without the latter the encoder memorises a small training set first and leaves the bag, which generalises better
        there, nothing to learn; and later stages lean on what was memorised.

        Args:
            answer: pooled features `[B, P]` to logits `[B, 3]`.
            pooled: `[B, P]`, the encoder's features first.
            hidden: number of the encoder's features; without a bag it is P.
            part: rows of this worker.
            step: rows of all workers.
            task: settings.
        """
        loss = self.loss(answer(pooled), part, step, task)
        if pooled.shape[1] == hidden or not task.branch_weight:
            return loss
        encoder, bag = pooled[:, :hidden], pooled[:, hidden:]
        for alone in ([encoder, torch.zeros_like(bag)], [torch.zeros_like(encoder), bag]):
            loss = loss + task.branch_weight * self.loss(answer(torch.cat(alone, dim=1)), part, step, task)
        return loss


def mask_tokens(batch: TextBatch, share: float) -> TextBatch:
    """The batch with `share` of its real tokens replaced by the mask. The router's bags keep all of them."""
    if not share:
        return batch
    chosen = (torch.rand(batch.input_ids.shape) < share) & batch.attention_mask.bool()
    return replace(batch, input_ids=batch.input_ids.masked_fill(chosen, SPECIAL_TOKENS.index("[MASK]")))


def encode_texts(texts: LabelledTexts, encoder: TextEncoder, domains: tuple[str, ...], task: TaskSettings) -> TaskTexts:
    """Tokenise and hash once; weigh classes within each domain (their balance differs between domains)."""
    own_domain = texts.domain_index(domains)
    weights = np.ones(len(texts), dtype=np.float32)
    if task.class_weights == "effective":
        for domain in np.unique(own_domain):
            own = own_domain == domain
            counts = np.bincount(texts.labels[own], minlength=len(LABELS))
            weights[own] = class_balanced_weights(counts)[texts.labels[own]]
    return TaskTexts(
        encoded=encoder.encode(texts.texts),
        labels=torch.from_numpy(texts.labels),
        domains=torch.from_numpy(own_domain),
        weights=torch.from_numpy(weights),
        label_space=torch.from_numpy(texts.label_space),
    )


def predicted_logits(forward: Callable[[TextBatch], Tensor], encoded: EncodedTexts) -> NDArray[np.float32]:
    """`[N, 3]` what `forward` gives, in input order, without gradients; its model is in evaluation mode."""
    logits = np.empty((len(encoded), len(LABELS)), np.float32)
    with torch.no_grad():
        for rows in token_budget_batches(encoded.lengths, _EVAL_PADDED_TOKENS):
            logits[rows] = forward(pad_batch(encoded.take(rows))).float().numpy()
    return logits


def validation_score(forward: Callable[[TextBatch], Tensor], texts: TaskTexts) -> float:
    """Mean over domains of macro-F1 of logits (or probabilities); 0 where there is no text."""
    predicted = predicted_logits(forward, texts.encoded).argmax(1).astype(np.int64)
    return mean_macro_f1(texts.labels.numpy(), predicted, texts.domains.numpy())
