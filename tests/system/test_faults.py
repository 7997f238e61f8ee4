"""Every file operation of a scripted workload fails once, or is the process's last; what is left is never in between.

``syncspy.c`` is preloaded into a child process and makes the n-th call that changes a file fail: ours and SQLite's.
The workload creates a collection, writes singly and in bulk, flushes, deletes, compacts, reopens, creates and drops.
Afterwards a new process opens the folder: each step is wholly there or wholly absent, acknowledged ones are there,
``verify`` is clean, no unfinished folder is left, and the next write works. Plain ``pytest`` takes a sample of the
operations, the slow tests take all.

This file is also the child: ``python test_faults.py ROOT MODE FIRST STRIDE`` forks once for each operation.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsight.errors import SparsightError, StorageError, StorageFullError, UnknownCollectionError
from sparsight.types import BM25Field, DenseField, Document, Query, Retriever, SparseField, SparseVector

FIELDS = (SparseField("terms", dimension=100, max_impact=255.0), DenseField("vec", dimension=2), BM25Field("words"))
BULK = 12
KILLED = 77  # the exit status of a process that syncspy ends
LIMIT_S = 20.0

State = Mapping[str, Mapping[str, int]]
"""By collection: which step wrote each document."""


def document(id: str, step: int) -> Document:
    vectors = {"terms": SparseVector.from_dict({0: step + 1.0, 1 + int(id[1:]): 9.0}), "vec": np.ones(2, np.float32)}
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
    return Step(lambda db: db.create_collection(name, FIELDS, exist_ok=True), lambda s: s.setdefault(name, {}) and None)


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
    Step(lambda db: db.drop_collection("other"), lambda s: s.pop("other", None) and None),
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
    from sparsight.retrieval.engine import Database

    arm(at, mode.encode())
    full, database, readable = mode.startswith("28"), None, False

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
            done = attempt(number, lambda step=step: (step.work(database), True))  # type: ignore[misc]
            readable = readable or done is not None and number == 0
    if database is not None:
        attempt(CLOSE, database.close)


def _look(folder: Path, pipe: int) -> None:
    """Open the folder in a process without faults; says what is there."""
    from sparsight.index.verification import verify_folder
    from sparsight.retrieval.engine import Database

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
    """Every state that what the workload said allows, one step in doubt being there or not."""
    ended: dict[int, str] = {}
    for number, *outcome in (line for line in outcomes if isinstance(line, list) and line[0] != "seen"):
        if ended.get(number) != "done" and ended.get(number) != "doubt" or outcome[0] == "done":
            if outcome[0] in ("done", "begun"):
                ended[number] = outcome[0]
            else:
                refused = outcome[0] == "StorageFullError" or "writes stopped after" in outcome[1]
                ended[number] = "refused" if refused else "doubt"
    states: list[State] = [{}]
    for number, step in enumerate(STEPS):
        if ended.get(number) == "done":
            states = [step.after(state) for state in states]
        elif ended.get(number) in ("begun", "doubt"):
            states += [after for state in states if (after := step.after(state)) not in states]
    return states


def _judge(folder: Path, status: int | None, outcomes: list[Any], mode: str) -> str:
    """What is wrong after a fault; "" if nothing is."""
    raised = [line["raised"] for line in outcomes if isinstance(line, dict)]
    if raised or status is None:
        return f"the workload {'raised ' + raised[0] if raised else 'hung'} after {outcomes[-4:]}"
    ends = [line for line in outcomes if line[0] not in ("seen", OPEN, CLOSE) and line[1] != "begun"]
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


def child(root: Path, mode: str, first: int, stride: int) -> None:
    """Fail operation first, first + stride, ... until the workload has no more; prints a JSON object."""
    from sparsight.index import maintenance, store
    from sparsight.retrieval import engine

    assert engine
    store.BULK_DOCUMENTS = BULK
    maintenance.merge_candidates = lambda sizes: []  # so that all runs do the same operations
    spy = ctypes.CDLL(os.environ["LD_PRELOAD"])
    failures: dict[int, str] = {}
    at, runs, exits = first, 0, 0
    while True:
        folder = root / str(at)

        def work(pipe: int, folder: Path = folder, at: int = at) -> None:
            _work(folder, spy.syncspy_arm, at, mode, pipe)
            _say(pipe, ["seen", spy.syncspy_seen()])

        status, outcomes = _forked(work)
        if status == 0 and isinstance(outcomes[-1], list) and outcomes[-1][0] == "seen":
            total = outcomes.pop()[1]
            if at > total and not mode.startswith("28"):
                break
            if at > total:  # with space again the count began anew: nothing failed in this run
                if all(line[1] in ("done", "begun") for line in outcomes):
                    break
        runs, exits = runs + 1, exits + (status == KILLED)
        if fault := _judge(folder, status, outcomes, mode):
            failures[at] = fault
        shutil.rmtree(folder, ignore_errors=True)
        at += stride
    print(json.dumps({"runs": runs, "exits": exits, "last": at, "failures": failures}))


# --- the tests ----------------------------------------------------------------------------------------------


def run_child(root: Path, library: Path, mode: str, first: int, stride: int) -> dict[str, Any]:
    root.mkdir()
    environment = {**os.environ, "LD_PRELOAD": str(library), "SYNCSPY_ROOT": str(root), "OMP_NUM_THREADS": "1",
                   "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(root), mode, str(first), str(stride)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=550, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    report: dict[str, Any] = json.loads(done.stdout)
    print(f"mode {mode}: {report['runs']} operations of {report['last']}, {report['exits']} ended the process")
    return report


MODES = {"exit": "exit", "torn write": "tear", "one I/O error": "5", "one I/O error, then exit": "5!",
         "I/O errors from there on": "5+", "disk full": "28+"}


@pytest.mark.parametrize("name", MODES)
def test_some_operations(tmp_path: Path, syncspy: Path, name: str) -> None:
    report = run_child(tmp_path / "root", syncspy, MODES[name], 5, 41)
    assert report["failures"] == {}
    assert report["runs"] > 5


@pytest.mark.slow
@pytest.mark.parametrize("name", MODES)
def test_every_operation(tmp_path: Path, syncspy: Path, name: str) -> None:
    report = run_child(tmp_path / "root", syncspy, MODES[name], 1, 1)
    assert report["failures"] == {}
    assert report["exits"] == (report["runs"] if MODES[name] == "exit" else report["exits"])


if __name__ == "__main__":
    child(Path(sys.argv[1]).resolve(), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
