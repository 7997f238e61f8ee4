"""Calls about operations, and those that start one; see :mod:`sparsight.service._calls`."""

from __future__ import annotations

import time

from google.longrunning import operations_proto_pb2 as longrunning_pb2
from google.protobuf import empty_pb2
from google.protobuf.message import Message

from sparsight.errors import DeadlineError, FailedPreconditionError
from sparsight.service._parts import SEARCH_SECONDS, Rpc, Steps, call
from sparsight.service.convert import enum_to_proto, integer, number, text
from sparsight.service.convert_collections import (
    SCORERS,
    WEIGHTINGS,
    collection_resource,
    field_resource,
    operation_from_proto,
)
from sparsight.types import Operation, SAEField
from sparsight.v1 import collections_pb2, features_pb2

WAIT_SECONDS = 20.0
"""How long one request waits for an operation; as many follow as are needed."""


def _operation_rpc(method: str, request: Message, response: type[Message], seconds: float = SEARCH_SECONDS) -> Rpc:
    return Rpc(f"google.longrunning.Operations/{method}", request, response, seconds)


def operation(name: str) -> Steps[Operation]:
    request = longrunning_pb2.GetOperationRequest(name=text(name, "name"))
    return operation_from_proto((yield _operation_rpc("GetOperation", request, longrunning_pb2.Operation)))


def list_operations() -> Steps[list[Operation]]:
    found: list[Operation] = []
    token = ""
    while True:
        request = longrunning_pb2.ListOperationsRequest(name="operations", page_size=1000, page_token=token)
        page = yield _operation_rpc("ListOperations", request, longrunning_pb2.ListOperationsResponse)
        found.extend(map(operation_from_proto, page.operations))
        if not (token := page.next_page_token):
            return found


def cancel_operation(name: str) -> Steps[None]:
    request = longrunning_pb2.CancelOperationRequest(name=text(name, "name"))
    yield _operation_rpc("CancelOperation", request, empty_pb2.Empty)


def delete_operation(name: str) -> Steps[None]:
    request = longrunning_pb2.DeleteOperationRequest(name=text(name, "name"))
    yield _operation_rpc("DeleteOperation", request, empty_pb2.Empty)


def _finish(started: Operation) -> Steps[Operation]:
    done = yield from wait_operation(started.name, None)
    if done.error:
        raise FailedPreconditionError(done.error, reason="OPERATION_FAILED", operation=done.name)
    return done


def wait_operation(name: str, timeout: float | None) -> Steps[Operation]:
    """The operation once it is done; DeadlineError when it is not after ``timeout`` seconds."""
    end = None if timeout is None else time.monotonic() + timeout
    while True:
        request = longrunning_pb2.WaitOperationRequest(name=text(name, "name"))
        wait = WAIT_SECONDS if end is None else max(0.0, min(WAIT_SECONDS, end - time.monotonic()))
        request.timeout.FromMilliseconds(round(1000 * wait))
        state = operation_from_proto(
            (yield _operation_rpc("WaitOperation", request, longrunning_pb2.Operation, wait + SEARCH_SECONDS))
        )
        if state.done:
            return state
        if end is not None and time.monotonic() >= end:
            raise DeadlineError(f"{name} was not done after {timeout} s")


# --- what starts one --------------------------------------------------------------------------------------


def compact(collection: str, wait: bool) -> Steps[Operation]:
    request = collections_pb2.CompactCollectionRequest(name=collection_resource(collection))
    started = yield call("CollectionService", "CompactCollection", request, longrunning_pb2.Operation)
    operation = operation_from_proto(started)
    return (yield from _finish(operation)) if wait else operation


def train_sae(
    collection: str, spec: SAEField, n_latents: int, k: int, epochs: int, seeds: tuple[int, int], wait: bool
) -> Steps[Operation]:
    request = features_pb2.TrainSaeRequest(
        name=field_resource(collection, spec.name),
        source=text(spec.source, "source"),
        n_latents=integer(n_latents, "n_latents"),
        k=integer(k, "k"),
        epochs=integer(epochs, "epochs"),
        seed=integer(seeds[0], "seed"),
        seeds=integer(seeds[1], "seeds"),
        scorer=enum_to_proto(SCORERS, spec.scorer, "scorer"),
        max_query_terms=integer(spec.max_query_terms, "max_query_terms"),
        weighting=enum_to_proto(WEIGHTINGS, spec.weighting, "weighting"),
        k1=number(spec.k1, "k1"),
        rescore=integer(spec.rescore, "rescore"),
    )
    started = yield call("FeatureService", "TrainSae", request, longrunning_pb2.Operation)
    operation = operation_from_proto(started)
    return (yield from _finish(operation)) if wait else operation


def name_features(collection: str, field: str, wait: bool) -> Steps[Operation]:
    request = features_pb2.NameFeaturesRequest(name=field_resource(collection, field))
    started = yield call("FeatureService", "NameFeatures", request, longrunning_pb2.Operation)
    operation = operation_from_proto(started)
    return (yield from _finish(operation)) if wait else operation
