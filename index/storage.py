"""All durable file access of ours: write, sync, publish, map, remove, lock.

SQLite does its own I/O; every other byte under a data root goes through this module, so that the order of
writes and syncs can be read in one place, traced and made to fail in tests. A test forbids ``open``,
``os.replace`` and the like elsewhere in the package.

The order is always: write new files in a ``.building-*`` folder, sync each, sync the folder, rename it into
place, sync the parent. Nothing is ever changed in place, so a crash leaves either no trace or a leftover
``.building-*`` folder that the next writer removes.

A killed process leaves things visible that it had not synced. The next writer makes them durable before it builds on
them, or a loss of power could take them from under what it has acknowledged.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import mmap
import os
import shutil
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from sparsight.errors import CorruptIndexError, LockedError, StorageError, StorageFullError

__all__ = [
    "BUILDING_PREFIX",
    "WriterLock",
    "create_folder",
    "folder_bytes",
    "map_file",
    "publish_folder",
    "remove_folder",
    "remove_leftovers",
    "sync_folder",
    "sync_tree",
    "translated",
    "write_file",
]

BUILDING_PREFIX = ".building-"


@contextlib.contextmanager
def translated(action: str, path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into errors that name the file and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFullError(
                f"the disk is full: could not {action} {path}; free space and try again", path=path
            ) from error
        raise StorageError(f"could not {action} {path}: {error.strerror}", path=path, errno=error.errno) from error


def sync_folder(path: Path) -> None:
    """Make the entries of a folder durable (a rename or a new file is not until its folder is synced)."""
    with translated("sync folder", path):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Make every file below a folder durable, for files that another library has written."""
    for folder, _, names in os.walk(path):
        for name in names:
            _sync_file(Path(folder) / name)
        sync_folder(Path(folder))


def _sync_file(path: Path) -> None:
    with translated("sync", path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def create_folder(path: Path, *, exist_ok: bool = True) -> None:
    """Make a folder and its parents, each durable before the next.

    One that exists is made durable too, where this process could have made it: one that was killed may have.
    """
    there = exist_ok and path.is_dir()
    if not there:
        if exist_ok or not path.parent.is_dir():
            create_folder(path.parent)
        with translated("create folder", path):
            path.mkdir(exist_ok=exist_ok)
    if not there or os.access(path.parent, os.R_OK | os.W_OK):
        sync_folder(path.parent)


def write_file(path: Path, chunks: Iterable[bytes | memoryview]) -> int:
    """Write a new file and sync it; returns its size in bytes.

    Raises
    ------
    StorageError, StorageFullError
        The operating system refused; the file may be partly there (it lies in a building folder).
    """
    size = 0
    with translated("write", path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            for chunk in chunks:
                view = memoryview(chunk).cast("B")
                while view:
                    written = os.write(descriptor, view)
                    size += written
                    view = view[written:]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return size


def publish_folder(building: Path, final: Path) -> None:
    """Rename a finished building folder into place; durable when this returns."""
    sync_folder(building)
    with translated("publish", final):
        building.rename(final)
    sync_folder(final.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder and all in it; files that are still mapped stay readable to their readers."""
    with translated("remove", path):
        shutil.rmtree(path)
    sync_folder(path.parent)


def remove_leftovers(parent: Path, keep: set[str]) -> list[str]:
    """Remove the sub-folders of ``parent`` that are not in ``keep``: what a crash left behind. Returns their names.

    The files beside ``parent`` are made durable first: it is the catalogue that says what to keep, and it may have been
    read from a log that a killed process had not synced. Else a loss of power could bring back a state that needs them.
    """
    if not parent.is_dir():
        return []
    removed = [entry.name for entry in parent.iterdir() if entry.is_dir() and entry.name not in keep]
    if removed:
        for beside in parent.parent.iterdir():
            if beside.is_file():
                _sync_file(beside)
    for name in removed:
        remove_folder(parent / name)
    return removed


def map_file(path: Path) -> memoryview:
    """A file's bytes, read-only and memory-mapped; the map lives as long as a view of it does.

    Raises
    ------
    CorruptIndexError
        The file is missing or empty.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise CorruptIndexError(f"{path} is missing; `sparsight repair` rebuilds it", path=path) from error
    except OSError as error:
        raise StorageError(f"could not open {path}: {error.strerror}", path=path) from error
    try:
        if os.fstat(descriptor).st_size == 0:
            raise CorruptIndexError(f"{path} is empty; `sparsight repair` rebuilds it", path=path)
        with translated("map", path):
            return memoryview(mmap.mmap(descriptor, 0, prot=mmap.PROT_READ))
    finally:
        os.close(descriptor)


def folder_bytes(path: Path) -> int:
    """Size of all files below a folder, in bytes; files that vanish meanwhile count as 0."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += (Path(folder) / name).stat().st_size
    return total


class WriterLock:
    """Exclusive right to write below a data root, held through ``flock`` on ``<root>/LOCK``.

    The kernel releases it when the process ends, however it ends, so a stale lock cannot exist. The file's
    text names the last holder. The names below the root are durable when this returns, also those that the last holder
    had made or removed without getting to its sync.

    Raises
    ------
    LockedError
        Another process (or another database object of this one) holds it; the message names pid and host.
    StorageError, StorageFullError
        The operating system refused.
    """

    def __init__(self, root: Path) -> None:
        self.path = root / "LOCK"
        with translated("open lock", self.path):
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._descriptor, 4096, 0).decode("utf-8", "replace").strip() or "unknown"
            os.close(self._descriptor)
            raise LockedError(
                f"{root} is open for writing elsewhere: {holder}. Close it, or open with read_only=True", holder=holder
            ) from error
        holder = json.dumps(
            {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%FT%TZ", time.gmtime())}
        )
        with contextlib.suppress(OSError):  # the name is a courtesy: a full disk must not keep a database closed
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, holder.encode(), 0)
        try:
            sync_folder(root)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Give the lock back; harmless when called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
