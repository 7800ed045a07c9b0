"""Every way a chain of files and the broker can disagree: a stable code, what it means, what to do.

An error of one partition pauses that partition, never the others. docs/architecture.md lists the same codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from sentiment.errors import ChainError

REMEDIES: Final[Mapping[str, str]] = MappingProxyType(
    {
        # Found while opening a chain (streaming/chain.py).
        "topic-recreated": "the topic was deleted and created again, which is a new log: a new chain begins beside the "
        "old one, whose files stay as they are; if you did not do this, find out who did",
        "other-cluster": "these files came from another Kafka cluster: use another storage, or connect to that cluster",
        "head-unreadable": "look at the storage; if the file is damaged, move it out of the storage and restart: its "
        "offsets are read from Kafka again, if Kafka still has them",
        "file-misplaced": "a file was copied or renamed by hand: move it out of the storage and restart",
        "predecessor-missing": "put the file back from a backup under its own name; `python -m streaming audit` names "
        "the missing offsets",
        "predecessor-changed": "a committed file was written to by hand: put it back from a backup; "
        "`python -m streaming audit` says which offsets differ",
        "schema-newer": "a newer version of this program wrote these files: upgrade this worker",
        # Found against the broker (streaming/source.py, streaming/pipeline.py).
        "log-truncated": "retention deleted records before they were read: accept the gap explicitly to go on after it "
        "(it is recorded as a file of its own), and look at lag and retention",
        "head-past-log-end": "the files hold offsets the log has not: Kafka lost acknowledged records or was restored "
        "from a backup; compare cluster and topic before anything else",
        "mirror-ahead": "the group's committed offset is past the newest file: files were removed, or another program "
        "uses this group id; put the files back, or choose another group id",
        "unexplained-jump": "offsets are missing in a topic that is not compacted: if its producers use transactions, "
        "set isolation_level read_committed (their markers take offsets); else check the topic's settings and the "
        "broker",
        # The storage itself (streaming/store.py). Nothing is lost: the chain is opened again and again, with a pause.
        "store-unavailable": "the storage did not do what it was asked: check that it is mounted and writable",
        "disk-full": "free space on the storage's disk; the partition goes on by itself",
    }
)
"""Code of a ChainError -> what a person should do."""


def chain_error(code: str, detail: str) -> ChainError:
    """A ChainError whose text ends with the remedy for `code` (one of `REMEDIES`)."""
    return ChainError(code, with_remedy(code, detail))


def with_remedy(code: str, detail: str) -> str:
    """`detail` and the remedy for `code` in one text."""
    return f"{detail}. Remedy: {REMEDIES[code]}"
