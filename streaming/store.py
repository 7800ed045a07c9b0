"""Where the files lie: five verbs, the first of which is the commit.

`put_if_absent` is the only way anything is written under a final name. A store must refuse to overwrite, and must
never show a file before it is complete and durable. Paths are relative to the storage's root, with `/`.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from sentiment.errors import ChainError, ConfigError
from streaming.failpoints import failpoint
from streaming.failures import with_remedy

log = logging.getLogger(__name__)

TEMPORARY_SUFFIX = ".tmp"
"""Temporary files never end in `.parquet`: a reader's glob matches files that begin with a dot, too."""


class StoreError(ChainError):
    """The store did not answer as it should, so the outcome is unknown: the file may be there or not.

    Whoever gets this drops what it wanted to write and opens the chain again (after a pause): the chain itself says
    what happened. `code` is `store-unavailable` or `disk-full`.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code, with_remedy(code, detail))


class Store(Protocol):
    """A place for files under relative paths, local or remote."""

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Create `path` with `data`, durably and all at once. False: something is there already, nothing was written.

        Raises:
            StoreError: any other outcome; the file may or may not be there.
        """
        ...

    def list(self, prefix: str, *, after: str | None = None) -> list[str]:
        """The paths that begin with `prefix` and sort after the string `after`, in no order, temporary files left out.

        Raises:
            StoreError: the store did not answer.
        """
        ...

    def get(self, path: str) -> bytes:
        """The whole file.

        Raises:
            FileNotFoundError: there is no such file.
            StoreError: the store did not answer.
        """
        ...

    def tail(self, path: str, length: int) -> bytes:
        """The last `length` bytes of the file, or all of it when it is shorter. Raises as `get` does."""
        ...

    def modified_at(self, path: str) -> datetime:
        """When the file appeared or was last touched, by the store's clock [UTC]. Raises as `get` does."""
        ...


class LocalStore:
    """A directory on a local or network file system that has hard links.

    The put: write a temporary file beside the final name, fsync it, link it to the final name (which fails when the
    name is taken), fsync the directory, unlink the temporary file. Temporary files that a dead writer left are removed
    at the first put into their directory, once they are `stale_after_s` old [s]; a writer that was only asleep that
    long finds its temporary file gone, and with it the chance to commit what is no longer true.
    """

    def __init__(self, root: str | Path, *, stale_after_s: float = 3600.0) -> None:
        self.root = Path(root)
        self._stale_after_s = stale_after_s
        self._swept: set[Path] = set()

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """See `Store.put_if_absent`."""
        final = self.root / path
        temporary = final.with_name(f".{final.name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
        with _unknown_outcome(path):
            self._make_directory(final.parent)
            self._sweep(final.parent)
            try:
                failpoint("before-temporary")
                _write_durably(temporary, data)
                failpoint("after-temporary")
                return _link(temporary, final)
            finally:
                with contextlib.suppress(OSError):  # left behind, it is swept later
                    temporary.unlink()

    def list(self, prefix: str, *, after: str | None = None) -> list[str]:
        """See `Store.list`; `prefix` may end within a name."""
        directory, _, _ = prefix.rpartition("/")
        with _reading(prefix):
            return [path for path in self._walk(directory) if path.startswith(prefix) and (not after or path > after)]

    def get(self, path: str) -> bytes:
        """See `Store.get`."""
        with _reading(path):
            return (self.root / path).read_bytes()

    def tail(self, path: str, length: int) -> bytes:
        """See `Store.tail`."""
        with _reading(path), (self.root / path).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - length))
            return file.read()

    def modified_at(self, path: str) -> datetime:
        """See `Store.modified_at`: the inode's change time, which the link sets."""
        with _reading(path):
            return datetime.fromtimestamp((self.root / path).stat().st_ctime, UTC)

    def _walk(self, directory: str) -> Iterator[str]:
        try:
            entries = os.scandir(self.root / directory)
        except (FileNotFoundError, NotADirectoryError):
            return
        with entries:
            for entry in entries:
                path = f"{directory}/{entry.name}" if directory else entry.name
                if entry.is_dir():
                    yield from self._walk(path)
                elif not entry.name.endswith(TEMPORARY_SUFFIX):
                    yield path

    def _make_directory(self, directory: Path) -> None:
        """Create `directory` and make each new level durable: a file in a directory that a crash forgets is lost."""
        if directory.is_dir():
            return
        self._make_directory(directory.parent)
        directory.mkdir(exist_ok=True)
        _sync_directory(directory.parent)

    def _sweep(self, directory: Path) -> None:
        if directory in self._swept:
            return
        self._swept.add(directory)
        for leftover in directory.glob(f".*{TEMPORARY_SUFFIX}"):
            with contextlib.suppress(OSError):
                if time.time() - leftover.stat().st_mtime > self._stale_after_s:
                    leftover.unlink()
                    log.info("removed a dead writer's temporary file path=%s", leftover)


def open_store(storage: str) -> Store:
    """The store for a `storage` setting: an absolute path or a `file://` URI.

    Raises:
        ConfigError: a relative path (under `ray job submit` it would vanish with the job's directory), or a URI of
            another kind.
    """
    parts = urlsplit(storage)
    if parts.scheme == "file":
        return LocalStore(unquote(parts.path))
    if "://" in storage:
        raise ConfigError(f"setting `storage`: cannot write to {storage!r}; use an absolute path or file:///...")
    if not Path(storage).is_absolute():
        absolute = Path(storage).resolve()
        raise ConfigError(f"setting `storage`: {storage!r} is relative; use an absolute path, e.g. {absolute}")
    return LocalStore(storage)


@contextlib.contextmanager
def _unknown_outcome(path: str) -> Iterator[None]:
    """Turn any OSError into a StoreError that names the path."""
    try:
        yield
    except OSError as error:
        code = "disk-full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "store-unavailable"
        raise StoreError(code, f"{path}: {error.strerror or error}") from error


@contextlib.contextmanager
def _reading(path: str) -> Iterator[None]:
    """As `_unknown_outcome`, but that a file is not there is an answer, not a failure of the store."""
    with _unknown_outcome(path):
        try:
            yield
        except FileNotFoundError as missing:
            absent = missing
        else:
            return
    raise absent


def _write_durably(path: Path, data: bytes) -> None:
    # Not tempfile: it makes files only their owner can read, and the link would keep that.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _link(temporary: Path, final: Path) -> bool:
    failpoint("before-link")
    try:
        os.link(temporary, final)
    except FileExistsError:
        return False
    failpoint("after-link")
    _sync_directory(final.parent)
    failpoint("after-sync")
    return True


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
