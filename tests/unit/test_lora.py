from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from random_mixture import peft_model, random_backbone, random_encoder
from torch import nn

from sentiment.errors import BundleError, ConfigError
from sentiment.model.adapter import (
    Adapter,
    LoraSettings,
    attach_lora,
    merge_adapter,
    read_adapter,
    trained_adapter,
    write_adapter,
)
from sentiment.model.backbone import save_backbone
from sentiment.model.lora import GateContext, GatedLoraLinear, install_gated_lora, new_adapter_like


def random_segments(ranks: list[int], inputs: int = 5, outputs: int = 7) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.randn(rank, inputs), torch.randn(outputs, rank)) for rank in ranks]


def test_layer_equals_the_sum_of_its_gated_segments_and_ranks_may_differ() -> None:
    torch.manual_seed(0)
    segments = random_segments([2, 3, 1])
    context = GateContext()
    layer = GatedLoraLinear(nn.Linear(5, 7), segments, context)
    x, gate = torch.randn(4, 6, 5), torch.rand(4, 3)
    with context.using(gate):
        y = layer(x)
        y_flat = layer(x[:, 0])
    expected = layer.base(x)
    for index, (a, b) in enumerate(segments):
        expected = expected + gate[:, index, None, None] * (x @ a.T @ b.T)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(y_flat, expected[:, 0], atol=1e-5, rtol=0)


def test_a_gated_layer_never_runs_without_a_gate() -> None:
    context = GateContext()
    layer = GatedLoraLinear(nn.Linear(5, 7), random_segments([2]), context)
    with context.using(torch.ones(1, 1)):
        layer(torch.randn(1, 3, 5))
    with pytest.raises(RuntimeError, match="outside"):
        layer(torch.randn(1, 3, 5))


def test_a_new_adapter_changes_nothing_but_can_learn() -> None:
    adapter = new_adapter_like(Adapter({"x": random_segments([4])[0]}), rank=2)
    a, b = adapter.factors["x"]
    assert a.shape == (2, 5)
    assert b.shape == (7, 2)
    assert not adapter.moves()
    assert a.abs().min() > 0


def test_merge_equals_pefts_own_merge_and_survives_both_file_formats(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_backbone(random_backbone("bert"), tmp_path / "base")
    model = peft_model(tmp_path / "base", rank=4, alpha=12)
    model.save_pretrained(tmp_path / "by_peft")
    adapter = read_adapter(tmp_path / "by_peft")
    write_adapter(adapter, tmp_path / "by_us", "base")
    assert json.loads((tmp_path / "by_us" / "adapter_config.json").read_text())["peft_type"] == "LORA"
    again = read_adapter(tmp_path / "by_us")
    expected = model.merge_and_unload().state_dict()
    for stored in (adapter, again):
        encoder = model_of(tmp_path / "base")
        before = {name: value.clone() for name, value in encoder.state_dict().items()}
        merge_adapter(encoder, stored)
        merged = encoder.state_dict()
        for name, value in expected.items():
            torch.testing.assert_close(merged[name], value, atol=1e-6, rtol=0)
        assert any(not torch.equal(before[name], merged[name]) for name in merged)


def model_of(directory: Path) -> nn.Module:
    from sentiment.model.backbone import load_backbone

    return load_backbone(directory).encoder


def test_attach_trains_only_the_adapter_and_reads_it_back() -> None:
    torch.manual_seed(0)
    backbone = random_backbone("bert")
    attach_lora(backbone, LoraSettings(rank=3, alpha=6))
    trainable = [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]
    assert trainable
    assert all("lora_" in name for name in trainable)
    assert not trained_adapter(backbone).moves()  # B = 0
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if "lora_B" in name:
                parameter.fill_(1.0)
    _, b = next(iter(trained_adapter(backbone).factors.values()))
    assert b.unique().tolist() == [2.0]  # alpha / rank is folded in


def test_attach_names_the_setting_when_no_module_fits() -> None:
    with pytest.raises(ConfigError, match="target_modules"):
        attach_lora(random_backbone("bert"), LoraSettings(target_modules=("no_such_layer",)))


@pytest.mark.parametrize(
    ("options", "named"),
    [({"use_dora": True}, "use_dora"), ({"rank_pattern": {"query": 2}}, "rank_pattern"), ({"bias": "all"}, "bias")],
)
def test_an_adapter_that_is_more_than_lora_is_refused(options: dict[str, object], named: str, tmp_path: Path) -> None:
    config = LoraConfig(r=4, lora_alpha=4, target_modules=["query"], **options)
    get_peft_model(random_encoder("bert"), config).save_pretrained(tmp_path)
    with pytest.raises(BundleError, match=named):
        read_adapter(tmp_path)


def test_an_adapter_for_another_base_is_refused_not_ignored() -> None:
    adapter = Adapter({"layers.0.self_attn.q_proj": (torch.ones(1, 32), torch.ones(32, 1))})
    merge_adapter(random_encoder("llama"), adapter)
    with pytest.raises(BundleError, match=r"layers\.0\.self_attn\.q_proj"):
        merge_adapter(random_encoder("bert"), adapter)
    with pytest.raises(ConfigError, match=r"layers\.0\.self_attn\.q_proj"):
        install_gated_lora(random_encoder("bert"), [adapter], GateContext())
    wrong_width = Adapter({"layers.0.self_attn.q_proj": (torch.ones(1, 31), torch.ones(32, 1))})
    with pytest.raises(BundleError, match="another"):
        merge_adapter(random_encoder("llama"), wrong_width)


def test_adapters_on_different_modules_cannot_share_a_layer() -> None:
    one = Adapter({"layers.0.self_attn.q_proj": (torch.ones(1, 32), torch.ones(32, 1))})
    two = Adapter({"layers.0.self_attn.o_proj": (torch.ones(1, 32), torch.ones(32, 1))})
    with pytest.raises(ConfigError, match="target_modules"):
        install_gated_lora(random_encoder("llama"), [one, two], GateContext())
    with pytest.raises(ConfigError, match="target_modules"):
        one.joined(two)


def test_joined_adapters_add_their_updates() -> None:
    torch.manual_seed(0)
    first, second = (Adapter({"x": pair}) for pair in random_segments([2, 3]))
    a, b = first.joined(second).factors["x"]
    expected = sum(adapter.factors["x"][1] @ adapter.factors["x"][0] for adapter in (first, second))
    np.testing.assert_allclose((b @ a).numpy(), expected.numpy(), atol=1e-6)
    assert first.joined(second).rank == 5
