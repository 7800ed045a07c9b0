"""Trains the mixture: router warm-up with frozen experts, then everything together.

Stages that it needs run first, finished ones are skipped.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from sentiment.cli import read_settings, run_command
from training.chain import run_chain
from training.settings import TrainSettings


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m ray_jobs.train_joint`."""
    settings = read_settings(
        TrainSettings,
        argv,
        prog="python -m ray_jobs.train_joint",
        summary="Trains the mixture: router warm-up with frozen experts, then everything together.",
        example="python -m ray_jobs.train_joint --storage /data/finsa",
    )
    run_chain(settings, target="joint", console=Console())


if __name__ == "__main__":
    run_command(main)
