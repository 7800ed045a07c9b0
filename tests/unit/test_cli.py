"""Settings: a typo is refused by its full key with the nearest valid one; every YAML file of the project loads."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from pydantic import PositiveInt
from pydantic.dataclasses import dataclass

from sentiment.cli import STRICT, read_settings

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Optim:
    """Optimizer."""

    lr: float = 3e-4
    """learning rate [per step]"""
    warmup_steps: PositiveInt = 100
    """linear warm-up [steps]"""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Settings:
    """A run."""

    storage: str
    """where everything goes [absolute path or URI]"""
    optim: Optim = dataclasses.field(default_factory=Optim)
    """the optimizer"""


def read(*argv: str) -> Settings:
    return read_settings(Settings, argv, prog="python -m x", summary="A run.", example="python -m x --storage /tmp")


def test_command_line_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("storage: /data\noptim: {lr: 0.1, warmup_steps: 7}\n")
    assert read("--config", str(tmp_path / "a.yaml"), "--optim.lr", "1e-3") == Settings(
        storage="/data", optim=Optim(lr=1e-3, warmup_steps=7)
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--storage", "x", "--optim.lrr", "1"], "unknown setting `optim.lrr`; did you mean `optim.lr`?"),
        (
            ["--storage", "x", "--optim.warmup_step", "1"],
            "unknown setting `optim.warmup_step`; did you mean `optim.warm",
        ),
        (["--storage", "x", "--strage", "1"], "unknown setting `strage`; did you mean `storage`?"),
        (["--config", "{nested}"], "unknown setting `optim.lrr`; did you mean `optim.lr`?"),
        (["--config", "{top}"], "unknown setting `stroage`; did you mean `storage`?"),
        (
            ["--storage", "x", "--optim.warmup_steps", "-1"],
            "setting `optim.warmup_steps`: Input should be greater than 0",
        ),
        ([], "storage"),
    ],
)
def test_a_wrong_setting_is_one_line_with_its_full_key(
    argv: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nested, top = tmp_path / "nested.yaml", tmp_path / "top.yaml"
    nested.write_text("storage: /x\noptim:\n  lrr: 3\n")
    top.write_text("stroage: /x\n")
    with pytest.raises(SystemExit) as stopped:
        read(*(word.format(nested=nested, top=top) for word in argv))
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_print_config_shows_defaults_with_units(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        read("--print_config")
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert "lr: 0.0003" in printed
    assert "learning rate [per step]" in printed


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read("--help")
    assert "example: python -m x --storage /tmp" in capsys.readouterr().out
