"""Rows, scores and stores for tests of the files side."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import numpy as np

from sentiment.records import Post, Scores
from streaming.chain import Chain, ChainId
from streaming.sink import AvailabilitySettings, RowBuffer
from streaming.store import Store

CHAIN_ID = ChainId("cluster-1", "posts", "12345678-1234-5678-1234-567812345678", 0)
PROMISE = AvailabilitySettings(slack_s=5.0, put_timeout_s=3.0)


def make_scores(count: int, *, seed: int = 0, bundle_id: str = "bundle-1") -> Scores:
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet([1, 1, 1], count).astype(np.float32)
    gate = random.dirichlet([1, 1], count).astype(np.float32)
    run = (gate.max(axis=1) < 0.9).astype(np.int8) + np.int8(1)
    disagreement = np.where(run > 1, 0.25, np.nan).astype(np.float32)
    return Scores(
        probabilities, gate, gate.argmax(axis=1).astype(np.int8), run, disagreement, ("news", "forum"), bundle_id
    )


def make_post(offset: int) -> Post:
    return Post(
        text=f"offset {offset} 利好 📈",
        id=f"id-{offset}" if offset % 2 else None,
        source="wire",
        lang="en",
        symbols=("SH600519", "AAPL")[: offset % 3],
        published_at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=offset) if offset % 4 else None,
    )


def make_rows(offsets: Iterable[int], chain_id: ChainId = CHAIN_ID, *, now_us: int | None = None) -> RowBuffer:
    buffer = RowBuffer(chain_id.topic, chain_id.partition)
    where = list(offsets)
    now = time.time_ns() // 1000 if now_us is None else now_us
    posts = [make_post(offset) for offset in where]
    buffer.add(
        where, [1_700_000_000_000] * len(where), [now] * len(where), posts, make_scores(len(where)), scored_at_us=now
    )
    return buffer


def write_chain(store: Store, *ends: int, chain_id: ChainId = CHAIN_ID, first: int = 0) -> Chain:
    """A chain of files of plain rows that end at `ends`, after an origin that skips `[0, first)`."""
    chain = Chain.open(store, chain_id, writer_id="writer", availability=PROMISE)
    if first:
        chain.append_origin(first, "start policy: latest")
    for end in ends:
        chain.append_rows(make_rows(range(chain.end, end), chain_id), end)
    return chain


class MemoryStore:
    """A store that keeps files in a dictionary, as strict as a real one."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def put_if_absent(self, path: str, data: bytes) -> bool:
        if path in self.files:
            return False
        self.files[path] = data
        return True

    def list(self, prefix: str, *, after: str | None = None) -> list[str]:
        return [path for path in self.files if path.startswith(prefix) and path > (after or "")]

    def get(self, path: str) -> bytes:
        if path not in self.files:
            raise FileNotFoundError(path)
        return self.files[path]

    def tail(self, path: str, length: int) -> bytes:
        return self.get(path)[-length:]

    def modified_at(self, path: str) -> datetime:
        self.get(path)
        return datetime.now(UTC)
