"""Rows on their way through the scorer: cut by work, kept in order, never sent without need."""

from __future__ import annotations

import time
from concurrent.futures import Future

from memory_kafka import MemoryRecord
from stream_scorers import scores_of

from sentiment.records import Post, Scores
from streaming.scoring import MIN_CALL_ROWS, Rows, ScoringQueue, Speed
from streaming.settings import ScoringSettings


class ByHand:
    """Futures that the test finishes."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], Future[Scores]]] = []

    def submit(self, texts: list[str]) -> Future[Scores]:
        future: Future[Scores] = Future()
        self.calls.append((texts, future))
        return future

    def finish(self, number: int) -> None:
        texts, future = self.calls[number]
        future.set_result(scores_of(texts))

    def close(self) -> None:
        """Nothing to do."""


def rows(count: int, first: int = 0, text: str = "text") -> Rows:
    numbers = range(first, first + count)
    return Rows(
        [MemoryRecord(number, 0, None, b"x" * 10) for number in numbers],
        [Post(text=f"{text} {number}") for number in numbers],
        [0] * count,
    )


def queue(scorer: ByHand, **settings: float) -> ScoringQueue:
    return ScoringQueue(scorer, ScoringSettings(**{"linger_ms": 0, "max_call_rows": 4, **settings}), Speed())  # type: ignore[arg-type]


def test_answers_are_taken_in_offset_order_however_they_come() -> None:
    scorer = ByHand()
    waiting = queue(scorer)
    waiting.feed(rows(8))
    waiting.send(now=False)
    scorer.finish(1)
    waiting.settle()
    assert waiting.peek() is None
    assert waiting.first_offset == 0
    scorer.finish(0)
    waiting.settle()
    taken = []
    while (answer := waiting.peek()) is not None:
        taken += [record.offset for record in answer.rows.records]
        waiting.take()
    assert taken == list(range(8))
    assert (waiting.rows, waiting.nbytes, waiting.first_offset) == (0, 0, None)


def test_a_call_waits_for_others_no_longer_than_the_linger() -> None:
    scorer = ByHand()
    waiting = queue(scorer, linger_ms=50)
    waiting.feed(rows(2))
    waiting.send(now=False)
    assert not scorer.calls
    time.sleep(0.06)
    waiting.send(now=False)
    assert [len(texts) for texts, _ in scorer.calls] == [2]


def test_a_full_call_goes_at_once_and_no_more_than_allowed_are_in_flight() -> None:
    scorer = ByHand()
    waiting = queue(scorer, linger_ms=10_000, calls_in_flight=2)
    waiting.feed(rows(20))
    waiting.send(now=False)
    assert [len(texts) for texts, _ in scorer.calls] == [4, 4]
    assert waiting.in_flight == 8


def test_calls_are_cut_by_the_work_they_mean() -> None:
    scorer = ByHand()
    waiting = queue(scorer, max_call_rows=1_000, max_call_s=0.1, calls_in_flight=100)
    waiting.feed(rows(200, text="x" * 100))  # 21,000 characters, 2,000 of them a call by the first guess
    waiting.send(now=True)
    sizes = [len(texts) for texts, _ in scorer.calls]
    assert sum(sizes) == 200
    assert max(sizes) == MIN_CALL_ROWS


def test_no_call_exceeds_the_characters_a_server_takes() -> None:
    scorer = ByHand()
    waiting = queue(scorer, max_call_rows=1_000, max_call_chars=1_000, calls_in_flight=100)
    waiting.feed(rows(10, text="x" * 400))
    waiting.feed(rows(1, first=10, text="x" * 5_000))  # alone it may
    waiting.send(now=True)
    assert [len(texts) for texts, _ in scorer.calls] == [2, 2, 2, 2, 2, 1]


def test_the_budget_is_in_rows_and_in_bytes() -> None:
    by_rows = queue(ByHand(), budget_rows=5)
    by_rows.feed(rows(4))
    assert not by_rows.over_budget
    by_rows.feed(rows(1, first=4))
    assert by_rows.over_budget
    by_bytes = queue(ByHand(), budget_bytes=30)
    by_bytes.feed(rows(3))
    assert by_bytes.over_budget
