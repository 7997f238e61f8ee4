"""A script of writes run in real processes under ``recorder.c``: what each did to its files, and what it acknowledged.

Three histories: the script; a second life after the script was killed at some operation, which finds what was written
and not synced, and builds on it; a second life after a loss of power. Markers in the record say which step had begun
and which was acknowledged. After each life the record is played on an empty disk and compared with the real folder.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import itertools
import json
import os
import random
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from preloaded import forked
from scripted import LAST, MORE_STEPS, REOPEN_BEFORE, lower_thresholds
from simulated_disk import Disk, Luck, Operation, read_folder, read_record, write_folder

from sparsight.errors import UnknownCollectionError
from sparsight.retrieval.engine import Database

__all__ = ["DATA", "BrokenLife", "History", "Lives", "Loss", "in_doubt"]

KILLED = 77  # the exit status of a process that recorder.c ends
DATA = Path("new", "data")  # below the recorded folder: the database makes it, and its parent


# --- recording ---------------------------------------------------------------------------------------------


class Recorder:
    """The preloaded library."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(os.environ["LD_PRELOAD"])

    def begin(self, root: Path, file: Path, exit_at: int, syncs: bool) -> None:
        assert self._library.recorder_begin(bytes(root), bytes(file)) >= 0
        self._library.recorder_exit_at(ctypes.c_long(exit_at), syncs)

    def mark(self, value: Any) -> None:
        self._library.recorder_mark(json.dumps(value).encode())


def play(folder: Path, mark: Callable[[Any], None]) -> None:
    """The script, from an empty folder; neighbours that are ``together`` at once, each in a thread."""
    database = Database(folder)
    with ThreadPoolExecutor(4) as pool:
        for _, group in itertools.groupby(range(len(MORE_STEPS)), _group_of):
            numbers = list(group)
            if numbers[0] == REOPEN_BEFORE:
                database.close()
                database = Database(folder)
            list(pool.map(lambda number, database=database: _attempt(database, number, mark), numbers))
    database.close()


def _group_of(number: int) -> int:
    """The first of the neighbours that a step is run together with."""
    while number and MORE_STEPS[number].together and MORE_STEPS[number - 1].together:
        number -= 1
    return number


def resume(folder: Path, in_doubt: Sequence[int], mark: Callable[[Any], None]) -> None:
    """A second life: open, send what was in doubt again, write, delete, flush, compact, close."""
    database = Database(folder)
    for number in (*in_doubt, *LAST):
        with contextlib.suppress(UnknownCollectionError):  # it had been dropped
            _attempt(database, number, mark)
    database["main"].flush()
    database["main"].compact()
    database.close()


def _attempt(database: Any, number: int, mark: Callable[[Any], None]) -> None:
    mark([number, "begun"])
    (LAST.get(number) or MORE_STEPS[number]).work(database)
    mark([number, "done"])


class BrokenLife(Exception):
    """A process that nothing disturbed did not get through its work."""


# --- histories ---------------------------------------------------------------------------------------------


class Loss(NamedTuple):
    """The power fails after so many operations of a record; the seed decides what ``luck`` leaves open."""

    point: int
    luck: Luck
    seed: str


@dataclass
class History:
    """A record, the disk that it begins with, and from which operation on the power may fail."""

    kind: str
    operations: list[Operation]
    disk: Callable[[], Disk]
    first: int = 0
    said: list[Any] = field(default_factory=list)  # before the record begins

    def points(self) -> range:
        """After how many operations the power may fail."""
        return range(self.first, len(self.operations) + 1)

    def outcomes(self, point: int) -> list[Any]:
        """What had begun and what was acknowledged by then."""
        return self.said + [json.loads(operation.more) for operation in self.operations[:point]
                            if operation.name == "mark"]

    def disks(self, points: Iterable[int]) -> Iterator[Disk]:
        """The disk after so many operations, at each of some ascending points; it is played on, not copied."""
        disk, played = self.disk(), 0
        for point in points:
            for operation in self.operations[played:point]:
                disk.play(operation)
            played = point
            yield disk


def in_doubt(outcomes: Sequence[Any]) -> list[int]:
    """Steps that had begun and were not acknowledged, in order."""
    done = {number for number, end in outcomes if end == "done"}
    return sorted({number for number, _ in outcomes} - done)


class Lives:
    """Makes histories, working below a folder. ``obeys`` is the disk's, ``prelude`` Python that the recorded processes
    run first: to break something on purpose.

    Raises
    ------
    BrokenLife, Unmodelled
    """

    def __init__(self, folder: Path, obeys: Sequence[str] = ("files", "folders"), prelude: str = "") -> None:
        self._folder, self._obeys, self._prelude = folder, obeys, prelude
        self._recorder = Recorder()
        self._numbers = itertools.count()
        self.compared = 0  # files, with what the record says is in them

    def _life(self, root: Path, record: Path, work: Callable[[Callable[[Any], None]], None], exit_at: int = 0,
              syncs: bool = False) -> None:
        def life() -> None:
            lower_thresholds()
            exec(self._prelude, {})
            self._recorder.begin(root, record, exit_at, syncs)
            work(self._recorder.mark)

        status, lines = forked(lambda _: life())
        if lines or status not in ((0, KILLED) if exit_at else (0,)):
            raise BrokenLife(f"status {status}: {lines}")

    @contextlib.contextmanager
    def _space(self) -> Iterator[tuple[Path, Path]]:
        """A new folder to work in, with the names of a recorded folder and its record; it is removed afterwards."""
        space = self._folder / str(next(self._numbers))
        (space / "root").mkdir(parents=True)
        try:
            yield space / "root", space / "record"
        finally:
            shutil.rmtree(space)

    def script(self) -> History:
        """The script, whole."""
        with self._space() as (root, record):
            self._life(root, record, lambda mark: play(root / DATA, mark))
            history = History("script", read_record(record), lambda: Disk(self._obeys))
            self._compare(history, root)
        return history

    def after_kill(self, exit_at: int, syncs: bool = False) -> History:
        """The script until it was killed before its n-th operation (or sync), and the life after it."""
        with self._space() as (root, record):
            self._life(root, record, lambda mark: play(root / DATA, mark), exit_at, syncs)
            history = History("after a kill", read_record(record), lambda: Disk(self._obeys))
            history.first = len(history.operations)
            self._compare(history, root)
            doubt = in_doubt(history.outcomes(history.first))
            self._life(root, record, lambda mark: resume(root / DATA, doubt, mark))
            history.operations = read_record(record)
            self._compare(history, root)
        return history

    def after_loss(self, script: History, loss: Loss) -> History:
        """A life after a loss of power."""
        with self._space() as (root, record):
            disk = next(script.disks([loss.point]))
            root.rmdir()
            write_folder(disk.after_loss(loss.luck, random.Random(loss.seed)), root)
            before, outcomes = Disk.of(root, self._obeys), script.outcomes(loss.point)
            self._life(root, record, lambda mark: resume(root / DATA, in_doubt(outcomes), mark))
            history = History("after a loss", read_record(record), lambda: copy.deepcopy(before), 0, outcomes)
            self._compare(history, root)
        return history

    def _compare(self, history: History, root: Path) -> None:
        """Nothing is missing from a record: playing it gives every file that is there, byte by byte."""
        disk = next(history.disks([len(history.operations)]))
        for tree in (played := disk.live(), found := read_folder(root)):
            for path in [path for path in tree if path.endswith("-shm")]:
                del tree[path]
        different = sorted(path for path in played.keys() | found.keys() if played.get(path, 0) != found.get(path, 0))
        assert not different, f"the record misses something: {different}"
        self.compared += sum(data is not None for data in found.values())
