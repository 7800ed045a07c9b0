"""EncodedTexts as padded torch tensors. B texts of a batch, L tokens of the longest."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from sentiment.batching import EncodedTexts


@dataclass(frozen=True, slots=True)
class TextBatch:
    """One padded batch, with the ragged ids beside it (bags of embeddings need no padding).

    Attributes:
        input_ids: `[B, L]` int64, padded on the right.
        attention_mask: `[B, L]` int64, 1 for real tokens.
        token_ids: `[total tokens]` int64, the same tokens without padding.
        token_offsets: `[B]` int64, where each text starts in `token_ids`.
        ngram_ids: `[total n-grams]` int64.
        ngram_offsets: `[B]` int64, where each text starts in `ngram_ids`.
    """

    input_ids: Tensor
    attention_mask: Tensor
    token_ids: Tensor
    token_offsets: Tensor
    ngram_ids: Tensor
    ngram_offsets: Tensor

    def __len__(self) -> int:
        return len(self.token_offsets)

    def to(self, device: torch.device | str) -> TextBatch:
        """The batch on another device."""
        return TextBatch(*(getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)))


def pad_batch(texts: EncodedTexts, pad_id: int = 0) -> TextBatch:
    """All of `texts` as one batch on the CPU."""
    lengths = texts.lengths
    mask = np.arange(lengths.max(initial=1)) < lengths[:, None]
    input_ids = np.full(mask.shape, pad_id, np.int64)
    input_ids[mask] = texts.token_ids  # row-major, so texts stay in order
    return TextBatch(
        input_ids=torch.from_numpy(input_ids),
        attention_mask=torch.from_numpy(mask.astype(np.int64)),
        token_ids=torch.from_numpy(texts.token_ids.astype(np.int64)),
        token_offsets=torch.from_numpy(texts.token_offsets[:-1].copy()),
        ngram_ids=torch.from_numpy(texts.ngram_ids.astype(np.int64)),
        ngram_offsets=torch.from_numpy(texts.ngram_offsets[:-1].copy()),
    )
