"""What runs inside each Ray Train worker: the pending stages, one after the other.

All pending stages share one worker group: starting one costs many seconds, a tiny stage itself hardly more.
Rank 0 writes a stage into `<directory>.partial`, marks it complete and renames it; then all ranks report.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch

from training.data import LabelledTexts
from training.progress import Reporter
from training.settings import TrainSettings
from training.stages import Stage, write_complete
from training.work import Work
from training.world import World


@dataclass(frozen=True, slots=True)
class Assignment:
    """Everything a worker needs to know; sent to it once.

    Attributes:
        settings: of the whole run.
        stages: pending ones, upstream first.
        domains: the experts' names, in the gate's order.
        texts: all labelled texts, split.
        heldout: for the report.
        left_out: sources kept out of training.
        fingerprints: of data and stages.
        storage: root of everything the run writes.
        board: actor handle of the display, or None.
    """

    settings: TrainSettings
    stages: tuple[Stage, ...]
    domains: tuple[str, ...]
    texts: LabelledTexts
    heldout: LabelledTexts | None
    left_out: LabelledTexts | None
    fingerprints: dict[str, str]
    storage: Path
    board: Any


def run_stages(config: dict[str, Any]) -> None:
    """Ray Train's loop per worker; `config["assignment"]` is a reference to an `Assignment`."""
    assignment: Assignment = ray.get(config["assignment"])
    context = ray.train.get_context()
    world = World(context.get_world_rank(), context.get_world_size())
    torch.set_num_threads(_threads(assignment.settings))
    for stage in assignment.stages:
        if not stage.complete:  # a restarted worker group finds the stages before the failure finished
            _report(stage, run_stage(assignment, stage, world), world)


def run_stage(assignment: Assignment, stage: Stage, world: World) -> dict[str, float]:
    """Run one stage on this worker; afterwards its directory is complete."""
    partial = stage.directory.with_name(f"{stage.directory.name}.partial")
    if world.first:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    world.wait()
    reporter = Reporter(assignment.board if world.first else None, stage.name)
    reporter.message("starting")
    began = time.monotonic()
    work = Work(
        settings=assignment.settings,
        domains=assignment.domains,
        texts=assignment.texts,
        heldout=assignment.heldout,
        left_out=assignment.left_out,
        inputs=stage.inputs,
        output=partial,
        storage=assignment.storage,
        world=world,
        reporter=reporter,
        domain=stage.domain,
        fingerprints=assignment.fingerprints,
    )
    metrics = _function(stage.function)(work)
    world.wait()
    if world.first:
        seconds = round(time.monotonic() - began, 3)
        write_complete(partial, {"fingerprint": stage.fingerprint, "metrics": metrics, "seconds": seconds})
        shutil.rmtree(stage.directory, ignore_errors=True)
        partial.rename(stage.directory)
        reporter.done(f"{_shown(metrics)}  {seconds:.1f} s")
    world.wait()
    return metrics


def _function(path: str) -> Callable[[Work], dict[str, float]]:
    module, _, name = path.partition(":")
    function: Callable[[Work], dict[str, float]] = getattr(importlib.import_module(module), name)
    return function


def _report(stage: Stage, metrics: dict[str, float], world: World) -> None:
    """Tell Ray Train; the checkpoint is a pointer, since the artefact already lies in shared storage."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = None
        if world.first:
            Path(folder, "stage.json").write_text(json.dumps({"stage": stage.name, "path": str(stage.directory)}))
            checkpoint = ray.train.Checkpoint.from_directory(folder)
        ray.train.report({"stage": stage.name, **metrics}, checkpoint=checkpoint)


def _threads(settings: TrainSettings) -> int:
    return settings.threads or max(1, len(os.sched_getaffinity(0)) // settings.workers)


def _shown(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in metrics.items())
