"""When a worker stops: when it is told to, when all that was there is committed, or when nothing comes any more."""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

from sentiment.errors import SetupError
from streaming.lanes import Lanes
from streaming.protocols import BrokerUnavailable, Source, TopicPartition
from streaming.settings import StreamSettings

log = logging.getLogger(__name__)

_JOIN_S: Final = 5.0
"""a member that was given nothing for so long is one too many [s]"""
_ASK_EVERY_S: Final = 0.5
"""how often the group is asked how far its other members are [s]"""


class Finish:
    """Decides, once per turn of the loop, whether to go on.

    Attributes:
        flushing: files are closed as soon as their rows are scored, whatever their age.
        draining: nothing more is read; the worker waits for what is with the scorer, at most `drain_timeout_s`.
    """

    def __init__(self, settings: StreamSettings, stop: threading.Event, source: Source) -> None:
        self._stop = stop
        self._source = source
        self._idle_s = settings.stop_when_idle_s
        self._drain_timeout_s = settings.drain_timeout_s
        self._deadline = 0.0
        self._join_until = time.monotonic() + _JOIN_S
        self._given_by = time.monotonic() + settings.session_timeout_s + _JOIN_S
        self._given_at = 0.0
        self._ask_at = 0.0
        self._others_done = False
        self._targets = self._ends(settings) if settings.until_end else None
        self.flushing = False
        self.draining = False

    def _ends(self, settings: StreamSettings) -> dict[TopicPartition, int]:
        partitions = self._source.partitions()
        absent = set(settings.topic_names()) - {partition.topic for partition in partitions}
        if absent:
            raise SetupError(f"no such topic: {', '.join(sorted(absent))}; `python -m streaming replay` creates topics")
        return {partition: self._source.log_range(partition)[1] for partition in partitions}

    def now(self, lanes: Lanes) -> bool:
        """Whether the worker should stop at this moment."""
        if self.draining:
            return lanes.are_empty or time.monotonic() >= self._deadline
        if self._stop.is_set():
            self._drain("stopping")
        elif self._targets is not None:
            self.flushing = self._all_read(lanes, self._targets)
            if self.flushing and self._all_committed(lanes, self._targets):
                self._drain("everything that was there is committed")
        elif self._idle_s:
            self.flushing = self._is_idle(lanes)
            if self.flushing and lanes.are_empty:
                self._drain("nothing came any more")
        return False

    def _is_idle(self, lanes: Lanes) -> bool:
        """Nothing came for long enough since we got partitions; a dead member keeps them for a session's time."""
        if lanes.have_been_given and not self._given_at:
            self._given_at = time.monotonic()
        if not lanes.have_been_given and time.monotonic() < self._given_by:
            return False
        since = max(lanes.last_record_at, self._given_at)
        return time.monotonic() - since >= self._idle_s and not lanes.are_opening

    def _drain(self, why: str) -> None:
        log.info("draining why=%s", why)
        self.draining = True
        self._deadline = time.monotonic() + self._drain_timeout_s

    def _all_read(self, lanes: Lanes, targets: dict[TopicPartition, int]) -> bool:
        return not lanes.are_opening and all(
            lane.position >= targets.get(partition, 0) for partition, lane in lanes.items()
        )

    def _all_committed(self, lanes: Lanes, targets: dict[TopicPartition, int]) -> bool:
        """Ours by their chains, the other members' by their mirrors (which prove nothing before we have joined)."""
        if not lanes.have_been_given and time.monotonic() < self._join_until:
            return False
        own = dict(lanes.items())
        if any(lane.chain.end < targets.get(partition, 0) for partition, lane in own.items()):
            return False
        others = [p for p in targets if p not in own and not lanes.is_failed(p) and targets[p] > 0]
        if others and time.monotonic() >= self._ask_at:
            self._ask_at = time.monotonic() + _ASK_EVERY_S
            try:
                mirrors = self._source.mirrors(others)
            except BrokerUnavailable:
                return False
            self._others_done = all(p in mirrors and mirrors[p].end >= targets[p] for p in others)
        return not others or self._others_done
