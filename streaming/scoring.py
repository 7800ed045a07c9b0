"""Rows on their way through the scorer: several calls at a time, results in offset order, nothing dropped.

A call that gets no answer is sent again after a pause, for ever. A call that is refused is cut in half again and again
until the offending row is alone - but only while a known-good text scores, so an outage never makes dead letters.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final

from sentiment.errors import ScorerRejected, ScorerUnavailable
from sentiment.records import Post, Scores
from streaming.protocols import Record
from streaming.scorer import Scorer
from streaming.settings import ScoringSettings
from streaming.sink import check_scores

MIN_CALL_ROWS: Final = 32
"""work is never cut finer than this for the sake of `max_call_s` [rows]"""
FIRST_CHARS_PER_S: Final = 20_000.0
"""guess before the first answer: a small model on a few cores [characters/s]"""
_MEMORY: Final = 0.8
"""weight of the past in the estimated speed"""
_DEFAULT_KNOWN_GOOD: Final = "The company published its quarterly report."


@dataclass(slots=True)
class Rows:
    """Parsed messages in offset order, as columns of equal length N.

    Attributes:
        ingested_us: when each was fetched [us since 1970, UTC].
    """

    records: list[Record] = field(default_factory=list)
    posts: list[Post] = field(default_factory=list)
    ingested_us: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.posts)

    @property
    def first_offset(self) -> int:
        """Offset of the first row; there must be one."""
        return self.records[0].offset

    @property
    def nbytes(self) -> int:
        """Size of the messages [bytes]."""
        return sum(len(record.value or b"") for record in self.records)

    def cut(self, start: int, stop: int) -> Rows:
        """Rows `start` to `stop`."""
        return Rows(self.records[start:stop], self.posts[start:stop], self.ingested_us[start:stop])

    def extend(self, other: Rows) -> None:
        """Append the rows of `other`."""
        self.records += other.records
        self.posts += other.posts
        self.ingested_us += other.ingested_us


@dataclass(slots=True)
class ScoredCall:
    """An answered call: either scores for all its rows, or the refusal of its only row."""

    rows: Rows
    scores: Scores | None
    refusal: ScorerRejected | None
    scored_at_us: int


class Speed:
    """What the scorer manages, estimated from the calls it answered; shared by the partitions of a worker."""

    def __init__(self) -> None:
        self.chars_per_s = FIRST_CHARS_PER_S
        self.known_good = _DEFAULT_KNOWN_GOOD
        self.trouble = ""
        """the last thing the scorer did wrong, for people; empty once it answers again"""

    def answered(self, rows: Rows, seconds: float) -> None:
        """Take a finished call into account."""
        chars = sum(len(post.text) for post in rows.posts)
        self.chars_per_s = _MEMORY * self.chars_per_s + (1 - _MEMORY) * chars / max(seconds, 1e-4)
        self.known_good = rows.posts[0].text
        self.trouble = ""


class _Call:
    """Rows with the scorer: `scoring`, then answered, or `probing` after a refusal, or `resting` before a retry."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.phase = "resting"
        self.retry_at = 0.0
        self.started = 0.0
        self.future: Future[Scores] | None = None
        self.answer: ScoredCall | None = None
        self.refusal: ScorerRejected | None = None

    def send(self, scorer: Scorer, texts: list[str], phase: str) -> None:
        self.phase, self.started, self.future = phase, time.monotonic(), scorer.submit(texts)

    def rest(self, pause_s: float) -> None:
        self.phase, self.future, self.retry_at = "resting", None, time.monotonic() + pause_s


class ScoringQueue:
    """The rows of one partition between parsing and the file. Called from the poll thread only."""

    def __init__(self, scorer: Scorer, settings: ScoringSettings, speed: Speed) -> None:
        self._scorer = scorer
        self._settings = settings
        self._speed = speed
        self._waiting = Rows()
        self._waiting_chars = 0
        self._oldest_s = 0.0
        self._calls: deque[_Call] = deque()
        self.rows = 0
        """rows fed and not yet taken"""
        self.nbytes = 0
        """size of their messages [bytes]"""

    @property
    def first_offset(self) -> int | None:
        """Offset of the first row that is not taken yet."""
        if self._calls:
            return self._calls[0].rows.first_offset
        return self._waiting.first_offset if len(self._waiting) else None

    @property
    def in_flight(self) -> int:
        """Rows with the scorer now."""
        return sum(len(call.rows) for call in self._calls if call.answer is None)

    @property
    def over_budget(self) -> bool:
        """Whether reading should pause."""
        return self.rows >= self._settings.budget_rows or self.nbytes >= self._settings.budget_bytes

    def feed(self, rows: Rows) -> None:
        """Add parsed rows behind the others."""
        if not len(rows):
            return
        if not len(self._waiting):
            self._oldest_s = time.monotonic()
        self._waiting.extend(rows)
        self._waiting_chars += sum(len(post.text) for post in rows.posts)
        self.rows += len(rows)
        self.nbytes += rows.nbytes

    def send(self, *, now: bool) -> None:
        """Send what fills a call or has waited long enough, and with `now` everything there is room for."""
        lingered = time.monotonic() - self._oldest_s >= self._settings.linger_ms / 1000
        while len(self._waiting) and len(self._calls) < self._settings.calls_in_flight:
            full = len(self._waiting) >= self._settings.max_call_rows or self._waiting_chars >= self._budget_chars()
            if not (full or lingered or now):
                break
            call = _Call(self._take_waiting())
            self._calls.append(call)
            self._score(call)

    def _budget_chars(self) -> float:
        return min(self._settings.max_call_chars, self._speed.chars_per_s * self._settings.max_call_s)

    def _take_waiting(self) -> Rows:
        budget, chars, stop = self._budget_chars(), 0, 0
        for post in self._waiting.posts[: self._settings.max_call_rows]:
            chars += len(post.text)
            hard = chars > self._settings.max_call_chars
            if stop and (hard or (chars > budget and stop >= MIN_CALL_ROWS)):
                chars -= len(post.text)
                break
            stop += 1
        taken = self._waiting.cut(0, stop)
        self._waiting = self._waiting.cut(stop, len(self._waiting))
        self._waiting_chars -= chars
        return taken

    def settle(self) -> None:
        """Look at every call that is due: answers, refusals, pauses that are over."""
        for call in list(self._calls):
            if call.answer is not None:
                continue
            if call.phase == "resting" and time.monotonic() >= call.retry_at:
                self._score(call)
            elif call.future is not None and call.future.done():
                self._finish(call, call.future)

    def _finish(self, call: _Call, future: Future[Scores]) -> None:
        try:
            scores = future.result()
            check_scores(scores, len(call.rows) if call.phase == "scoring" else 1)
        except ScorerUnavailable as error:
            self._wait_out(call, str(error))
        except ScorerRejected as error:
            if call.phase == "probing":
                self._wait_out(call, f"even a known-good text is refused: {error}")
            else:
                call.refusal = error
                call.send(self._scorer, [self._speed.known_good], "probing")
        else:
            if call.phase == "probing":
                self._isolate(call)
            else:
                self._speed.answered(call.rows, time.monotonic() - call.started)
                call.answer = ScoredCall(call.rows, scores, None, _now_us())

    def _isolate(self, call: _Call) -> None:
        """The scorer works, so these rows are at fault: cut them in half, or give up the one that is left."""
        if len(call.rows) == 1:
            call.answer = ScoredCall(call.rows, None, call.refusal, _now_us())
            return
        half = len(call.rows) // 2
        parts = [_Call(call.rows.cut(0, half)), _Call(call.rows.cut(half, len(call.rows)))]
        where = self._calls.index(call)
        self._calls.remove(call)
        for place, part in enumerate(parts):
            self._calls.insert(where + place, part)
            self._score(part)

    def _score(self, call: _Call) -> None:
        call.send(self._scorer, [post.text for post in call.rows.posts], "scoring")

    def _wait_out(self, call: _Call, trouble: str) -> None:
        self._speed.trouble = trouble
        call.rest(self._settings.retry_s)

    def peek(self) -> ScoredCall | None:
        """The next answer in offset order, if it is there."""
        return self._calls[0].answer if self._calls else None

    def take(self) -> None:
        """Remove the answer that `peek` showed."""
        rows = self._calls.popleft().rows
        self.rows -= len(rows)
        self.nbytes -= rows.nbytes


def _now_us() -> int:
    return time.time_ns() // 1000
