"""The gRPC server: ``serve`` for a process of its own, ``ServerThread`` beside other code.

There is no authentication, so the server listens on the loopback interface only, unless it is told that it may be
reached from elsewhere (a proxy or a network that does the protecting).
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

import grpc
from google.longrunning import operations_proto_pb2 as longrunning_pb2
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from sparsight.errors import FailedPreconditionError, InvalidArgumentError
from sparsight.service.dispatch import Dispatcher, Endpoint
from sparsight.service.handlers import Handlers
from sparsight.service.limits import MAX_MESSAGE_BYTES, CallClass, default_classes
from sparsight.service.logs import make_logger
from sparsight.service.operations import OperationHandlers
from sparsight.v1 import collections_pb2, documents_pb2, encoding_pb2, features_pb2, profiles_pb2, search_pb2

if TYPE_CHECKING:
    from sparsight.retrieval.engine import Database

__all__ = ["DEFAULT_PORT", "SERVICES", "Server", "ServerThread", "serve"]

DEFAULT_PORT = 7625

_DESCRIPTORS = {
    service.full_name: service
    for module in (
        collections_pb2, documents_pb2, search_pb2, features_pb2, profiles_pb2, encoding_pb2, longrunning_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
}
SERVICES = tuple(_DESCRIPTORS)
"""Full names of the services, ``google.longrunning.Operations`` last."""

_DRAIN_POLL_S = 0.02

# gRPC's own default lets several servers share a port; two databases behind one address would be a silent mix-up.
# Clients may ping every 60 s (ours do); servers that allow less than their clients send cut the connection.
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 30_000),
)


class Server:
    """A server on the running event loop. Most callers want :func:`serve` or :class:`ServerThread`.

    Parameters
    ----------
    database : Database
        Stays the caller's to close, after the server has stopped.
    host, port : str, int
        Where to listen; port 0 takes a free one. Not only on loopback: needs ``insecure_allow_remote``.
    insecure_allow_remote : bool
        Listen on an address that other machines may reach, without encryption or authentication.
    allow_model_folders : bool
        Whether callers may name models by folders of this machine.
    reflection_enabled : bool
        Serve descriptions of the services, for tools like grpcurl.
    classes : mapping, optional
        Limits by class of call, over those of :func:`sparsight.service.limits.default_classes`.
    log_level : str
        "info" logs every call.

    Raises
    ------
    InvalidArgumentError
        For an address beyond loopback without permission, or a port out of range.
    """

    def __init__(
        self,
        database: Database,
        host: str = "127.0.0.1",
        port: int = DEFAULT_PORT,
        *,
        insecure_allow_remote: bool = False,
        allow_model_folders: bool = False,
        reflection_enabled: bool = True,
        classes: Mapping[str, CallClass] | None = None,
        log_level: str = "info",
    ) -> None:
        self.host, self.port = _checked_address(host, port, insecure_allow_remote)
        self._reflection_enabled = reflection_enabled
        self._log = make_logger(log_level)
        self._dispatcher = Dispatcher({**default_classes(), **(classes or {})}, self._log)
        self._endpoints = list(_endpoints(database, allow_model_folders))
        self._health = health.aio.HealthServicer()
        self._server: grpc.aio.Server | None = None

    @property
    def target(self) -> str:
        """``host:port`` for clients."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    async def start(self) -> None:
        """Listen and answer; health is SERVING when this returns.

        Raises
        ------
        FailedPreconditionError
            If the address cannot be listened on, most often because another server does.
        """
        server = grpc.aio.server(options=_OPTIONS)
        by_service: dict[str, dict[str, grpc.RpcMethodHandler]] = {}
        for endpoint in self._endpoints:
            service, method = endpoint.method.rsplit("/", 1)
            by_service.setdefault(service, {})[method] = self._dispatcher.handler(endpoint)
        server.add_generic_rpc_handlers(
            tuple(grpc.method_handlers_generic_handler(name, methods) for name, methods in by_service.items())
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if self._reflection_enabled:
            reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        try:
            self.port = server.add_insecure_port(self.target)
        except RuntimeError as error:
            raise FailedPreconditionError(
                f"cannot listen on {self.target}; does another server?", address=self.target
            ) from error
        await server.start()
        self._server = server
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        self._log.info("started", target=self.target)

    async def stop(self, grace: float = 30.0) -> None:
        """Drain and stop: refuse new calls with UNAVAILABLE, finish those under way, close.

        Health is NOT_SERVING meanwhile. Calls that are not done after ``grace`` seconds are cancelled.
        """
        if self._server is None:
            return
        server, self._server = self._server, None
        self._dispatcher.draining = True
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        self._log.info("draining", active=self._dispatcher.active)
        end = asyncio.get_running_loop().time() + grace
        # Not server.stop(grace) alone: it closes the port at once, and nobody could see the health any more.
        while self._dispatcher.active and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(_DRAIN_POLL_S)
        await server.stop(max(0.0, end - asyncio.get_running_loop().time()) if self._dispatcher.active else 0.5)
        await asyncio.to_thread(self._dispatcher.close)
        self._log.info("stopped")

    async def _set_health(self, status: Any) -> None:
        for name in ("", *SERVICES):
            await self._health.set(name, status)


def serve(
    database: Database,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    *,
    grace: float = 30.0,
    ready: Callable[[str], None] | None = None,
    **options: Any,
) -> None:
    """Serve a database until SIGTERM or SIGINT, then drain and return. A second signal ends the process at once.

    Parameters
    ----------
    database, host, port, **options
        As for :class:`Server`.
    grace : float
        Seconds that calls under way get to finish.
    ready : callable, optional
        Called with the target once the server answers.
    """
    asyncio.run(_serve(Server(database, host, port, **options), grace, ready))


async def _serve(server: Server, grace: float, ready: Callable[[str], None] | None) -> None:
    asked, loop = asyncio.Event(), asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if asked.is_set():
            os._exit(128 + number)  # the user means it: no cleaning up, the database is made for that
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    await server.start()
    if ready is not None:
        ready(server.target)
    await asked.wait()
    await server.stop(grace)


class ServerThread:
    """A server on an event loop in a thread of its own, for tests, notebooks and demonstrations.

    ::

        with ServerThread(database) as server, Client(server.target) as client:
            ...

    Parameters
    ----------
    database, host, port, **options
        As for :class:`Server`, but a free port and a quiet log are the defaults.
    """

    def __init__(
        self,
        database: Database,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        grace: float = 5.0,
        log_level: str = "error",
        **options: Any,
    ) -> None:
        self._server = Server(database, host, port, log_level=log_level, **options)
        self._grace = grace
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="sparsight-server", daemon=True)

    @property
    def target(self) -> str:
        """``host:port`` for clients; known once started."""
        return self._server.target

    def start(self) -> Self:
        """Start, and return when the server answers."""
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._server.start(), self._loop).result()
        except BaseException:
            self._end()
            raise
        return self

    def stop(self, grace: float | None = None) -> None:
        """Drain, stop and end the thread. A second call does nothing."""
        if self._thread.is_alive():
            wait = self._grace if grace is None else grace
            asyncio.run_coroutine_threadsafe(self._server.stop(wait), self._loop).result()
            self._end()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


def _endpoints(database: Database, allow_model_folders: bool) -> Iterator[Endpoint]:
    """Every method of every service; a method of the protos that nothing implements is an error here, at start."""
    handlers, operations = Handlers(database, allow_model_folders=allow_model_folders), OperationHandlers(database)
    ours = {f"sparsight.v1.{name}": entry for name, entry in handlers.table().items()}
    standard = {f"google.longrunning.Operations/{name}": entry for name, entry in operations.table().items()}
    waiting = {f"google.longrunning.Operations/{name}": entry for name, entry in operations.waiting().items()}
    for service in _DESCRIPTORS.values():
        for method in service.methods:
            name = f"{service.full_name}/{method.name}"
            request: type[Message] = GetMessageClass(method.input_type)
            if name in waiting:
                kind, wait = waiting[name]
                yield Endpoint(name, request, kind, wait, waits=True)
            else:
                kind, work = (ours | standard)[name]
                yield Endpoint(name, request, kind, work)


def _checked_address(host: str, port: int, insecure_allow_remote: bool) -> tuple[str, int]:
    if not 0 <= port <= 65_535:
        raise InvalidArgumentError(f"expected a port from 0 to 65535, got {port}", field="port")
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback and not insecure_allow_remote:
        raise InvalidArgumentError(
            f"{host!r} can be reached from other machines, and the server has neither encryption nor authentication: "
            "listen on 127.0.0.1 behind a proxy that has, or say insecure_allow_remote=True",
            field="host",
            host=host,
        )
    return host, port
