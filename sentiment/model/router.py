"""The router: which expert a text belongs to, from the text alone, without running the base.

Mean of the base's frozen token embeddings, beside a bag of hashed character n-grams → MLP → logits / temperature +
prior offset → gate. Both bags read ragged ids, so padding cannot reach them. B texts, E experts, V tokens, H width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, TypeAdapter
from pydantic.dataclasses import dataclass
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sentiment.batching import EncodedTexts
from sentiment.cli import STRICT
from sentiment.model.inputs import TextBatch

ROUTER_FILE: Final = "router.safetensors"
MIN_TEMPERATURE: Final = 0.1
_SETTINGS_KEY: Final = "settings"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RouterSettings:
    """Shape of the router."""

    hidden: PositiveInt = 64
    """width of the hidden layer [features]"""
    ngram_buckets: PositiveInt = 16_384
    """rows of its own n-gram table; the encoder's bucket ids are taken modulo this [buckets]"""
    ngram_dim: PositiveInt = 32
    """size of its n-gram embedding [features]"""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """dropout of the hidden layer while training [probability]"""
    initial_temperature: Annotated[float, Field(ge=MIN_TEMPERATURE)] = 1.0
    """divides the logits; learned, never below 0.1 [1]"""


class Router(nn.Module):
    """Gate logits from token ids and n-gram ids.

    Args:
        token_table: `[V, H]` the base's token embeddings; copied, scaled to unit deviation, and never trained.
        experts: E.
        settings: its shape.
    """

    def __init__(self, token_table: Tensor, experts: int, settings: RouterSettings) -> None:
        super().__init__()
        self.settings = settings
        self.experts = experts
        table = token_table.detach().float()
        self.tokens = nn.EmbeddingBag.from_pretrained(table / table.std().clamp(min=1e-8), freeze=True, mode="mean")
        self.ngrams = nn.EmbeddingBag(settings.ngram_buckets, settings.ngram_dim, mode="mean")
        # From zero, not from noise: n-grams that were never trained must not move the gate.
        nn.init.zeros_(self.ngrams.weight)
        self.layers = nn.Sequential(
            nn.Linear(table.shape[1] + settings.ngram_dim, settings.hidden),
            nn.LayerNorm(settings.hidden),
            nn.ReLU(),
            nn.Dropout(settings.dropout),
            nn.Linear(settings.hidden, experts),
        )
        self.temperature = nn.Parameter(torch.tensor(settings.initial_temperature))
        self.prior_offset: Tensor
        self.register_buffer("prior_offset", torch.zeros(experts))

    def forward(self, batch: TextBatch) -> Tensor:
        """Gate logits `[B, E]`, temperature and prior offset applied; softmax gives the gate."""
        tokens = self.tokens(batch.token_ids, batch.token_offsets)
        ngrams = self.ngrams(batch.ngram_ids % self.settings.ngram_buckets, batch.ngram_offsets)
        logits: Tensor = self.layers(torch.cat([tokens, ngrams], dim=1))
        return logits / self.temperature.clamp(min=MIN_TEMPERATURE) + self.prior_offset

    def set_prior(self, sampled: NDArray[np.float64], true: NDArray[np.float64]) -> None:
        """Correct the gate from the domain shares it was trained on to the true ones: `offset = log(true / sampled)`.

        Args:
            sampled: `[E]` shares of the domains among the training texts, sum 1.
            true: `[E]` shares to expect when serving, sum 1.
        """
        offset = torch.from_numpy(np.log(true) - np.log(sampled)).to(self.prior_offset)
        self.prior_offset.copy_(offset)


def write_router(router: Router, path: Path) -> None:
    """Write weights and settings into one safetensors file."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in router.state_dict().items()}
    settings = TypeAdapter(RouterSettings).dump_json(router.settings).decode()
    save_file(state, path, metadata={_SETTINGS_KEY: settings})


def read_router(path: Path) -> Router:
    """Read what `write_router` wrote, in evaluation mode."""
    with safe_open(path, framework="pt") as file:
        settings = TypeAdapter(RouterSettings).validate_json(file.metadata()[_SETTINGS_KEY])
        state = {name: file.get_tensor(name) for name in file.keys()}
    router = Router(state["tokens.weight"], len(state["prior_offset"]), settings)
    router.load_state_dict(state)
    return router.eval()


class RouterModel:
    """A router ready to gate, on the CPU."""

    def __init__(self, router: Router) -> None:
        self.router = router.eval().requires_grad_(False)

    def gate(self, texts: EncodedTexts) -> NDArray[np.float32]:
        """Gate weights `[N, E]` in input order; rows sum to 1."""
        with torch.inference_mode():
            logits: Tensor = self.router(ragged_batch(texts))
            gate: NDArray[np.float32] = logits.softmax(1).numpy()
            return gate


def ragged_batch(texts: EncodedTexts) -> TextBatch:
    """A batch for the router alone: its bags need no padded tokens, so those stay empty."""
    return TextBatch(
        input_ids=torch.empty(0, 0, dtype=torch.int64),
        attention_mask=torch.empty(0, 0, dtype=torch.int64),
        token_ids=torch.from_numpy(texts.token_ids.astype(np.int64)),
        token_offsets=torch.from_numpy(texts.token_offsets[:-1].copy()),
        ngram_ids=torch.from_numpy(texts.ngram_ids.astype(np.int64)),
        ngram_offsets=torch.from_numpy(texts.ngram_offsets[:-1].copy()),
    )
