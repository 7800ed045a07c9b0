"""The settings of a whole training run; each part's are beside their owner."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass

from sentiment.cli import STRICT
from sentiment.encoder import EncoderSettings
from sentiment.model.adapter import LoraSettings
from sentiment.model.mixture import MixtureSettings
from sentiment.model.router import RouterSettings
from sentiment.model.tiny import TinySettings
from training.data import DataSettings
from training.loop import OptimSettings
from training.texts import TaskSettings

Share = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BaseSettings:
    """The base: a tiny encoder trained from scratch, fully and jointly on all domains, then frozen."""

    tiny: TinySettings = TinySettings()
    """its shape"""
    encoder: EncoderSettings = EncoderSettings()
    """what a text looks like to the model"""
    optim: OptimSettings = OptimSettings(epochs=10, step_texts=32, lr=5e-4)
    """how its weights move"""
    head_dropout: Share = 0.1
    """pooled features dropped in front of the head while training [share]"""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ExpertSettings:
    """One expert per domain: a LoRA adapter and a head on the frozen base."""

    lora: LoraSettings = LoraSettings()
    """its adapter"""
    optim: OptimSettings = OptimSettings(epochs=2, step_texts=32, lr=1e-4)
    """how its weights move"""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class JointSettings:
    """The router's warm-up with frozen experts, then everything together."""

    router: RouterSettings = RouterSettings()
    """the gate's shape"""
    mixture: MixtureSettings = MixtureSettings()
    """the shared adapter and the gated ones"""
    warmup: OptimSettings = OptimSettings(epochs=20, max_steps=500, lr=3e-3, warmup_share=0.05)
    """the router alone; adapters and heads stay as they are"""
    optim: OptimSettings = OptimSettings(epochs=1, step_texts=32, lr=3e-4)
    """adapters, heads and router together"""
    router_weight: NonNegativeFloat = 1.5
    """of the gate's cross entropy against the text's domain [1]"""
    balance_weight: NonNegativeFloat = 0.05
    """of KL(mean gate of the step ‖ domain shares of the step) [1]"""
    domain_temperature: Annotated[float, Field(ge=1)] = 1.0
    """domains are drawn by share^(1/this); 1 takes every text once [1]"""
    served_shares: dict[str, float] = Field(default_factory=dict)
    """domain shares to expect when serving; empty: those of the training texts [share by domain]"""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CalibrationSettings:
    """What is fitted on the calibration split after training."""

    scaling_strength: NonNegativeFloat = 0.01
    """pull of each expert's vector scaling towards 1 and 0; 0 fits it freely [1]"""
    one_pass_share: Annotated[float, Field(ge=0, le=1)] = 0.9
    """at least this share of the calibration texts runs one expert only [share]"""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainSettings:
    """A training run: base, experts, mixture, bundle, report."""

    storage: str = "out"
    """everything the run writes goes under it; absolute, or a shared file system on several nodes [directory]"""
    seed: NonNegativeInt = 13
    """of splits, plans, weights and dropout [1]"""
    workers: PositiveInt = 1
    """Ray Train workers [processes]"""
    threads: NonNegativeInt = 0
    """torch threads per worker; 0: the machine's cores, shared by the workers [threads]"""
    data: DataSettings = DataSettings()
    """labelled texts"""
    task: TaskSettings = TaskSettings()
    """the loss of all stages"""
    base: BaseSettings = BaseSettings()
    """first stage"""
    expert: ExpertSettings = ExpertSettings()
    """second stage, once per domain"""
    joint: JointSettings = JointSettings()
    """third stage"""
    calibration: CalibrationSettings = CalibrationSettings()
    """export"""
