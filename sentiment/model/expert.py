"""An expert: a base with one adapter, pooled, under its own head. Complete alone, and what one replica serves."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sentiment.batching import EncodedTexts, token_budget_batches
from sentiment.labels import LABELS
from sentiment.model.backbone import Backbone
from sentiment.model.inputs import TextBatch, pad_batch

HEAD_FILE: Final = "head.safetensors"
DEFAULT_MAX_PADDED_TOKENS: Final = 2_048


class Head(nn.Module):
    """Pooled features `[B, P]` → logits `[B, 3]`, linear or with one hidden layer.

    Args:
        features: P.
        hidden: width of the hidden layer, 0 for none.
        dropout: of the input while training.
    """

    def __init__(self, features: int, hidden: int = 0, dropout: float = 0.1) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(features, hidden) if hidden else None
        self.output = nn.Linear(hidden or features, len(LABELS))

    def forward(self, pooled: Tensor) -> Tensor:
        """`[B, P]` → `[B, 3]`."""
        features = self.dropout(pooled)
        if self.hidden is not None:
            features = torch.tanh(self.hidden(features))
        logits: Tensor = self.output(features)
        return logits


def write_head(head: Head, directory: Path) -> None:
    """Write `head.safetensors`."""
    directory.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()}
    save_file(state, directory / HEAD_FILE)


def read_head(directory: Path) -> Head:
    """Read what `write_head` wrote, in evaluation mode."""
    state = load_file(directory / HEAD_FILE)
    first = state.get("hidden.weight", state["output.weight"])
    head = Head(first.shape[1], hidden=len(first) if "hidden.weight" in state else 0)
    head.load_state_dict(state)
    return head.eval()


class Expert(nn.Module):
    """A backbone (bare, with a peft adapter, or merged) under one head: what the base and expert stages train."""

    def __init__(self, backbone: Backbone, head: Head) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, batch: TextBatch) -> Tensor:
        """Logits `[B, 3]`."""
        logits: Tensor = self.head(self.backbone(batch))
        return logits


class ExpertModel:
    """An expert ready to score: merged weights, evaluation mode.

    Args:
        expert: the module; it is put into evaluation mode.
        device: where it runs.
    """

    def __init__(self, expert: Expert, device: torch.device | str = "cpu") -> None:
        self.expert = expert.to(device).eval().requires_grad_(False)
        self.device = torch.device(device)

    def logits(self, texts: EncodedTexts, max_padded_tokens: int = DEFAULT_MAX_PADDED_TOKENS) -> NDArray[np.float32]:
        """Uncalibrated logits `[N, 3]` in input order.

        Args:
            texts: N encoded texts.
            max_padded_tokens: budget of one forward pass, rows x longest row.
        """
        result = np.empty((len(texts), len(LABELS)), np.float32)
        for rows in token_budget_batches(texts.lengths, max_padded_tokens):
            result[rows] = self.forward(texts.take(rows))
        return result

    def forward(self, texts: EncodedTexts) -> NDArray[np.float32]:
        """Logits `[N, 3]` of one forward pass; the caller has cut the batch."""
        with torch.inference_mode():
            logits: Tensor = self.expert(pad_batch(texts).to(self.device))
            array: NDArray[np.float32] = logits.float().cpu().numpy()
            return array
