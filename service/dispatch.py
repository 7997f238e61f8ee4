"""One call's way through the server: limits, deadline, cancellation, errors, log.

Requests arrive as bytes and are parsed on a worker thread together with the work itself: a message of 16 MiB would
hold up the event loop, and bytes that are no message must end as INVALID_ARGUMENT (gRPC's own deserialiser would make
UNKNOWN of them).
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message

from sparsight.errors import DeadlineError, InvalidArgumentError, SparsightError, UnavailableError
from sparsight.kernels import CancelFlag
from sparsight.service.errors import internal_error, row_of, to_status, trailing_metadata
from sparsight.service.limits import MAX_MESSAGE_BYTES, CallClass, Limiter
from sparsight.service.logs import describe

__all__ = ["Call", "Dispatcher", "Endpoint"]

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")


@dataclass(slots=True)
class Call:
    """What a handler may know of its call."""

    cancel: CancelFlag = field(default_factory=CancelFlag)
    deadline: float | None = None  # on the clock of time.monotonic()

    def time_left(self) -> float | None:
        """Seconds until the deadline, None without one.

        Raises
        ------
        DeadlineError
            If it has passed.
        """
        if self.deadline is None:
            return None
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise DeadlineError("the call's deadline passed before the work began")
        return left


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A method of a service: its full name, its messages, its class of limits and what it does.

    ``work`` runs on a worker thread, unless ``waits``: then it is a coroutine function on the event loop, for calls
    that only wait.
    """

    method: str
    request: type[Message]
    kind: str
    work: Callable[[Any, Call], Message] | Callable[[Any, Call], Awaitable[Message]]
    waits: bool = False


class Dispatcher:
    """Runs endpoints for a server.

    Parameters
    ----------
    classes : mapping
        Limits by class of call.
    log : logger
        See :func:`sparsight.service.logs.make_logger`.
    """

    def __init__(self, classes: Mapping[str, CallClass], log: Any) -> None:
        self._limiters = {name: Limiter(name, limits) for name, limits in classes.items()}
        self._pools = {
            name: ThreadPoolExecutor(limits.workers, thread_name_prefix=f"sparsight-{name}")
            for name, limits in classes.items()
        }
        self._log = log
        self.draining = False

    @property
    def active(self) -> int:
        """Calls that run or wait, of all classes."""
        return sum(limiter.active for limiter in self._limiters.values())

    def close(self) -> None:
        """Wait for running work, drop what still waits, and end the threads."""
        for pool in self._pools.values():
            pool.shutdown(wait=True, cancel_futures=True)

    def handler(self, endpoint: Endpoint) -> grpc.RpcMethodHandler:
        """gRPC's handler of an endpoint."""

        async def handle(raw: bytes, context: Any) -> bytes:
            return await self._handle(endpoint, raw, context)

        return grpc.unary_unary_rpc_method_handler(handle)  # type: ignore[arg-type]

    async def _handle(self, endpoint: Endpoint, raw: bytes, context: Any) -> bytes:
        started = time.perf_counter()
        request_id = _request_id(context)
        left = context.time_remaining()
        call = Call(deadline=None if left is None else time.monotonic() + left)
        code, extra = grpc.StatusCode.OK, {}
        try:
            return await self._run(endpoint, raw, call)
        except asyncio.CancelledError:
            call.cancel.set()
            late = call.deadline is not None and call.deadline <= time.monotonic()
            code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
            raise
        except Exception as cause:
            error = cause if isinstance(cause, SparsightError) else internal_error(cause)
            code, extra = row_of(error)[1].code, {"reason": error.reason, **_traces(error, cause)}
            status = to_status(error)
            await context.abort(code, status.message, trailing_metadata(status))
            raise AssertionError("abort raises") from None
        finally:
            level = self._log.error if "traceback" in extra else self._log.info
            level(
                "call",
                request_id=request_id,
                method=endpoint.method,
                code=code.name,
                ms=round(1000 * (time.perf_counter() - started), 3),
                **extra,
            )

    async def _run(self, endpoint: Endpoint, raw: bytes, call: Call) -> bytes:
        if self.draining:
            raise UnavailableError("the server is shutting down")
        slot = self._limiters[endpoint.kind].acquire()
        if endpoint.waits:
            try:
                request = _parse(endpoint, raw)
                waiting: Any = endpoint.work(request, call)
                return _serialised(await waiting)
            finally:
                slot.release()
        job: Future[bytes] = self._pools[endpoint.kind].submit(_work, endpoint, raw, call)
        # The place is given back when the work is over: a cancelled call's write still runs, and still counts.
        job.add_done_callback(lambda _: slot.release())
        return await asyncio.wrap_future(job)


def _work(endpoint: Endpoint, raw: bytes, call: Call) -> bytes:
    call.cancel.check()  # nobody waits any more
    call.time_left()
    answer: Any = endpoint.work(_parse(endpoint, raw), call)
    return _serialised(answer)


def _parse(endpoint: Endpoint, raw: bytes) -> Message:
    try:
        return endpoint.request.FromString(raw)
    except DecodeError:
        raise InvalidArgumentError(
            f"expected a {endpoint.request.DESCRIPTOR.full_name}, got {len(raw)} bytes that are none "
            "(wrong wire format, text that is no UTF-8, or nested too deeply)",
            reason="MALFORMED_MESSAGE",
        ) from None


def _serialised(answer: Message) -> bytes:
    size = answer.ByteSize()
    if size > MAX_MESSAGE_BYTES:
        raise InvalidArgumentError(
            f"the answer has {size} bytes, more than the {MAX_MESSAGE_BYTES} of a message: ask for fewer documents or "
            "parts",
            reason="RESPONSE_TOO_LARGE",
            size=size,
            limit=MAX_MESSAGE_BYTES,
        )
    return answer.SerializeToString()


def _request_id(context: Any) -> str:
    given = next((value for key, value in context.invocation_metadata() or () if key == "x-request-id"), "")
    return given if isinstance(given, str) and _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _traces(error: SparsightError, cause: Exception) -> dict[str, Any]:
    if error is cause and row_of(error)[1].code is not grpc.StatusCode.INTERNAL:
        return {}
    return {"error_id": error.details.get("errorId", ""), **describe(cause)}
