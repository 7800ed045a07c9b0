"""What a stage is given, and the seed it starts from. Every stage is one function `run(work) -> metrics`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from training.data import LabelledTexts
from training.progress import Reporter
from training.settings import TrainSettings
from training.world import World

ENCODER_DIR: Final = "tokenizer"
BACKBONE_DIR: Final = "backbone"
ADAPTER_DIR: Final = "adapter"


@dataclass(frozen=True, slots=True)
class Work:
    """One stage's surroundings inside a worker.

    Attributes:
        settings: of the whole run.
        domains: the experts' names, in the gate's order.
        texts: all labelled texts, split.
        heldout: texts for the report only, None where there are none.
        left_out: texts of the sources kept out of training, None where there are none.
        inputs: artefact directories of upstream stages by stage name.
        output: where rank 0 writes the artefact.
        storage: root of everything the run writes.
        world: the workers.
        reporter: the display.
        domain: the expert's domain, for expert stages.
        fingerprints: of data and stages, for the bundle's manifest.
    """

    settings: TrainSettings
    domains: tuple[str, ...]
    texts: LabelledTexts
    heldout: LabelledTexts | None
    left_out: LabelledTexts | None
    inputs: Mapping[str, Path]
    output: Path
    storage: Path
    world: World
    reporter: Reporter
    domain: str | None
    fingerprints: Mapping[str, str]

    @property
    def own_domain(self) -> str:
        """The domain of an expert stage."""
        if self.domain is None:
            raise ValueError("only expert stages have a domain")
        return self.domain

    def seed(self, purpose: str) -> None:
        """Start torch's random numbers for one purpose; equal on all workers."""
        torch.manual_seed(self._number(purpose))

    def seed_dropout(self, purpose: str) -> None:
        """Start torch's random numbers anew, differently on each worker."""
        torch.manual_seed(self._number(f"{purpose}-{self.world.rank}"))

    def _number(self, purpose: str) -> int:
        digest = hashlib.sha256(f"{self.settings.seed}-{purpose}".encode()).digest()
        return int.from_bytes(digest[:7], "big")
