"""Loop, workers' sums, fingerprints, storage rules, progress: the parts around the stages."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from sentiment.batching import EncodedTexts
from sentiment.errors import ConfigError
from training.chain import lay_out, run_chain
from training.data import DataSettings
from training.launch import absolute_storage
from training.loop import OptimSettings, train_epochs
from training.plan import rank_share
from training.progress import Bars, Reporter, StageState
from training.settings import TrainSettings
from training.stages import Stage
from training.texts import TaskSettings, TaskTexts
from training.world import World

JOB_ENV = "RAY_JOB_CONFIG_JSON_ENV_VAR"


def task_texts(count: int = 10) -> TaskTexts:
    offsets = np.arange(count + 1) * 2
    ids = np.arange(count * 2, dtype=np.int32) % 7
    return TaskTexts(
        encoded=EncodedTexts(ids, offsets, ids, offsets),
        labels=torch.arange(count) % 3,
        domains=torch.arange(count) % 2,
        weights=torch.rand(count, generator=torch.Generator().manual_seed(1)) + 0.5,
        label_space=torch.ones(count, 3, dtype=torch.bool),
    )


@pytest.mark.parametrize("world", [2, 3, 4])
def test_gradients_of_all_workers_sum_to_that_of_one(world: int) -> None:
    texts, task, step = task_texts(), TaskSettings(), np.array([9, 2, 4, 7, 0, 1, 5])
    embedding = nn.Embedding(7, 3)

    def gradient(part: np.ndarray) -> torch.Tensor:
        embedding.zero_grad()
        texts.loss(embedding(texts.batch(part).input_ids).mean(1), part, step, task).backward()
        assert embedding.weight.grad is not None
        return embedding.weight.grad.clone()

    parts = sum((gradient(rank_share(step, rank, world)) for rank in range(world)), torch.zeros(7, 3))
    torch.testing.assert_close(parts, gradient(step))


def toy_training(scores: list[float], *, max_steps: int = 0) -> tuple[nn.Linear, list[torch.Tensor], list[float]]:
    torch.manual_seed(0)
    model, seen = nn.Linear(2, 3), []

    def validate() -> float:
        seen.append(model.weight.detach().clone())
        return scores[len(seen) - 1]

    losses = train_epochs(
        model,
        OptimSettings(epochs=3, max_steps=max_steps, lr=0.1),
        plan=lambda _: [np.arange(4)] * 5,
        step_loss=lambda rows: nn.functional.cross_entropy(model(torch.ones(len(rows), 2)), torch.zeros(4).long()),
        step_tokens=len,
        validate=validate,
        world=World(),
        reporter=Reporter(None, "toy"),
    )
    return model, seen, losses


def test_the_best_epoch_is_kept_not_the_last() -> None:
    model, seen, losses = toy_training([0.1, 0.9, 0.5])
    assert torch.equal(model.weight, seen[1])
    assert not torch.equal(seen[1], seen[2])
    assert losses[0] > losses[-1]


def test_max_steps_ends_training_within_an_epoch() -> None:
    _, seen, losses = toy_training([0.1, 0.2, 0.3], max_steps=7)
    assert len(seen) == len(losses) == 2


def prints(settings: TrainSettings, data: str = "d", heldout: str = "h") -> dict[str, str]:
    stages = lay_out(settings, ("forum", "news"), {"train": data, "heldout": heldout}, Path("/s"))
    return {stage.name: stage.fingerprint for stage in stages}


def test_a_fingerprint_changes_with_its_own_settings_and_everything_upstream() -> None:
    settings = TrainSettings()
    before = prints(settings)
    joint = prints(replace(settings, joint=replace(settings.joint, router_weight=2.0)))
    assert {name for name in before if joint[name] != before[name]} == {"joint", "export", "report"}
    expert = prints(replace(settings, expert=replace(settings.expert, optim=OptimSettings(epochs=9))))
    assert {name for name in before if expert[name] == before[name]} == {"base"}
    heldout = prints(settings, heldout="other")
    assert {name for name in before if heldout[name] != before[name]} == {"report"}
    for changed in (prints(settings, data="other"), prints(replace(settings, seed=99))):
        assert not set(changed.values()) & set(before.values())
    assert prints(replace(settings, threads=1, storage="/elsewhere")) == before


def test_a_stage_is_finished_only_with_its_marker(tmp_path: Path) -> None:
    stage = Stage("base", "training.base_stage:run", "f", tmp_path / "base", {})
    assert not stage.complete
    (tmp_path / "base").mkdir()
    assert not stage.complete
    (tmp_path / "base" / "complete.json").write_text("{}")
    assert stage.complete


def test_relative_storage_is_absolute_when_run_directly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(JOB_ENV, raising=False)
    monkeypatch.chdir(tmp_path)
    assert absolute_storage("out") == tmp_path / "out"
    assert absolute_storage("file:///data/finsa") == Path("/data/finsa")


def test_relative_storage_is_refused_under_a_submitted_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(JOB_ENV, json.dumps({"metadata": {"job_submission_id": "raysubmit_1"}}))
    with pytest.raises(ConfigError, match=r"`storage` = 'out' is relative.*--storage /mnt/shared/out"):
        absolute_storage("out")
    assert absolute_storage("/data/out") == Path("/data/out")
    with pytest.raises(ConfigError, match="s3://bucket"):
        absolute_storage("s3://bucket/out")


class _Posted:
    """A board actor's handle that remembers."""

    def __init__(self) -> None:
        self.states: list[StageState] = []
        self.post = self

    def remote(self, state: StageState) -> None:
        self.states.append(state)


def test_progress_reaches_the_console_once_per_finished_stage() -> None:
    board = _Posted()
    reporter = Reporter(board, "base")
    reporter.message("starting")
    for step in range(1, 51):
        reporter.step(step, 50, loss=1.0 / step, tokens=100)
    reporter.done("macro f1 0.700")
    assert len(board.states) < 20, "posts are rare, not one per step"
    assert board.states[-2].step == 50
    assert board.states[-2].tokens_per_s is not None
    text = io.StringIO()
    with Bars(Console(file=text, width=200)) as bars:
        for state in board.states:
            bars.draw([state])
            bars.draw([state])
    lines = text.getvalue().strip().splitlines()
    assert len(lines) == 1
    assert "macro f1 0.700" in lines[0]
    assert "50 steps" in lines[0]


def test_an_unknown_domain_is_refused_before_anything_runs(tmp_path: Path) -> None:
    train = tmp_path / "t.csv"
    train.write_text("id,text,label,domain\n1,a,positive,news\n2,b,negative,forum\n", encoding="utf-8")
    settings = TrainSettings(storage=str(tmp_path), data=DataSettings(train=str(train), heldout=""))
    with pytest.raises(ConfigError, match=r"'expert-tweets'.*expert-forum, expert-news"):
        run_chain(settings, target="expert-tweets", console=Console(file=io.StringIO()))


def test_each_branch_of_the_features_is_trained_to_answer_alone() -> None:
    texts, rows, generator = task_texts(), np.arange(4), torch.Generator().manual_seed(3)
    pooled, weight = torch.randn(4, 5, generator=generator), torch.randn(3, 5, generator=generator)
    task = TaskSettings(branch_weight=0.5)

    def loss(features: torch.Tensor) -> torch.Tensor:
        return texts.loss(features @ weight.T, rows, rows, task)

    encoder, bag = pooled.clone(), pooled.clone()
    encoder[:, 3:], bag[:, :3] = 0, 0
    whole = texts.branched_loss(lambda features: features @ weight.T, pooled, 3, rows, rows, task)
    torch.testing.assert_close(whole, loss(pooled) + 0.5 * (loss(encoder) + loss(bag)))
    no_bag = texts.branched_loss(lambda features: features @ weight.T, pooled, 5, rows, rows, task)
    torch.testing.assert_close(no_bag, loss(pooled))
