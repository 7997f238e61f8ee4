"""JSON answers of the web page's API, errors among them.

An error's body is ``{"error": {"code", "message", "field"}}``: the error's reason, its sentence, and the path of the
argument that is wrong ("" if none is). The status comes of the one table from errors to gRPC codes.
"""

from __future__ import annotations

import json
from typing import Any

import grpc
from starlette.responses import Response

from sparsight.errors import SparsightError
from sparsight.service.commands.common import plain
from sparsight.service.errors import row_of

__all__ = ["HTTP_STATUS", "error_answer", "json_answer", "refusal", "status_of"]

HTTP_STATUS: dict[grpc.StatusCode, int] = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DATA_LOSS: 500,
    grpc.StatusCode.INTERNAL: 500,
}
"""HTTP status by gRPC code, after ``google/rpc/code.proto``; but 409 where the call is right and the state is not."""


def json_answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A value as JSON; text that is no Unicode (lone surrogates) is replaced, not fatal."""
    body = json.dumps(plain(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(body.encode("utf-8", "replace"), status, headers, media_type="application/json")


def status_of(error: SparsightError) -> int:
    """The HTTP status of an error."""
    return HTTP_STATUS[row_of(error)[1].code]


def error_answer(error: SparsightError) -> Response:
    """The answer of a call that failed, with Retry-After where waiting helps."""
    row = row_of(error)[1]
    headers = {} if row.retry_s is None else {"retry-after": "1"}
    body = {"code": error.reason, "message": error.message, "field": error.field}
    if "errorId" in error.details:
        body["error_id"] = error.details["errorId"]
    return json_answer({"error": body}, status_of(error), headers)


def refusal(status: int, code: str, message: str, field: str = "") -> Response:
    """The answer of a request that reached no endpoint."""
    return json_answer({"error": {"code": code, "message": message, "field": field}}, status)
