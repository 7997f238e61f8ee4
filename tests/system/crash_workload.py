"""Kill a real server under load, over and over, and compare what is left with what it had acknowledged.

One cycle: start ``sparsight serve`` on the data folder (sometimes killing it while it starts); compare everything
that it shows with the model; send again what was in doubt; let writers upsert, delete, flush, compact, create and
drop for 5 to 500 ms; SIGKILL the process, by its id. The folder is kept from cycle to cycle.

The model: each writer owns its ids and waits for each answer, so at a kill it has at most one request in doubt, and
that one must be there wholly or not at all. A few ids are shared by all writers; answers carry the collection's
version, which orders those writes.

``python benches/crash.py --seed N`` runs this from the command line; tests run it too.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sparsight.errors import SparsightError
from sparsight.service.client import Client, Collection
from sparsight.types import (
    BM25Field,
    DenseField,
    Document,
    Query,
    Retriever,
    SparseField,
    SparseVector,
    WriteResult,
)

__all__ = ["Crasher", "ServerProcess", "Violation", "make_document", "run"]

WRITERS = 3
SHARED = -1  # the owner of the ids that every writer may write
SMALL_IDS = 200  # ids of a writer that small batches choose from; bulk writes use those above
GROUPS = 7
COLLECTION = "main"
FIELDS = (
    # A weight of 1 to 255 is its own 8-bit impact, so that scores are the model's numbers exactly.
    SparseField("terms", dimension=1_000_000, max_impact=255.0),
    DenseField("vec", dimension=4),
    BM25Field("words", language="none"),
)
_DENSE_QUERY = np.array([1.0, -2.0, 3.0, 0.5], np.float32)
_WAIT_S = 60.0

# The command line itself, after the thresholds have been lowered so that small batches make segments too.
_SERVE = """
import os, sys
from sparsight.index import maintenance, store
store.BULK_DOCUMENTS = int(os.environ.get("CRASH_BULK_DOCUMENTS", store.BULK_DOCUMENTS))
maintenance.FLUSH_DOCUMENTS = int(os.environ.get("CRASH_FLUSH_DOCUMENTS", maintenance.FLUSH_DOCUMENTS))
exec(os.environ.get("CRASH_SERVER_PRELUDE", ""))
from sparsight.service.cli import main
sys.exit(main(sys.argv[1:]))
"""


class Violation(AssertionError):
    """The database broke a promise. ``kind`` is a word for the count, the message tells what was seen."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind


def _demand(holds: bool, kind: str, message: str) -> None:
    if not holds:
        raise Violation(kind, message)


# --- the server --------------------------------------------------------------------------------------------


class ServerProcess:
    """``sparsight serve`` in a process of its own, on a free port of the loopback interface.

    Parameters
    ----------
    data : Path
        The data folder.
    log : Path
        Where its standard error goes (errors only).
    environment : mapping
        Added to this process's own.
    """

    def __init__(self, data: Path, log: Path, environment: Mapping[str, str] | None = None) -> None:
        self._log = log.open("ab")
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SERVE, "serve", "--data", str(data), "--port", "0", "--json", "--log-level",
             "error"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._log,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})})

    def target(self, timeout: float = _WAIT_S) -> str:
        """Wait until it answers; its address."""
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], timeout)
        line = self.process.stdout.readline() if readable else b""
        if not line:
            self.kill()
            raise Violation("no_start", f"the server did not start (exit {self.process.returncode}); its log: "
                            + Path(self._log.name).read_text(errors="replace")[-2000:])
        answer = json.loads(line)
        if "target" not in answer:  # it says why it does not start
            self.kill()
            raise Violation("no_start", f"the server refused to start: {line.decode(errors='replace').strip()}")
        return str(answer["target"])

    def kill(self) -> None:
        """SIGKILL; returns once the process is gone."""
        self.process.kill()
        self._reap()

    def terminate(self) -> int:
        """SIGTERM; the exit code."""
        self.process.terminate()
        try:
            self.process.wait(_WAIT_S)
        finally:
            self.kill()
        return self.process.returncode

    def maps(self) -> str:
        """The files that it has mapped."""
        return Path(f"/proc/{self.process.pid}/maps").read_text()

    def _reap(self) -> None:
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._log.close()


# --- documents and requests --------------------------------------------------------------------------------


def _key(owner: int, number: int) -> str:
    return f"w{owner}-{number}" if owner != SHARED else f"s-{number}"


def _owner(key: str) -> int:
    return SHARED if key.startswith("s-") else int(key[1 : key.index("-")])


def _unique_term(key: str) -> int:
    """A number that no other id has: a term of its document alone."""
    return 20_000 * (_owner(key) + 1) + int(key[key.index("-") + 1 :]) + 1


def _level(op: int) -> int:
    return op % 255 + 1


def make_document(key: str, op: int) -> Document:
    """The document that request number ``op`` writes under an id; everything in it tells the two."""
    group, number = op % GROUPS, _unique_term(key)
    return Document(
        key,
        title=f"op {op}",
        text=f"document g{group} number {number}",
        metadata={"owner": _owner(key), "number": number, "op": op, "group": group},
        vectors={
            "terms": SparseVector(np.array([0, number], np.uint32), np.array([_level(op), 255], np.float32)),
            "vec": np.array([op % 11 + 1, number % 13, op % 3 - 1, 2], np.float32),
        },
    )


@dataclass(slots=True)
class Request:
    """A write: ``changes`` are the ids it leaves with this request's number, or None for gone."""

    number: int
    kind: str
    changes: dict[str, int | None]
    filter: str = ""
    answer: WriteResult | None = None

    @property
    def request_id(self) -> str:
        return f"request-{self.number}"

    def send(self, collection: Collection) -> WriteResult:
        """Send it (again); the request id makes a repeat harmless."""
        if self.kind == "upsert":
            documents = [make_document(key, self.number) for key in self.changes]
            return collection.upsert(documents, request_id=self.request_id, timeout=_WAIT_S)
        ids = [] if self.filter else list(self.changes)
        return collection.delete(ids, filter=self.filter, request_id=self.request_id, timeout=_WAIT_S)


@dataclass(slots=True)
class Writer:
    """What one writer knows: its own documents, and its request in doubt."""

    owner: int
    documents: dict[str, int] = field(default_factory=dict)
    doubt: Request | None = None
    last: Request | None = None

    def own(self, request: Request) -> dict[str, int | None]:
        """The part of a request's changes that touches this writer's own ids."""
        return {key: op for key, op in request.changes.items() if not key.startswith("s-")}

    def after(self, request: Request) -> dict[str, int]:
        """This writer's documents once a request is applied."""
        return _changed(self.documents, self.own(request))


def _changed(documents: Mapping[str, int], changes: Mapping[str, int | None]) -> dict[str, int]:
    merged = {**documents, **changes}
    return {key: op for key, op in merged.items() if op is not None}


# --- what the server shows ---------------------------------------------------------------------------------


def scroll(collection: Collection) -> dict[str, int]:
    """Every document by id with the number of the request that wrote it; each is whole and there once."""
    found: dict[str, int] = {}
    token = ""
    while True:
        page = collection.scroll(page_size=1000, page_token=token, timeout=_WAIT_S)
        for document in page.documents:
            _demand(document.id not in found, "twice", f"{document.id} appears twice in a scroll")
            op = document.metadata["op"]
            expected = make_document(document.id, op)
            same = (document.title, document.text, document.metadata) == (
                expected.title, expected.text, expected.metadata)
            _demand(same, "wrong", f"{document} is not what request {op} wrote")
            found[document.id] = op
        if not (token := page.next_page_token):
            return found


def _compare(found: Mapping[str, int], expected: Mapping[str, int], view: str) -> None:
    lost, extra = expected.keys() - found.keys(), found.keys() - expected.keys()
    _demand(not lost, "lost", f"{view}: {len(lost)} documents are missing: {sorted(lost)[:5]}")
    _demand(not extra, "resurrected", f"{view}: {len(extra)} documents should not be there: {sorted(extra)[:5]}")
    wrong = {key: (op, expected[key]) for key, op in found.items() if op != expected[key]}
    _demand(not wrong, "wrong", f"{view}: (found, expected) requests: {dict(itertools.islice(wrong.items(), 5))}")


def _hits(collection: Collection, view: str, retriever: Retriever, **overrides: Any) -> dict[str, tuple[int, float]]:
    query = Query(retrievers=(retriever,), k=10_000, include=("metadata",))
    result = collection.search(query, timeout=_WAIT_S, **overrides)
    hits = {hit.id: (hit.metadata["op"], hit.score) for hit in result}
    _demand(len(hits) == len(result), "twice", f"{view}: {len(result) - len(hits)} hits are there twice")
    return hits


def check_views(collection: Collection, expected: Mapping[str, int], rng: random.Random, gone: Iterable[str]) -> None:
    """Every way of looking shows exactly the expected documents: by id, count, filter, and each kind of search."""
    _demand((count := collection.count(timeout=_WAIT_S)) == len(expected), "wrong",
            f"count is {count}, expected {len(expected)}")
    op = rng.choice(list(expected.values()) or [0])
    _demand(collection.count(f"op = {op}", timeout=_WAIT_S) == sum(o == op for o in expected.values()), "wrong",
            f"the filtered count of request {op} differs")

    sparse = _hits(collection, "sparse", Retriever("terms", sparse=SparseVector.from_dict({0: 1.0})))
    _compare({id: op for id, (op, _) in sparse.items()}, expected, "sparse search")
    for id, (op, score) in sparse.items():
        _demand(abs(score - _level(op)) < 0.01, "wrong", f"{id} scores {score}, expected {_level(op)}")

    dense = _hits(collection, "dense", Retriever("vec", dense=_DENSE_QUERY))
    _compare({id: op for id, (op, _) in dense.items()}, expected, "dense search")
    for id, (op, score) in dense.items():
        exact = float(np.asarray(make_document(id, op).vectors["vec"]) @ _DENSE_QUERY)
        _demand(abs(score - exact) < 1e-3, "wrong", f"{id} scores {score} in the dense field, expected {exact}")

    group = rng.randrange(GROUPS)
    words = _hits(collection, "bm25", Retriever("words", text=f"g{group}"))
    wanted = {id: op for id, op in expected.items() if op % GROUPS == group}
    _compare({id: op for id, (op, _) in words.items()}, wanted, f"BM25 search for g{group}")

    some = rng.sample(sorted(expected), min(40, len(expected)))
    missing = rng.sample(absent := sorted(set(gone) - expected.keys()), min(40, len(absent)))
    found = collection.get_many(some + missing, include=("title", "metadata", "vectors"), timeout=_WAIT_S)
    _compare({document.id: document.metadata["op"] for document in found}, {id: expected[id] for id in some}, "get")
    for document in found:
        wrote = make_document(document.id, expected[document.id])
        _demand(document.vectors["terms"].to_dict() == wrote.vectors["terms"].to_dict()  # type: ignore[union-attr]
                and np.array_equal(document.vectors["vec"], wrote.vectors["vec"]),  # type: ignore[arg-type]
                "wrong", f"{document.id} has other vectors than request {expected[document.id]} wrote")
    queries = [Query(retrievers=(Retriever("terms", sparse=SparseVector.from_dict({_unique_term(id): 1.0})),))
               for id in some + missing]
    results = collection.batch_search(queries, timeout=_WAIT_S) if queries else []
    for id, result in zip(some + missing, results, strict=True):
        _demand(result.ids == ([id] if id in expected else []), "lost" if id in expected else "resurrected",
                f"a search for {id} found {result.ids}")


# --- the loop ----------------------------------------------------------------------------------------------


class Crasher:
    """Cycles of load, kill and check on one data folder. ``counts`` are for the report; ``prelude`` is Python that the
    servers run first (to break one on purpose)."""

    def __init__(self, folder: Path, seed: int, prelude: str = "") -> None:
        self.data, self.log = folder / "data", folder / "server.log"
        folder.mkdir(parents=True, exist_ok=True)
        self.seed = seed
        self._environment = {"CRASH_SERVER_PRELUDE": prelude} if prelude else {}
        self.counts: Counter[str] = Counter()
        self.start_ms: list[float] = []
        self._numbers = itertools.count(1)
        self._writers = [Writer(owner) for owner in range(WRITERS)]
        self._shared: dict[str, int] = {}
        self._shared_log: list[tuple[int, Request]] = []  # acknowledged in this cycle, with their versions
        self._ever: set[str] = set()
        self._side: dict[str, bool | None] = {}  # other collections: there, gone, or (None) in doubt
        self._busy = ""  # the maintenance call under way
        self._stopping = threading.Event()
        self._failure: BaseException | None = None

    def cycle(self, number: int) -> None:
        """One cycle, with random numbers of its own.

        Raises
        ------
        Violation
        """
        rng = random.Random(f"{self.seed}/{number}")
        (bulk, flush), = rng.choices([(40, 150), (40, 4096), (300, 150), (2000, 4096)], (4, 3, 2, 1))
        environment = {**self._environment, "CRASH_BULK_DOCUMENTS": str(bulk), "CRASH_FLUSH_DOCUMENTS": str(flush)}
        while rng.random() < 0.15:
            server = ServerProcess(self.data, self.log, environment)
            time.sleep(rng.uniform(0.15, 0.6))
            server.kill()
            self.counts["kills_while_starting"] += 1
        if number and rng.random() < 0.25:
            self._verify_offline()
        server = ServerProcess(self.data, self.log, environment)
        try:
            with Client(server.target(), options={"grpc.enable_retries": 0}) as client:
                self.start_ms.append(1000 * (time.monotonic() - server.started))
                collection = client.create_collection(COLLECTION, FIELDS, exist_ok=True)
                self._check(client, collection, rng)
                _demand("torch" not in server.maps(), "torch", "the server loaded torch, and no model is in use")
                self._load(client, collection, server, rng, bulk, gentle=rng.random() < 0.08)
        finally:
            server.kill()
        self._check_log()

    def finish(self) -> None:
        """A last start: compare, compact, compare, stop in order, verify from outside."""
        rng = random.Random(f"{self.seed}/end")
        server = ServerProcess(self.data, self.log)
        try:
            with Client(server.target()) as client:
                collection = client.collection(COLLECTION)
                self._check(client, collection, rng)
                collection.compact()
                _compare(found := scroll(collection), self._expected(), "after the last compaction")
                check_views(collection, found, rng, self._ever)
                self.counts["documents_at_the_end"] = len(found)
            code = server.terminate()
            _demand(code == 0, "exit", f"the server's exit code after SIGTERM is {code}")
        finally:
            server.kill()
        self._check_log()
        self._verify_offline()
        left = [entry.name for entry in self.data.rglob(".building-*")]
        _demand(not left, "leftover", f"unfinished folders were left behind: {left}")

    # --- checks --------------------------------------------------------------------------------------------

    def _check_log(self) -> None:
        text = self.log.read_text(errors="replace")
        _demand("Traceback" not in text and '"level": "error"' not in text, "server_error", text[-3000:])

    def _verify_offline(self) -> None:
        from sparsight.retrieval.engine import verify

        for name, report in verify(self.data).items():
            _demand(report.ok, "faults", f"verify of {name}: {report.faults[:5]}")
        self.counts["verified"] += 1

    def _expected(self) -> dict[str, int]:
        expected = dict(self._shared)
        for writer in self._writers:
            expected |= writer.documents
        return expected

    def _check(self, client: Client, collection: Collection, rng: random.Random) -> None:
        """Compare after a start; settle what was in doubt; send some of it again; compare again."""
        found = scroll(collection)
        applied = [writer for writer in self._writers if self._settle(writer, found)]
        self._settle_shared(found, applied)
        _compare(found, self._expected(), "scroll")
        check_views(collection, found, rng, self._ever)
        self._check_side(client)
        report = collection.verify()
        _demand(report.ok, "faults", f"verify: {report.faults[:5]}")
        _demand(report.documents == len(found), "faults", f"verify counts {report.documents}, expected {len(found)}")
        self.counts["verified"] += 1
        self.counts["documents_compared"] += len(found)
        self._send_again(collection, applied, rng)
        _compare(scroll(collection), self._expected(), "after sending again")

    def _settle(self, writer: Writer, found: Mapping[str, int]) -> bool:
        """Whether the writer's request in doubt took effect; it is wholly there or wholly absent."""
        prefix = f"w{writer.owner}-"
        mine = {key: op for key, op in found.items() if key.startswith(prefix)}
        request = writer.doubt
        if request is None:
            _compare(mine, writer.documents, f"writer {writer.owner}, nothing in doubt")
            return False
        self.counts["in_doubt"] += 1
        own, after = writer.own(request), writer.after(request)
        if mine == after:
            writer.documents = after
            self.counts["in_doubt_and_there"] += 1
            return True
        if mine != writer.documents:
            done = sum(mine.get(key) == op for key, op in own.items())
            _compare({k: v for k, v in mine.items() if k not in own},
                     {k: v for k, v in writer.documents.items() if k not in own}, f"writer {writer.owner}")
            raise Violation("half", f"{done} of {len(own)} changes of {request.kind} {request.number} are there")
        return False

    def _settle_shared(self, found: Mapping[str, int], applied: Iterable[Writer]) -> None:
        """Shared ids hold the last acknowledged write, or one in doubt that took effect."""
        for _, request in sorted(self._shared_log, key=lambda entry: entry[0]):
            self._shared = _changed(self._shared, {k: v for k, v in request.changes.items() if k.startswith("s-")})
        self._shared_log.clear()
        in_doubt = [writer.doubt for writer in applied if writer.doubt is not None]
        for key in {key for request in in_doubt for key in request.changes if key.startswith("s-")}:
            allowed = {self._shared.get(key), *(r.changes[key] for r in in_doubt if key in r.changes)}
            _demand(found.get(key) in allowed, "wrong", f"{key} holds {found.get(key)}, expected one of {allowed}")
            self._shared = _changed(self._shared, {key: found.get(key)})

    def _send_again(self, collection: Collection, applied: list[Writer], rng: random.Random) -> None:
        """Requests in doubt, and acknowledged ones: whatever had an effect has no second one."""
        for writer in self._writers:
            request, writer.doubt = writer.doubt, None
            before = collection.info(timeout=_WAIT_S).generation
            if writer.last is not None and rng.random() < 0.5:
                again = writer.last.send(collection)
                _demand(again == writer.last.answer, "second_effect", f"{again}, first {writer.last.answer}")
                _demand(collection.info(timeout=_WAIT_S).generation == before, "second_effect",
                        f"acknowledged request {writer.last.number} changed the collection again")
                self.counts["sent_again"] += 1
            if request is None or rng.random() < 0.3:
                continue
            answer = request.send(collection)
            changed = collection.info(timeout=_WAIT_S).generation - before
            self.counts["sent_again"] += 1
            _demand(request.send(collection) == answer, "second_effect", f"two answers to request {request.number}")
            if changed:
                # A request without visible effect (missing ids deleted) may look as if it had not been applied.
                _demand(changed == 1 and (writer not in applied or not self._visible(request)), "second_effect",
                        f"request {request.number} had been applied and was applied again")
                writer.documents = writer.after(request)
                shared = {key: op for key, op in request.changes.items() if key.startswith("s-")}
                self._shared = _changed(self._shared, shared)
            else:
                _demand(writer in applied, "lost", f"request {request.number} is remembered, its effect is not there")
            request.answer, writer.last = answer, request

    @staticmethod
    def _visible(request: Request) -> bool:
        return request.kind == "upsert"

    def _check_side(self, client: Client) -> None:
        names = {info.name for info in client.list_collections(timeout=_WAIT_S)} - {COLLECTION}
        for name, state in self._side.items():
            _demand(state is not True or name in names, "lost", f"collection {name} is gone")
            _demand(state is not False or name not in names, "resurrected", f"collection {name} is back")
        _demand(names <= self._side.keys(), "wrong", f"unknown collections {names - self._side.keys()}")
        self._side = dict.fromkeys(sorted(names), True)

    # --- load ----------------------------------------------------------------------------------------------

    def _load(self, client: Client, collection: Collection, server: ServerProcess, rng: random.Random, bulk: int,
              *, gentle: bool) -> None:
        """Writers until the kill (or, sometimes, an orderly stop under load)."""
        self._stopping.clear()
        threads = [threading.Thread(target=self._guard, args=(self._write, collection, writer,
                                                              random.Random(rng.random()), bulk))
                   for writer in self._writers]
        threads.append(threading.Thread(target=self._guard, args=(self._maintain, collection,
                                                                  random.Random(rng.random()))))
        threads.append(threading.Thread(target=self._guard, args=(self._create, client, random.Random(rng.random()))))
        for thread in threads:
            thread.start()
        time.sleep(rng.uniform(0.005, 0.5))
        if busy := self._busy:
            self.counts[f"kills_during_{busy}"] += 1
        self._stopping.set()
        if gentle:
            code = server.terminate()
            self.counts["orderly_stops"] += 1
        else:
            server.kill()
            self.counts["kills"] += 1
        for thread in threads:
            thread.join(_WAIT_S)
            _demand(not thread.is_alive(), "hang", "a call did not end after the server was killed")
        _demand(not gentle or code == 0, "exit", "an orderly stop under load failed")
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _guard(self, work: Any, *arguments: Any) -> None:
        """Errors after the kill are expected; before it they are not."""
        try:
            work(*arguments)
        except SparsightError as error:
            if not self._stopping.is_set():
                self._failure = Violation("refused", f"{type(error).__name__}: {error}")
        except BaseException as error:
            self._failure = error

    def _write(self, collection: Collection, writer: Writer, rng: random.Random, bulk: int) -> None:
        while not self._stopping.is_set():
            request = self._choose(writer, rng, bulk)
            self._ever.update(request.changes)
            writer.doubt = request
            request.answer = request.send(collection)
            writer.doubt, writer.last, writer.documents = None, request, writer.after(request)
            self._shared_log.append((request.answer.version, request))
            self.counts["acknowledged"] += 1
            self.counts[f"acknowledged_{request.kind}{'_by_filter' if request.filter else ''}"] += 1
            if len(request.changes) >= bulk and request.kind == "upsert":
                self.counts["acknowledged_bulk"] += 1
            if rng.random() < 0.15 and writer.own(request):  # visible at once
                key, op = rng.choice(list(writer.own(request).items()))
                shown = [item.metadata["op"] for item in collection.get_many([key], timeout=_WAIT_S)]
                _demand(shown == ([] if op is None else [op]), "invisible", f"{key} after its answer: {shown}")
            if rng.random() < 0.1:
                again = request.send(collection)
                _demand(again == request.answer, "second_effect", f"{again}, first {request.answer}")

    def _choose(self, writer: Writer, rng: random.Random, bulk: int) -> Request:
        number, owner, draw = next(self._numbers), writer.owner, rng.random()
        if len(writer.documents) > 3 * SMALL_IDS and draw < 0.5:
            least = _unique_term(_key(owner, SMALL_IDS))
            gone = [key for key in writer.documents if _unique_term(key) >= least]
            return Request(number, "delete", dict.fromkeys(gone), f"owner = {owner} and number >= {least}")
        if draw < 0.15:
            first = SMALL_IDS + rng.randrange(100)
            size = bulk + rng.randrange(bulk // 10 + 1)
            return Request(number, "upsert", {_key(owner, first + n): number for n in range(size)})
        if draw < 0.20:
            group = rng.randrange(GROUPS)
            gone = [key for key, op in writer.documents.items() if op % GROUPS == group]
            return Request(number, "delete", dict.fromkeys(gone), f"owner = {owner} and group = {group}")
        keys = [_key(owner, n) for n in rng.sample(range(SMALL_IDS), rng.randint(1, min(50, bulk - 3)))]
        keys += [_key(SHARED, n) for n in rng.sample(range(12), 2 if rng.random() < 0.5 else 0)]
        if draw < 0.40:
            known = rng.sample(sorted(writer.documents), min(len(writer.documents), rng.randint(0, 60)))
            return Request(number, "delete", dict.fromkeys([*keys[-20:], *known]))
        return Request(number, "upsert", dict.fromkeys(keys, number))

    def _maintain(self, collection: Collection, rng: random.Random) -> None:
        while not self._stopping.wait(rng.uniform(0, 0.06)):
            self._busy = rng.choice(["flush", "flush", "compaction"])
            if self._busy == "flush":
                collection.flush(timeout=_WAIT_S)
            else:
                collection.compact(timeout=_WAIT_S)
            self.counts[self._busy] += 1
            self._busy = ""

    def _create(self, client: Client, rng: random.Random) -> None:
        """Create and drop other collections."""
        while not self._stopping.wait(rng.uniform(0, 0.15)):
            there = [name for name, state in self._side.items() if state]
            if len(there) >= 3 or (there and rng.random() < 0.4):
                name = rng.choice(there)
                self._side[name] = None
                client.drop_collection(name, timeout=_WAIT_S)
                self._side[name] = False
            else:
                name = f"side{next(self._numbers)}"
                self._side[name] = None
                client.create_collection(name, FIELDS, timeout=_WAIT_S)
                self._side[name] = True
            self.counts["collections_made_or_dropped"] += 1


def run(folder: Path, *, cycles: int, seed: int, prelude: str = "") -> dict[str, Any]:
    """Run cycles; counts, times and the violation that ended them, if there was one.

    The folder is removed when all went well; otherwise it stays, as does what the server wrote to its log.
    """
    crasher, began = Crasher(folder, seed, prelude), time.monotonic()
    report: dict[str, Any] = {"seed": seed, "cycles": 0, "violations": 0}
    with _ending_in_order():
        try:
            for number in range(cycles):
                crasher.cycle(number)
                report["cycles"] += 1
            crasher.finish()
        except (Violation, SparsightError) as error:
            kind = error.kind if isinstance(error, Violation) else f"refused with {type(error).__name__}"
            report |= {"violations": 1, "kind": kind, "error": str(error), "cycle": report["cycles"],
                       "folder": str(folder), "replay": f"python benches/crash.py --cycles {cycles} --seed {seed}"}
    report |= dict(sorted(crasher.counts.items()))
    starts = sorted(crasher.start_ms) or [0.0]
    report |= {"start_ms_p50": round(starts[len(starts) // 2]), "start_ms_max": round(starts[-1]),
               "seconds": round(time.monotonic() - began, 1)}
    if not report["violations"]:
        shutil.rmtree(folder)
    return report


@contextlib.contextmanager
def _ending_in_order() -> Iterator[None]:
    """Let SIGTERM end this process through its ``finally`` blocks, so that no server stays behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
