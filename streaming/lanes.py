"""The partitions of one worker: they are given, opened, lost, failed and opened again, each for itself."""

from __future__ import annotations

import logging
import time
from typing import Final

from sentiment.errors import ChainError
from streaming.chain import LostRace
from streaming.failures import chain_error
from streaming.opening import RECREATED, Opened, Opener
from streaming.partition import PartitionLane
from streaming.progress import Counts, Fault, PartitionView
from streaming.protocols import BrokerUnavailable, Polled, Source, TopicPartition
from streaming.scorer import Scorer
from streaming.scoring import ScoringQueue, Speed
from streaming.settings import StreamSettings
from streaming.store import StoreError

log = logging.getLogger(__name__)

RETRY_S: Final = 1.0
"""pause before a broker or a store is asked again [s]"""
LOOK_EVERY_S: Final = 2.0
"""how often the topics' UUIDs are looked at even where nothing is written [s]"""


class Lanes:
    """Every partition that is ours is in exactly one state: to be opened, open (a lane), or failed.

    Args:
        source: the group member.
        scorer: who scores.
        opener: finds where a partition goes on.
        settings: of the stream.
    """

    def __init__(self, source: Source, scorer: Scorer, opener: Opener, settings: StreamSettings) -> None:
        self._source = source
        self._scorer = scorer
        self._opener = opener
        self._settings = settings
        self._lanes: dict[TopicPartition, PartitionLane] = {}
        self._to_open: dict[TopicPartition, tuple[float, str]] = {}
        self._failed: dict[TopicPartition, Fault] = {}
        self._has_holes: dict[str, bool] = {}
        self._reported: set[tuple[TopicPartition, str]] = set()
        self._look_at = 0.0
        self.have_been_given = False
        """whether the group has given us anything yet"""
        self.counts = Counts()
        self.speed = Speed()
        self.last_record_at = time.monotonic()

    def items(self) -> list[tuple[TopicPartition, PartitionLane]]:
        """The open ones; a copy, so that they may be closed meanwhile."""
        return list(self._lanes.items())

    def get(self, partition: TopicPartition) -> PartitionLane | None:
        """The open lane of a partition."""
        return self._lanes.get(partition)

    def is_failed(self, partition: TopicPartition) -> bool:
        """Whether the partition is paused for good."""
        return partition in self._failed

    @property
    def are_busy(self) -> bool:
        """Whether an answer of the scorer is awaited, so that a poll should be short."""
        return any(lane.queue.rows for lane in self._lanes.values())

    @property
    def are_empty(self) -> bool:
        """Whether everything polled is committed."""
        return all(lane.position == lane.chain.end for lane in self._lanes.values())

    @property
    def are_opening(self) -> bool:
        """Whether a partition of ours is still to be opened."""
        return bool(self._to_open)

    # -- given and taken by the group

    def change(self, polled: Polled) -> None:
        """Note what is newly ours, and what the broker has nothing for at our position."""
        self.have_been_given |= bool(polled.assigned)
        for partition in polled.assigned:
            self._forget(partition)
            self._to_open[partition] = (0.0, "")
        for partition in polled.out_of_range:
            if partition in self._lanes:
                self.reopen(partition, "the broker has nothing at our position")

    def lose(self, partition: TopicPartition) -> None:
        """The group gave it to somebody else."""
        self._forget(partition)
        log.info("partition lost partition=%s", partition)

    def _forget(self, partition: TopicPartition) -> None:
        self._lanes.pop(partition, None)
        self._to_open.pop(partition, None)
        self._failed.pop(partition, None)

    # -- opened

    def open_due(self) -> None:
        """Open what is ours and not open; what does not answer is tried again after a pause."""
        for partition, (retry_at, _) in list(self._to_open.items()):
            if time.monotonic() < retry_at:
                continue
            try:
                opened = self._opener.open(partition)
                if partition.topic not in self._has_holes:
                    self._has_holes[partition.topic] = self._source.has_holes(partition.topic)
            except LostRace:
                self.counts.lost_races += 1
                log.info("lost the race for the first file, opening again partition=%s", partition)
                self.reopen(partition, "lost the race for the first file")
            except (BrokerUnavailable, StoreError) as error:
                self.reopen(partition, str(error), pause_s=RETRY_S)
                log.warning("cannot open yet partition=%s why=%s", partition, error)
            except ChainError as error:
                self.fail(partition, error)
            else:
                self._begin(partition, opened)

    def _begin(self, partition: TopicPartition, opened: Opened) -> None:
        for uuid in opened.former:
            self._report_recreated(partition, uuid, opened.chain.id.topic_uuid)
        self._to_open.pop(partition, None)
        self._source.seek(partition, opened.chain.end)
        self._source.resume(partition)
        self._lanes[partition] = PartitionLane(
            partition,
            opened.chain,
            ScoringQueue(self._scorer, self._settings.scoring, self.speed),
            roll=self._settings.roll,
            holes_allowed=self._has_holes[partition.topic],
            keep_text=self._settings.store_text,
        )
        log.info("partition open partition=%s at=%d", partition, opened.chain.end)

    def reopen(self, partition: TopicPartition, why: str, *, pause_s: float = 0.0) -> None:
        """Drop what is not committed and let the chain say where to go on."""
        self._forget(partition)
        self._source.pause(partition)
        self._to_open[partition] = (time.monotonic() + pause_s, why)

    def fail(self, partition: TopicPartition, error: ChainError) -> None:
        """Pause this partition until the worker is started again; the others go on."""
        self._forget(partition)
        self._source.pause(partition)
        self._failed[partition] = Fault(error.code, error.detail, partition, fatal=True)
        self.counts.faults.append(self._failed[partition])
        log.error("partition paused partition=%s error=%s", partition, error)

    # -- topics created anew

    def look_at_topics(self) -> None:
        """Notice a topic created anew even where nothing is written."""
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + LOOK_EVERY_S
        for partition, lane in {partition.topic: (partition, lane) for partition, lane in self.items()}.values():
            try:
                if not self.is_same_topic(partition, lane):
                    return
            except BrokerUnavailable as error:
                log.warning("topic not seen topic=%s why=%s", partition.topic, error)

    def is_same_topic(self, partition: TopicPartition, lane: PartitionLane) -> bool:
        """Whether the log behind the name is still the chain's.

        If not, everything is dropped and joined anew: what the client has fetched may belong to the log that is gone.

        Raises:
            BrokerUnavailable: no answer, or there is no such topic now.
        """
        identity = self._source.identity(partition.topic)
        if identity is None:
            raise BrokerUnavailable(f"topic {partition.topic} is gone")
        if identity.topic_uuid == lane.chain.id.topic_uuid:
            return True
        self._report_recreated(partition, lane.chain.id.topic_uuid, identity.topic_uuid)
        self._lanes.clear()
        self._to_open.clear()
        self._failed.clear()
        self._source.restart()
        return False

    def _report_recreated(self, partition: TopicPartition, old: str, new: str) -> None:
        if (partition, old) in self._reported:
            return
        self._reported.add((partition, old))
        error = chain_error(RECREATED, f"{partition}: the chain of {old} has ended, a chain of {new} begins")
        self.counts.faults.append(Fault(error.code, error.detail, partition, fatal=False))
        log.error("topic created anew partition=%s error=%s", partition, error)

    # -- shown

    def views(self) -> tuple[PartitionView, ...]:
        """Every partition of ours, for people."""
        views = [
            PartitionView(
                partition,
                "waiting" if lane.trouble or lane.queue.over_budget else "running",
                lane.trouble or (self.speed.trouble if lane.queue.over_budget else ""),
                committed=lane.chain.end,
                position=lane.position,
                log_end=self._source.log_end_seen(partition),
            )
            for partition, lane in self._lanes.items()
        ]
        views += [PartitionView(p, "opening", why, 0, 0, None) for p, (_, why) in self._to_open.items()]
        views += [PartitionView(p, "failed", f"{f.code}: {f.detail}", 0, 0, None) for p, f in self._failed.items()]
        return tuple(sorted(views, key=lambda view: view.partition))
