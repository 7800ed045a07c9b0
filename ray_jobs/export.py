"""Calibrates the mixture and exports the bundle: `<storage>/bundles/<bundle id>/`.

Stages that it needs run first, finished ones are skipped.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from sentiment.cli import read_settings, run_command
from training.chain import run_chain
from training.settings import TrainSettings


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m ray_jobs.export`."""
    settings = read_settings(
        TrainSettings,
        argv,
        prog="python -m ray_jobs.export",
        summary="Fits temperature and threshold, and writes the bundle.",
        example="python -m ray_jobs.export --storage /data/finsa",
    )
    run_chain(settings, target="export", console=Console())


if __name__ == "__main__":
    run_command(main)
