"""Kill -9 a real server under load; and a test for each fault that doing so has found."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sparsight.index import verification
from sparsight.index.segment import Segment
from sparsight.retrieval.engine import Database, repair, verify
from sparsight.service.client import Client

CYCLES = int(os.environ.get("SPARSIGHT_CRASH_CYCLES", "12"))
SEED = int(os.environ.get("SPARSIGHT_CRASH_SEED", "20240229"))


@pytest.mark.slow
@pytest.mark.timeout(120 + 60 * CYCLES)
def test_killed_servers_keep_their_promises(tmp_path: Path, crash_workload: ModuleType) -> None:
    missed = {"acknowledged", "acknowledged_bulk", "in_doubt", "in_doubt_and_there", "sent_again", "flush"}
    for seed in (SEED, SEED + 1):  # a few kills may all miss one of these: then there are as many more
        report = crash_workload.run(tmp_path / f"crash-{seed}", cycles=CYCLES, seed=seed)
        print(json.dumps(report))
        assert not report["violations"], json.dumps(report)
        assert report["kills"] >= 0.5 * CYCLES  # one cycle in twelve ends in order
        missed = {what for what in missed if not report.get(what)}
        if not missed or CYCLES < 12:
            return
    pytest.fail(f"the load did not reach what it is for: {missed}")


BROKEN = {
    "batches in two halves": """
import dataclasses
from sparsight.index.store import CollectionStore
write = CollectionStore.write
def in_halves(self, rows, **options):
    middle = len(rows) // 2
    if middle:
        write(self, rows[:middle])
    return dataclasses.replace(write(self, rows[middle:], **options), upserted=len(rows))
CollectionStore.write = in_halves
""",
    "request ids forgotten": """
from sparsight.index.catalog import Catalog
Catalog.find_request = lambda self, request_id: None
""",
    "answers before the commit": """
import threading, time
from sparsight.index.jobs import WriteAnswer
from sparsight.index.store import CollectionStore
write = CollectionStore.write
def later(self, rows, **options):
    threading.Thread(target=lambda: (time.sleep(0.05), write(self, rows, **options)), daemon=True).start()
    return WriteAnswer(len(rows), 0, 0, self.memory.state["version"] + 1)
CollectionStore.write = later
""",
    "deletions kept in memory only": """
from sparsight.index.catalog import Catalog
delete = Catalog.delete_document
def without_mark(self, seq):
    delete(self, seq)
    self.connection.execute("DELETE FROM deletions WHERE seq = ?", (seq,))
Catalog.delete_document = without_mark
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_server_is_noticed(tmp_path: Path, crash_workload: ModuleType, name: str) -> None:
    report = crash_workload.run(tmp_path / "crash", cycles=40, seed=SEED, prelude=BROKEN[name])
    print(report["cycles"], report.get("error"))
    assert report["violations"] == 1


# --- what was found ----------------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path: Path, crash_workload: ModuleType) -> Iterator[Callable[[], tuple[Any, Client]]]:
    """Starts a server on one folder, again and again; gives the process and a client."""
    running: list[Any] = []

    def start() -> tuple[Any, Client]:
        server = crash_workload.ServerProcess(tmp_path / "data", tmp_path / "server.log")
        running.append(server)
        client = Client(server.target())
        running.append(client)
        return server, client

    yield start
    for item in reversed(running):
        (item.close if isinstance(item, Client) else item.kill)()


def test_a_retry_after_a_restart_is_the_same_request(served: Callable[..., Any], crash_workload: ModuleType) -> None:
    """A protobuf map has another order in every process: what a request id stands for must not depend on it."""
    documents = [crash_workload.make_document(f"w0-{number}", 7) for number in range(4)]
    server, client = served()
    client.create_collection("main", crash_workload.FIELDS)
    first = client.collection("main").upsert(documents, request_id="once")
    for _ in range(3):
        server.kill()
        server, client = served()
        assert client.collection("main").upsert(documents, request_id="once") == first
        assert client.collection("main").info().generation == first.version


def test_verify_beside_a_merge_finds_nothing(
    tmp_path: Path, crash_workload: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A merge removes segments whose names verify has just read."""
    with Database(tmp_path) as database:
        collection = database.create_collection("main", crash_workload.FIELDS)
        for op in (1, 2):
            collection.upsert([crash_workload.make_document(f"w0-{op}", op)])
            collection.flush()
        merging = threading.Thread(target=collection.compact)

        def open_late(*arguments: Any) -> Segment:
            if not merging.ident:
                merging.start()
                merging.join(1.0)  # or it waits until verify has ended: that is fine too
            return Segment(*arguments)

        monkeypatch.setattr(verification, "Segment", open_late)
        report = collection.verify()
        merging.join()
        assert report.faults == ()
        assert report.documents == 2
        assert collection.verify().segments == 1


def test_verify_and_repair_leave_unfinished_folders_alone(tmp_path: Path, crash_workload: ModuleType) -> None:
    """A crash while a collection was made or dropped leaves a folder that is no collection."""
    with Database(tmp_path) as database:
        database.create_collection("main", crash_workload.FIELDS)
    for name in (".building-side", ".building-dropped-other-00"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "catalog.db").write_bytes(b"half a file")
    assert {name: report.ok for name, report in verify(tmp_path).items()} == {"main": True}
    assert repair(tmp_path) == {}
    with Database(tmp_path) as database:
        assert [info.name for info in database.list_collections()] == ["main"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["LOCK", "main"]


def test_the_server_loads_no_model_library(served: Callable[..., Any], crash_workload: ModuleType) -> None:
    """A restart is quick where only ready vectors are in use."""
    server, client = served()
    collection = client.create_collection("main", crash_workload.FIELDS)
    collection.upsert([crash_workload.make_document("w0-1", 1)])
    assert collection.search("document", retrievers=["words"]).ids == ["w0-1"]
    for library in ("torch", "transformers", "tokenizers"):
        assert library not in server.maps()
