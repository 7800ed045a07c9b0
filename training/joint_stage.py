"""Third stage: the router warms up while the experts are frozen, then router, adapters and heads train together.

1. Warm-up: -log sum_e gate_e * p_e(y | x) on the experts' cached probabilities, plus CE(domain). No pass of the base.
2. Joint: straight-through hard gate, a shared always-on adapter beside the gated ones, domain dropout,
   CE(task) + router_weight * CE(domain) + balance_weight * KL(mean gate of the step || its domain shares).
3. The domain shares to expect in serving enter as an offset of the gate's logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sentiment.encoder import TextEncoder
from sentiment.errors import ConfigError
from sentiment.model.adapter import merge_adapter, read_adapter, write_adapter
from sentiment.model.backbone import load_backbone
from sentiment.model.combine import combine_experts
from sentiment.model.expert import Expert, read_head, write_head
from sentiment.model.inputs import TextBatch
from sentiment.model.mixture import Mixture
from sentiment.model.router import ROUTER_FILE, Router, ragged_batch, write_router
from training.data import TRAIN, VALIDATION
from training.loop import train_epochs
from training.losses import balance_loss, domain_loss, mixture_likelihood_loss
from training.plan import epoch_steps, mixed_rows, rank_share
from training.texts import Rows, TaskTexts, encode_texts, predicted_logits, validation_score
from training.work import ADAPTER_DIR, BACKBONE_DIR, ENCODER_DIR, Work

_TINY: Final = 1e-8


def run(work: Work) -> dict[str, float]:
    """Train the mixture; the artefact is the router and, per expert, `<name>/` with peft's files and the head.

    Returns:
        `validation_macro_f1` (mean over domains) and `validation_router_accuracy`.
    """
    encoder = TextEncoder.load(work.inputs["base"] / ENCODER_DIR)
    texts = encode_texts(work.texts.where(TRAIN), encoder, work.domains, work.settings.task)
    check = encode_texts(work.texts.where(VALIDATION), encoder, work.domains, work.settings.task)
    work.seed("joint")
    mixture = build_mixture(work)
    warm_up(work, mixture, texts)
    train_together(work, mixture, texts, check)
    _set_prior(work, mixture.router, texts)
    if work.world.first:
        write_router(mixture.router, work.output / ROUTER_FILE)
        for index, name in enumerate(work.domains):
            write_adapter(mixture.expert_adapter(index), work.output / name / ADAPTER_DIR, "base")
            write_head(mixture.expert_head(index), work.output / name)
    return {
        "validation_macro_f1": validation_score(lambda batch: mixture(batch).probabilities, check),
        "validation_router_accuracy": router_accuracy(mixture.router, check),
    }


def build_mixture(work: Work) -> Mixture:
    """The joint model from the base and all experts, with a new router."""
    backbone = load_backbone(work.inputs["base"] / BACKBONE_DIR)
    folders = [work.inputs[f"expert-{name}"] for name in work.domains]
    router = Router(backbone.token_embeddings(), len(work.domains), work.settings.joint.router)
    return Mixture(
        backbone,
        [read_adapter(folder / ADAPTER_DIR) for folder in folders],
        [read_head(folder) for folder in folders],
        router,
        work.settings.joint.mixture,
    )


def warm_up(work: Work, mixture: Mixture, texts: TaskTexts) -> None:
    """Only the router learns; every other tensor stays as it is, byte for byte."""
    settings = work.settings.joint
    expert_p = _cached_expert_p(work, texts)
    mixture.freeze_for_warmup()

    def step_loss(step: Rows) -> Tensor:
        part = rank_share(step, work.world.rank, work.world.size)
        logits = mixture.router(ragged_batch(texts.encoded.take(part)))
        likelihood = mixture_likelihood_loss(logits, expert_p[part]).sum() / len(step)
        return likelihood + _gate_loss(work, logits, texts, part, step)

    work.seed_dropout("warm-up")
    work.reporter.note("router warm-up, experts frozen")
    train_epochs(
        mixture,
        settings.warmup,
        plan=lambda epoch: _steps(work, texts, settings.warmup.step_texts, epoch),
        step_loss=step_loss,
        step_tokens=texts.tokens,
        validate=None,
        world=work.world,
        reporter=work.reporter,
    )
    mixture.unfreeze()


def train_together(work: Work, mixture: Mixture, texts: TaskTexts, check: TaskTexts) -> None:
    """Router, shared and gated adapters and heads; the best epoch by validation stays."""
    settings = work.settings.joint

    def step_loss(step: Rows) -> Tensor:
        part = rank_share(step, work.world.rank, work.world.size)
        output = mixture(texts.noisy_batch(part, work.settings.task))

        def answer(pooled: Tensor) -> Tensor:
            p_BEC = torch.stack([head(pooled) for head in mixture.heads], dim=1).softmax(-1)
            mixed: Tensor = combine_experts(p_BEC, output.gate)
            return (mixed + _TINY).log()

        hidden = mixture.backbone.hidden_size
        task = texts.branched_loss(answer, output.pooled, hidden, part, step, work.settings.task)
        return task + _gate_loss(work, output.router_logits, texts, part, step)

    work.seed_dropout("joint")
    train_epochs(
        mixture,
        settings.optim,
        plan=lambda epoch: _steps(work, texts, settings.optim.step_texts, epoch),
        step_loss=step_loss,
        step_tokens=texts.tokens,
        validate=lambda: validation_score(lambda batch: mixture(batch).probabilities, check),
        world=work.world,
        reporter=work.reporter,
    )


def router_accuracy(router: Router, texts: TaskTexts) -> float:
    """Share of texts whose largest gate weight is on their own domain's expert."""
    training = router.training
    with torch.no_grad():
        gate = router.eval()(ragged_batch(texts.encoded))
    router.train(training)
    return float((gate.argmax(1) == texts.domains).float().mean())


def _gate_loss(work: Work, logits: Tensor, texts: TaskTexts, part: Rows, step: Rows) -> Tensor:
    settings = work.settings.joint
    shares = torch.bincount(texts.domains[step], minlength=len(work.domains)) / len(step)
    mean_gate = work.world.sum(logits.softmax(1).sum(0)) / len(step)
    domain = domain_loss(logits, texts.domains[part]).sum() / len(step)
    return settings.router_weight * domain + settings.balance_weight * balance_loss(mean_gate, shares)


def _steps(work: Work, texts: TaskTexts, step_texts: int, epoch: int) -> Sequence[Rows]:
    seed = work.settings.seed
    rows = mixed_rows(texts.domains.numpy(), work.settings.joint.domain_temperature, seed=seed, epoch=epoch)
    return [rows[step] for step in epoch_steps(texts.encoded.lengths[rows], step_texts, seed=seed, epoch=epoch)]


def _cached_expert_p(work: Work, texts: TaskTexts) -> Tensor:
    """`[N, E]` the probability that each trained expert gives to the true label."""
    columns = []
    for name in work.domains:
        folder = work.inputs[f"expert-{name}"]
        backbone = load_backbone(work.inputs["base"] / BACKBONE_DIR)
        merge_adapter(backbone.encoder, read_adapter(folder / ADAPTER_DIR))
        expert = Expert(backbone, read_head(folder)).eval()

        def forward(batch: TextBatch, expert: Expert = expert) -> Tensor:
            probabilities: Tensor = expert(batch).softmax(-1)
            return probabilities

        p_NC = predicted_logits(forward, texts.encoded)
        columns.append(p_NC[np.arange(len(texts)), texts.labels.numpy()])
    return torch.from_numpy(np.stack(columns, axis=1))


def _set_prior(work: Work, router: Router, texts: TaskTexts) -> None:
    settings, domains = work.settings.joint, texts.domains.numpy()
    drawn = mixed_rows(domains, settings.domain_temperature, seed=work.settings.seed, epoch=0)
    sampled = _shares(domains[drawn], len(work.domains))
    true = _shares(domains, len(work.domains))
    if settings.served_shares:
        if set(settings.served_shares) != set(work.domains) or min(settings.served_shares.values()) <= 0:
            names = ", ".join(work.domains)
            raise ConfigError(f"setting `joint.served_shares` needs a positive share for each of {names}")
        true = np.array([settings.served_shares[name] for name in work.domains])
        true = true / true.sum()
    router.set_prior(sampled, true)


def _shares(domains: NDArray[np.int64], experts: int) -> NDArray[np.float64]:
    counts = np.bincount(domains, minlength=experts).astype(np.float64)
    shares: NDArray[np.float64] = counts / counts.sum()
    return shares
