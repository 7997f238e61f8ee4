"""Every file operation of a scripted workload fails once, or is the process's last; what is left is never in between.

``syncspy.c`` is preloaded into a child process and makes the n-th call that changes a file fail, or a
write go only half the way: ours and SQLite's.
The workload creates a collection, writes singly and in bulk, flushes, deletes, compacts, reopens, creates and drops.
Afterwards a new process opens the folder: each step is wholly there or wholly absent, acknowledged ones are there,
``verify`` is clean, no unfinished folder is left, and the next write works. Of a run of writes to one file the first
and the last matter; of those the slow tests take a third in each mode (SPARSIGHT_FAULTS=many takes them all,
SPARSIGHT_FAULTS=all every operation, of a longer script), plain ``pytest`` takes a sample.

This file is also the child: ``python test_faults.py ROOT MODE some|third|many|all PART/PARTS`` forks once for each
operation of its part, one after another; there is a child for each processor.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from preloaded import environment, forked, in_memory, say
from scripted import (
    BULK,
    FIELDS,
    MORE_STEPS,
    REOPEN_BEFORE,
    STEPS,
    Step,
    document,
    lower_thresholds,
    possible,
    read,
    read_collection,
    recover,
)

from sparsight.errors import SparsightError, StorageError, StorageFullError, UnknownCollectionError
from sparsight.index import storage, store
from sparsight.index.catalog import Catalog
from sparsight.retrieval.engine import Database
from sparsight.types import Document

WHICH = os.environ.get("SPARSIGHT_FAULTS", "third")
KILLED = 77  # the exit status of a process that syncspy ends
MAKING = (0, 9)  # the steps that create a collection
OPEN, CLOSE, DISTURBED = -1, -2, -3  # opening, closing and the number of calls disturbed, where steps have theirs


# --- the child process --------------------------------------------------------------------------------------


def _work(folder: Path, spy: ctypes.CDLL, at: int, mode: str, steps: Sequence[Step], pipe: int) -> None:
    """The workload with a failure at operation ``at``; says how each step ended, in order, then what was disturbed.

    Only errors that name the disk's refusal are raised, and what could be read before is still read afterwards.
    """
    arm = spy.syncspy_arm
    arm(at, mode.encode())
    full, readable = mode.startswith("28"), False
    database: Any = None

    def attempt(number: int, work: Callable[[], Any]) -> Any:
        for turn in (1, 2):
            try:
                made = work()
                say(pipe, [number, "done"])
                return made
            except SparsightError as error:
                say(pipe, [number, type(error).__name__, str(error)])
                if mode.endswith("!"):
                    os._exit(KILLED)
                expected = isinstance(error, StorageError | StorageFullError | UnknownCollectionError)
                assert expected or error.reason == "OPERATION_FAILED", repr(error)
                if readable:
                    read_collection(database["main"])
                if not full or turn == 2:
                    return None
                # SQLite has no word for a full disk when it makes a file; a write to one there is must name it.
                opening = number in (OPEN, *MAKING) and isinstance(error, StorageError)
                assert "full" in str(error) or opening, repr(error)
                arm(0, b"")  # there is space again
        return None

    for number, step in enumerate(steps):
        if database is None or number == REOPEN_BEFORE:
            if database is not None:
                attempt(CLOSE, database.close)
            database, readable = None, False
            database = attempt(OPEN, lambda: Database(folder))
            readable = database is not None and (folder / "main").exists()
        if database is not None:
            say(pipe, [number, "begun"])
            made = attempt(number, functools.partial(step.work, database))
            readable = readable or (number == 0 and made is not None)
    if database is not None:
        attempt(CLOSE, database.close)
    say(pipe, [DISTURBED, spy.syncspy_disturbed()])


def _judge(folder: Path, status: int | None, outcomes: list[Any], mode: str, steps: int) -> str:
    """What is wrong after a fault; "" if nothing is."""
    raised = [line["raised"] for line in outcomes if isinstance(line, dict)]
    if raised or status is None:
        return f"the workload {'raised ' + raised[0] if raised else 'hung'} after {outcomes[-4:]}"
    ends = [line for line in outcomes if line[0] >= 0 and line[1] != "begun"]
    if mode.startswith("28") and [line[0] for line in ends if line[1] == "done"] != list(range(steps)):
        return f"writes did not succeed once there was space again: {[line for line in ends if line[1] != 'done']}"
    if mode.startswith("short") and any(line[1] != "done" for line in ends):
        return f"a short write is no failure: {[line for line in ends if line[1] != 'done']}"
    states = possible(outcomes)
    status, seen = forked(lambda pipe: say(pipe, recover(folder)))
    raised = [line["raised"] for line in seen if "raised" in line]
    if raised or status is None or len(seen) != 1:
        return f"opening again {'raised ' + raised[0] if raised else 'hung'} after {ends}"
    if seen[0]["state"] not in states:
        return f"found {seen[0]['state']} after {ends}, expected one of {states}"
    if seen[0]["faults"] or seen[0]["left"]:
        return f"after {ends}: {seen[0]}"
    return ""


def _points(trace: Path, which: str, mode: str) -> list[int]:
    """Which operations to fail, counted from 1."""
    calls = [line.split(" ")[3:7:3] for line in trace.read_text().splitlines()]
    if which == "all":
        return list(range(1, len(calls) + 1))
    points, begin = [], 0
    for end in range(1, len(calls) + 1):
        if end == len(calls) or calls[end] != calls[begin] or "write" not in calls[end][0]:
            points += sorted({begin, end - 1})
            begin = end
    if short := mode.startswith("short"):
        points = [point for point in points if "write" in calls[point][0]]  # nothing else can be short
    start = (list(MODES.values()).index(mode) + 1) % 3  # so that every operation is disturbed in some mode
    chosen = {"many": points, "third": points[start::3], "some": points[5 :: 8 if short else 17]}[which]
    return [point + 1 for point in chosen]


def child(root: Path, mode: str, which: str, part: str) -> None:
    """Fail the chosen operations, each in a fork of its own; prints a JSON object. Every so many are this part's."""
    lower_thresholds()
    steps = MORE_STEPS if which in ("many", "all") else STEPS
    spy = ctypes.CDLL(os.environ["LD_PRELOAD"])
    spy.syncspy_disturbed.restype = ctypes.c_long
    trace = root.with_name(f"{root.name}.trace")
    first, step = map(int, part.split("/"))

    def rehearse(pipe: int) -> None:
        spy.syncspy_log(str(trace).encode())
        _work(root / "rehearsal", spy, 0, "", steps, pipe)

    status, outcomes = forked(rehearse)
    assert status == 0 and {line[1] for line in outcomes} == {"begun", "done", 0}, outcomes
    failures: dict[int, str] = {}
    exits = missed = 0
    for point in (points := _points(trace, which, mode)[first::step]):
        folder = root / str(point)

        def work(pipe: int, folder: Path = folder, point: int = point) -> None:
            _work(folder, spy, point, mode, steps, pipe)

        status, outcomes = forked(work)
        exits += status == KILLED
        missed += [DISTURBED, 0] in outcomes
        if fault := _judge(folder, status, outcomes, mode, len(steps)):
            failures[point] = fault
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps({"runs": len(points), "exits": exits, "missed": missed, "failures": failures}))


# --- the tests ----------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    with in_memory(tmp_path) as folder:
        yield folder


def run_child(root: Path, library: Path, mode: str, which: str, part: str) -> dict[str, Any]:
    """The report of one child."""
    (own := root / f"root{part.replace('/', 'of')}").mkdir()
    command = [sys.executable, __file__, str(own), mode, which, part]
    done = subprocess.run(command, env=environment(library) | {"SYNCSPY_ROOT": str(own)}, capture_output=True,
                          text=True, timeout=7000, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])  # what was logged comes before it
    return found


def run_children(root: Path, library: Path, mode: str, which: str) -> None:
    # Beside other workers only this one's share of the processors: the others are busy anyway.
    parts = max(1, min((os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")), 8))
    with ThreadPoolExecutor(parts) as pool:
        each = list(pool.map(lambda part: run_child(root, library, mode, which, f"{part}/{parts}"), range(parts)))
    failures = dict(itertools.chain.from_iterable(report.pop("failures").items() for report in each))
    report = {name: sum(one[name] for one in each) for name in each[0]}
    print(f"mode {mode}: {report}")
    assert not failures, f"{len(failures)} of {report['runs']}: {dict(itertools.islice(failures.items(), 3))}"
    # The last few operations may be others than in the rehearsal; nothing but a write can be short.
    assert report["runs"] > 10
    assert report["exits"] >= 0.95 * report["runs"] or mode not in ("exit", "tear")
    assert report["missed"] <= 0.3 * report["runs"]


MODES = {"exit": "exit", "torn write": "tear", "one I/O error": "5", "one I/O error, then exit": "5!",
         "I/O errors from there on": "5+", "disk full": "28+", "one short write": "short",
         "short writes from there on": "short+"}


@pytest.mark.sample
@pytest.mark.parametrize("name", ["exit", "one I/O error, then exit", "disk full", "short writes from there on"])
def test_some_operations(root: Path, syncspy: Path, name: str) -> None:
    run_children(root, syncspy, MODES[name], "some")


@pytest.mark.slow
@pytest.mark.timeout(600 if WHICH == "third" else 7200)
@pytest.mark.parametrize("name", MODES)
def test_every_operation(root: Path, syncspy: Path, name: str) -> None:
    run_children(root, syncspy, MODES[name], WHICH)


# --- what was found ----------------------------------------------------------------------------------------


def _commit_in_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits from now on reach the disk, but SQLite reports that the log's sync failed."""
    transaction = Catalog.transaction

    @contextlib.contextmanager
    def failing(self: Catalog) -> Iterator[None]:
        with transaction(self):
            yield
        raise StorageError("disk I/O error (SQLITE_IOERR_FSYNC)")

    monkeypatch.setattr(Catalog, "transaction", failing)


@pytest.mark.parametrize("call", ["upsert", "flush", "compact"])
def test_a_commit_in_doubt_keeps_the_files_of_its_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The log may hold a commit whose sync failed; after a crash it counts, and its segment must be there."""
    monkeypatch.setattr(store, "BULK_DOCUMENTS", BULK)
    calls: dict[str, Callable[[Any], Any]] = {
        "upsert": lambda collection: collection.upsert([document(f"d{i}", 3) for i in range(20)]),
        "flush": lambda collection: collection.flush(),
        "compact": lambda collection: collection.compact(),
    }
    with Database(tmp_path) as database:
        collection = database.create_collection("main", FIELDS)
        collection.upsert([document(f"d{i}", 1) for i in range(BULK)])
        collection.upsert([document(f"d{i}", 2) for i in range(5, 9)])
        with monkeypatch.context() as patch:
            _commit_in_doubt(patch)
            with pytest.raises(SparsightError, match="SQLITE_IOERR_FSYNC"):
                calls[call](collection)
        before = read(database)
    with Database(tmp_path) as database:
        assert database["main"].verify().faults == ()
        after = {"main": before["main"] | {f"d{i}": 3 for i in range(20)}} if call == "upsert" else before
        assert read(database) == after


def test_a_removal_that_fails_too_does_not_leave_writers_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails fails everything: the commit, and the removal of what it was for."""
    monkeypatch.setattr(store, "BULK_DOCUMENTS", BULK)

    def refuse(path: Path) -> None:
        raise StorageError(f"could not remove {path}")

    with Database(tmp_path) as database:
        collection = database.create_collection("main", FIELDS)
        with monkeypatch.context() as patch:
            _commit_in_doubt(patch)
            patch.setattr(storage, "remove_folder", refuse)
            for documents in ([document(f"d{i}", 1) for i in range(BULK)], [document("d1", 2)]):
                raised: list[Exception] = []

                def write(documents: list[Document] = documents, raised: list[Exception] = raised) -> None:
                    try:
                        collection.upsert(documents)
                    except StorageError as error:
                        raised.append(error)

                thread = threading.Thread(target=write, daemon=True)
                thread.start()
                thread.join(10)
                assert raised, "the write was not answered"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_lock_file_that_cannot_be_written_keeps_no_database_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The holder's name in it is a courtesy; on a full disk one must still be able to read, and to delete."""

    def fail(*_: Any) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fail)
        with Database(tmp_path) as database:
            assert database.list_collections() == []
    Database(tmp_path).close()


def test_an_opening_that_fails_gives_the_lock_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".building-half").mkdir()

    def refuse(path: Path) -> None:
        raise StorageError(f"could not remove {path}")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "remove_folder", refuse)
        with pytest.raises(StorageError, match="could not remove"):
            Database(tmp_path)
    Database(tmp_path).close()
    assert not (tmp_path / ".building-half").exists()


if __name__ == "__main__":
    child(Path(sys.argv[1]).resolve(), *sys.argv[2:])
