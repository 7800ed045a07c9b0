from __future__ import annotations

import signal
from pathlib import Path

import pytest
from chainkit import write_chain

from sentiment.errors import ConfigError
from streaming import failpoints
from streaming.failpoints import STEPS, failpoint, last_step, reload_failpoints
from streaming.store import LocalStore


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.delenv("FINSA_FAILPOINT", raising=False)
    monkeypatch.delenv("FINSA_STEP_FILE", raising=False)
    reload_failpoints()
    yield
    reload_failpoints()


def test_the_third_hit_sends_the_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    monkeypatch.setattr(failpoints.os, "kill", lambda pid, action: sent.append(action))
    monkeypatch.setenv("FINSA_FAILPOINT", "before-link:stop:3")
    for _ in range(2):
        failpoint("before-link")
        failpoint("after-link")
    assert sent == []
    failpoint("before-link")
    failpoint("before-link")
    assert sent == [signal.SIGSTOP]


@pytest.mark.parametrize("wanted", ["nowhere:kill", "before-link", "before-link:explode", "before-link:kill:x"])
def test_a_failpoint_that_can_never_hit_is_refused(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    monkeypatch.setenv("FINSA_FAILPOINT", wanted)
    with pytest.raises(ConfigError, match="FINSA_FAILPOINT"):
        failpoint("before-link")


def test_the_step_file_names_the_last_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINSA_STEP_FILE", str(tmp_path / "step"))
    for step in STEPS:
        failpoint(step)
        assert last_step(tmp_path / "step") == step


def test_an_append_passes_every_step_of_the_files_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(failpoints._Switch, "reach", lambda _, step: seen.append(step))
    monkeypatch.setattr(failpoints._switch, "armed", True)
    write_chain(LocalStore(tmp_path), 5)
    files_side = ["before-open", "after-open", "before-encode", "after-encode", "before-put"]
    store = ["before-temporary", "after-temporary", "before-link", "after-link", "after-sync"]
    assert seen == [*files_side, *store, "after-put"]


def test_an_unknown_step_is_an_error_once_armed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINSA_STEP_FILE", str(tmp_path / "step"))
    with pytest.raises(ValueError, match="unknown step"):
        failpoint("befor-link")
