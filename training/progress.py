"""Progress bars on the driver for work that happens in Ray Train's workers.

Rank 0 posts the state of its stage to one small actor (fire and forget, a few times a second); the driver draws it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

POST_INTERVAL_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class StageState:
    """Where a stage is: optimizer steps, the last loss, non-padding tokens per second, best validation score so far."""

    stage: str
    step: int
    steps: int
    loss: float | None = None
    tokens_per_s: float | None = None
    note: str = ""
    finished: bool = False


class Board:
    """The actor between workers and driver: the latest state of each stage, in the order they began."""

    def __init__(self) -> None:
        self._states: dict[str, StageState] = {}

    def post(self, state: StageState) -> None:
        """Replace the state of one stage."""
        self._states[state.stage] = state

    def states(self) -> list[StageState]:
        """All states."""
        return list(self._states.values())


@dataclass
class Reporter:
    """A worker's side: what one stage says about itself. Silent without a board (tests) and on ranks above 0.

    Args:
        board: actor handle of a `Board`, or None.
        stage: name shown in front of the bar.
    """

    board: Any
    stage: str
    _posted_at: float = field(default=0.0, init=False)
    _began_at: float = field(default_factory=time.monotonic, init=False)
    _tokens: int = field(default=0, init=False)
    _note: str = field(default="", init=False)
    _steps: int = field(default=0, init=False)

    def step(self, step: int, steps: int, loss: float, tokens: int) -> None:
        """One optimizer step is done, over `tokens` non-padding tokens of all workers."""
        self._tokens += tokens
        self._steps = steps
        now = time.monotonic()
        if self.board is not None and (now - self._posted_at > POST_INTERVAL_S or step == steps):
            self._posted_at = now
            rate = self._tokens / max(now - self._began_at, 1e-9)
            self.board.post.remote(StageState(self.stage, step, steps, loss, rate, self._note))

    def note(self, text: str) -> None:
        """Shown behind the bar from the next post on."""
        self._note = text

    def message(self, text: str) -> None:
        """A state without steps, e.g. `starting`."""
        if self.board is not None:
            self.board.post.remote(StageState(self.stage, 0, 1, note=text))

    def done(self, text: str) -> None:
        """The stage is finished; its bar is full and says `text`."""
        if self.board is not None:
            steps = max(self._steps, 1)
            self.board.post.remote(StageState(self.stage, steps, steps, note=text, finished=True))


class Bars:
    """The driver's side: one bar per stage; on a console that is no terminal, one line per finished stage."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tasks: dict[str, TaskID] = {}
        self._finished: set[str] = set()
        self._progress = Progress(
            TextColumn("{task.description:<15}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def draw(self, states: list[StageState]) -> None:
        """Show the states."""
        for state in states:
            detail = _detail(state)
            if state.stage not in self._tasks:
                self._tasks[state.stage] = self._progress.add_task(state.stage, total=state.steps, detail=detail)
            task = self._tasks[state.stage]
            self._progress.update(task, completed=state.step, total=state.steps, detail=detail)
            if state.finished and state.stage not in self._finished:
                self._finished.add(state.stage)
                self._progress.stop_task(task)
                if not self._console.is_terminal:
                    self._console.print(f"{state.stage:<15} {state.step:>5} steps  {detail}", highlight=False)


def _detail(state: StageState) -> str:
    loss = f"loss {state.loss:.3f}  " if state.loss is not None else ""
    rate = f"{state.tokens_per_s:,.0f} tokens/s  " if state.tokens_per_s is not None else ""
    return f"{loss}{rate}{state.note}"
