"""Named steps of the commit protocol, where a test can kill or stop this process, or see where it is.

`FINSA_FAILPOINT=before-link:kill:3` sends SIGKILL to this process at the third time it reaches that step (`stop`
sends SIGSTOP: a zombie to be woken later). `FINSA_STEP_FILE=path` keeps the name of the last step reached in a mapped
file that survives a SIGKILL from outside, so that the kill can be attributed (`last_step(path)`). Without either
variable a failpoint is one attribute test.
"""

from __future__ import annotations

import mmap
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sentiment.errors import ConfigError

STEPS: Final = (
    # the worker (streaming/pipeline.py)
    "before-poll",
    "after-poll",
    "before-score",
    "after-score",
    "before-dead-letters",
    "after-dead-letters",
    "before-topic-check",
    "after-topic-check",
    "before-mirror",
    "after-mirror",
    # the chain (streaming/chain.py)
    "before-open",
    "after-open",
    "before-encode",
    "after-encode",
    "before-put",
    "after-put",
    # a local store, inside the put (streaming/store.py)
    "before-temporary",
    "after-temporary",
    "before-link",
    "after-link",
    "after-sync",
)
"""Every step, in order within each layer. The last one reached is where a process is."""

_SIGNALS: Final = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
_STEP_BYTES: Final = 64


@dataclass(slots=True)
class _Switch:
    """What the environment asked for; read once, at the first failpoint, never at import."""

    armed: bool | None = None
    step: str = ""
    action: signal.Signals = signal.SIGKILL
    hit: int = 1
    hits: dict[str, int] = field(default_factory=dict)
    step_file: mmap.mmap | None = None

    def load(self) -> None:
        self.__init__()  # type: ignore[misc]  # back to the defaults
        self.armed = False
        if wanted := os.environ.get("FINSA_FAILPOINT"):
            self.step, self.action, self.hit = _parse(wanted)
            self.armed = True
        if path := os.environ.get("FINSA_STEP_FILE"):
            self.step_file = _map(Path(path))
            self.armed = True

    def reach(self, step: str) -> None:
        if step not in STEPS:
            raise ValueError(f"unknown step {step!r}")
        if self.step_file is not None:
            self.step_file[:] = step.encode().ljust(_STEP_BYTES, b"\0")
        if step != self.step:
            return
        self.hits[step] = self.hits.get(step, 0) + 1
        if self.hits[step] == self.hit:
            os.kill(os.getpid(), self.action)


_switch: Final = _Switch()


def failpoint(step: str) -> None:
    """Mark that this process has reached `step` (one of `STEPS`), and die or stop there if the environment says so.

    Raises:
        ConfigError: the environment names an unknown step or action (a test that waits for nothing is a defect).
    """
    if _switch.armed is None:
        _switch.load()
    if _switch.armed:
        _switch.reach(step)


def reload_failpoints() -> None:
    """Read the environment again at the next failpoint (for tests that change it within one process)."""
    _switch.armed = None


def last_step(path: str | Path) -> str:
    """The last step that the process writing this step file reached; empty before the first."""
    return Path(path).read_bytes().rstrip(b"\0").decode()


def _parse(wanted: str) -> tuple[str, signal.Signals, int]:
    step, _, rest = wanted.partition(":")
    action, _, hit = rest.partition(":")
    if step not in STEPS or action not in _SIGNALS or not (hit or "1").isdigit():
        raise ConfigError(
            f"FINSA_FAILPOINT={wanted!r}: expected <step>:kill|stop[:<hit>], step one of {', '.join(STEPS)}"
        )
    return step, _SIGNALS[action], int(hit or "1")


def _map(path: Path) -> mmap.mmap:
    with path.open("a+b") as file:
        file.truncate(_STEP_BYTES)
        return mmap.mmap(file.fileno(), _STEP_BYTES)
