"""The stream's loop on an in-memory Kafka and a real directory: order, faults, budgets, start, recreation."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
from memory_kafka import MemoryBroker, MemoryProducer, MemorySource
from stream_scorers import TestScorer

from sentiment.errors import ScorerRejected, ScorerUnavailable
from streaming.dead_letters import DeadLetterQueue
from streaming.finish import Finish
from streaming.footer import footer_of
from streaming.lanes import Lanes
from streaming.opening import Opener
from streaming.pipeline import Pipeline
from streaming.progress import Counts, Progress
from streaming.protocols import TopicPartition
from streaming.settings import ScoringSettings, StartSettings, StreamSettings
from streaming.sink import RollSettings
from streaming.store import LocalStore

TOPIC = "posts"
P0 = TopicPartition(TOPIC, 0)


def post(number: int, **more: object) -> bytes:
    return orjson.dumps({"id": f"id-{number}", "text": f"post number {number}", **more})


class Stream:
    """A pipeline over a directory, run until everything there is committed."""

    def __init__(self, root: Path, broker: MemoryBroker, scorer: TestScorer | None = None, **settings: Any) -> None:
        self.broker = broker
        self.source = MemorySource(broker, [TOPIC])
        self.scorer = scorer or TestScorer()
        self.producer = MemoryProducer()
        self.store = LocalStore(root)
        fast = ScoringSettings(linger_ms=0, max_call_rows=5, retry_s=0.01)
        self.settings = StreamSettings(
            **{"topics": TOPIC, "storage": str(root), "until_end": True, "scoring": fast, **settings}
        )
        self.counts = Counts()

    def run(self, stop: threading.Event | None = None, each: Callable[[Progress], None] | None = None) -> bool:
        opener = Opener(
            self.source,
            self.store,
            start=self.settings.start,
            availability=self.settings.availability,
            accept_gaps=self.settings.accept_gaps,
            writer_id="unit",
        )
        lanes = Lanes(self.source, self.scorer, opener, self.settings)
        self.counts = lanes.counts
        pipeline = Pipeline(self.source, lanes, DeadLetterQueue(self.producer, self.settings.dead_letters))
        finish = Finish(self.settings, stop or threading.Event(), self.source)
        try:
            return pipeline.run(finish, each or (lambda progress: None))
        finally:
            self.scorer.close()

    def files(self) -> list[Path]:
        return sorted(self.store.root.glob("scored/**/*.parquet"))

    def rows(self, partition: int = 0) -> list[dict[str, Any]]:
        found = []
        for path in sorted(self.store.root.glob(f"scored/*/{partition}/*.parquet")):
            found += pq.ParquetFile(path).read().to_pylist()
        return found

    def codes(self) -> list[str]:
        return [fault.code for fault in self.counts.faults]


@pytest.fixture
def broker() -> MemoryBroker:
    made = MemoryBroker()
    made.create(TOPIC)
    return made


def test_every_post_becomes_one_row_in_offset_order(tmp_path: Path, broker: MemoryBroker) -> None:
    def slow_at_first(texts: Sequence[str]) -> None:
        if texts[0] == "post number 0":
            time.sleep(0.1)  # later calls are answered before the first

    for number in range(100):
        broker.produce(TOPIC, post(number))
    stream = Stream(tmp_path, broker, TestScorer(slow_at_first))
    assert stream.run()
    rows = stream.rows()
    assert [row["offset"] for row in rows] == list(range(100))
    assert [row["id"] for row in rows] == [f"id-{number}" for number in range(100)]
    assert broker.mirrors[P0].end == 100


def test_malformed_messages_are_dead_letters_between_the_rows(tmp_path: Path, broker: MemoryBroker) -> None:
    for number in range(20):
        broker.produce(TOPIC, b"junk" if number % 4 == 3 else post(number), key=b"k")
    stream = Stream(tmp_path, broker)
    assert stream.run()
    assert [row["offset"] for row in stream.rows()] == [n for n in range(20) if n % 4 != 3]
    assert [sent.key for sent in stream.producer.flushed] == [f"posts-0-{n}".encode() for n in range(3, 20, 4)]
    assert {sent.headers["error.reason"] for sent in stream.producer.flushed} == {b"not-json"}
    assert stream.counts.dead_letters == {"not-json": 5}


def test_a_range_without_any_row_is_committed_too(tmp_path: Path, broker: MemoryBroker) -> None:
    for _ in range(3):
        broker.produce(TOPIC, None)
    stream = Stream(tmp_path, broker)
    assert stream.run()
    (footer,) = [footer_of(path.read_bytes()) for path in stream.files()]
    assert (footer.start, footer.end, footer.rows, footer.dead) == (0, 3, 0, ((0, 3),))


def test_dead_letters_that_cannot_be_flushed_hold_the_file_back(tmp_path: Path, broker: MemoryBroker) -> None:
    broker.produce(TOPIC, b"junk")
    broker.produce(TOPIC, post(1))
    stream = Stream(tmp_path, broker)
    stream.producer.fail_flushes = 1
    files_while_failing = []

    def look(_: Progress) -> None:
        if stream.producer.fail_flushes == 0 and not stream.producer.flushed:
            files_while_failing.append(len(stream.files()))

    assert stream.run(each=look)
    assert files_while_failing
    assert set(files_while_failing) == {0}
    assert len(stream.producer.flushed) == 1
    assert [row["offset"] for row in stream.rows()] == [1]


def test_rolls_on_rows_and_the_files_are_a_chain(tmp_path: Path, broker: MemoryBroker) -> None:
    for number in range(25):
        broker.produce(TOPIC, post(number))
    stream = Stream(tmp_path, broker, roll=RollSettings(max_rows=10))
    assert stream.run()
    footers = [footer_of(path.read_bytes()) for path in stream.files()]
    assert len(footers) >= 2
    assert footers[0].start == 0
    assert all(after.start == before.end for before, after in itertools.pairwise(footers))
    assert footers[-1].end == 25


def test_a_change_of_bundle_closes_the_file(tmp_path: Path, broker: MemoryBroker) -> None:
    scorer = TestScorer()

    def swap(texts: Sequence[str]) -> None:
        if "post number 10" in texts:
            scorer.bundle_id = "second"

    scorer._before = swap
    scorer._pool._max_workers = 1
    for number in range(20):
        broker.produce(TOPIC, post(number))
    stream = Stream(tmp_path, broker, scorer, scoring=ScoringSettings(linger_ms=0, max_call_rows=5, calls_in_flight=1))
    assert stream.run()
    assert [row["offset"] for row in stream.rows()] == list(range(20))
    bundles = [footer_of(path.read_bytes()).bundle_ids for path in stream.files()]
    assert bundles == [("test-bundle",), ("second",)]


def test_an_outage_of_the_scorer_loses_nothing_and_pauses_reading(tmp_path: Path, broker: MemoryBroker) -> None:
    def down(_: Sequence[str]) -> None:
        if paused.count(True) < 3:
            raise ScorerUnavailable("starting")

    for number in range(200):
        broker.produce(TOPIC, post(number))
    small = ScoringSettings(linger_ms=0, max_call_rows=5, retry_s=0.02, budget_rows=20)
    stream = Stream(tmp_path, broker, TestScorer(down), scoring=small)
    paused, most_waiting, polls_while_paused = [], [], set()

    def look(progress: Progress) -> None:
        paused.append(P0 in stream.source.paused)
        most_waiting.append(progress.waiting)
        if paused[-1]:
            polls_while_paused.add(stream.source.polls)

    assert stream.run(each=look)
    assert True in paused
    assert max(most_waiting) < 40
    assert len(polls_while_paused) > 1
    assert [row["offset"] for row in stream.rows()] == list(range(200))
    assert not stream.producer.flushed


def test_a_poison_row_is_found_by_bisection_and_only_it_is_dead(tmp_path: Path, broker: MemoryBroker) -> None:
    def poison(texts: Sequence[str]) -> None:
        if any(text == "post number 13" for text in texts):
            raise ScorerRejected("this one again")

    for number in range(30):
        broker.produce(TOPIC, post(number))
    stream = Stream(tmp_path, broker, TestScorer(poison), scoring=ScoringSettings(linger_ms=0, max_call_rows=16))
    assert stream.run()
    assert [row["offset"] for row in stream.rows()] == [n for n in range(30) if n != 13]
    (sent,) = stream.producer.flushed
    assert (sent.headers["error.reason"], sent.headers["error.stage"]) == (b"scorer-rejected", b"score")
    assert sent.headers["error.offset"] == b"13"
    assert sent.value == post(13)


def test_a_scorer_that_refuses_everything_makes_no_dead_letters(tmp_path: Path, broker: MemoryBroker) -> None:
    until = time.monotonic() + 0.4

    def refuse(_: Sequence[str]) -> None:
        if time.monotonic() < until:
            raise ScorerRejected("misconfigured")

    for number in range(10):
        broker.produce(TOPIC, post(number))
    stream = Stream(tmp_path, broker, TestScorer(refuse))
    assert stream.run()
    assert [row["offset"] for row in stream.rows()] == list(range(10))
    assert not stream.producer.flushed


def test_goes_on_at_the_end_of_the_chain_whatever_the_group_says(tmp_path: Path, broker: MemoryBroker) -> None:
    for number in range(10):
        broker.produce(TOPIC, post(number))
    assert Stream(tmp_path, broker).run()
    broker.mirrors.clear()
    for number in range(10, 15):
        broker.produce(TOPIC, post(number))
    again = Stream(tmp_path, broker)
    assert again.run()
    assert again.counts.rows == 5
    assert [row["offset"] for row in again.rows()] == list(range(15))


@pytest.mark.parametrize(
    ("start", "first", "reason"),
    [
        (StartSettings(policy="earliest"), 4, "earliest"),
        (StartSettings(policy="latest"), 10, "latest"),
        (StartSettings(policy="timestamp", timestamp="2023-11-14T22:13:20.006+00:00"), 6, "timestamp"),
    ],
)
def test_what_the_start_policy_skips_is_an_origin_file(
    tmp_path: Path, broker: MemoryBroker, start: StartSettings, first: int, reason: str
) -> None:
    for number in range(10):
        broker.produce(TOPIC, post(number))
    broker.truncate(TOPIC, 4)
    stream = Stream(tmp_path, broker, start=start)
    assert stream.run()
    origin = footer_of(stream.files()[0].read_bytes())
    assert (origin.kind, origin.start, origin.end, origin.rows) == ("origin", 0, first, 0)
    assert origin.reason.startswith(reason)
    assert [row["offset"] for row in stream.rows()] == list(range(first, 10))


def _with_ten_committed(tmp_path: Path, broker: MemoryBroker) -> None:
    for number in range(10):
        broker.produce(TOPIC, post(number))
    assert Stream(tmp_path, broker).run()


def test_a_log_that_lost_unread_messages_is_an_error_until_the_gap_is_accepted(
    tmp_path: Path, broker: MemoryBroker
) -> None:
    _with_ten_committed(tmp_path, broker)
    for number in range(10, 20):
        broker.produce(TOPIC, post(number))
    broker.truncate(TOPIC, 15)
    refused = Stream(tmp_path, broker)
    refused.run()
    assert refused.codes() == ["log-truncated"]
    assert refused.counts.rows == 0
    accepted = Stream(tmp_path, broker, accept_gaps=True)
    assert accepted.run()
    assert accepted.codes() == []
    kinds = [footer_of(path.read_bytes()).kind for path in accepted.files()]
    assert kinds == ["rows", "gap", "rows"]
    assert [row["offset"] for row in accepted.rows()][-5:] == list(range(15, 20))


def test_a_log_shorter_than_the_files_is_an_error(tmp_path: Path, broker: MemoryBroker) -> None:
    _with_ten_committed(tmp_path, broker)
    log = broker.logs[P0]
    log.end, log.records = 5, log.records[:5]
    stream = Stream(tmp_path, broker)
    stream.run()
    assert stream.codes() == ["head-past-log-end"]


def test_a_mirror_ahead_of_the_files_is_an_error(tmp_path: Path, broker: MemoryBroker) -> None:
    _with_ten_committed(tmp_path, broker)
    for path in tmp_path.glob("scored/**/*.parquet"):
        path.unlink()
    stream = Stream(tmp_path, broker)
    stream.run()
    assert stream.codes() == ["mirror-ahead"]
    assert stream.files() == []


def test_an_error_of_one_partition_leaves_the_others_alone(tmp_path: Path, broker: MemoryBroker) -> None:
    broker.create(TOPIC, partitions=2)
    for number in range(10):
        broker.produce(TOPIC, post(number), partition=number % 2)
    assert Stream(tmp_path, broker).run()
    for path in tmp_path.glob("scored/*/0/*.parquet"):
        path.unlink()
    for number in range(10, 20):
        broker.produce(TOPIC, post(number), partition=number % 2)
    stream = Stream(tmp_path, broker)
    stream.run()
    assert stream.codes() == ["mirror-ahead"]
    assert len(stream.rows(1)) == 10
    assert P0 in stream.source.paused


def test_missing_offsets_are_an_error_on_a_plain_topic_and_recorded_on_a_compacted_one(
    tmp_path: Path, broker: MemoryBroker
) -> None:
    for number in range(6):
        broker.produce(TOPIC, post(number))
    broker.logs[P0].records.pop(2)
    broker.skip(TOPIC, 3)
    plain = Stream(tmp_path / "plain", broker)
    plain.run()
    assert plain.codes() == ["unexplained-jump"]
    assert plain.files() == []
    broker.with_holes.add(TOPIC)
    compacted = Stream(tmp_path / "compacted", broker)
    broker.mirrors.clear()
    assert compacted.run()
    assert [row["offset"] for row in compacted.rows()] == [0, 1, 3, 4, 5]
    (footer,) = [footer_of(path.read_bytes()) for path in compacted.files()]
    assert footer.holes == ((2, 3), (6, 9))
    assert footer.end == 9


def test_a_topic_created_anew_under_a_running_worker_ends_the_chain_and_begins_another(
    tmp_path: Path, broker: MemoryBroker
) -> None:
    for number in range(10):
        broker.produce(TOPIC, post(number))
    stream = Stream(tmp_path, broker, until_end=False, roll=RollSettings(max_age_s=0.05))
    stop = threading.Event()
    recreated = []

    def act(progress: Progress) -> None:
        if progress.counts.rows == 10 and not recreated:
            recreated.append(broker.uuids[TOPIC])
            broker.delete(TOPIC)
            broker.create(TOPIC)
            for number in range(100, 130):
                broker.produce(TOPIC, post(number))
        if progress.counts.rows == 40:
            stop.set()

    assert stream.run(stop, act)
    assert stream.codes() == ["topic-recreated"]
    old, new = recreated[0][:8], broker.uuids[TOPIC][:8]
    directories = sorted(path.name for path in (tmp_path / "scored").iterdir())
    assert directories == sorted([f"{TOPIC}@{old}", f"{TOPIC}@{new}"])
    rows = [row for path in (tmp_path / "scored" / f"{TOPIC}@{new}").rglob("*.parquet") for row in _read(path)]
    assert sorted(row["id"] for row in rows) == sorted(f"id-{n}" for n in range(100, 130))
    assert stream.source.restarts >= 1


def test_a_topic_created_anew_while_no_worker_ran_is_named_and_none_of_it_is_skipped(
    tmp_path: Path, broker: MemoryBroker
) -> None:
    _with_ten_committed(tmp_path, broker)
    broker.delete(TOPIC)
    broker.create(TOPIC)
    for number in range(5):
        broker.produce(TOPIC, post(number))
    stream = Stream(tmp_path, broker, start=StartSettings(policy="latest"))
    assert stream.run()
    assert stream.codes() == ["topic-recreated"]
    assert not any(fault.fatal for fault in stream.counts.faults)
    assert stream.counts.rows == 5


def _read(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.ParquetFile(path).read().to_pylist()
    return found


def test_a_lost_race_drops_the_buffer_and_goes_on_behind_the_winner(tmp_path: Path, broker: MemoryBroker) -> None:
    for number in range(10):
        broker.produce(TOPIC, post(number))
    ours = Stream(tmp_path, broker, roll=RollSettings(max_rows=10))
    won = []

    def rival(_: Sequence[str]) -> None:
        if not won:
            won.append(True)
            assert Stream(tmp_path, broker, roll=RollSettings(max_rows=4)).run()

    ours.scorer._before = rival
    assert ours.run()
    assert ours.counts.lost_races == 1
    assert [row["offset"] for row in ours.rows()] == list(range(10))


def test_a_partition_taken_and_given_back_is_neither_lost_nor_doubled(tmp_path: Path, broker: MemoryBroker) -> None:
    for number in range(300):
        broker.produce(TOPIC, post(number))
    stream = Stream(tmp_path, broker, TestScorer(lambda texts: time.sleep(0.001)), roll=RollSettings(max_rows=20))
    turns = []

    original = stream.source.poll

    def poll(timeout_s: float) -> Any:
        turns.append(True)
        if len(turns) in (10, 25, 40):
            stream.source.take(P0)
            stream.source.give(P0)
        return original(timeout_s)

    stream.source.poll = poll  # type: ignore[method-assign]
    assert stream.run()
    assert [row["offset"] for row in stream.rows()] == list(range(300))


def test_stopping_commits_what_was_read_and_reads_no_more(tmp_path: Path, broker: MemoryBroker) -> None:
    for number in range(50):
        broker.produce(TOPIC, post(number))
    stream = Stream(tmp_path, broker, TestScorer(lambda texts: time.sleep(0.02)), until_end=False)
    stop = threading.Event()
    assert stream.run(stop, lambda progress: stop.set() if progress.counts.polled >= 20 else None)
    rows = stream.rows()
    assert 20 <= len(rows) <= 50
    assert [row["offset"] for row in rows] == list(range(len(rows)))


def test_a_stopping_worker_does_not_wait_for_ever(tmp_path: Path, broker: MemoryBroker) -> None:
    def never(_: Sequence[str]) -> None:
        raise ScorerUnavailable("gone for good")

    broker.produce(TOPIC, post(0))
    stream = Stream(tmp_path, broker, TestScorer(never), until_end=False, drain_timeout_s=0.3)
    stop = threading.Event()
    began = time.monotonic()
    drained = stream.run(stop, lambda progress: stop.set() if progress.counts.polled else None)
    assert not drained
    assert time.monotonic() - began < 5
    assert stream.files() == []


def test_idle_workers_stop_when_asked_to(tmp_path: Path, broker: MemoryBroker) -> None:
    for number in range(5):
        broker.produce(TOPIC, post(number))
    stream = Stream(tmp_path, broker, until_end=False, stop_when_idle_s=0.2)
    assert stream.run()
    assert stream.counts.rows == 5


def test_a_broker_that_is_away_is_waited_for(tmp_path: Path, broker: MemoryBroker) -> None:
    for number in range(5):
        broker.produce(TOPIC, post(number))
    stream = Stream(tmp_path, broker)

    def look(progress: Progress) -> None:
        broker.down = progress.counts.polled == 0 and progress.seconds < 0.3

    assert stream.run(each=look)
    assert stream.counts.rows == 5
