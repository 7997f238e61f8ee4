"""The one table from our errors to gRPC status codes, and both ways across the wire.

Every error that leaves the server is a ``google.rpc.Status`` with exactly one ``ErrorInfo`` (reason, domain
"sparsight", metadata), and where they fit ``BadRequest`` (path of the argument), ``ResourceInfo`` (what was not found)
and ``RetryInfo`` (when to try again). The client makes the same class of it again, with ``field`` and ``details``.
Conventions: Google AIP-193.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from sparsight import errors
from sparsight.errors import SparsightError

__all__ = [
    "DOMAIN",
    "TABLE",
    "Row",
    "from_rpc_error",
    "from_status",
    "internal_error",
    "row_of",
    "to_status",
    "trailing_metadata",
]

DOMAIN = "sparsight"
DETAILS_KEY = "grpc-status-details-bin"

# A status travels in the HTTP/2 trailers, which gRPC limits to 8 KiB, and the message stands in it three times
# (percent-encoded once): longer ones would turn a clear refusal into a transport error.
_MAX_MESSAGE_BYTES = 600
_MAX_FIELD_BYTES = 300
_MAX_VALUE_BYTES = 160
_MAX_VALUES = 10

_REASON = re.compile(r"[A-Z][A-Z0-9_]{0,61}[A-Z0-9]")
_KEY = re.compile(r"[a-z][A-Za-z0-9_-]{1,63}")
_TOO_LARGE = re.compile(r"message (larger than max|.*exceeds)", re.IGNORECASE)

# Metadata keys of our own, beside the error's details.
_CLASS_KEY = "errorClass"
_FIELD_KEY = "errorField"
_ERROR_ID_KEY = "errorId"
_RETRY_DETAIL = "retry_after_s"


@dataclass(frozen=True, slots=True)
class Row:
    """How one class of error looks on the wire.

    ``retry_s``: seconds after which the same call may succeed, None where waiting does not help.
    ``resource``: type of the thing that was not found, for ``ResourceInfo``.
    """

    code: grpc.StatusCode
    retry_s: float | None = None
    resource: str = ""


_C = grpc.StatusCode

TABLE: dict[type[SparsightError], Row] = {
    errors.SparsightError: Row(_C.INTERNAL),
    errors.InvalidArgumentError: Row(_C.INVALID_ARGUMENT),
    errors.ShapeError: Row(_C.INVALID_ARGUMENT),
    errors.InvalidVectorError: Row(_C.INVALID_ARGUMENT),
    errors.InvalidFilterError: Row(_C.INVALID_ARGUMENT),
    errors.InvalidQueryError: Row(_C.INVALID_ARGUMENT),
    errors.NotFoundError: Row(_C.NOT_FOUND, resource="sparsight/Resource"),
    errors.UnknownCollectionError: Row(_C.NOT_FOUND, resource="sparsight/Collection"),
    errors.UnknownDocumentError: Row(_C.NOT_FOUND, resource="sparsight/Document"),
    errors.UnknownFieldError: Row(_C.NOT_FOUND, resource="sparsight/Field"),
    errors.UnknownFeatureError: Row(_C.NOT_FOUND, resource="sparsight/Feature"),
    errors.UnknownProfileError: Row(_C.NOT_FOUND, resource="sparsight/Profile"),
    errors.UnknownOperationError: Row(_C.NOT_FOUND, resource="longrunning.googleapis.com/Operation"),
    errors.AlreadyExistsError: Row(_C.ALREADY_EXISTS),
    errors.FailedPreconditionError: Row(_C.FAILED_PRECONDITION),
    errors.IncompatibleModelError: Row(_C.FAILED_PRECONDITION),
    errors.ReadOnlyError: Row(_C.FAILED_PRECONDITION),
    errors.ClosedError: Row(_C.FAILED_PRECONDITION),
    # Not ABORTED, which asks the caller to try again: another request id is needed.
    errors.ConflictError: Row(_C.ALREADY_EXISTS),
    errors.LockedError: Row(_C.FAILED_PRECONDITION),
    errors.SearchStoppedError: Row(_C.CANCELLED),
    errors.DeadlineError: Row(_C.DEADLINE_EXCEEDED),
    errors.OverloadedError: Row(_C.RESOURCE_EXHAUSTED, retry_s=0.5),
    errors.StorageFullError: Row(_C.RESOURCE_EXHAUSTED),
    errors.CorruptIndexError: Row(_C.DATA_LOSS),
    errors.StorageError: Row(_C.INTERNAL),
    errors.CheckpointError: Row(_C.FAILED_PRECONDITION),
    errors.UnavailableError: Row(_C.UNAVAILABLE, retry_s=1.0),
    errors.RemoteError: Row(_C.INTERNAL),
}

# For statuses without a reason that we know: another server's, a proxy's, or gRPC's own.
_BY_CODE: dict[grpc.StatusCode, type[SparsightError]] = {
    _C.INVALID_ARGUMENT: errors.InvalidArgumentError,
    _C.OUT_OF_RANGE: errors.InvalidArgumentError,
    _C.NOT_FOUND: errors.NotFoundError,
    _C.ALREADY_EXISTS: errors.AlreadyExistsError,
    _C.FAILED_PRECONDITION: errors.FailedPreconditionError,
    _C.CANCELLED: errors.SearchStoppedError,
    _C.DEADLINE_EXCEEDED: errors.DeadlineError,
    _C.RESOURCE_EXHAUSTED: errors.OverloadedError,
    _C.DATA_LOSS: errors.CorruptIndexError,
    _C.UNAVAILABLE: errors.UnavailableError,
}


def _own_reason(kind: type[SparsightError]) -> str:
    return kind("").reason


_BY_REASON: dict[str, type[SparsightError]] = {_own_reason(kind): kind for kind in TABLE}
_CODE_NUMBERS: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


# --- to the wire ------------------------------------------------------------------------------------------


def row_of(error: SparsightError) -> tuple[type[SparsightError], Row]:
    """The nearest class of the table that ``error`` is, and its row."""
    for kind in type(error).__mro__:
        if kind in TABLE:
            return kind, TABLE[kind]
    raise AssertionError(f"{type(error).__name__} is no SparsightError")


def to_status(error: SparsightError) -> status_pb2.Status:
    """The ``google.rpc.Status`` of an error.

    ``details["retry_after_s"]`` becomes ``RetryInfo`` where the table has one: a limiter knows better than the table.
    Long messages and values are shortened: a status has to fit into 8 KiB of trailers.
    """
    kind, row = row_of(error)
    message = _shorten(error.message or kind.__name__, _MAX_MESSAGE_BYTES)
    path = _shorten(error.field, _MAX_FIELD_BYTES)
    info = error_details_pb2.ErrorInfo(domain=DOMAIN)
    info.reason = error.reason if _REASON.fullmatch(error.reason) else _own_reason(kind)
    if info.reason != _own_reason(kind):
        info.metadata[_CLASS_KEY] = _own_reason(kind)
    details_left = {name: value for name, value in error.details.items() if name != _RETRY_DETAIL}
    for name, value in list(details_left.items())[:_MAX_VALUES]:
        key = _camel(name)
        if _KEY.fullmatch(key) and key not in (_CLASS_KEY, _FIELD_KEY):
            info.metadata[key] = _shorten(value, _MAX_VALUE_BYTES)
    details: list[Any] = [info]
    if isinstance(error, errors.InvalidArgumentError):
        violation = error_details_pb2.BadRequest.FieldViolation(field=path, description=message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    elif path:
        info.metadata[_FIELD_KEY] = path
    if row.resource:
        details.append(
            error_details_pb2.ResourceInfo(
                resource_type=row.resource, resource_name=_resource_name(kind, error), description=message
            )
        )
    if row.retry_s is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(1000 * float(error.details.get(_RETRY_DETAIL, row.retry_s))))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return status_pb2.Status(code=row.code.value[0], message=message, details=[_pack(detail) for detail in details])


def trailing_metadata(status: status_pb2.Status) -> tuple[tuple[str, bytes], ...]:
    """The trailers that carry a status' details."""
    return ((DETAILS_KEY, status.SerializeToString()),)


def internal_error(cause: BaseException) -> SparsightError:
    """What the caller may know of an exception nobody expected: an id under which the log has the rest."""
    if isinstance(cause, MemoryError):
        return errors.OverloadedError("the server has not enough memory for this call")
    return errors.RemoteError(
        "the server failed unexpectedly; quote the error id when reporting it",
        reason="INTERNAL",
        errorId=uuid.uuid4().hex,
    )


def _pack(message: Any) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def _shorten(text: str, limit: int) -> str:
    data = text.encode("utf-8", "replace")  # "replace": a lone surrogate must not break the answer that refuses it
    return data.decode() if len(data) <= limit else data[: limit - 3].decode("utf-8", "ignore") + "..."


def _camel(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(part[:1].upper() + part[1:] for part in tail)


def _snake(name: str) -> str:
    return name if name == _ERROR_ID_KEY else re.sub("[A-Z]", lambda match: "_" + match[0].lower(), name)


def _resource_name(kind: type[SparsightError], error: SparsightError) -> str:
    """Resource name, as far as the error's details tell it (document ids as one percent-encoded segment)."""
    details = error.details
    collection = details.get("collection", "")
    if kind is errors.UnknownCollectionError:
        return f"collections/{_segment(details.get('name', collection))}"
    if kind is errors.UnknownDocumentError:
        return f"collections/{collection or '-'}/documents/{_segment(details.get('id', ''))}"
    if kind is errors.UnknownOperationError:
        return _shorten(details.get("name", ""), _MAX_VALUE_BYTES)
    return _shorten(next(iter(details.values()), error.field), _MAX_VALUE_BYTES)


def _segment(text: str) -> str:
    return quote(text, safe="", errors="replace")[:_MAX_FIELD_BYTES]


# --- from the wire ----------------------------------------------------------------------------------------


def from_rpc_error(error: Any) -> SparsightError:
    """The error that a failed call stands for.

    Parameters
    ----------
    error : grpc.RpcError or grpc.aio.AioRpcError
        What a stub raised.
    """
    for key, value in _trailers(error):
        if key == DETAILS_KEY:
            try:
                return from_status(status_pb2.Status.FromString(value))
            except Exception:
                break  # another party's trailer; the plain code and message are still good
    return _from_code(error.code(), error.details() or "")


def from_status(status: status_pb2.Status) -> SparsightError:
    """The error of a status: the class by reason, else by code; ``field`` and ``details`` as they were sent."""
    info, field, retry = error_details_pb2.ErrorInfo(), "", error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(retry.DESCRIPTOR):
            detail.Unpack(retry)
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest()
            detail.Unpack(bad)
            field = next((violation.field for violation in bad.field_violations), "")
    metadata = dict(info.metadata)
    kind = _BY_REASON.get(metadata.pop(_CLASS_KEY, info.reason)) if info.domain == DOMAIN else None
    if kind is None:
        return _from_code(_CODE_NUMBERS.get(status.code, grpc.StatusCode.UNKNOWN), status.message)
    field = metadata.pop(_FIELD_KEY, field)
    made = kind(status.message, field=field, reason=info.reason)
    made.details.update({_snake(key): value for key, value in metadata.items()})
    if retry.HasField("retry_delay"):
        made.details[_RETRY_DETAIL] = f"{retry.retry_delay.ToMilliseconds() / 1000:g}"
    return made


def _trailers(error: Any) -> Iterable[tuple[str, Any]]:
    try:
        return error.trailing_metadata() or ()
    except AttributeError:
        return ()


def _from_code(code: grpc.StatusCode, message: str) -> SparsightError:
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE.search(message):
        # gRPC's own limit, hit before or after the handler: no second try can help, so this is no overload.
        return errors.InvalidArgumentError(f"a message is too large: {message}", reason="MESSAGE_TOO_LARGE")
    kind = _BY_CODE.get(code)
    if kind is None:
        return errors.RemoteError(f"{code.name}: {message}", code=code.name)
    return kind(message or code.name)
