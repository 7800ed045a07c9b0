"""The whole chain: base -> one expert per domain -> mixture -> bundle -> report. Finished stages are skipped.

    result = run_chain(TrainSettings(storage="/data/finsa"))

Everything lies under `storage`: `stages/<stage>-<fingerprint>/`, `bundles/<bundle id>/`, the link `bundle` to
the last bundle, and `report.json`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from sentiment.errors import ConfigError
from training.data import DataSettings, LabelledTexts, choose_domains, read_labelled, with_splits
from training.evaluate import lang_table, report_table
from training.launch import absolute_storage, ray_session, train
from training.settings import TrainSettings
from training.stages import CODE_VERSION, REPORT_FILE, Stage, bundle_path, fingerprint, read_complete
from training.worker import Assignment

BUNDLE_LINK: Final = "bundle"
_DIGITS: Final = 12


@dataclass(frozen=True, slots=True)
class ChainResult:
    """What a chain ended with.

    Attributes:
        bundle_path: absolute, empty if the target was an earlier stage.
        report: `report.json`, empty without held-out texts.
        stages: artefact directory of every stage up to the target.
        skipped: names of the stages that were finished before.
    """

    bundle_path: str
    report: dict[str, Any]
    stages: dict[str, str]
    skipped: tuple[str, ...]


def run_chain(settings: TrainSettings, *, target: str = "report", console: Console | None = None) -> ChainResult:
    """Run every stage up to `target` that is not finished.

    Args:
        settings: of the run.
        target: `base`, `expert-<domain>`, `joint`, `export` or `report`.
        console: where progress and results go; None: standard error.

    Raises:
        SentimentError: data or settings that cannot be used, or a stage's own refusal.
    """
    console = console or Console(stderr=True)
    storage = absolute_storage(settings.storage)
    assignment = prepare(settings, storage)
    stages = _needed(assignment.stages, target if assignment.heldout is not None or target != "report" else "export")
    pending = tuple(stage for stage in stages if not _finished(stage, storage))
    skipped = tuple(stage.name for stage in stages if stage not in pending)
    console.print(_summary(assignment.texts), highlight=False)
    if skipped:
        console.print(f"finished before: {', '.join(skipped)}", highlight=False)
    if pending:
        with ray_session():
            train(replace(assignment, stages=pending), f"{target}-{pending[-1].fingerprint[:_DIGITS]}", console)
    return _result(stages, skipped, storage, console)


def prepare(settings: TrainSettings, storage: Path) -> Assignment:
    """Read, check and split the data, and lay out the stages; nothing runs yet."""
    texts = with_splits(read_labelled(settings.data.train, settings.data), settings.data, settings.seed)
    domains = choose_domains(texts, settings.data)
    texts = _of_domains(texts, domains)
    texts, left_out = _leave_out(texts, settings.data)
    heldout = None
    if settings.data.heldout:
        heldout = _of_domains(read_labelled(settings.data.heldout, settings.data), domains)
    fingerprints = {"train": texts.fingerprint()}
    fingerprints |= {"heldout": heldout.fingerprint()} if heldout is not None else {}
    fingerprints |= {"left_out": left_out.fingerprint()} if left_out is not None else {}
    return Assignment(
        settings=settings,
        stages=lay_out(settings, domains, fingerprints, storage),
        domains=domains,
        texts=texts,
        heldout=heldout,
        left_out=left_out,
        fingerprints=fingerprints,
        storage=storage,
        board=None,
    )


def lay_out(settings: TrainSettings, domains: Sequence[str], data: dict[str, str], storage: Path) -> tuple[Stage, ...]:
    """All stages with their fingerprints, upstream first."""
    stages: dict[str, Stage] = {}
    common = {"code": CODE_VERSION, "seed": settings.seed, "workers": settings.workers, "domains": list(domains)}

    def add(name: str, module: str, own: dict[str, Any], upstream: Iterable[str], domain: str | None = None) -> None:
        inputs = {other: stages[other] for other in upstream}
        prints = {other: stage.fingerprint for other, stage in inputs.items()}
        own_print = fingerprint({**common, "stage": name, "own": own, "upstream": prints})
        directory = storage / "stages" / f"{name}-{own_print[:_DIGITS]}"
        folders = {other: stage.directory for other, stage in inputs.items()}
        stages[name] = Stage(name, f"training.{module}:run", own_print, directory, folders, domain)

    trained = {"data": data["train"], "task": settings.task}
    experts = [f"expert-{domain}" for domain in domains]
    add("base", "base_stage", {**trained, "settings": settings.base}, [])
    for domain, name in zip(domains, experts, strict=True):
        add(name, "expert_stage", {**trained, "settings": settings.expert}, ["base"], domain)
    add("joint", "joint_stage", {**trained, "settings": settings.joint}, ["base", *experts])
    seen = {name: value for name, value in data.items() if name != "heldout"}
    add("export", "export_stage", {"data": seen, "settings": settings.calibration}, ["base", *experts, "joint"])
    add("report", "report_stage", {"data": data}, ["export"])
    return tuple(stages.values())


def _needed(stages: Sequence[Stage], target: str) -> tuple[Stage, ...]:
    """The target and everything upstream of it, in order."""
    names = [stage.name for stage in stages]
    if target not in names:
        raise ConfigError(f"no stage {target!r}; with these data there are {', '.join(names)}")
    wanted = {target}
    for stage in reversed(stages):
        if stage.name in wanted:
            wanted |= set(stage.inputs)
    return tuple(stage for stage in stages if stage.name in wanted)


def _finished(stage: Stage, storage: Path) -> bool:
    return stage.complete and (stage.name != "export" or bundle_path(storage, stage.directory).is_dir())


def _of_domains(texts: LabelledTexts, domains: Sequence[str]) -> LabelledTexts:
    return texts.take(row for row, name in enumerate(texts.domains) if name in domains)


def _leave_out(texts: LabelledTexts, data: DataSettings) -> tuple[LabelledTexts, LabelledTexts | None]:
    if not data.left_out_sources:
        return texts, None
    away = [row for row, source in enumerate(texts.sources) if source in data.left_out_sources]
    kept = sorted(set(range(len(texts))) - set(away))
    return texts.take(kept), texts.take(away)


def _summary(texts: LabelledTexts) -> str:
    cells = Counter(zip(texts.domains, texts.splits, strict=True))
    parts = [f"{domain} {split} {count:,}" for (domain, split), count in sorted(cells.items())]
    return f"{len(texts):,} labelled texts: {', '.join(parts)}"


def _result(stages: Sequence[Stage], skipped: tuple[str, ...], storage: Path, console: Console) -> ChainResult:
    by_name = {stage.name: stage for stage in stages}
    bundle, report = "", {}
    if "export" in by_name:
        bundle = str(bundle_path(storage, by_name["export"].directory))
        _link(storage / BUNDLE_LINK, Path(bundle))
    if "report" in by_name:
        report = json.loads((by_name["report"].directory / REPORT_FILE).read_text(encoding="utf-8"))
        seconds = {stage.name: read_complete(stage.directory)["seconds"] for stage in stages}
        report = {**report, "bundle": bundle, "stage_seconds": seconds}
        _replace(storage / REPORT_FILE, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
        console.print(report_table(report))
        console.print(lang_table(report))
    for stage in stages:
        console.print(f"{stage.name:<15} {stage.directory}", highlight=False, soft_wrap=True)
    if bundle:
        console.print(f"{'bundle':<15} {bundle}", highlight=False, soft_wrap=True)
    if report:
        console.print(f"{'scores':<15} {storage / REPORT_FILE}", highlight=False, soft_wrap=True)
    return ChainResult(bundle, report, {stage.name: str(stage.directory) for stage in stages}, skipped)


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.tmp")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _link(path: Path, target: Path) -> None:
    """Point `path` at `target`, in one step: whoever opens it meanwhile gets the old bundle or the new one."""
    partial = path.with_name(f"{path.name}.tmp")
    partial.unlink(missing_ok=True)
    partial.symlink_to(target.relative_to(path.parent), target_is_directory=True)
    partial.replace(path)
