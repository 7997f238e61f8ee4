"""The server over a real database: same answers as embedded, limits, deadlines, cancellation, health, drain."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from sparsight import errors
from sparsight.retrieval.collection import Collection as EmbeddedCollection
from sparsight.retrieval.engine import Database
from sparsight.service import _calls
from sparsight.service.aclient import AsyncClient
from sparsight.service.client import Client, Collection
from sparsight.service.limits import CallClass
from sparsight.service.server import SERVICES, Server, ServerThread
from sparsight.types import (
    BM25Field,
    DenseField,
    Document,
    Edit,
    Effort,
    Field,
    Fusion,
    Overlap,
    Passage,
    Query,
    Retriever,
    SearchResult,
    SparseField,
    SparseVector,
    Timings,
)
from sparsight.v1 import collections_pb2, search_pb2, search_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def plain(value: Any) -> Any:
    """``value`` with arrays as lists and without timings, so that == compares the rest."""
    if isinstance(value, SparseVector):
        return value.indices.tolist(), value.values.tolist()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Timings):
        return None
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if dataclasses.is_dataclass(value):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    return value


def make_documents(count: int) -> list[Document]:
    rng = np.random.default_rng(7)
    return [
        Document(
            f"doc/{i}",
            text=f"word{i % 7} common text {i}",
            title=f"title {i}",
            metadata={"year": 2000 + i % 20, "score": i / 8, "tags": ["a", i], "none": None, "ok": i % 2 == 0},
            vectors={
                "terms": SparseVector(
                    rng.choice(1000, 20, replace=False).astype(np.uint32), rng.random(20, dtype=np.float32) * 4
                ),
                "vec": rng.standard_normal(8).astype(np.float32),
            },
        )
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def papers(database: Database) -> EmbeddedCollection:
    fields = [SparseField("terms", dimension=1000), DenseField("vec", dimension=8), BM25Field("bm25")]
    collection = database.create_collection("papers", fields)
    collection.upsert(make_documents(300))
    collection.train_sae("sae", source="vec", n_latents=16, k=4, epochs=1)
    return collection


@pytest.fixture
def remote(papers: EmbeddedCollection, client: Client) -> Collection:
    return client.collection("papers")


def refused(kind: type[errors.SparsightError], call: Callable[[], Any]) -> errors.SparsightError:
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return caught.value


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


# --- the same as embedded ---------------------------------------------------------------------------------

TERMS = SparseVector(np.arange(0, 1000, 7, dtype=np.uint32), np.linspace(-0.5, 2, 143, dtype=np.float32))
POSITIVE = SparseVector(TERMS.indices, np.abs(TERMS.values))
VEC = np.linspace(-1, 1, 8, dtype=np.float32)
QUERIES = {
    "text": Query("common word3"),
    "sparse": Query(retrievers=[Retriever("terms", sparse=TERMS)], k=20, explain=True),
    "dense": Query(retrievers=[Retriever("vec", dense=VEC)], include=("vectors", "passage")),
    "fused": Query("word1", ["bm25", Retriever("terms", sparse=TERMS, weight=0.3), Retriever("vec", dense=VEC)],
                   explain=True),
    "rrf": Query("word1", ["bm25", Retriever("vec", dense=VEC)], fusion=Fusion("rrf", 10, 50)),
    "filtered": Query("common", filter='year >= 2010 and tags in ["a"] and not ok = true', k=5),
    "threshold": Query(retrievers=[Retriever("vec", dense=VEC)], min_score=0.0, k=1000),
    "steered": Query(retrievers=[Retriever("vec", dense=VEC)], edits=[Edit(3, "boost", 1.5), Edit(5, "exclude", 0.0)],
                     explain=True),
    "overlap": Query(retrievers=[Retriever("vec", dense=VEC)], k=1000,
                     overlaps=[Overlap(range(0, 16, 2), 2, 0.25), Overlap([1, 3, 5, 7, 9], field="sae")]),
    "approximate": Query("word1", ["bm25", Retriever("terms", sparse=POSITIVE)], effort=Effort(0.9, 60.0)),
    "budget": Query(retrievers=[Retriever("terms", sparse=POSITIVE)], effort=Effort(0.95, documents=20), k=5),
    "no time": Query(retrievers=[Retriever("terms", sparse=POSITIVE)], effort=Effort(seconds=1e-9)),
    "symmetric": Query(retrievers=[Retriever("sae", dense=VEC, scorer="symmetric", max_query_terms=2, rescore=0)],
                       explain=True),
    "rescored": Query(retrievers=[Retriever("sae", dense=VEC, max_query_terms=3, rescore=30)], explain=True),
    "reranked": Query("word1", ["bm25", Retriever("sae", dense=VEC, max_query_terms=0, rerank=50)],
                      edits=[Edit(3, "boost", 1.5)], explain=True),
    "no parts": Query("common", include=()),
    "nothing": Query("unheard"),
}  # fmt: skip


@pytest.mark.parametrize("name", QUERIES)
def test_search_equals_embedded(name: str, papers: EmbeddedCollection, remote: Collection) -> None:
    near, far = papers.search(QUERIES[name]), remote.search(QUERIES[name])
    assert len(near) > 0 or name in ("nothing", "no time")
    assert plain(far) == plain(near)
    modes = {"approximate": {"exact", "approximate"}, "budget": {"approximate"}, "no time": {"cut"}}
    assert {work.mode for work in far.work} == modes.get(name, {"exact"})
    assert [work.field for work in far.work] == [getattr(r, "field", r) for r in QUERIES[name].retrievers or ["bm25"]]
    assert any(work.reranked for work in far.work) == (name in ("reranked", "rescored"))
    assert far.timings.total_ms >= far.timings.server_ms > 0


def test_batch_search_equals_embedded(papers: EmbeddedCollection, remote: Collection) -> None:
    queries = [*QUERIES.values(), "common"]
    assert plain(remote.batch_search(queries, k=7)) == plain(papers.batch_search(queries, k=7))


def test_reads_equal_embedded(papers: EmbeddedCollection, remote: Collection) -> None:
    everything = ("title", "text", "metadata", "vectors")
    assert plain(remote.info()) == plain(papers.info())
    assert plain(remote.get("doc/3", include=everything)) == plain(papers.get("doc/3", include=everything))
    ids = ["doc/5", "nope", "doc/1"]
    assert plain(remote.get_many(ids)) == plain(papers.get_many(ids)) and len(papers.get_many(ids)) == 2
    assert remote.count("year < 2005") == papers.count("year < 2005") > 0
    page = remote.scroll("ok = true", page_size=40, include=everything)
    assert plain(page) == plain(papers.scroll("ok = true", page_size=40, include=everything))
    assert plain(remote.scroll("ok = true", page_size=40, page_token=page.next_page_token)) == plain(
        papers.scroll("ok = true", page_size=40, page_token=page.next_page_token))  # fmt: skip
    assert remote.verify() == papers.verify() and remote.verify().ok


def test_features_equal_embedded(papers: EmbeddedCollection, remote: Collection) -> None:
    page = remote.features(page_size=3)
    assert plain(page) == plain(papers.features(page_size=3)) and page.next_page_token
    assert plain(remote.features("word3", field="sae")) == plain(papers.features("word3", field="sae"))
    assert plain(remote.feature(7)) == plain(papers.feature(7))
    assert type(refused(errors.UnknownFeatureError, lambda: remote.feature(99)))
    ids = [document.id for document in papers.scroll(page_size=4).documents]
    for ask in (lambda c: c.find_features(ids[:2], ids[2:3], count=5), lambda c: c.related_features(7, count=3),
                lambda c: c.compare(ids[0], ids[3], count=6)):  # fmt: skip
        assert plain(ask(remote)) == plain(ask(papers)) and ask(remote)
    told = [str(refused(errors.FailedPreconditionError, partial(door.find_features, words="w")))
            for door in (remote, papers)]  # ready vectors take no words
    assert told[0] == told[1]
    for feature in (None, 7):
        assert plain(remote.families(feature, count=3)) == plain(papers.families(feature, count=3))
    assert plain(remote.feature_map()) == plain(papers.feature_map()) and papers.feature_map().points
    assert refused(errors.UnknownFieldError, lambda: remote.feature_map(field="nope")).field == "field"


def test_renaming_equals_embedded(papers: EmbeddedCollection, remote: Collection) -> None:
    before = papers.feature(7)
    assert remote.rename_feature(7, "sevens").history == (before.label,)
    assert plain(remote.feature(7)) == plain(papers.feature(7)) and papers.feature(7).label == "sevens"
    assert remote.rename_feature(7, "").label == before.label
    assert refused(errors.InvalidArgumentError, lambda: remote.rename_feature(7, "a\nb")).field == "label"


def test_profiles_equal_embedded(papers: EmbeddedCollection, remote: Collection) -> None:
    edits = [Edit(7, "boost", 1.5), Edit(3, "clamp", 0.5, when=7, when_strength=0.1)]
    saved = remote.save_profile("up", edits, note="for tests")
    assert saved.version == 1 and [(edit.feature, edit.when) for edit in saved.edits] == [(7, None), (3, 7)]
    assert remote.save_profile("up", edits[:1]).version == 2
    assert plain(remote.profile("up", 1)) == plain(papers.profile("up", 1))
    assert plain(remote.profiles()) == plain(papers.profiles()) and len(remote.profiles()) == 1
    query = Query(retrievers=[Retriever("vec", dense=VEC)], profile="up@1", explain=True)
    assert plain(remote.search(query)) == plain(papers.search(query))
    assert plain(remote.search(query)) == plain(papers.search(dataclasses.replace(query, profile="", edits=edits)))
    remote.drop_profile("up")
    assert papers.profiles() == [] and refused(errors.UnknownProfileError, lambda: remote.profile("up"))


ERRORS: dict[str, Callable[[Any], Any]] = {
    "unknown document": lambda c: c.get("nope"),
    "k": lambda c: c.search("x", k=0),
    "filter": lambda c: c.count("year =="),
    "dimension": lambda c: c.search(Query(retrievers=[Retriever("vec", dense=VEC[:3])])),
    "field": lambda c: c.search(Query("x", ["nope"])),
    "document": lambda c: c.upsert([Document("a"), Document("b", vectors={"terms": {5: float("nan")}})]),
    "no documents": lambda c: c.upsert([]),
    "id": lambda c: c.upsert([{"id": "a\nb"}]),
    "unknown key": lambda c: c.upsert([{"id": "a", "titel": "x"}]),
    "metadata": lambda c: c.upsert([{"id": "a", "metadata": {"m": object()}}]),
    "batch": lambda c: c.batch_search(["x", Query("x", min_score=float("nan"))]),
    "ids and filter": lambda c: c.delete(["a"], filter="year = 1"),
    "one string": lambda c: c.delete("doc/1"),
    "page token": lambda c: c.scroll(page_token="x"),
    "feature": lambda c: c.search("x", edits=[Edit(99)]),
    "argument": lambda c: c.search("x", limit=3),
    "include": lambda c: c.search("x", include=["all"]),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_equal_embedded(name: str, papers: EmbeddedCollection, remote: Collection) -> None:
    with pytest.raises(errors.SparsightError) as near:
        ERRORS[name](papers)
    with pytest.raises(errors.SparsightError) as far:
        ERRORS[name](remote)
    assert type(far.value) is type(near.value)
    assert (far.value.field, far.value.reason) == (near.value.field, near.value.reason)


def test_a_collections_life(client: Client, database: Database, fields: tuple[Field, ...]) -> None:
    made = client.create_collection("life", fields)
    assert "life" in [info.name for info in client.list_collections()]
    refused(errors.AlreadyExistsError, lambda: client.create_collection("life", fields))
    assert client.create_collection("life", fields, exist_ok=True).name == client["life"].name == "life"
    assert made.info().fields == fields
    written = made.upsert(make_documents(3))
    assert (written.upserted, written.replaced) == (3, 0)
    assert made.upsert(make_documents(2)).replaced == 2
    passages = [Passage("one", {"terms": {1: 1.0}}), Passage("two", {"terms": {2: 1.0}})]
    made.upsert([Document("p", passages=passages)])
    hit = made.search(Query(retrievers=[Retriever("terms", sparse=SparseVector.from_dict({2: 1.0}))]), k=1)[0]
    assert (hit.id, hit.passage, hit.passage_text) == ("p", 1, "two")
    assert made.delete(["doc/0", "nope"]).deleted == 1
    assert made.delete(filter="year = 2001").deleted == 1
    made.flush()
    assert made.count() == 2
    done = made.compact()
    assert done.done and not done.error and done.kind == "compact"
    assert [op.name for op in client.list_operations()] == [op.name for op in database.list_operations()]
    started = made.compact(wait=False)
    assert client.wait_operation(started.name, 10).done
    client.delete_operation(started.name)
    refused(errors.UnknownOperationError, lambda: client.operation(started.name))
    client.drop_collection("life")
    refused(errors.UnknownCollectionError, lambda: client.collection("life"))


def test_writes_with_one_request_id_count_once(remote: Collection) -> None:
    document = {"id": "once", "text": "x"}
    first, second = (remote.upsert([document], request_id="mine") for _ in range(2))
    assert first == second
    refused(errors.ConflictError, lambda: remote.upsert([{"id": "other"}], request_id="mine"))
    remote.delete(["once"])


def test_large_writes_and_reads_go_in_parts(client: Client, fields: tuple[Field, ...]) -> None:
    collection = client.create_collection("large", fields)
    text = "common " + "x" * 499_993
    written = collection.upsert({"id": f"{i}", "text": text} for i in range(50))  # 25 MB
    assert written.upserted == 50 == collection.count()
    ids = [f"{i}" for i in range(50)]
    assert [document.id for document in collection.get_many(ids)] == ids
    assert sum(len(document.text) for document in collection.get_many(ids)) == 25_000_000
    seen, token = [], ""
    while True:
        page = collection.scroll(page_size=1000, page_token=token)
        seen += [document.id for document in page.documents]
        if not (token := page.next_page_token):
            break
    assert seen == ids
    error = refused(errors.InvalidArgumentError, lambda: collection.search("common", k=50))
    assert error.reason == "RESPONSE_TOO_LARGE"
    assert len(collection.search("common", k=50, include=())) == 50
    assert [len(found) for found in collection.batch_search(["common"] * 5, k=10, include=["text"])] == [10] * 5
    client.drop_collection("large")


# --- stopping ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def heavy(database: Database) -> tuple[EmbeddedCollection, list[Query], float]:
    """A collection, queries that keep it busy for a second or more, and how long that is."""
    rng = np.random.default_rng(0)
    collection = database.create_collection("heavy", [SparseField("terms", dimension=1000)])
    collection.upsert(
        Document(f"{i}", vectors={"terms": SparseVector(rng.choice(1000, 200, replace=False).astype(np.uint32),
                                                        rng.random(200, dtype=np.float32) + 0.1)})
        for i in range(4000)
    )  # fmt: skip
    every = np.arange(1000, dtype=np.uint32)
    queries = [
        Query(retrievers=[Retriever("terms", sparse=SparseVector(every, rng.random(1000, dtype=np.float32)))],
              include=())
        for _ in range(1024)
    ]  # fmt: skip
    started = time.perf_counter()
    collection.batch_search(queries)
    return collection, queries, time.perf_counter() - started


def active(server: ServerThread) -> int:
    return server._server._dispatcher.active


def batch_request(heavy: tuple[EmbeddedCollection, list[Query], float]) -> search_pb2.BatchSearchRequest:
    rpc = next(_calls.batch_search("heavy", heavy[1], {}))
    assert isinstance(rpc.request, search_pb2.BatchSearchRequest)
    return rpc.request


@pytest.mark.parametrize("how", ["cancel", "deadline", "close"])
def test_an_ended_call_stops_its_search(
    how: str, heavy: tuple[EmbeddedCollection, list[Query], float], server: ServerThread,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    outcomes: list[BaseException | None] = []
    search = EmbeddedCollection.batch_search

    def observed(self: EmbeddedCollection, *args: Any, **kwargs: Any) -> list[SearchResult]:
        try:
            found = search(self, *args, **kwargs)
            outcomes.append(None)
            return found
        except BaseException as error:
            outcomes.append(error)
            raise

    monkeypatch.setattr(EmbeddedCollection, "batch_search", observed)
    request, seconds = batch_request(heavy), heavy[2]
    channel = grpc.insecure_channel(server.target, [("grpc.max_send_message_length", -1)])
    stub = search_pb2_grpc.SearchServiceStub(channel)
    wait_for(lambda: active(server) == 0)
    call = stub.BatchSearch.future(request, timeout=0.4 * seconds if how == "deadline" else 60)
    wait_for(lambda: active(server) == 1)
    if how != "deadline":
        time.sleep(0.2 * seconds)
        call.cancel() if how == "cancel" else channel.close()
    wait_for(lambda: bool(outcomes), 5 * seconds + 5)
    # The search itself ended with the error of a stopped kernel, and its place is free again.
    assert isinstance(outcomes[0], errors.SearchStoppedError)
    wait_for(lambda: active(server) == 0)
    channel.close()


def test_client_deadline(heavy: tuple[EmbeddedCollection, list[Query], float], client: Client) -> None:
    collection = client.collection("heavy")
    started = time.perf_counter()
    refused(errors.DeadlineError, lambda: collection.batch_search(heavy[1], timeout=0.3 * heavy[2]))
    assert time.perf_counter() - started < 0.8 * heavy[2] + 0.5
    refused(errors.DeadlineError, lambda: collection.search(heavy[1][0], timeout=0.0))
    assert len(collection.search(heavy[1][0])) == 10


@pytest.mark.slow
def test_too_many_calls_are_refused(database: Database, heavy: tuple[EmbeddedCollection, list[Query], float]) -> None:
    classes = {"search": CallClass(workers=1, queue=1)}
    with ServerThread(database, classes=classes) as server, Client(server.target) as client:
        collection = client.collection("heavy")
        threads = [threading.Thread(target=collection.batch_search, args=(heavy[1],)) for _ in range(2)]
        for number, thread in enumerate(threads):
            thread.start()
            wait_for(lambda number=number: active(server) == number + 1)  # type: ignore[misc]
        error = refused(errors.OverloadedError, lambda: collection.search(heavy[1][0]))
        assert 0.1 <= float(error.details["retry_after_s"]) <= 10
        assert collection.count() == 4000  # calls of other classes have places of their own
        client.wait_ready(5)
        for thread in threads:
            thread.join()
        assert len(collection.search(heavy[1][0])) == 10


# --- errors of the server's own ---------------------------------------------------------------------------


def test_unexpected_exceptions_end_as_internal_with_an_id(
    papers: EmbeddedCollection, database: Database, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise KeyError("a text that nobody should see")

    monkeypatch.setattr(EmbeddedCollection, "count", broken)
    with ServerThread(database) as server, Client(server.target) as client:
        error = refused(errors.RemoteError, client.collection("papers").count)
    [line] = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    assert line["error_id"] == error.details["errorId"]
    assert (line["exception"], line["code"]) == ("builtins.KeyError", "INTERNAL")
    assert any(frame.endswith("broken") for frame in line["traceback"])
    assert "nobody should see" not in json.dumps(line) + str(error)


def test_the_log_has_calls_and_no_texts(
    papers: EmbeddedCollection, database: Database, capfd: pytest.CaptureFixture[str]
) -> None:
    with ServerThread(database, log_level="info") as server, Client(server.target) as client:
        client.collection("papers").search("confidential words")
        channel = grpc.insecure_channel(server.target)
        stub = channel.unary_unary("/sparsight.v1.CollectionService/ListCollections")
        stub(b"", metadata=(("x-request-id", "request-17"),), timeout=10)
        stub(b"", metadata=(("x-request-id", 'bad"id {}'),), timeout=10)
        channel.close()
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    calls = [line for line in lines if line["event"] == "call"]
    # A call is answered before its line is written, so the next one's may come first.
    assert sorted(line["method"].split("/")[1] for line in calls) == [
        "GetCollection", "ListCollections", "ListCollections", "Search"]  # fmt: skip
    assert all(line["code"] == "OK" and line["ms"] >= 0 and line["request_id"] for line in calls)
    listed = {line["request_id"] for line in calls if line["method"].endswith("/ListCollections")}
    assert "request-17" in listed and not any("bad" in one for one in listed)
    assert "confidential" not in json.dumps(lines)


def test_messages_above_the_limit(remote: Collection) -> None:
    error = refused(errors.InvalidArgumentError, lambda: remote.upsert([Document("a", "x" * 17 * 2**20)]))
    assert (error.field, error.reason) == ("documents[0]", "DOCUMENT_TOO_LARGE")
    error = refused(errors.InvalidArgumentError, lambda: remote.search("x" * 17 * 2**20))
    assert error.reason == "MESSAGE_TOO_LARGE"


# --- health, reflection, addresses ------------------------------------------------------------------------


def test_health(server: ServerThread) -> None:
    with grpc.insecure_channel(server.target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", *SERVICES):
            assert stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5).status == SERVING
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(service="nope"), timeout=5)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def listed(target: str) -> set[str]:
    with grpc.insecure_channel(target) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        [answer] = stub.ServerReflectionInfo(iter([request]), timeout=5)
        return {service.name for service in answer.list_services_response.service}


def test_reflection(server: ServerThread, database: Database) -> None:
    assert {*SERVICES, "grpc.health.v1.Health"} <= listed(server.target)
    with grpc.insecure_channel(server.target) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(file_containing_symbol="sparsight.v1.CollectionService")
        [answer] = stub.ServerReflectionInfo(iter([request]), timeout=5)
        assert collections_pb2.DESCRIPTOR.serialized_pb in answer.file_descriptor_response.file_descriptor_proto
    with ServerThread(database, reflection_enabled=False) as quiet, pytest.raises(grpc.RpcError) as caught:
        listed(quiet.target)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", "", "localhost.example.org"])
def test_only_loopback_without_permission(host: str, database: Database) -> None:
    assert refused(errors.InvalidArgumentError, lambda: Server(database, host)).field == "host"
    assert Server(database, host, insecure_allow_remote=True).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.9.9.9"])
def test_loopback_addresses(host: str, database: Database) -> None:
    assert Server(database, host, 7).target == ("[::1]:7" if host == "::1" else f"{host}:7")
    refused(errors.InvalidArgumentError, lambda: Server(database, host, 65_536))


def test_two_servers_do_not_share_a_port(server: ServerThread, database: Database) -> None:
    port = int(server.target.rsplit(":", 1)[1])
    refused(errors.FailedPreconditionError, lambda: ServerThread(database, port=port).start())


def test_models_by_folder_only_when_allowed(database: Database, tmp_path: Path) -> None:
    with ServerThread(database, allow_model_folders=True) as server, Client(server.target) as client:
        error = refused(errors.CheckpointError, lambda: client.encode(str(tmp_path / "none"), ["x"]))
    assert error.reason == "MODEL_NOT_FOUND"


# --- the end ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_drain(database: Database, heavy: tuple[EmbeddedCollection, list[Query], float]) -> None:
    """Calls under way are finished, health says no, new calls are refused with UNAVAILABLE."""
    server = ServerThread(database).start()
    found: list[int] = []
    with Client(server.target, options={"grpc.enable_retries": 0}) as client, \
            grpc.insecure_channel(server.target) as channel:  # fmt: skip
        collection, health = client.collection("heavy"), health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=5).status == SERVING
        busy = threading.Thread(target=lambda: found.append(len(collection.batch_search(heavy[1]))))
        busy.start()
        wait_for(lambda: active(server) == 1)
        stopping = threading.Thread(target=server.stop, args=(60.0,))
        stopping.start()
        wait_for(lambda: health.Check(health_pb2.HealthCheckRequest(), timeout=5).status == NOT_SERVING)
        error = refused(errors.UnavailableError, collection.count)
        assert "shutting down" in error.message
        busy.join()
        stopping.join()
        assert found == [1024]
        refused(errors.UnavailableError, lambda: client.wait_ready(0.2))
    server.stop()  # a second time does nothing


@pytest.mark.slow
def test_grace_ends(database: Database, heavy: tuple[EmbeddedCollection, list[Query], float]) -> None:
    server = ServerThread(database).start()
    stopped: list[errors.SparsightError] = []

    def search() -> None:
        try:
            client.collection("heavy").batch_search(heavy[1])
        except errors.SparsightError as error:
            stopped.append(error)

    with Client(server.target, options={"grpc.enable_retries": 0}) as client:
        busy = threading.Thread(target=search)
        busy.start()
        wait_for(lambda: active(server) == 1)
        started = time.perf_counter()
        server.stop(0.1 * heavy[2])
        assert time.perf_counter() - started < 0.8 * heavy[2] + 1.0
        busy.join()
    assert len(stopped) == 1


SCRIPT = """
import sys
from sparsight.retrieval.engine import Database
from sparsight.service.server import serve
with Database(sys.argv[1]) as database:
    serve(database, port=0, log_level="info", ready=lambda target: print(target, flush=True))
print("closed", flush=True)
"""


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "data")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as child:
        yield child
        child.kill()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_exits_with_0(number: int, process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None and process.stderr is not None
    target = process.stdout.readline().strip()
    with Client(target) as client:
        client.wait_ready(10)
        client.create_collection("papers", [BM25Field()]).upsert([{"id": "1", "text": "kept"}])
        process.send_signal(number)
        assert process.wait(20) == 0
    assert process.stdout.read() == "closed\n"
    events = [json.loads(line)["event"] for line in process.stderr.read().splitlines()]
    assert events[0] == "started" and events[-2:] == ["draining", "stopped"]


@pytest.mark.slow
def test_a_second_signal_exits_at_once(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    rng = np.random.default_rng(0)
    with Client(process.stdout.readline().strip()) as client, grpc.insecure_channel(client.target) as channel:
        collection = client.create_collection("heavy", [SparseField("terms", dimension=1000)])
        weights = [dict(enumerate(rng.random(1000).tolist())) for _ in range(20)]
        collection.upsert({"id": f"{i}", "vectors": {"terms": weights[i % 20]}} for i in range(3000))
        every = SparseVector(np.arange(1000, dtype=np.uint32), rng.random(1000, dtype=np.float32))
        query = Query(retrievers=[Retriever("terms", sparse=every)], include=())
        request = next(_calls.batch_search("heavy", [query] * 1024, {})).request
        call = search_pb2_grpc.SearchServiceStub(channel).BatchSearch.future(request)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert process.poll() is None  # a call is under way, and waited for
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 128 + signal.SIGTERM
        assert call.exception() is not None


# --- asyncio ----------------------------------------------------------------------------------------------


async def test_async_client(papers: EmbeddedCollection, server: ServerThread) -> None:
    async with AsyncClient(server.target) as client:
        await client.wait_ready(10)
        collection = await client.collection("papers")
        for query in QUERIES.values():
            assert plain(await collection.search(query)) == plain(papers.search(query))
        assert plain(await client["papers"].batch_search(["common"] * 3)) == plain(papers.batch_search(["common"] * 3))
        made = await client.create_collection("async", [BM25Field()])
        assert (await made.upsert([{"id": "1", "text": "hello"}])).upserted == 1
        assert (await made.compact()).done
        with pytest.raises(errors.UnknownDocumentError):
            await made.get("nope")
        with pytest.raises(errors.UnknownCollectionError):
            await client.collection("nope")
        await client.drop_collection("async")
    with pytest.raises(errors.ClosedError):
        await collection.count()


async def test_async_client_does_not_hold_up_the_loop(
    heavy: tuple[EmbeddedCollection, list[Query], float], server: ServerThread
) -> None:
    import asyncio

    async with AsyncClient(server.target) as client:
        search = asyncio.create_task(client["heavy"].batch_search(heavy[1]))
        turns = 0
        while not search.done():
            await asyncio.sleep(0.005)
            turns += 1
        assert len(await search) == 1024
        assert turns > 10  # a call that blocks would leave two: before it and after it


async def test_a_cancelled_task_stops_the_search(
    heavy: tuple[EmbeddedCollection, list[Query], float], server: ServerThread
) -> None:
    import asyncio

    wait_for(lambda: active(server) == 0)
    async with AsyncClient(server.target) as client:
        task = asyncio.create_task(client["heavy"].batch_search(heavy[1]))
        while active(server) == 0:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        wait_for(lambda: active(server) == 0, 0.6 * heavy[2] + 1.0)


def test_what_is_safe_is_tried_again(server: ServerThread, client: Client, remote: Collection) -> None:
    """A server that refuses for a moment, as one that is being replaced does."""
    dispatcher = server._server._dispatcher

    def after_a_refusal(call: Callable[[], Any]) -> Any:
        dispatcher.draining = True
        threading.Timer(0.05, setattr, (dispatcher, "draining", False)).start()
        return call()

    try:
        assert after_a_refusal(remote.count) == 300
        assert after_a_refusal(lambda: remote.upsert([{"id": "again", "text": "x" * 2**20}])).upserted == 1
        assert after_a_refusal(lambda: remote.delete(["again"])).deleted == 1
        # Not what would end in "exists already" if the first try had succeeded after all.
        make = lambda: client.create_collection("new", [BM25Field()])  # noqa: E731
        refused(errors.UnavailableError, lambda: after_a_refusal(make))
    finally:
        dispatcher.draining = False


def test_clients_that_reach_nobody(tmp_path: Path) -> None:
    with Client(f"unix:{tmp_path / 'none'}") as client:
        started = time.perf_counter()
        refused(errors.UnavailableError, lambda: client.wait_ready(0.5))
        assert time.perf_counter() - started < 3
        refused(errors.UnavailableError, lambda: client.list_collections(timeout=5))
    refused(errors.ClosedError, client.list_collections)
    for target in ("", "a b", 7):
        refused(errors.InvalidArgumentError, lambda target=target: Client(target))  # type: ignore[misc]
    with Client("127.0.0.1:1") as client:
        assert refused(errors.InvalidArgumentError, lambda: client.list_collections(timeout=-1)).field == "timeout"
