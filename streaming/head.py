"""Which chain, and which file is its newest: found by listing, believed only after its footer and predecessor agree."""

from __future__ import annotations

import hashlib
import logging
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from streaming.failures import chain_error
from streaming.footer import Footer, FooterError, NewerFooterError, footer_of
from streaming.store import Store

log = logging.getLogger(__name__)

ROOT: Final = "scored"
"""Directory of the live log under the storage."""
_NAME: Final = re.compile(r"(\d{20})\.parquet")


@dataclass(frozen=True, slots=True)
class ChainId:
    """One incarnation of one partition. `topic_uuid` is written as `str(uuid.UUID(...))`."""

    cluster_id: str
    topic: str
    topic_uuid: str
    partition: int

    def __post_init__(self) -> None:
        if str(uuid.UUID(self.topic_uuid)) != self.topic_uuid:
            raise ValueError(f"topic_uuid must be written as str(uuid.UUID(...)), got {self.topic_uuid!r}")

    @property
    def directory(self) -> str:
        """Where the files lie, relative to the storage: `scored/<topic>@<first 8 of the uuid>/<partition>`."""
        return f"{ROOT}/{self.topic}@{self.topic_uuid[:8]}/{self.partition}"

    def path(self, start: int) -> str:
        """The path of the file whose range starts at `start`."""
        return f"{self.directory}/{file_name(start)}"


@dataclass(frozen=True, slots=True)
class Head:
    """The newest file of a chain. `path` is the hint that goes into the mirror's metadata."""

    path: str
    sha256: str
    footer: Footer
    confirmed_at: datetime

    @property
    def name(self) -> str:
        """The file's name without its directory."""
        return self.path.rpartition("/")[2]

    @property
    def end(self) -> int:
        """The first offset that is not in the chain."""
        return self.footer.end


def file_name(start: int) -> str:
    """The name of the file whose range starts at `start`."""
    return f"{start:020d}.parquet"


def start_in_name(name: str) -> int | None:
    """The start that a file's name claims, or None when no chain could have named it so."""
    match = _NAME.fullmatch(name)
    return int(match.group(1)) if match else None


def find_head(store: Store, chain_id: ChainId, hint: str | None, clock: Callable[[], datetime]) -> Head | None:
    """The chain's newest file, checked; None for a chain without files. Raises as `Chain.open` does."""
    paths = _list(store, chain_id, hint)
    if not paths:
        return None
    path = max(paths)
    try:
        data = store.get(path)
        footer = footer_of(data)
        # Nobody knows when a dead writer's put became visible; the store's own stamp is the best bound there is.
        confirmed_at = min(clock(), store.modified_at(path))
    except NewerFooterError as newer:
        raise chain_error("schema-newer", f"{path}: {newer}") from newer
    except (FooterError, FileNotFoundError) as unreadable:
        raise chain_error("head-unreadable", f"{path}: {unreadable}") from unreadable
    _check_identity(path, footer, chain_id)
    _check_predecessor(store, path, footer, chain_id)
    return Head(path, hashlib.sha256(data).hexdigest(), footer, confirmed_at)


def _list(store: Store, chain_id: ChainId, hint: str | None) -> list[str]:
    """Paths of the chain's files, from the hint on where the hint is one of them, else all."""
    prefix = f"{chain_id.directory}/"
    if hint is not None and hint.startswith(prefix) and start_in_name(hint[len(prefix) :]) is not None:
        # `after` leaves its own string out, so the hint without its suffix keeps the hint in.
        paths = store.list(prefix, after=hint.removesuffix(".parquet"))
        if hint in paths:
            return _named_as_ours(paths, prefix)
    return _named_as_ours(store.list(prefix), prefix)


def _named_as_ours(paths: list[str], prefix: str) -> list[str]:
    ours = [path for path in paths if start_in_name(path[len(prefix) :]) is not None]
    if len(ours) < len(paths):
        foreign = sorted(set(paths) - set(ours))
        log.warning("files that are not of the chain, readers may count their rows paths=%s", foreign[:5])
    return ours


def _check_identity(path: str, footer: Footer, chain_id: ChainId) -> None:
    if footer.cluster_id != chain_id.cluster_id:
        detail = f"{path} was written for cluster {footer.cluster_id}, this is {chain_id.cluster_id}"
        raise chain_error("other-cluster", detail)
    if (footer.topic, footer.topic_uuid) != (chain_id.topic, chain_id.topic_uuid):
        detail = f"{path} was written for topic {footer.topic} {footer.topic_uuid}, this is {chain_id.topic_uuid}"
        raise chain_error("topic-recreated", detail)
    if chain_id.path(footer.start) != path or footer.partition != chain_id.partition or footer.end <= footer.start:
        held = f"partition {footer.partition}, offsets [{footer.start}, {footer.end})"
        raise chain_error(
            "file-misplaced", f"{path} does not link: it holds {held} and would be {file_name(footer.start)}"
        )


def _check_predecessor(store: Store, path: str, footer: Footer, chain_id: ChainId) -> None:
    previous = footer.predecessor
    if previous is None:
        if footer.start != 0:
            raise chain_error("predecessor-missing", f"{path} names no predecessor, yet starts at {footer.start}")
        return
    before = f"{chain_id.directory}/{previous.name}"
    try:
        data = store.get(before)
    except FileNotFoundError:
        raise chain_error("predecessor-missing", f"{before}, which {path} follows, is not there") from None
    if hashlib.sha256(data).hexdigest() != previous.sha256:
        raise chain_error("predecessor-changed", f"{before} is not the file that {path} was written after")
