"""Every error crosses the wire and comes back as itself."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from sparsight import errors
from sparsight.service.errors import (
    DETAILS_KEY,
    TABLE,
    from_rpc_error,
    from_status,
    internal_error,
    to_status,
    trailing_metadata,
)

CLASSES = [getattr(errors, name) for name in errors.__all__]


class Failed(grpc.RpcError):
    """What a stub raises: code, message, trailers."""

    def __init__(self, code: grpc.StatusCode, message: str = "", trailers: tuple = ()) -> None:
        self._answer = code, message, trailers

    def code(self) -> grpc.StatusCode:
        return self._answer[0]

    def details(self) -> str:
        return self._answer[1]

    def trailing_metadata(self) -> tuple:
        return self._answer[2]


def details(status: status_pb2.Status, kind: type[Message]) -> list:
    found = []
    for item in status.details:
        if item.Is(kind.DESCRIPTOR):
            message = kind()
            item.Unpack(message)
            found.append(message)
    return found


def crossed(error: errors.SparsightError) -> errors.SparsightError:
    status = to_status(error)
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    return from_rpc_error(Failed(code, status.message, trailing_metadata(status)))


def test_table_has_every_exported_error() -> None:
    assert set(TABLE) == set(CLASSES)


@pytest.mark.parametrize("kind", CLASSES)
def test_round_trip(kind: type[errors.SparsightError]) -> None:
    sent = kind("expected 3, got 5", field='documents[3].vectors["splade"].values[7]', expected_terms=3, received=5)
    got = crossed(sent)
    assert type(got) is kind
    assert (got.message, str(got), got.field, got.reason) == (sent.message, str(sent), sent.field, sent.reason)
    assert {name: got.details[name] for name in sent.details} == {"expected_terms": "3", "received": "5"}


@pytest.mark.parametrize("kind", CLASSES)
def test_status_has_exactly_one_error_info(kind: type[errors.SparsightError]) -> None:
    status = to_status(kind("no"))
    [info] = details(status, error_details_pb2.ErrorInfo)
    assert info.domain == "sparsight"
    assert info.reason.isupper() and len(info.reason) <= 63
    assert status.code == TABLE[kind].code.value[0]


@pytest.mark.parametrize("kind", CLASSES)
def test_a_reason_of_its_own_keeps_the_class(kind: type[errors.SparsightError]) -> None:
    got = crossed(kind("no", reason="LENGTHS_DIFFER"))
    assert type(got) is kind and got.reason == "LENGTHS_DIFFER"


def test_invalid_arguments_name_the_field() -> None:
    status = to_status(errors.InvalidVectorError("expected a finite number", field="queries[2].retrievers[0].dense[1]"))
    [bad] = details(status, error_details_pb2.BadRequest)
    assert [violation.field for violation in bad.field_violations] == ["queries[2].retrievers[0].dense[1]"]


def test_overload_says_when_to_try_again() -> None:
    [retry] = details(to_status(errors.OverloadedError("busy", retry_after_s="1.25")), error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToMilliseconds() == 1250
    assert crossed(errors.OverloadedError("busy", retry_after_s="1.25")).details["retry_after_s"] == "1.25"
    assert details(to_status(errors.StorageFullError("full")), error_details_pb2.RetryInfo) == []


def test_not_found_names_the_resource() -> None:
    status = to_status(errors.UnknownDocumentError("none", id="a/b %", collection="papers"))
    [resource] = details(status, error_details_pb2.ResourceInfo)
    assert resource.resource_type == "sparsight/Document"
    assert resource.resource_name == "collections/papers/documents/a%2Fb%20%25"


@pytest.mark.parametrize("letter", ["x", "é", "🦜", "\ud800"])
def test_huge_errors_fit_into_trailers(letter: str) -> None:
    huge = letter * 100_000
    error = errors.UnknownDocumentError(huge, field=huge, **{f"value_{i}": huge for i in range(40)}, id=huge)
    status = to_status(error)
    percent_encoded = 3 * len(status.message.encode())
    base64_encoded = len(status.SerializeToString()) * 4 / 3
    assert percent_encoded + base64_encoded < 7500
    assert type(crossed(error)) is errors.UnknownDocumentError


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, "connection refused", errors.UnavailableError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", errors.DeadlineError),
        (grpc.StatusCode.CANCELLED, "", errors.SearchStoppedError),
        (grpc.StatusCode.NOT_FOUND, "no such", errors.NotFoundError),
        (grpc.StatusCode.UNIMPLEMENTED, "no method", errors.RemoteError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "busy", errors.OverloadedError),
        (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "Received message larger than max (20 vs. 16)",
            errors.InvalidArgumentError,
        ),
    ],
)
def test_plain_statuses_have_a_class_too(code: grpc.StatusCode, message: str, kind: type) -> None:
    assert type(from_rpc_error(Failed(code, message))) is kind


def test_foreign_details_are_no_reason_to_fail() -> None:
    garbage = Failed(grpc.StatusCode.NOT_FOUND, "no such", ((DETAILS_KEY, b"\xff\xff"),))
    assert type(from_rpc_error(garbage)) is errors.NotFoundError
    info = error_details_pb2.ErrorInfo(reason="INVALID_VECTOR", domain="someone.else")
    status = status_pb2.Status(code=grpc.StatusCode.NOT_FOUND.value[0], message="no such")
    status.details.add().Pack(info)
    assert type(from_status(status)) is errors.NotFoundError


def test_unexpected_exceptions_tell_only_an_id() -> None:
    error = internal_error(KeyError("the user's text"))
    got = crossed(error)
    assert type(got) is errors.RemoteError
    assert len(got.details["errorId"]) == 32
    assert "text" not in str(to_status(error))
    assert type(internal_error(MemoryError())) is errors.OverloadedError


def test_subclasses_outside_the_table_use_their_parent() -> None:
    class Special(errors.InvalidQueryError):
        pass

    assert type(crossed(Special("no"))) is errors.InvalidQueryError
