"""The live line: rows/s, lag, in flight, dead letters; redrawn on a terminal, logged now and then elsewhere."""

from __future__ import annotations

import logging
import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from streaming.progress import Progress

log = logging.getLogger(__name__)

_REDRAW_PER_S: Final = 4


class LiveLine:
    """Call it with every Progress; use it as a context manager.

    Args:
        every_s: pause between two log lines where there is no terminal [s].
        console: where to draw; standard error by default, so that output can be piped.
    """

    def __init__(self, every_s: float, console: Console | None = None) -> None:
        self._every_s = every_s
        self._console = console or Console(stderr=True)
        self._live = Live(console=self._console, refresh_per_second=_REDRAW_PER_S, transient=True)
        self._log_at = time.monotonic() + every_s

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def __call__(self, progress: Progress) -> None:
        """Show this."""
        if self._console.is_terminal:
            self._live.update(Text(line(progress), no_wrap=True, overflow="ellipsis"))
        elif time.monotonic() >= self._log_at:
            self._log_at = time.monotonic() + self._every_s
            log.info("%s", line(progress))


def line(progress: Progress) -> str:
    """One line for people."""
    dead = sum(progress.counts.dead_letters.values())
    parts = [
        f"{progress.counts.rows:,} rows",
        f"{progress.rows_per_s:,.0f} rows/s",
        f"lag {progress.lag:,}",
        f"in flight {progress.in_flight:,}",
        f"dead letters {dead:,}",
        f"{progress.counts.files:,} files",
    ]
    waiting = [view for view in progress.partitions if view.why]
    if progress.scorer_trouble:
        parts.append(f"scorer: {progress.scorer_trouble[:80]}")
    if waiting:
        parts.append(f"{waiting[0].partition} {waiting[0].state}: {waiting[0].why[:80]}")
    return " · ".join(parts)
