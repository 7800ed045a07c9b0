from __future__ import annotations

import errno
import os
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sentiment.errors import ConfigError
from streaming.store import LocalStore, StoreError, open_store


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_the_second_put_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert store.put_if_absent("a/b/1.parquet", b"first") is True
    assert store.put_if_absent("a/b/1.parquet", b"second") is False
    assert store.get("a/b/1.parquet") == b"first"
    assert files(tmp_path) == ["a/b/1.parquet"]


def test_of_eight_racing_puts_one_wins(tmp_path: Path) -> None:
    stores = [LocalStore(tmp_path) for _ in range(8)]
    for turn in range(20):
        barrier = threading.Barrier(8)

        def put(index: int, turn: int = turn, barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            return stores[index].put_if_absent(f"d/{turn}.parquet", bytes([index]) * 1000)

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(put, range(8)))
        assert won.count(True) == 1
        assert stores[0].get(f"d/{turn}.parquet") == bytes([won.index(True)]) * 1000
    assert len(files(tmp_path)) == 20


def test_readers_of_other_users_can_read_the_file(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        LocalStore(tmp_path).put_if_absent("x.parquet", b"1")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "x.parquet").stat().st_mode) == 0o644


def test_list_tail_and_times(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    before = time.time()
    for name in ("c/1.parquet", "c/2.parquet", "c/3.parquet", "d/1.parquet"):
        store.put_if_absent(name, name.encode())
    (tmp_path / "c" / ".4.parquet.1-a.tmp").write_bytes(b"torn")
    assert sorted(store.list("c/")) == ["c/1.parquet", "c/2.parquet", "c/3.parquet"]
    assert sorted(store.list("")) == ["c/1.parquet", "c/2.parquet", "c/3.parquet", "d/1.parquet"]
    assert sorted(store.list("c/", after="c/2")) == ["c/2.parquet", "c/3.parquet"]
    assert sorted(store.list("c/", after="c/2.parquet")) == ["c/3.parquet"]
    assert store.list("nowhere/") == []
    assert store.tail("c/1.parquet", 4) == b"quet"
    assert store.tail("c/1.parquet", 400) == b"c/1.parquet"
    assert before - 1 <= store.modified_at("c/1.parquet").timestamp() <= time.time() + 1
    for read in (store.get, store.modified_at):
        with pytest.raises(FileNotFoundError):
            read("c/9.parquet")


@pytest.mark.parametrize("call", ["open", "fsync", "link"])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_any_failure_of_the_system_is_an_unknown_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, nth: int
) -> None:
    store = LocalStore(tmp_path)
    (tmp_path / "d").mkdir()
    real, hits = getattr(os, call), [0]

    def failing(*args: object, **kwargs: object) -> object:
        hits[0] += 1
        if hits[0] == nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args, **kwargs)

    monkeypatch.setattr(os, call, failing)
    try:
        put = store.put_if_absent("d/1.parquet", b"data")
    except StoreError as error:
        assert error.code == "disk-full"
        assert "d/1.parquet" in str(error)
        assert "Remedy: free space" in str(error)
        failed = True
    else:
        assert put
        failed = False
    monkeypatch.undo()
    assert failed == (hits[0] >= nth)
    if not failed:
        assert store.get("d/1.parquet") == b"data"
    elif files(tmp_path):  # the outcome was unknown: then it is whole
        assert files(tmp_path) == ["d/1.parquet"]
        assert store.get("d/1.parquet") == b"data"


def test_a_missing_or_forbidden_directory_is_a_store_error_not_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "d").write_text("a file where a directory should be")
    with pytest.raises(StoreError) as caught:
        LocalStore(tmp_path).put_if_absent("d/1.parquet", b"data")
    assert caught.value.code == "store-unavailable"


def test_a_temporary_file_swept_under_a_sleeping_writer_is_an_unknown_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.link

    def late(source: str, target: str) -> None:
        Path(source).unlink()
        real(source, target)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(StoreError):
        LocalStore(tmp_path).put_if_absent("d/1.parquet", b"data")


def test_old_leftovers_of_dead_writers_are_removed_young_ones_kept(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    old, young = tmp_path / "d" / ".1.parquet.7-aa.tmp", tmp_path / "d" / ".1.parquet.8-bb.tmp"
    old.write_bytes(b"torn")
    young.write_bytes(b"torn")
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    LocalStore(tmp_path).put_if_absent("d/1.parquet", b"data")
    assert files(tmp_path) == ["d/.1.parquet.8-bb.tmp", "d/1.parquet"]


def test_storage_settings(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/with%20space")
    store.put_if_absent("1.parquet", b"data")
    assert files(tmp_path) == ["with space/1.parquet"]
    with pytest.raises(ConfigError, match="relative; use an absolute path"):
        open_store("out")
    with pytest.raises(ConfigError, match="cannot write to 'ftp://x/y'"):
        open_store("ftp://x/y")
