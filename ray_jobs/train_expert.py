"""Trains one domain's expert: LoRA adapter and head on the frozen base.

Stages that it needs run first, finished ones are skipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from pydantic.dataclasses import dataclass
from rich.console import Console

from sentiment.cli import STRICT, read_settings, run_command
from training.chain import run_chain
from training.settings import TrainSettings


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ExpertJobSettings(TrainSettings):
    """A training run's settings and whose expert to train."""

    domain: str
    """whose expert [domain]"""


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m ray_jobs.train_expert --domain news`."""
    settings = read_settings(
        ExpertJobSettings,
        argv,
        prog="python -m ray_jobs.train_expert",
        summary="Trains one domain's expert on the base, which is trained first if it is not there.",
        example="python -m ray_jobs.train_expert --domain news --storage /data/finsa",
    )
    run = TrainSettings(**{field.name: getattr(settings, field.name) for field in fields(TrainSettings)})
    run_chain(run, target=f"expert-{settings.domain}", console=Console())


if __name__ == "__main__":
    run_command(main)
