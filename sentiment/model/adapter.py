"""A LoRA adapter as plain matrices, in and out of peft's own files, and its exact merge into a base.

Per adapted linear layer: `ΔW [out, in] = B [out, r] · A [r, in]`, with peft's scaling already folded into B.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sentiment.cli import STRICT
from sentiment.errors import BundleError, ConfigError
from sentiment.model.backbone import Backbone

CONFIG_FILE: Final = "adapter_config.json"
WEIGHTS_FILE: Final = "adapter_model.safetensors"
_PREFIX: Final = "base_model.model."
_PLAIN: Final[Mapping[str, object]] = {
    "bias": "none",
    "fan_in_fan_out": False,
    "use_dora": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "modules_to_save": None,
    "lora_bias": False,
}
"""peft options that would make an adapter more than A and B; other values are refused rather than lost."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LoraSettings:
    """An expert's LoRA adapter (Hu et al. 2021, arXiv 2106.09685)."""

    rank: PositiveInt = 16
    """inner dimension of each adapter [1]"""
    alpha: PositiveFloat = 16.0
    """the update is scaled by alpha / rank [1]"""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """dropout before A while training; 0 is much faster on CPU [probability]"""
    target_modules: tuple[str, ...] = ("all-linear",)
    """endings of the names of the linear layers to adapt, or all-linear [module names]"""


@plain_dataclass(frozen=True)
class Adapter:
    """One adapter: per module path inside the base, `A [r, in]` and `B [out, r]`; sorted by path."""

    factors: Mapping[str, tuple[Tensor, Tensor]]

    @property
    def rank(self) -> int:
        """The largest rank among its modules."""
        return max(a.shape[0] for a, _ in self.factors.values())

    def moves(self) -> bool:
        """Whether it changes any weight of the base at all."""
        return any(bool((b @ a).count_nonzero()) for a, b in self.factors.values())

    def joined(self, other: Adapter) -> Adapter:
        """The adapter whose update is the sum of both, concatenated along the rank."""
        if self.factors.keys() != other.factors.keys():
            raise ConfigError("the experts adapt different modules: train them all with the same target_modules")
        return Adapter(
            {
                path: (torch.cat([a, other.factors[path][0]]), torch.cat([b, other.factors[path][1]], dim=1))
                for path, (a, b) in self.factors.items()
            }
        )


def attach_lora(backbone: Backbone, settings: LoraSettings) -> None:
    """Freeze the base and wrap its encoder with a new trainable peft adapter (B = 0, so nothing changes yet).

    Raises:
        ConfigError: no module of the base ends in one of `target_modules`.
    """
    from peft import LoraConfig, get_peft_model  # seconds to import, and serving never needs it

    targets: str | list[str] = list(settings.target_modules)
    if targets == ["all-linear"]:
        targets = "all-linear"
    backbone.freeze()
    alpha: Any = settings.alpha
    config = LoraConfig(r=settings.rank, lora_alpha=alpha, lora_dropout=settings.dropout, target_modules=targets)
    encoder: Any = backbone.encoder
    try:
        backbone.encoder = get_peft_model(encoder, config)
    except ValueError as error:
        raise ConfigError(f"setting `target_modules` = {settings.target_modules}: {error}") from error


def trained_adapter(backbone: Backbone) -> Adapter:
    """The adapter that `attach_lora` put on, as it is now (detached copies on the CPU)."""
    from peft import PeftModel, get_peft_model_state_dict

    encoder = backbone.encoder
    if not isinstance(encoder, PeftModel):
        raise TypeError("the backbone has no peft adapter: call attach_lora first")
    config = encoder.peft_config["default"].to_dict()
    state = get_peft_model_state_dict(encoder)
    return _from_state({name: tensor.detach().cpu().clone() for name, tensor in state.items()}, config, "the model")


def write_adapter(adapter: Adapter, directory: Path, base_name: str) -> None:
    """Write peft's `adapter_config.json` and `adapter_model.safetensors` (`lora_alpha` = r, so its scaling is 1)."""
    from peft import LoraConfig

    directory.mkdir(parents=True, exist_ok=True)
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.rank,
        lora_dropout=0.0,
        target_modules=sorted(adapter.factors),
        base_model_name_or_path=base_name,
        inference_mode=True,
    ).to_dict()
    config["target_modules"] = sorted(adapter.factors)  # peft keeps a set; a file must not depend on its order
    text = json.dumps(config, indent=2, sort_keys=True, default=str)
    (directory / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    state = {}
    for path, (a, b) in adapter.factors.items():
        if a.shape[0] != adapter.rank:
            raise ConfigError(f"module {path} has rank {a.shape[0]}, others {adapter.rank}: one rank per adapter")
        state[f"{_PREFIX}{path}.lora_A.weight"] = a.detach().cpu().contiguous()
        state[f"{_PREFIX}{path}.lora_B.weight"] = b.detach().cpu().contiguous()
    save_file(state, directory / WEIGHTS_FILE)


def read_adapter(directory: Path) -> Adapter:
    """Read a plain LoRA adapter in peft's format, also one that peft itself wrote.

    Raises:
        BundleError: files are missing, or the adapter is more than plain LoRA.
    """
    try:
        config = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
        state = load_file(directory / WEIGHTS_FILE)
    except (OSError, ValueError) as error:
        raise BundleError(f"no readable adapter in {directory}: {error}") from error
    return _from_state(state, config, str(directory))


def merge_adapter(encoder: nn.Module, adapter: Adapter) -> None:
    """Add the adapter's update to the encoder's own weights, in place, computed in fp32.

    Raises:
        BundleError: a module of the adapter is not a linear layer of this encoder, or its shape differs. Without this
            check an adapter for another base would silently leave the base's own scores.
    """
    modules = dict(encoder.named_modules())
    for path, (a, b) in adapter.factors.items():
        linear = modules.get(path)
        if not isinstance(linear, nn.Linear) or linear.weight.shape != (b.shape[0], a.shape[1]):
            raise BundleError(f"the adapter's module {path} does not fit this base; was it trained on another one?")
        with torch.no_grad():
            update = b.float().to(linear.weight.device) @ a.float().to(linear.weight.device)
            linear.weight.copy_((linear.weight.float() + update).to(linear.weight.dtype))


def _from_state(state: Mapping[str, Tensor], config: Mapping[str, Any], origin: str) -> Adapter:
    for key, plain in _PLAIN.items():
        if config.get(key, plain) != plain:
            raise BundleError(f"the adapter of {origin} has {key} = {config[key]!r}; only plain LoRA is read")
    scaling = config["lora_alpha"] / (config["r"] ** 0.5 if config.get("use_rslora") else config["r"])
    paths = sorted(name.removeprefix(_PREFIX).removesuffix(".lora_A.weight") for name in state if ".lora_A." in name)
    if len(state) != 2 * len(paths) or not paths:
        raise BundleError(f"the adapter of {origin} holds tensors that are not LoRA pairs")
    try:
        return Adapter(
            {
                path: (state[f"{_PREFIX}{path}.lora_A.weight"], state[f"{_PREFIX}{path}.lora_B.weight"] * scaling)
                for path in paths
            }
        )
    except KeyError as missing:
        raise BundleError(f"the adapter of {origin} lacks {missing}") from None
