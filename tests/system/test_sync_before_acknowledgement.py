"""No answer leaves the server before what it acknowledges has been synced: read from a trace of a real server.

``syncspy.c`` is preloaded into ``sparsight serve`` and records its file operations and what it sends. kill -9 cannot
show a missing sync, since the page cache outlives the process; a trace can.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from sparsight.service.client import Client, Collection

WRITES, SYNCS, SENDS = ("write", "pwrite"), ("fsync", "fdatasync"), ("sendmsg", "send", "sendto", "writev")
OWN_CONNECTION = {"grpc.use_local_subchannel_pool": 1}

# Flushes and merges only when asked for: between request and answer the catalogue's log is then the call's own.
QUIET = """
from sparsight.index import maintenance
maintenance.merge_candidates = lambda sizes: []
"""

NO_CATALOGUE_SYNC = """
from sparsight.index import catalog
original = catalog.Catalog.__init__
def without_sync(self, *arguments, **options):
    original(self, *arguments, **options)
    self.connection.execute("PRAGMA synchronous = OFF")
catalog.Catalog.__init__ = without_sync
"""

NO_FILE_SYNC = """
import os
os.fsync = lambda descriptor: None
"""


class Event(NamedTuple):
    """One call of the server, times in nanoseconds on the clock of ``time.monotonic_ns``."""

    start: int
    end: int
    thread: int
    call: str
    result: int
    size: int
    path: str
    more: str

    def streams(self) -> list[int]:
        """The calls that this sends headers or data of, in HTTP/2 frames (RFC 9113, section 4.1)."""
        found, at = [], 0
        data = bytes.fromhex(self.more) if self.call in SENDS else b""
        while at + 9 <= len(data):
            stream = int.from_bytes(data[at + 5 : at + 9])
            if data[at + 3] in (0, 1) and stream:
                found.append(stream)
            at += 9 + int.from_bytes(data[at : at + 3])
        return found


def read_trace(log: Path) -> list[Event]:
    events = []
    for line in log.read_text().splitlines():
        start, end, thread, call, result, size, path, more = line.split(" ", 7)
        events.append(Event(int(start), int(end), int(thread), call, int(result), int(size), path, more.strip()))
    return sorted(events)


@dataclass
class Traced:
    """A server under trace, with a collection."""

    folder: Path
    client: Client
    collection: Collection
    make: Callable[..., Any]
    log: Path

    def timed(self, work: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[int, int]:
        """When a call began and when it had returned."""
        began = time.monotonic_ns()
        work(*arguments, **options)
        return began, time.monotonic_ns()

    def events(self) -> list[Event]:
        return read_trace(self.log)

    def documents(self, numbers: Sequence[int], op: int) -> list[Any]:
        return [self.make(f"w0-{number}", op) for number in numbers]


@pytest.fixture
def traced(tmp_path: Path, syncspy: Path, crash_workload: ModuleType) -> Iterator[Callable[..., Traced]]:
    """Starts a server under trace; ``prelude`` is Python that it runs first."""
    running: list[Any] = []

    def start(prelude: str = "", bulk: int = 2000) -> Traced:
        data, log = tmp_path / "data", tmp_path / "trace"
        data.mkdir()
        environment = {"LD_PRELOAD": str(syncspy), "SYNCSPY_ROOT": str(data), "SYNCSPY_LOG": str(log),
                       "CRASH_SERVER_PRELUDE": QUIET + prelude, "CRASH_BULK_DOCUMENTS": str(bulk)}
        server = crash_workload.ServerProcess(data, tmp_path / "server.log", environment)
        running.append(server)
        client = Client(server.target())
        running.insert(0, client)
        collection = client.create_collection("main", crash_workload.FIELDS)
        return Traced(data.resolve(), client, collection, crash_workload.make_document, log)

    yield start
    for item in running:
        (item.close if isinstance(item, Client) else item.kill)()


# --- the rules, as what is wrong with a trace ---------------------------------------------------------------


def answer_of(events: Sequence[Event], began: int, ended: int) -> Event:
    """The first part of the answer to the only call under way."""
    found = [event for event in events if began <= event.start <= ended and event.streams()]
    assert found, excerpt(events, began, ended)
    return found[0]


def log_fault(events: Sequence[Event], began: int, answer: Event) -> str:
    """Why the catalogue's log was not durable when the answer was sent; "" if it was."""
    log = [event for event in events if event.path.endswith("/catalog.db-wal") and began <= event.start < answer.start]
    written = [event for event in log if event.call in WRITES and event.result == event.size]
    if not written:
        return "nothing was written to the catalogue's log"
    last = max(event.end for event in written)
    synced = [e for e in log if e.call in SYNCS and e.result == 0 and e.start >= last and e.end <= answer.start]
    return "" if synced else "no sync of the log between its last write and the answer"


def shared_log_fault(events: Sequence[Event], began: int, answer: Event) -> str:
    """The same with other writers about, whose transactions may have begun: some write was followed by its sync."""
    log = [event for event in events if event.path.endswith("/catalog.db-wal") and began <= event.start < answer.start]
    first = min((event.end for event in log if event.call in WRITES and event.result == event.size), default=None)
    if first is None:
        return "nothing was written to the catalogue's log"
    synced = [e for e in log if e.call in SYNCS and e.result == 0 and e.start >= first and e.end <= answer.start]
    return "" if synced else "no sync of the log between a write and the answer"


def segment_faults(events: Sequence[Event], began: int, answer: Event, segments: Path) -> list[str]:
    """What was not durable, or too late, when a segment was published in a call."""
    during = [event for event in events if began <= event.start and event.end <= answer.start]
    faults = []

    def synced(path: str, after: int, before: int) -> bool:
        return any(e.path == path and e.call in SYNCS and e.result == 0 and e.start >= after and e.end <= before
                   for e in during)

    renames = [e for e in during if e.call == "rename" and e.more.startswith(str(segments)) and e.result == 0]
    commit = max(e.start for e in during if e.path.endswith("/catalog.db-wal") and e.call in WRITES)
    if not renames:
        faults.append("no segment was renamed into place")
    for rename in renames:
        for file in Path(rename.more).iterdir():
            path = f"{rename.path}/{file.name}"
            last = max((e.end for e in during if e.path == path and e.call in WRITES), default=began)
            if not synced(path, last, rename.start):
                faults.append(f"{file.name} was not synced between its last write and the rename")
        if not synced(rename.path, began, rename.start):
            faults.append("the folder was not synced before the rename")
        if not synced(str(segments), rename.end, commit):
            faults.append("the rename was not synced before the commit")
    return faults


def excerpt(events: Sequence[Event], began: int, ended: int) -> str:
    """The calls of one write, in microseconds since it began."""
    lines = [f"{(e.start - began) / 1000:8.0f} {(e.end - began) / 1000:8.0f}  {e.thread}  {e.call:<9} {e.size:>6}  "
             f"{'answer to the client' if e.streams() else e.path.rsplit('/', 1)[-1]}"
             for e in events if began <= e.start <= ended]
    return "\n".join(["   begin      end  thread  call       bytes  file (microseconds)", *lines])


# --- tests -------------------------------------------------------------------------------------------------


def write_some(server: Traced, count: int) -> list[tuple[int, int]]:
    """Single writes, one after another: upserts of 1 to 5 documents, replacements, deletes by id and by filter."""
    times = []
    for number in range(count):
        if number % 7 == 5:
            times.append(server.timed(server.collection.delete, [f"w0-{number - 1}"], request_id=f"r{number}"))
        elif number % 7 == 6:
            times.append(server.timed(server.collection.delete, filter=f"op = {number - 2}"))
        else:
            times.append(server.timed(server.collection.upsert, server.documents(range(number, number + 5), number)))
    return times


def test_every_write_is_synced_before_its_answer(traced: Callable[..., Traced]) -> None:
    server = traced()
    times = write_some(server, 60)
    events = server.events()
    faults = [log_fault(events, began, answer_of(events, began, ended)) for began, ended in times]
    assert faults == [""] * 60
    print(excerpt(events, *times[30]))


def test_the_check_notices_a_catalogue_that_does_not_sync(traced: Callable[..., Traced]) -> None:
    server = traced(prelude=NO_CATALOGUE_SYNC)
    times = write_some(server, 14)
    events = server.events()
    assert all(log_fault(events, began, answer_of(events, began, ended)) for began, ended in times)


@pytest.mark.parametrize("bulk", [50, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_bulk_write_syncs_its_segment_before_the_commit(traced: Callable[..., Traced], bulk: int) -> None:
    server = traced(bulk=bulk)
    for turn in range(2):  # the second replaces all of the first
        began, ended = server.timed(server.collection.upsert, server.documents(range(bulk), turn))
        events = server.events()
        answer = answer_of(events, began, ended)
        assert segment_faults(events, began, answer, server.folder / "main" / "segments") == []
        assert log_fault(events, began, answer) == ""


def test_the_check_notices_a_segment_that_is_not_synced(traced: Callable[..., Traced]) -> None:
    server = traced(prelude=NO_FILE_SYNC, bulk=50)
    began, ended = server.timed(server.collection.upsert, server.documents(range(50), 1))
    events = server.events()
    answer = answer_of(events, began, ended)
    faults = segment_faults(events, began, answer, server.folder / "main" / "segments")
    assert any("between its last write" in fault for fault in faults)
    assert any("before the rename" in fault for fault in faults)
    assert any("before the commit" in fault for fault in faults)


@pytest.mark.slow
def test_flush_and_compaction_sync_before_their_answers(traced: Callable[..., Traced]) -> None:
    server = traced(bulk=50)
    server.collection.upsert(server.documents(range(50), 1))
    server.collection.upsert(server.documents(range(40, 60), 2))
    for work in (server.collection.flush, server.collection.compact):
        began, ended = server.timed(work)
        events = server.events()
        last = [event for event in events if event.streams() and event.start <= ended][-1]
        assert segment_faults(events, began, last, server.folder / "main" / "segments") == []
        assert log_fault(events, began, last) == ""


@pytest.mark.slow
def test_collections_are_durable_before_the_answer(traced: Callable[..., Traced], crash_workload: ModuleType) -> None:
    server = traced()
    root = str(server.folder)
    for work, arguments in ((server.client.create_collection, ("other", crash_workload.FIELDS)),
                            (server.client.drop_collection, ("other",))):
        began, ended = server.timed(work, *arguments)
        events = server.events()
        answer = answer_of(events, began, ended)
        moved = next(e for e in events if began <= e.start <= ended and e.call == "rename" and "other" in e.more)
        assert any(e.path == root and e.call in SYNCS and moved.end <= e.start <= answer.start for e in events)
        if work == server.client.create_collection:
            catalogue = [e for e in events if e.path == f"{moved.path}/catalog.db" and began <= e.start < moved.start]
            last = max(e.end for e in catalogue if e.call in WRITES)
            assert any(e.call in SYNCS and e.start >= last for e in catalogue)
            assert any(e.path == moved.path and e.call in SYNCS and e.end <= moved.start for e in events)


@pytest.mark.slow
def test_writers_at_once_are_synced_before_their_answers(traced: Callable[..., Traced]) -> None:
    """Each writer has a connection of its own; between two answers on it the log was written and synced."""
    server = traced()
    began = time.monotonic_ns()

    def write(owner: int) -> None:
        with Client(server.client.target, options=OWN_CONNECTION) as client:
            collection = client.collection("main")
            for number in range(25):
                collection.upsert([server.make(f"w{owner}-{number}", number)])

    threads = [threading.Thread(target=write, args=(owner,)) for owner in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = [event for event in server.events() if event.start >= began]
    answers: dict[str, list[Event]] = {}
    for event in events:
        if event.streams():
            answers.setdefault(event.path, []).append(event)
    # A connection's first answer is that of collection(), which writes nothing.
    connections = [found for found in answers.values() if len(found) >= 26]
    assert len(connections) == 4
    for found in connections:
        streams = _first_parts(found)
        assert len(streams) == 26
        for before, answer in itertools.pairwise(streams):
            assert shared_log_fault(events, before.end, answer) == ""
    syncs = sum(event.path.endswith("-wal") and event.call in SYNCS for event in events)
    assert syncs <= 100, "writers that wait together share a sync"


def _first_parts(answers: Sequence[Event]) -> list[Event]:
    """The first part of each stream's answer."""
    seen: dict[int, Event] = {}
    for event in answers:
        for stream in event.streams():
            seen.setdefault(stream, event)
    return sorted(seen.values())
