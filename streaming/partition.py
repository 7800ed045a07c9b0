"""One partition of the stream: everything polled from it that is not yet in a file, and where that file would end."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sentiment.errors import MessageError
from sentiment.records import Scores, parse_post
from streaming.chain import Chain
from streaming.dead_letters import STAGE_PARSE, DeadLetter, rejected
from streaming.failures import chain_error
from streaming.protocols import Mirror, Record, TopicPartition
from streaming.ranges import Range, clip
from streaming.scoring import Rows, ScoredCall, ScoringQueue
from streaming.sink import RollSettings, RowBuffer


class PartitionLane:
    """Polled messages on their way into the next file of an open chain.

    Offsets `[chain.end, position)` are in exactly one of these places: the buffer of scored rows, the scoring queue,
    the dead letters, the holes.

    Args:
        partition: which.
        chain: open; its end is where the source was told to seek.
        queue: rows with the scorer.
        roll: when a file is closed.
        holes_allowed: whether missing offsets are the topic's nature (recorded) or an error.
        keep_text: whether rows keep their text.
    """

    def __init__(  # noqa: PLR0913  # half of them by name
        self,
        partition: TopicPartition,
        chain: Chain,
        queue: ScoringQueue,
        *,
        roll: RollSettings,
        holes_allowed: bool,
        keep_text: bool,
    ) -> None:
        self.partition = partition
        self.chain = chain
        self.queue = queue
        self.position = chain.end
        self.paused = False
        self.retry_at = 0.0
        """not before this is another attempt to write made [monotonic s]"""
        self.trouble = ""
        """why it waits, for people"""
        self._roll = roll
        self._holes_allowed = holes_allowed
        self._keep_text = keep_text
        self._new_file()
        self._dead: list[DeadLetter] = []
        self._holes: list[Range] = []

    def _new_file(self) -> None:
        self.buffer = RowBuffer(self.partition.topic, self.partition.partition, keep_text=self._keep_text)
        self._opened_s: float | None = None
        self._bundle_changed = False

    # -- parse

    def feed(self, records: Sequence[Record], position: int) -> int:
        """Parse what one poll delivered.

        Args:
            records: in offset order; may be empty where only the position moved on.
            position: the next offset to be delivered after this poll.

        Returns:
            How many of them are dead letters.

        Raises:
            ChainError: `unexplained-jump`, offsets are missing on a topic that has no holes by design.
        """
        self._note_holes(records, position)
        rows, dead = self._parse(records)
        self.queue.feed(rows)
        self._dead += dead
        if position > self.position and self._opened_s is None:
            self._opened_s = time.monotonic()
        self.position = position
        return len(dead)

    def _parse(self, records: Sequence[Record]) -> tuple[Rows, list[DeadLetter]]:
        rows = Rows()
        dead: list[DeadLetter] = []
        add_record, add_post = rows.records.append, rows.posts.append
        for record in records:
            try:
                post = parse_post(record.value)
            except MessageError as error:
                dead.append(DeadLetter(self.partition, record, STAGE_PARSE, error.reason, error.detail))
            else:
                add_record(record)
                add_post(post)
        rows.ingested_us = [time.time_ns() // 1000] * len(rows.posts)
        return rows, dead

    def _note_holes(self, records: Sequence[Record], position: int) -> None:
        if position - self.position == len(records):
            return
        expected, found = self.position, []
        for record in records:
            if record.offset > expected:
                found.append((expected, record.offset))
            expected = record.offset + 1
        if position > expected:
            found.append((expected, position))
        if not self._holes_allowed:
            first, after = found[0] if found else (self.position, position)
            what = f"{self.partition}: offsets {first} to {after - 1} were not delivered"
            raise chain_error("unexplained-jump", what)
        self._holes += found

    # -- score

    def absorb(self) -> None:
        """Move answers into the buffer, in offset order, until one is missing or the file is full."""
        while not self.must_roll and (answer := self.queue.peek()) is not None:
            if answer.scores is None:
                self._bury(answer)
            elif self.buffer.bundle_ids and answer.scores.bundle_id not in self.buffer.bundle_ids:
                self._bundle_changed = True
                return
            else:
                self._keep(answer, answer.scores)
            self.queue.take()

    def _keep(self, answer: ScoredCall, scores: Scores) -> None:
        records = answer.rows.records
        self.buffer.add(
            [record.offset for record in records],
            [record.timestamp for record in records],
            answer.rows.ingested_us,
            answer.rows.posts,
            scores,
            scored_at_us=answer.scored_at_us,
        )

    def _bury(self, answer: ScoredCall) -> None:
        self._dead.append(rejected(self.partition, answer.rows.records[0], str(answer.refusal)))
        self._dead.sort(key=lambda letter: letter.offset)

    # -- write

    @property
    def end(self) -> int:
        """Where the file would end now: the first polled record that is not in it, else the position."""
        first = self.queue.first_offset
        return self.position if first is None else first

    @property
    def has_something(self) -> bool:
        """Whether a file written now would move the chain on."""
        return self.end > self.chain.end

    @property
    def is_settled(self) -> bool:
        """Whether everything polled is in the buffer or dead."""
        return self.queue.rows == 0

    @property
    def must_roll(self) -> bool:
        """Whether rows, bytes or another bundle say so; nothing more is added before that."""
        return self._bundle_changed or self.buffer.due(self._roll)

    @property
    def is_due(self) -> bool:
        """Whether it is time to roll, by any rule."""
        aged = self._opened_s is not None and time.monotonic() - self._opened_s >= self._roll.max_age_s
        return self.has_something and (self.must_roll or aged)

    def dead_letters(self) -> list[DeadLetter]:
        """Those that belong to the file that would be written now."""
        end = self.end
        return [letter for letter in self._dead if letter.offset < end]

    def append(self) -> int:
        """Put the file; everything before its end is done with. Its dead letters are flushed, the topic is checked.

        Returns:
            Its rows.

        Raises:
            LostRace, StoreError, ChainError: see `Chain.append_rows`; this lane is spent.
        """
        end, rows = self.end, len(self.buffer)
        dead = [letter.offset for letter in self._dead if letter.offset < end]
        holes = clip(self._holes, self.chain.end, end)
        self.chain.append_rows(self.buffer, end, dead=dead, holes=holes)
        self._dead = [letter for letter in self._dead if letter.offset >= end]
        self._holes = list(clip(self._holes, end, max(end, self.position)))
        self._new_file()
        if self.position > end:
            self._opened_s = time.monotonic()
        return rows

    def mirror(self) -> Mirror:
        """What to commit to the group once a file is put."""
        head = self.chain.head
        return Mirror(end=self.chain.end, topic_uuid=self.chain.id.topic_uuid, head=head.path if head else None)
