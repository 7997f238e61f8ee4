"""google.longrunning.Operations over the database's operations.

``metadata`` holds an OperationMetadata, ``response`` an OperationResult. ``filter`` of ListOperations is refused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from google.longrunning import operations_proto_pb2 as longrunning_pb2
from google.protobuf import empty_pb2
from google.protobuf.message import Message

from sparsight.errors import InvalidArgumentError
from sparsight.service.convert_collections import operation_to_proto
from sparsight.service.dispatch import Call
from sparsight.service.paging import page_of, page_size_of

if TYPE_CHECKING:
    from sparsight.retrieval.engine import Database

__all__ = ["OperationHandlers"]

_LONGEST_WAIT_S = 300.0
_POLL_S = (0.02, 0.5)  # first and longest pause between two looks; they double


class OperationHandlers:
    """The methods of the Operations service over one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def table(self) -> Mapping[str, tuple[str, Callable[[Any, Call], Message]]]:
        """Class of limits and handler by method."""
        return {
            "GetOperation": ("read", self.get),
            "ListOperations": ("read", self.list),
            "CancelOperation": ("admin", self.cancel),
            "DeleteOperation": ("admin", self.delete),
        }

    def waiting(self) -> Mapping[str, tuple[str, Callable[[Any, Call], Awaitable[Message]]]]:
        """The same for methods that only wait, on the event loop."""
        return {"WaitOperation": ("read", self.wait)}

    def get(self, request: longrunning_pb2.GetOperationRequest, call: Call) -> Message:
        return operation_to_proto(self._database.operation(_name(request)))

    def list(self, request: longrunning_pb2.ListOperationsRequest, call: Call) -> Message:
        if request.name not in ("", "operations"):
            raise InvalidArgumentError(f'expected "operations", got {request.name!r:.80}', field="name")
        if request.filter:
            raise InvalidArgumentError("operations cannot be filtered", field="filter")
        size = page_size_of(request.page_size, 100)
        page, token = page_of(
            self._database.list_operations(), lambda item: item.name, size, request.page_token, "operations"
        )
        return longrunning_pb2.ListOperationsResponse(
            operations=[operation_to_proto(item) for item in page], next_page_token=token
        )

    def cancel(self, request: longrunning_pb2.CancelOperationRequest, call: Call) -> Message:
        self._database.cancel_operation(_name(request))
        return empty_pb2.Empty()

    def delete(self, request: longrunning_pb2.DeleteOperationRequest, call: Call) -> Message:
        self._database.delete_operation(_name(request))
        return empty_pb2.Empty()

    async def wait(self, request: longrunning_pb2.WaitOperationRequest, call: Call) -> Message:
        """The operation once it is done, or as it is when the wait is over."""
        name = _name(request)
        asked = request.timeout
        allowed = asked.seconds + asked.nanos / 1e9 if request.HasField("timeout") else _LONGEST_WAIT_S
        if allowed < 0:
            raise InvalidArgumentError(f"expected 0 seconds or more, got {allowed:g}", field="timeout")
        left = call.time_left()
        end = time.monotonic() + min(allowed, _LONGEST_WAIT_S, _LONGEST_WAIT_S if left is None else 0.9 * left)
        pause, longest = _POLL_S
        while True:
            operation = await asyncio.to_thread(self._database.operation, name)
            rest = end - time.monotonic()
            if operation.done or rest <= 0:
                return operation_to_proto(operation)
            await asyncio.sleep(min(pause, rest))
            pause = min(2 * pause, longest)


def _name(request: Any) -> str:
    if not request.name:
        raise InvalidArgumentError("expected the name of an operation, got none", field="name")
    return str(request.name)
