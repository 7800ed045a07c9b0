"""The chain on Ray Train: it learns from real labels only, skips what is finished, and sums over workers."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from rich.console import Console
from safetensors.torch import load_file

from sentiment.bundle import load_bundle
from sentiment.encoder import EncoderSettings
from sentiment.errors import ConfigError
from sentiment.model.tiny import TinySettings
from sentiment.ngrams import NgramSettings
from training.chain import ChainResult, prepare, run_chain
from training.data import DataSettings
from training.launch import ray_session
from training.loop import OptimSettings
from training.settings import BaseSettings, ExpertSettings, JointSettings, TrainSettings
from training.texts import TaskSettings
from training.work import BACKBONE_DIR
from training.worker import run_stage
from training.world import World

pytestmark = pytest.mark.cluster

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with ray_session():
        yield
    assert not ray.is_initialized()


def reduced(train: Path, storage: Path) -> TrainSettings:
    """The whole chain in seconds: one narrow layer, few steps."""
    short = OptimSettings(epochs=1, step_texts=32, lr=1e-3)
    return TrainSettings(
        storage=str(storage),
        threads=1,
        data=DataSettings(train=str(train), heldout=str(EXAMPLES / "heldout.csv")),
        base=BaseSettings(
            tiny=TinySettings(vocab_size=4000, layers=1, hidden=32, heads=2, ffn=64, max_position=128),
            encoder=EncoderSettings(ngrams=NgramSettings(buckets=1 << 16)),
            optim=replace(short, epochs=2),
        ),
        expert=ExpertSettings(optim=replace(short, max_steps=20)),
        joint=JointSettings(
            warmup=replace(short, epochs=9, max_steps=200, lr=3e-3), optim=replace(short, max_steps=20)
        ),
    )


def samples(path: Path, *, shuffled: bool) -> Path:
    """Every second row of the project's training samples; optionally with its labels dealt out anew."""
    with (EXAMPLES / "train.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[::2]
    if shuffled:
        labels = [row["label"] for row in rows]
        random.Random(1).shuffle(labels)
        for row, label in zip(rows, labels, strict=True):
            row["label"] = label
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainSettings, ChainResult, str]:
    folder = tmp_path_factory.mktemp("real")
    settings, text = reduced(samples(folder / "train.csv", shuffled=False), folder / "storage"), io.StringIO()
    return settings, run_chain(settings, console=Console(file=text, width=200)), text.getvalue()


def accuracies(result: ChainResult) -> list[float]:
    return [result.report["domains"][domain]["mixture"]["accuracy"] for domain in ("forum", "news")]


def test_real_labels_are_learned(learned: tuple[TrainSettings, ChainResult, str]) -> None:
    settings, result, output = learned
    assert min(accuracies(result)) > 0.5
    assert result.report["domains"]["all"]["router_accuracy"] > 0.85
    assert result.report["domains"]["all"]["tfidf"]["accuracy"] > 0.5
    storage = Path(settings.storage)
    assert (storage / "bundle").resolve() == Path(result.bundle_path).resolve()
    assert load_bundle(result.bundle_path).manifest.bundle_id == result.report["bundle_id"]
    for shown in (result.bundle_path, str(storage / "report.json"), *result.stages.values(), "macro-F1", "TF-IDF + LR"):
        assert shown in output


def test_shuffled_labels_fall_to_chance(tmp_path: Path) -> None:
    settings = reduced(samples(tmp_path / "train.csv", shuffled=True), tmp_path / "storage")
    result = run_chain(settings, console=Console(file=io.StringIO()))
    assert max(accuracies(result)) < 0.43
    assert result.report["domains"]["all"]["router_accuracy"] > 0.85, "domains were not shuffled"


def test_a_second_run_skips_everything_and_changed_data_nothing(
    learned: tuple[TrainSettings, ChainResult, str], tmp_path: Path
) -> None:
    settings, first, _ = learned
    second = run_chain(settings, console=Console(file=io.StringIO()))
    assert first.skipped == ()
    assert second.skipped == ("base", "expert-forum", "expert-news", "joint", "export", "report")
    assert second.bundle_path == first.bundle_path
    assert second.report == first.report

    changed = tmp_path / "train.csv"
    lines = Path(settings.data.train).read_text(encoding="utf-8").splitlines(keepends=True)
    changed.write_text("".join(lines[:-1]), encoding="utf-8")
    other = replace(settings, data=replace(settings.data, train=str(changed)))
    assert not any(stage.complete for stage in prepare(other, Path(settings.storage)).stages)
    assert all(stage.complete for stage in prepare(settings, Path(settings.storage)).stages)


def test_two_workers_train_what_one_does(tmp_path: Path) -> None:
    settings = reduced(samples(tmp_path / "train.csv", shuffled=False), tmp_path / "two")
    tiny = replace(settings.base.tiny, dropout=0.0, ngram_dropout=0.0)
    base = replace(settings.base, tiny=tiny, head_dropout=0.0)
    settings = replace(
        settings,
        workers=2,
        task=TaskSettings(token_dropout=0.0),
        base=replace(base, optim=replace(base.optim, max_steps=12)),
    )
    result = run_chain(settings, target="base", console=Console(file=io.StringIO()))
    assert list(result.stages) == ["base"]

    alone = prepare(replace(settings, storage=str(tmp_path / "one")), tmp_path / "one")
    run_stage(alone, alone.stages[0], World())
    for name in ("model.safetensors", "ngrams.safetensors"):
        two = load_file(Path(result.stages["base"], BACKBONE_DIR, name))
        one = load_file(alone.stages[0].directory / BACKBONE_DIR / name)
        assert two.keys() == one.keys()
        far = max(float((two[key] - one[key]).abs().max()) for key in two)
        assert far < 2e-3, (name, far)
        assert any(torch.count_nonzero(two[key]) for key in two)


def test_more_workers_than_cpus_are_refused(tmp_path: Path) -> None:
    train = samples(tmp_path / "train.csv", shuffled=False)
    settings = replace(reduced(train, tmp_path / "storage"), workers=int(np.iinfo(np.int16).max))
    with pytest.raises(ConfigError, match="`workers`"):
        run_chain(settings, target="base", console=Console(file=io.StringIO()))
