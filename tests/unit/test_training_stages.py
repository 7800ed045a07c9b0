"""The real stage functions on a very small base, in this process: what moves, what must not, what is reproducible."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sentiment.bundle import load_bundle
from sentiment.encoder import EncoderSettings, TextEncoder
from sentiment.model.mixture import Mixture
from sentiment.model.tiny import TinySettings
from sentiment.ngrams import NgramSettings
from training import joint_stage
from training.chain import prepare
from training.data import TRAIN, DataSettings
from training.loop import OptimSettings
from training.progress import Reporter
from training.settings import BaseSettings, ExpertSettings, JointSettings, TrainSettings
from training.stages import bundle_path, read_complete
from training.texts import encode_texts
from training.work import BACKBONE_DIR, ENCODER_DIR, Work
from training.worker import Assignment, run_stage
from training.world import World

ONE_EPOCH = OptimSettings(epochs=1, step_texts=16, lr=1e-2)


def write_texts(path: Path, *, domains: tuple[str, ...] = ("forum", "news"), count: int = 300) -> str:
    """Easy texts: the label is in one word, the domain in another."""
    random = np.random.default_rng(0)
    label_words = (("loss", "亏损"), ("flat", "持平"), ("gain", "盈利"))
    names = ("negative", "neutral", "positive")
    lines = ["id,text,label,domain"]
    for number in range(count):
        label, lang, domain = number % 3, number // 3 % 2, domains[number // 6 % len(domains)]
        filler = " ".join(f"w{word}" for word in random.integers(0, 40, 4))
        lines.append(f"t{number},{domain}{domain} {filler} {label_words[label][lang]} {number},{names[label]},{domain}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def small_settings(train: str, storage: Path, **changes: object) -> TrainSettings:
    shape = TinySettings(vocab_size=300, layers=1, hidden=16, heads=2, ffn=32, max_position=64, ngram_dim=4)
    encoder = EncoderSettings(max_length=32, ngrams=NgramSettings(buckets=4096))
    settings = TrainSettings(
        storage=str(storage),
        threads=1,
        data=DataSettings(train=train, heldout=train),
        base=BaseSettings(tiny=shape, encoder=encoder, optim=replace(ONE_EPOCH, epochs=3)),
        expert=ExpertSettings(optim=ONE_EPOCH),
        joint=JointSettings(optim=ONE_EPOCH, warmup=replace(ONE_EPOCH, max_steps=20)),
    )
    return replace(settings, **changes)


def run_all(settings: TrainSettings, storage: Path) -> Assignment:
    assignment = prepare(settings, storage)
    for stage in assignment.stages:
        run_stage(assignment, stage, World())
    return assignment


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Assignment:
    storage = tmp_path_factory.mktemp("storage")
    return run_all(small_settings(write_texts(storage / "texts.csv"), storage), storage)


def work_of(assignment: Assignment, name: str) -> Work:
    stage = next(stage for stage in assignment.stages if stage.name == name)
    return Work(
        settings=assignment.settings,
        domains=assignment.domains,
        texts=assignment.texts,
        heldout=None,
        left_out=None,
        inputs=stage.inputs,
        output=stage.directory,
        storage=assignment.storage,
        world=World(),
        reporter=Reporter(None, name),
        domain=stage.domain,
        fingerprints=assignment.fingerprints,
    )


def snapshot(mixture: Mixture) -> dict[str, bytes]:
    return {name: tensor.detach().numpy().tobytes() for name, tensor in mixture.state_dict().items()}


def moved(before: dict[str, bytes], mixture: Mixture) -> set[str]:
    after = snapshot(mixture)
    return {name for name in before if before[name] != after[name]}


def test_warm_up_moves_the_router_only_and_joint_training_every_expert(trained: Assignment) -> None:
    work = work_of(trained, "joint")
    encoder = TextEncoder.load(work.inputs["base"] / ENCODER_DIR)
    texts = encode_texts(work.texts.where(TRAIN), encoder, work.domains, work.settings.task)
    work.seed("joint")
    mixture = joint_stage.build_mixture(work)
    start = snapshot(mixture)
    joint_stage.warm_up(work, mixture, texts)
    warm = moved(start, mixture)
    assert warm
    assert all(name.startswith("router.") for name in warm), warm
    assert "router.tokens.weight" not in warm

    start = snapshot(mixture)
    joint_stage.train_together(work, mixture, texts, texts)
    joint = moved(start, mixture)
    for segment in range(3):  # the shared adapter and one of each domain
        assert any(name.endswith(f".a.{segment}") for name in joint), segment
        assert any(name.endswith(f".b.{segment}") for name in joint), segment
    assert {f"heads.{expert}.output.weight" for expert in range(2)} <= joint
    frozen = [name for name in start if name.startswith("backbone.") and ".a." not in name and ".b." not in name]
    assert frozen
    assert not joint & set(frozen)


def test_every_stage_is_complete_and_the_mixture_learned(trained: Assignment) -> None:
    metrics = {stage.name: read_complete(stage.directory)["metrics"] for stage in trained.stages}
    assert list(metrics) == ["base", "expert-forum", "expert-news", "joint", "export", "report"]
    assert metrics["base"]["validation_macro_f1"] > 0.8
    assert metrics["report"]["news_macro_f1"] > 0.8
    assert metrics["joint"]["validation_router_accuracy"] > 0.9


def test_the_bundle_has_an_expert_per_domain_and_knows_its_data(trained: Assignment) -> None:
    bundle = load_bundle(bundle_path(trained.storage, trained.stages[-2].directory))
    assert bundle.path.name == bundle.manifest.bundle_id
    assert bundle.manifest.experts == ("forum", "news")
    # The held-out texts are not in it: they had no part in the bundle, so they must not change its id.
    assert bundle.manifest.data_fingerprints == {"train": trained.fingerprints["train"]}
    base = load_file(trained.stages[0].directory / BACKBONE_DIR / "ngrams.safetensors")["weight"]
    assert torch.equal(base, load_file(bundle.path / "base" / "ngrams.safetensors")["weight"])


def test_the_same_seed_gives_the_same_bundle_and_another_one_does_not(trained: Assignment, tmp_path: Path) -> None:
    train = trained.settings.data.train
    ids = {bundle_path(trained.storage, trained.stages[-2].directory).name}
    for seed in (trained.settings.seed, 99):
        again = run_all(small_settings(train, tmp_path, seed=seed), tmp_path)
        ids.add(bundle_path(tmp_path, again.stages[-2].directory).name)
    assert len(ids) == 2


def test_a_third_domain_is_a_change_of_data_only(tmp_path: Path) -> None:
    train = write_texts(tmp_path / "three.csv", domains=("forum", "news", "tweets"))
    done = run_all(small_settings(train, tmp_path), tmp_path)
    assert load_bundle(bundle_path(tmp_path, done.stages[-2].directory)).manifest.experts == ("forum", "news", "tweets")


def test_a_stage_that_fails_leaves_nothing_that_looks_finished(trained: Assignment, tmp_path: Path) -> None:
    assignment = prepare(small_settings(trained.settings.data.train, tmp_path), tmp_path)
    with pytest.raises(FileNotFoundError):
        run_stage(assignment, assignment.stages[1], World())  # its base was never trained
    assert not assignment.stages[1].complete
    assert not assignment.stages[1].directory.exists()


def test_the_served_prior_is_an_offset_of_the_gate(trained: Assignment, tmp_path: Path) -> None:
    shares = {"forum": 0.005, "news": 0.995}
    settings = replace(trained.settings, joint=replace(trained.settings.joint, served_shares=shares))
    work = replace(work_of(trained, "joint"), settings=settings, output=tmp_path)
    joint_stage.run(work)
    offset = load_file(tmp_path / "router.safetensors")["prior_offset"]
    plain = load_file(next(s for s in trained.stages if s.name == "joint").directory / "router.safetensors")
    np.testing.assert_allclose(plain["prior_offset"], 0.0, atol=1e-6)
    counts = np.bincount(work.texts.where(TRAIN).domain_index(work.domains))
    np.testing.assert_allclose(offset, np.log([0.005, 0.995]) - np.log(counts / counts.sum()), rtol=1e-4)
