"""What the broker still has, held against the files: the part of an audit that does not trust the writer."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from sentiment.errors import MessageError
from sentiment.records import Post, content_hash
from streaming.audit_file import FileRows
from streaming.audit_report import Finding
from streaming.footer import Footer
from streaming.ranges import Ranges, clip, expand, ranges_of, subtract


class BrokerView(Protocol):
    """What an audit asks of Kafka. Read only: it joins no group and commits nothing."""

    def cluster_id(self) -> str:
        """The cluster's id."""
        ...

    def topic_uuid(self, topic: str) -> str | None:
        """The topic's UUID as `str(uuid.UUID(...))`, or None where there is no such topic."""
        ...

    def partitions(self, topic: str) -> Sequence[int]:
        """The topic's partition numbers."""
        ...

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """(first offset the log still has, first offset it does not have yet); the stable end where transactional."""
        ...

    def committed(self, topic: str, partition: int) -> int | None:
        """The offset that the consumer group committed, which only mirrors the files; None where none is known."""
        ...

    def read(self, topic: str, partition: int, start: int, stop: int) -> Iterator[tuple[int, bytes | None]]:
        """(offset, value) of every record the broker still has in `[start, stop)`, in order, then ends."""
        ...

    def dead_letters(self, topic: str) -> Container[tuple[int, int]] | None:
        """The (partition, offset) of every dead letter of the topic, or None where that cannot be known."""
        ...


@dataclass(slots=True)
class Proof:
    """What the broker says of one file.

    Attributes:
        proved: offsets that the broker confirms: the same text, a dead letter, or a hole where it delivers nothing.
        findings: where it contradicts the file.
    """

    proved: Ranges = ()
    findings: list[Finding] = field(default_factory=list)


def prove_file(  # noqa: PLR0913  # the two sides of a comparison
    path: str,
    footer: Footer,
    rows: FileRows,
    broker: BrokerView,
    *,
    bounds: tuple[int, int],
    dead_letters: Container[tuple[int, int]] | None,
    parse: Callable[[bytes | None], Post],
) -> Proof:
    """Read the file's range from the broker again, as far as it still has it, and compare offset by offset."""
    proof = Proof()
    low, high = max(footer.start, bounds[0]), min(footer.end, bounds[1])
    if footer.kind != "rows" or low >= high:
        return proof
    hashes = dict(zip(rows.all_offsets().tolist(), rows.hashes, strict=True))
    dead = frozenset(expand(clip(footer.dead, low, high)).tolist())
    met: list[int] = []
    missing: list[int] = []
    wrong: list[int] = []
    for offset, value in broker.read(footer.topic, footer.partition, low, high):
        met.append(offset)
        if offset in hashes:
            if _hash(value, parse) != hashes[offset]:
                wrong.append(offset)
        elif offset not in dead:
            missing.append(offset)
    lost = [offset for offset in dead if dead_letters is not None and (footer.partition, offset) not in dead_letters]
    for kind, code, offsets, detail in (
        ("missing", "broker-has-it", missing, "the broker has the record, the file has neither row nor dead letter"),
        ("wrong", "broker-differs", wrong, "the broker's record has another text, or none that makes a row"),
        ("missing", "dead-letter-lost", lost, "dead by the footer, but not in the dead-letter topic"),
    ):
        if offsets:
            proof.findings.append(Finding(kind, code, path, ranges_of(offsets), detail))  # type: ignore[arg-type]  # literals
    held = np.array([offset for offset in (*hashes, *dead) if low <= offset < high], dtype=np.int64)
    unseen = np.setdiff1d(held, np.asarray(met, dtype=np.int64))  # compacted away since: only the files know
    proof.proved = subtract(
        ((low, high),), ranges_of(np.concatenate((unseen, np.array([*missing, *wrong, *lost], dtype=np.int64))))
    )
    return proof


def _hash(value: bytes | None, parse: Callable[[bytes | None], Post]) -> str | None:
    try:
        return content_hash(parse(value).text)
    except MessageError:
        return None
