"""The stream: poll, parse, score, write, commit. The file is the commit; Kafka's offsets are only a mirror of it.

Everything here runs on one thread, the poll thread; scoring runs elsewhere and is only looked at. Partitions come, go
and fail in `streaming.lanes`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from sentiment.errors import ChainError
from streaming.chain import LostRace
from streaming.dead_letters import DeadLetter, DeadLetterQueue
from streaming.failpoints import failpoint
from streaming.finish import Finish
from streaming.lanes import RETRY_S, Lanes
from streaming.partition import PartitionLane
from streaming.progress import Counts, Progress, RateMeter
from streaming.protocols import BrokerUnavailable, Mirror, Polled, Source, TopicPartition
from streaming.store import StoreError

log = logging.getLogger(__name__)

BUSY_POLL_S: Final = 0.005
"""how long a poll may wait while answers are on their way [s]"""
IDLE_POLL_S: Final = 0.1
PROGRESS_EVERY_S: Final = 0.2


class Pipeline:
    """One worker's partitions, from messages to committed files.

    Args:
        source: the group member.
        lanes: its partitions.
        dead_letters: where messages go that become no row.
    """

    def __init__(self, source: Source, lanes: Lanes, dead_letters: DeadLetterQueue) -> None:
        self._source = source
        self._lanes = lanes
        self._dead_letters = dead_letters
        self._mirrors: dict[TopicPartition, Mirror] = {}
        self._rate = RateMeter()
        self._started = time.monotonic()
        self._progress_at = 0.0
        self.counts: Counts = lanes.counts

    def run(self, finish: Finish, on_progress: Callable[[Progress], None]) -> bool:
        """Stream until `finish` says so; True when everything polled is committed by then."""
        while not finish.now(self._lanes):
            polled = self._poll(finish)
            self._parse(polled)
            self._score(finish)
            self._write(finish)
            self._commit()
            self._show(on_progress)
        return self._lanes.are_empty

    def _poll(self, finish: Finish) -> Polled:
        """Take what the group gives and takes, open what is new, and fetch."""
        failpoint("before-poll")
        if not finish.draining:
            self._lanes.open_due()
        self._lanes.look_at_topics()
        polled = self._source.poll(BUSY_POLL_S if self._lanes.are_busy else IDLE_POLL_S)
        failpoint("after-poll")
        for partition in polled.lost:
            self._lose(partition)
        self._lanes.change(polled)
        return polled

    def _parse(self, polled: Polled) -> None:
        """Messages to rows and dead letters, each partition to its own lane."""
        fresh = {*polled.assigned, *polled.lost, *polled.out_of_range}  # what came with them may be from elsewhere
        for partition, lane in self._lanes.items():
            records = polled.records.get(partition, ())
            if partition in fresh or (lane.paused and not records):
                continue
            try:
                lane.feed(records, self._source.position(partition))
            except BrokerUnavailable as error:
                self._lanes.reopen(partition, str(error))
            except ChainError as error:
                self._lanes.fail(partition, error)
            if records:
                self.counts.polled += len(records)
                self._lanes.last_record_at = time.monotonic()

    def _score(self, finish: Finish) -> None:
        """Look at the answers, send what is due; pause reading where too much waits, but never polling."""
        for partition, lane in self._lanes.items():
            if lane.queue.rows:
                failpoint("before-score")
                lane.queue.settle()
                lane.queue.send(now=finish.draining)
                lane.absorb()
                failpoint("after-score")
            should_pause = finish.draining or lane.queue.over_budget or lane.trouble != ""
            if should_pause != lane.paused:
                (self._source.pause if should_pause else self._source.resume)(partition)
                lane.paused = should_pause

    def _write(self, finish: Finish) -> None:
        """Close every file that is due."""
        for partition, lane in self._lanes.items():
            flush = lane.has_something and (finish.draining or (finish.flushing and lane.is_settled))
            if (lane.is_due or flush) and time.monotonic() >= lane.retry_at:
                self._write_file(partition, lane)

    def _commit(self) -> None:
        """Mirror the new ends to the group. The commit itself was the file."""
        if self._mirrors:
            failpoint("before-mirror")
            self._source.mirror(self._mirrors)
            self._mirrors = {}
            failpoint("after-mirror")

    def _write_file(self, partition: TopicPartition, lane: PartitionLane) -> None:
        """Step 4 of the protocol: dead letters, topic, file. Trouble before the put means to wait and try again."""
        letters = lane.dead_letters()
        try:
            failpoint("before-dead-letters")
            self._dead_letters.publish(letters)
            failpoint("after-dead-letters")
            failpoint("before-topic-check")
            same = self._lanes.is_same_topic(partition, lane)
            failpoint("after-topic-check")
        except BrokerUnavailable as error:
            lane.trouble, lane.retry_at = str(error), time.monotonic() + RETRY_S
            log.warning("cannot write yet partition=%s why=%s", partition, error)
            return
        if same:
            self._put(partition, lane, letters)

    def _put(self, partition: TopicPartition, lane: PartitionLane, letters: list[DeadLetter]) -> None:
        """The commit. Trouble here means that only the chain knows: drop the buffer and open it again."""
        try:
            rows = lane.append()
        except LostRace:
            self.counts.lost_races += 1
            log.info("lost a race, opening again partition=%s", partition)
            self._lanes.reopen(partition, "lost a race")
        except StoreError as error:
            log.warning("store failed, opening again partition=%s error=%s", partition, error)
            self._lanes.reopen(partition, str(error), pause_s=RETRY_S)
        except ChainError as error:
            self._lanes.fail(partition, error)
        else:
            lane.trouble = ""
            self.counts.rows += rows
            self.counts.files += 1
            self.counts.dead_letters.update(letter.reason for letter in letters)
            self._mirrors[partition] = lane.mirror()

    def _lose(self, partition: TopicPartition) -> None:
        """The group took it: what is scored is worth a try (the put is safe whoever owns it), the rest is dropped."""
        lane = self._lanes.get(partition)
        if lane is not None and len(lane.buffer):
            self._write_file(partition, lane)
        self._mirrors.pop(partition, None)  # another member's to write now
        self._lanes.lose(partition)

    def _show(self, on_progress: Callable[[Progress], None]) -> None:
        if time.monotonic() >= self._progress_at:
            self._progress_at = time.monotonic() + PROGRESS_EVERY_S
            on_progress(self.progress())

    def progress(self) -> Progress:
        """A snapshot of everything."""
        return Progress(
            counts=self.counts,
            partitions=self._lanes.views(),
            in_flight=sum(lane.queue.in_flight for _, lane in self._lanes.items()),
            waiting=sum(lane.queue.rows for _, lane in self._lanes.items()),
            rows_per_s=self._rate.rate(self.counts.rows),
            scorer_trouble=self._lanes.speed.trouble,
            seconds=time.monotonic() - self._started,
        )
