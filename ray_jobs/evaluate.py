"""Scores a bundle on labelled texts: accuracy, macro and weighted F1, router accuracy, with floors beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic.dataclasses import dataclass
from rich.console import Console

from sentiment.cli import STRICT, read_settings, run_command
from training.data import TRAIN, DataSettings, read_labelled, with_splits
from training.evaluate import evaluate_bundle, lang_table, report_table
from training.launch import absolute_storage


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvaluateSettings:
    """What to score."""

    bundle: str
    """a bundle's directory; training leaves a link to its last one at `<storage>/bundle` [path]"""
    data: DataSettings = DataSettings()
    """`heldout` is scored; `train` is what the floors are trained on, empty for no floors"""
    seed: int = 13
    """of the split of `data.train`, as in training [1]"""
    output: str = ""
    """also write the scores here, empty for nowhere [path of a JSON file]"""


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m ray_jobs.evaluate --bundle out/bundle --data.heldout mine.csv`."""
    settings = read_settings(
        EvaluateSettings,
        argv,
        prog="python -m ray_jobs.evaluate",
        summary="Scores a bundle on labelled texts, by the path that serving runs.",
        example="python -m ray_jobs.evaluate --bundle out/bundle --data.heldout examples/heldout.csv",
    )
    train = None
    if settings.data.train:
        texts = with_splits(read_labelled(settings.data.train, settings.data), settings.data, settings.seed)
        train = texts.where(TRAIN)
    report = evaluate_bundle(Path(settings.bundle), read_labelled(settings.data.heldout, settings.data), train)
    console = Console()
    console.print(report_table(report))
    console.print(lang_table(report))
    if settings.output:
        output = absolute_storage(settings.output)
        output.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        console.print(f"scores {output}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    run_command(main)
