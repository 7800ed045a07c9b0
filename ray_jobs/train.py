"""Trains the whole chain: base, one expert per domain, mixture, bundle, held-out scores."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from sentiment.cli import read_settings, run_command
from training.chain import run_chain
from training.settings import TrainSettings


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m ray_jobs.train --config mine.yaml`."""
    settings = read_settings(
        TrainSettings,
        argv,
        prog="python -m ray_jobs.train",
        summary="Trains the mixture from labelled texts and exports a bundle; finished stages are skipped.",
        example="python -m ray_jobs.train --data.train mine.csv --data.heldout test.csv --storage /data/finsa",
    )
    run_chain(settings, console=Console())


if __name__ == "__main__":
    run_command(main)
