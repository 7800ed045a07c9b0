"""Finding the end of a partition's chain, and everything that can be wrong between it and the broker, by name.

Nothing but the chain chooses a position. The group's committed offset only shortens the search for the newest file, and
tells when files are missing.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from typing import Final

from streaming.chain import Chain
from streaming.failures import chain_error
from streaming.footer import FooterError, read_footer
from streaming.head import ROOT, ChainId
from streaming.protocols import BrokerUnavailable, Identity, Mirror, Source, TopicPartition
from streaming.settings import StartSettings
from streaming.sink import AvailabilitySettings
from streaming.store import Store

log = logging.getLogger(__name__)

RECREATED: Final = "topic-recreated"


@dataclass(frozen=True, slots=True)
class Opened:
    """A chain that is ready to be appended to.

    Attributes:
        chain: its `end` is where to seek.
        former: UUIDs of logs that had this topic's name before, whose chains have ended for good.
    """

    chain: Chain
    former: tuple[str, ...] = ()


class Opener:
    """Opens chains for one worker."""

    def __init__(  # noqa: PLR0913  # all of them by name
        self,
        source: Source,
        store: Store,
        *,
        start: StartSettings,
        availability: AvailabilitySettings,
        accept_gaps: bool,
        writer_id: str,
    ) -> None:
        self._source = source
        self._store = store
        self._start = start
        self._availability = availability
        self._accept_gaps = accept_gaps
        self._writer_id = writer_id

    def open(self, partition: TopicPartition) -> Opened:
        """Find the head, check it against the broker, and begin the chain where there is none.

        Raises:
            ChainError: chain and broker disagree: `log-truncated`, `head-past-log-end`, `mirror-ahead`, or as
                `Chain.open`. Nothing may be written.
            LostRace: another worker began the chain at this moment; open again.
            StoreError, BrokerUnavailable: no answer; open again after a pause.
        """
        identity = self._source.identity(partition.topic)
        if identity is None:
            raise BrokerUnavailable(f"topic {partition.topic} does not exist (yet, or any more)")
        mirror = self._mirror_of(partition, identity)
        chain = Chain.open(
            self._store,
            ChainId(identity.cluster_id, partition.topic, identity.topic_uuid, partition.partition),
            hint=mirror.head if mirror else None,
            writer_id=self._writer_id,
            availability=self._availability,
        )
        if mirror is not None and mirror.end > chain.end:
            raise chain_error(
                "mirror-ahead", f"{partition}: the group has committed {mirror.end}, the files end at {chain.end}"
            )
        former = () if chain.head else self._former(partition, identity)
        if chain.head is None:
            self._begin(chain, partition, recreated=bool(former))
        else:
            self._check_log(chain, partition)
        return Opened(chain, former)

    def _mirror_of(self, partition: TopicPartition, identity: Identity) -> Mirror | None:
        mirror = self._source.mirrors([partition]).get(partition)
        if mirror is not None and mirror.topic_uuid and mirror.topic_uuid != identity.topic_uuid:
            log.info("mirror of an earlier log ignored partition=%s uuid=%s", partition, mirror.topic_uuid)
            return None
        return mirror

    def _former(self, partition: TopicPartition, identity: Identity) -> tuple[str, ...]:
        """UUIDs of earlier logs of this name in this cluster that have files here."""
        prefix = f"{ROOT}/{partition.topic}@"
        one_each = {path[len(prefix) :].partition("/")[0]: path for path in self._store.list(prefix)}
        found = set()
        for path in one_each.values():
            with contextlib.suppress(FooterError, FileNotFoundError):
                footer = read_footer(self._store, path)
                found.add((footer.cluster_id, footer.topic_uuid))
        return tuple(
            sorted(uuid for cluster, uuid in found if cluster == identity.cluster_id and uuid != identity.topic_uuid)
        )

    def _begin(self, chain: Chain, partition: TopicPartition, *, recreated: bool) -> None:
        first, last = self._source.log_range(partition)
        begin, reason = first, f"earliest: the log began at {first}"
        if recreated:
            # The old chain ended with the old log: whatever is in the new one came since, so none of it is skipped.
            reason = f"topic created anew: the log began at {first}"
        elif self._start.policy == "latest":
            begin, reason = last, f"latest: the log ended at {last}"
        elif self._start.policy == "timestamp":
            found = self._source.offset_at(partition, self._start.timestamp_ms())
            begin = last if found is None else found
            reason = f"timestamp {self._start.timestamp}: offset {begin}"
        if begin > 0:
            chain.append_origin(begin, reason)

    def _check_log(self, chain: Chain, partition: TopicPartition) -> None:
        first, last = self._source.log_range(partition)
        if last < chain.end:
            raise chain_error("head-past-log-end", f"{partition}: the files end at {chain.end}, the log at {last}")
        if first <= chain.end:
            return
        if not self._accept_gaps:
            raise chain_error(
                "log-truncated",
                f"{partition}: the files end at {chain.end}, the log begins at {first}; `--accept_gaps true` goes on",
            )
        log.error("gap accepted partition=%s start=%d end=%d", partition, chain.end, first)
        chain.append_gap(first, f"retention deleted offsets before {first} unread")
