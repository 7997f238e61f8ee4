"""Every file operation of a scripted workload fails once, or is the process's last; what is left is never in between.

``syncspy.c`` is preloaded into a child process and makes the n-th call that changes a file fail: ours and SQLite's.
The workload creates a collection, writes singly and in bulk, flushes, deletes, compacts, reopens, creates and drops.
Afterwards a new process opens the folder: each step is wholly there or wholly absent, acknowledged ones are there,
``verify`` is clean, no unfinished folder is left, and the next write works. Of a run of writes to one file the slow
tests take the first and the last (SPARSIGHT_FAULTS=all takes every one), plain ``pytest`` takes a sample.

This file is also the child: ``python test_faults.py ROOT MODE some|many|all`` forks once for each operation.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsight.errors import SparsightError, StorageError, StorageFullError, UnknownCollectionError
from sparsight.index import maintenance, storage, store
from sparsight.index.catalog import Catalog
from sparsight.index.verification import verify_folder
from sparsight.retrieval.engine import Database
from sparsight.types import BM25Field, DenseField, Document, Query, Retriever, SparseField, SparseVector, Vector

FIELDS = (SparseField("terms", dimension=100, max_impact=255.0), DenseField("vec", dimension=2), BM25Field("words"))
BULK = 12
KILLED = 77  # the exit status of a process that syncspy ends
LIMIT_S = 20.0

State = Mapping[str, Mapping[str, int]]
"""By collection: which step wrote each document."""


def document(id: str, step: int) -> Document:
    terms = SparseVector.from_dict({0: step + 1.0, 1 + int(id[1:]): 9.0})
    vectors: dict[str, Vector] = {"terms": terms, "vec": np.ones(2, np.float32)}
    return Document(id, title=f"step {step}", text=f"common step{step}", metadata={"step": step}, vectors=vectors)


# --- the workload: each step does something, and says what that makes of a state ----------------------------


class Step:
    """One call. ``work`` gets the database; ``effect`` makes the state after from the state before."""

    def __init__(self, work: Callable[[Any], Any], effect: Callable[[dict[str, dict[str, int]]], None]) -> None:
        self.work, self._effect = work, effect

    def after(self, state: State) -> State:
        copy = {name: dict(documents) for name, documents in state.items()}
        self._effect(copy)
        return copy


def _create(name: str) -> Step:
    def effect(state: dict[str, dict[str, int]]) -> None:
        state.setdefault(name, {})

    return Step(lambda db: db.create_collection(name, FIELDS, exist_ok=True), effect)


def _drop(name: str) -> Step:
    def effect(state: dict[str, dict[str, int]]) -> None:
        state.pop(name, None)

    return Step(lambda db: db.drop_collection(name), effect)


def _upsert(number: int, ids: range) -> Step:
    def effect(state: dict[str, dict[str, int]]) -> None:
        if "main" in state:
            state["main"] |= {f"d{i}": number for i in ids}

    return Step(lambda db: db["main"].upsert([document(f"d{i}", number) for i in ids], request_id=f"r{number}"), effect)


def _delete(number: int, gone: Callable[[str, int], bool], **arguments: Any) -> Step:
    def effect(state: dict[str, dict[str, int]]) -> None:
        if "main" in state:
            state["main"] = {id: step for id, step in state["main"].items() if not gone(id, step)}

    return Step(lambda db: db["main"].delete(**arguments, request_id=f"r{number}"), effect)


def _nothing(state: dict[str, dict[str, int]]) -> None:
    """Flushing and compacting change no document."""


STEPS = [
    _create("main"),
    _upsert(1, range(3)),
    _upsert(2, range(2, 2 + BULK)),  # bulk: a segment
    _upsert(3, range(6)),
    Step(lambda db: db["main"].flush(), _nothing),
    _delete(5, lambda id, _: id in ("d0", "d9"), ids=["d0", "d9"]),
    _upsert(6, range(4, 8)),
    Step(lambda db: db["main"].compact(), _nothing),
    _delete(8, lambda _, step: step == 6, filter="step = 6"),
    _create("other"),
    _drop("other"),
    _upsert(11, range(1, 3)),
]
REOPEN_BEFORE = 8
MAKING = (0, 9)  # the steps that create a collection
OPEN, CLOSE = -1, -2  # opening and closing, where steps have their numbers


def read(database: Any) -> dict[str, dict[str, int]]:
    """What a database shows: by collection, which step wrote each document."""
    return {info.name: read_collection(database[info.name]) for info in database.list_collections()}


def read_collection(collection: Any) -> dict[str, int]:
    """What a collection shows, by scroll, count and search; they must agree."""
    page = collection.scroll(page_size=1000)
    found = {item.id: item.metadata["step"] for item in page.documents}
    assert len(page.documents) == len(found) == collection.count(), "a document is there twice"
    query = Query(retrievers=(Retriever("terms", sparse=SparseVector.from_dict({0: 1.0})),), k=1000)
    hits = {hit.id: hit.metadata["step"] for hit in collection.search(query)}
    assert hits == found, f"search finds {hits}, scroll {found}"
    return found


# --- the child process --------------------------------------------------------------------------------------


def _forked(work: Callable[[int], None]) -> tuple[int | None, list[Any]]:
    """Run ``work(pipe)`` in a fork: its exit status (None: it hung and was killed) and the JSON lines it wrote."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        try:
            work(writer)
        except BaseException:
            _say(writer, {"raised": traceback.format_exc(limit=-3)})
        os._exit(0)
    os.close(writer)
    data, end, status = b"", time.monotonic() + LIMIT_S, None
    while select.select([reader], [], [], max(0.0, end - time.monotonic()))[0]:
        if not (more := os.read(reader, 65536)):
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            break
        data += more
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    os.close(reader)
    return status, [json.loads(line) for line in data.splitlines()]


def _say(pipe: int, value: Any) -> None:
    os.write(pipe, json.dumps(value).encode() + b"\n")


def _work(folder: Path, arm: Callable[[int, bytes], None], at: int, mode: str, pipe: int) -> None:
    """The workload with a failure at operation ``at``; says how each step ended, in order.

    Only errors that name the disk's refusal are raised, and what could be read before is still read afterwards.
    """
    arm(at, mode.encode())
    full, readable = mode.startswith("28"), False
    database: Any = None

    def attempt(number: int, work: Callable[[], Any]) -> Any:
        for turn in (1, 2):
            try:
                made = work()
                _say(pipe, [number, "done"])
                return made
            except SparsightError as error:
                _say(pipe, [number, type(error).__name__, str(error)])
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

    for number, step in enumerate(STEPS):
        if database is None or number == REOPEN_BEFORE:
            if database is not None:
                attempt(CLOSE, database.close)
            database, readable = None, False
            database = attempt(OPEN, lambda: Database(folder))
            readable = database is not None and (folder / "main").exists()
        if database is not None:
            _say(pipe, [number, "begun"])
            made = attempt(number, functools.partial(step.work, database))
            readable = readable or (number == 0 and made is not None)
    if database is not None:
        attempt(CLOSE, database.close)


def _look(folder: Path, pipe: int) -> None:
    """Open the folder in a process without faults; says what is there."""
    with Database(folder) as database:
        _say(pipe, {"state": read(database)})
        collection = database.create_collection("main", FIELDS, exist_ok=True)
        collection.upsert([document("d50", 50)])
        collection.flush()
        assert read(database)["main"]["d50"] == 50
        names = [info.name for info in database.list_collections()]
    faults = [fault for name in names for fault in verify_folder(folder / name).faults]
    left = [str(entry) for entry in folder.rglob(".building-*")]
    _say(pipe, {"faults": faults, "left": left})


def _possible(outcomes: list[Any]) -> list[State]:
    """Every state that what the workload said allows: a step in doubt is there or not, a refused one is not."""
    states: list[State] = [{}]
    for number, step in enumerate(STEPS):
        ends = [outcome for at, *outcome in outcomes if at == number]
        if ["done"] in ends:
            states = [step.after(state) for state in states]
        elif ends and not all(_is_refusal(outcome) for outcome in ends[1:] or ends):
            states += [after for state in states if (after := step.after(state)) not in states]
    return states


def _is_refusal(outcome: list[str]) -> bool:
    """Errors that promise that nothing was written; any other leaves the step in doubt, as does no answer at all."""
    return outcome[0] == "StorageFullError" or (outcome[0] == "StorageError" and "writes stopped after" in outcome[1])


def _judge(folder: Path, status: int | None, outcomes: list[Any], mode: str) -> str:
    """What is wrong after a fault; "" if nothing is."""
    raised = [line["raised"] for line in outcomes if isinstance(line, dict)]
    if raised or status is None:
        return f"the workload {'raised ' + raised[0] if raised else 'hung'} after {outcomes[-4:]}"
    ends = [line for line in outcomes if line[0] not in (OPEN, CLOSE) and line[1] != "begun"]
    if mode.startswith("28") and [line[0] for line in ends if line[1] == "done"] != list(range(len(STEPS))):
        return f"writes did not succeed once there was space again: {[line for line in ends if line[1] != 'done']}"
    possible = _possible(outcomes)
    status, seen = _forked(lambda pipe: _look(folder, pipe))
    raised = [line["raised"] for line in seen if "raised" in line]
    if raised or status is None or len(seen) != 2:
        return f"opening again {'raised ' + raised[0] if raised else 'hung'} after {ends}"
    if seen[0]["state"] not in possible:
        return f"found {seen[0]['state']} after {ends}, expected one of {possible}"
    if seen[1]["faults"] or seen[1]["left"]:
        return f"after {ends}: {seen[1]}"
    return ""


def _points(trace: Path, which: str) -> list[int]:
    """Which operations to fail, counted from 1."""
    calls = [line.split(" ")[3:7:3] for line in trace.read_text().splitlines()]
    if which == "all":
        return list(range(1, len(calls) + 1))
    points, begin = [], 0
    for end in range(1, len(calls) + 1):
        if end == len(calls) or calls[end] != calls[begin] or "write" not in calls[end][0]:
            points += sorted({begin, end - 1})
            begin = end
    return [point + 1 for point in (points if which == "many" else points[5::17])]


def child(root: Path, mode: str, which: str) -> None:
    """Fail the chosen operations, each in a fork of its own; prints a JSON object."""
    store.BULK_DOCUMENTS = BULK
    maintenance.merge_candidates = lambda sizes: []  # so that all runs do the same operations
    spy = ctypes.CDLL(os.environ["LD_PRELOAD"])
    trace = root.with_name("trace")

    def rehearse(pipe: int) -> None:
        spy.syncspy_log(str(trace).encode())
        _work(root / "rehearsal", spy.syncspy_arm, 0, "", pipe)

    status, outcomes = _forked(rehearse)
    assert status == 0 and {line[1] for line in outcomes} == {"begun", "done"}, outcomes
    failures: dict[int, str] = {}
    exits = missed = 0
    for point in (points := _points(trace, which)):
        folder = root / str(point)

        def work(pipe: int, folder: Path = folder, point: int = point) -> None:
            _work(folder, spy.syncspy_arm, point, mode, pipe)

        status, outcomes = _forked(work)
        exits += status == KILLED
        missed += status == 0 and all(isinstance(line, list) and line[1] in ("done", "begun") for line in outcomes)
        if fault := _judge(folder, status, outcomes, mode):
            failures[point] = fault
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps({"runs": len(points), "exits": exits, "missed": missed, "failures": failures}))


# --- the tests ----------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """An empty folder, in memory where there is such a place: what is synced outlives a process anyway."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as folder:
        (made := Path(folder) / "root").mkdir()
        yield made


def run_child(root: Path, library: Path, mode: str, which: str) -> None:
    environment = {**os.environ, "LD_PRELOAD": str(library), "SYNCSPY_ROOT": str(root), "OMP_NUM_THREADS": "1",
                   "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(root), mode, which]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=550, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    report: dict[str, Any] = json.loads(done.stdout)
    failures = report.pop("failures")
    print(f"mode {mode}: {report}")
    assert not failures, f"{len(failures)} of {report['runs']}: {dict(itertools.islice(failures.items(), 3))}"
    # The last few operations may be others than in the rehearsal; a write that nobody waits for may fail unnoticed.
    assert report["runs"] > 10
    assert report["exits"] >= 0.95 * report["runs"] or mode not in ("exit", "tear")
    assert report["missed"] <= 0.3 * report["runs"]


MODES = {"exit": "exit", "torn write": "tear", "one I/O error": "5", "one I/O error, then exit": "5!",
         "I/O errors from there on": "5+", "disk full": "28+"}


@pytest.mark.parametrize("name", ["exit", "one I/O error, then exit", "disk full"])
def test_some_operations(root: Path, syncspy: Path, name: str) -> None:
    run_child(root, syncspy, MODES[name], "some")


@pytest.mark.slow
@pytest.mark.parametrize("name", MODES)
def test_every_operation(root: Path, syncspy: Path, name: str) -> None:
    run_child(root, syncspy, MODES[name], os.environ.get("SPARSIGHT_FAULTS", "many"))


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
    child(Path(sys.argv[1]).resolve(), sys.argv[2], sys.argv[3])
