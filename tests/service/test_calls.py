"""The clients' requests without a server: how calls are split, named, merged, and how errors are put into place."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sparsight.errors import (
    ConflictError,
    DeadlineError,
    FailedPreconditionError,
    InvalidArgumentError,
    InvalidQueryError,
    InvalidVectorError,
    SparsightError,
)
from sparsight.service import _calls, _calls_operations
from sparsight.service._parts import Rpc
from sparsight.service.convert_collections import operation_to_proto
from sparsight.service.limits import MAX_MESSAGE_BYTES, PART_BYTES
from sparsight.types import Document, Operation, Query, WriteResult
from sparsight.v1 import documents_pb2, encoding_pb2, search_pb2


def drive(steps: Any, answer: Callable[[Any], Any]) -> tuple[Any, list[Any]]:
    """Result of the steps when each request is answered by ``answer``, which may raise, and the requests."""
    requests = []
    try:
        rpc: Rpc = next(steps)
        while True:
            requests.append(rpc.request)
            try:
                given = answer(rpc.request)
            except SparsightError as error:
                rpc = steps.throw(error)
            else:
                assert isinstance(given, rpc.response)
                rpc = steps.send(given)
    except StopIteration as stop:
        return stop.value, requests


def written(request: documents_pb2.UpsertDocumentsRequest) -> documents_pb2.UpsertDocumentsResponse:
    summary = documents_pb2.WriteSummary(upserted=len(request.documents), version=7, saturated_weights=1)
    return documents_pb2.UpsertDocumentsResponse(summary=summary)


BIG = "x" * (PART_BYTES // 4)  # four fit into a part by their texts alone, three with what is around them


def test_upserts_are_split_by_size_and_merged() -> None:
    documents = [Document(f"d{i}", BIG) for i in range(7)]
    result, requests = drive(_calls.upsert("papers", documents, ""), written)
    assert [[d.id for d in request.documents] for request in requests] == [
        ["d0", "d1", "d2"],
        ["d3", "d4", "d5"],
        ["d6"],
    ]
    assert all(request.ByteSize() < MAX_MESSAGE_BYTES for request in requests)
    assert result == WriteResult(upserted=7, version=7, saturated_weights=3)


def test_parts_have_ids_of_their_own_that_a_repeat_has_again() -> None:
    documents = [Document(f"d{i}", BIG) for i in range(7)]
    ids = [[r.request_id for r in drive(_calls.upsert("papers", documents, "mine"), written)[1]] for _ in range(2)]
    assert ids[0] == ids[1] == ["mine", "mine/1", "mine/2"]
    long = drive(_calls.upsert("papers", documents, "y" * 128), written)[1]
    assert long[0].request_id == "y" * 128 and all(len(request.request_id) <= 128 for request in long)
    made = [drive(_calls.upsert("papers", documents[:1], ""), written)[1][0].request_id for _ in range(2)]
    assert made[0] != made[1] and all(made)


def test_documents_are_taken_one_by_one() -> None:
    taken = []

    def documents():
        for i in itertools.count():
            taken.append(i)
            yield {"id": f"d{i}", "text": BIG}

    steps = _calls.upsert("papers", documents(), "")
    next(steps)
    assert len(taken) == 4  # a part of three, and the one that did not fit
    steps.close()


def test_errors_of_a_later_part_are_put_into_place() -> None:
    def answer(request: documents_pb2.UpsertDocumentsRequest) -> documents_pb2.UpsertDocumentsResponse:
        if request.request_id == "r/1":
            raise InvalidVectorError("not finite", field='documents[2].vectors["a"].values[7]')
        return written(request)

    with pytest.raises(InvalidVectorError) as caught:
        drive(_calls.upsert("papers", [Document(f"d{i}", BIG) for i in range(7)], "r"), answer)
    assert caught.value.field == 'documents[5].vectors["a"].values[7]'
    assert caught.value.details["documents_written"] == "3"


@pytest.mark.parametrize(
    ("documents", "path", "reason"),
    [
        ("abc", "documents", "INVALID_ARGUMENT"),
        ({"id": "a"}, "documents", "INVALID_ARGUMENT"),
        (Document("a"), "documents", "INVALID_ARGUMENT"),
        ([Document("a"), 3], "documents[1]", "INVALID_ARGUMENT"),
        ([{"id": "a", "titel": "x"}], "documents[0]", "INVALID_ARGUMENT"),
        ([{"text": "x"}], "documents[0]", "INVALID_ARGUMENT"),
        ([{"id": 3}], "documents[0].id", "INVALID_ARGUMENT"),
        ([Document("a"), Document("a")], "documents[1].id", "DUPLICATE_ID"),
        ([Document("a", "x" * MAX_MESSAGE_BYTES)], "documents[0]", "DOCUMENT_TOO_LARGE"),
        ([Document("a", vectors=[1.0])], "documents[0].vectors", "INVALID_ARGUMENT"),
    ],
)
def test_documents_that_cannot_be_sent(documents: Any, path: str, reason: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        drive(_calls.upsert("papers", documents, ""), written)
    assert (caught.value.field, caught.value.reason) == (path, reason)


def test_no_documents_are_the_servers_to_refuse() -> None:
    _, requests = drive(_calls.upsert("papers", [], ""), written)
    assert len(requests) == 1 and not requests[0].documents


def found(request: search_pb2.BatchSearchRequest) -> search_pb2.BatchSearchResponse:
    results = [search_pb2.SearchResult(hits=[search_pb2.Hit(id=query.text[:8])]) for query in request.queries]
    return search_pb2.BatchSearchResponse(results=results)


def test_batches_are_split_by_size_and_number() -> None:
    queries = [f"{i:08}" + "x" * 3 * 2**20 for i in range(5)]
    results, requests = drive(_calls.batch_search("papers", queries, {}), found)
    assert [len(request.queries) for request in requests] == [2, 2, 1]
    assert [result.ids for result in results] == [[f"{i:08}"] for i in range(5)]
    assert [len(r.queries) for r in drive(_calls.batch_search("papers", ["q"] * 2500, {}), found)[1]] == [
        1024,
        1024,
        452,
    ]


def test_parts_with_answers_that_are_too_large_are_halved() -> None:
    def answer(request: search_pb2.BatchSearchRequest) -> search_pb2.BatchSearchResponse:
        if len(request.queries) > 3:
            raise InvalidArgumentError("too large", reason="RESPONSE_TOO_LARGE")
        return found(request)

    results, _ = drive(_calls.batch_search("papers", [f"{i}" for i in range(10)], {}), answer)
    assert [result.ids for result in results] == [[f"{i}"] for i in range(10)]


def test_one_answer_that_is_too_large_is_an_error() -> None:
    def answer(request: search_pb2.BatchSearchRequest) -> search_pb2.BatchSearchResponse:
        raise InvalidArgumentError("too large", reason="RESPONSE_TOO_LARGE")

    with pytest.raises(InvalidArgumentError, match="too large"):
        drive(_calls.batch_search("papers", ["a", "b"], {}), answer)


@pytest.mark.parametrize(("path", "place"), [("queries[1].k", "queries[1025].k"), ("filter", "filter")])
def test_errors_of_a_later_query(path: str, place: str) -> None:
    def answer(request: search_pb2.BatchSearchRequest) -> search_pb2.BatchSearchResponse:
        if len(request.queries) < 1024:
            raise InvalidQueryError("no", field=path)
        return found(request)

    with pytest.raises(InvalidQueryError) as caught:
        drive(_calls.batch_search("papers", ["q"] * 1030, {}), answer)
    assert caught.value.field == place


def test_an_error_of_a_query_that_is_alone_in_its_part() -> None:
    def answer(request: search_pb2.BatchSearchRequest) -> search_pb2.BatchSearchResponse:
        if len(request.queries) == 1:
            raise InvalidQueryError("no", field="k")
        return found(request)

    with pytest.raises(InvalidQueryError) as caught:
        drive(_calls.batch_search("papers", ["q"] * 1025, {}), answer)
    assert caught.value.field == "queries[1024].k"


def test_overrides_replace_parts_of_the_query() -> None:
    query = _calls.as_query(Query("text", k=3), {"k": 5, "filter": "year > 2000"})
    assert query == Query("text", k=5, filter="year > 2000")
    assert _calls.as_query("text", {}) == Query("text")
    for wrong in ({"limit": 3}, {"top": 1}):
        with pytest.raises(InvalidQueryError):
            _calls.as_query("text", wrong)
    with pytest.raises(InvalidQueryError):
        _calls.as_query(3, {})  # type: ignore[arg-type]


def test_dense_encodings_are_joined() -> None:
    def answer(request: encoding_pb2.EncodeRequest) -> encoding_pb2.EncodeResponse:
        made = encoding_pb2.EncodeResponse()
        made.dense.rows, made.dense.columns = len(request.texts), 2
        made.dense.values.extend(float(x) for text in request.texts for x in (text, 0))
        return made

    encoded, requests = drive(_calls.encode("m", [str(i) for i in range(1500)], "query"), answer)
    assert len(requests) == 2 and requests[0].mode == encoding_pb2.ENCODE_MODE_QUERY
    assert encoded.dtype == np.float32 and encoded[:, 0].tolist() == list(range(1500))


def test_waiting_ends_with_the_operation_or_the_time() -> None:
    states = iter(
        [
            Operation("operations/a"),
            Operation("operations/a", progress=0.5),
            Operation("operations/a", done=True, result={"segments": 1}),
        ]
    )
    wait = _calls_operations.wait_operation
    result, requests = drive(wait("operations/a", None), lambda _: operation_to_proto(next(states)))
    assert result.result == {"segments": 1} and len(requests) == 3
    with pytest.raises(DeadlineError):
        drive(wait("operations/a", 0.0), lambda _: operation_to_proto(Operation("operations/a")))


def test_failed_work_raises_when_it_is_waited_for() -> None:
    failed = Operation("operations/a", "compact", done=True, error="no space")
    with pytest.raises(FailedPreconditionError, match="no space") as caught:
        drive(_calls_operations.compact("papers", True), lambda _: operation_to_proto(failed))
    assert caught.value.reason == "OPERATION_FAILED"
    started = drive(_calls_operations.compact("papers", False), lambda _: operation_to_proto(failed))[0]
    assert dataclasses.asdict(started) == dataclasses.asdict(failed)


def test_other_errors_pass_unchanged() -> None:
    def answer(request: documents_pb2.UpsertDocumentsRequest) -> documents_pb2.UpsertDocumentsResponse:
        raise ConflictError("used", field="request_id")

    with pytest.raises(ConflictError) as caught:
        drive(_calls.upsert("papers", [Document("a")], "r"), answer)
    assert caught.value.field == "request_id" and "documents_written" not in caught.value.details
