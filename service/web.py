"""The web page's server: a database behind JSON endpoints, and the page that asks them.

The page itself is plain files in ``web_page``. Nothing of it is loaded from elsewhere and nothing is built.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from sparsight.errors import FailedPreconditionError, InvalidArgumentError, SparsightError
from sparsight.kernels import CancelFlag
from sparsight.service.errors import internal_error
from sparsight.service.limits import Limiter, default_classes
from sparsight.service.logs import describe, make_logger
from sparsight.service.server import _checked_address
from sparsight.service.web_answers import error_answer, json_answer, refusal, status_of
from sparsight.service.web_api import ENDPOINTS, WebCall, WebEndpoint
from sparsight.service.web_arguments import Arguments, read_json_object
from sparsight.service.web_guard import API_PREFIX, Guard, allowed_names

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from sparsight.retrieval.engine import Database

__all__ = ["DEFAULT_WEB_PORT", "MAX_BODY_BYTES", "WebApp", "WebServer"]

DEFAULT_WEB_PORT: Final = 7626

MAX_BODY_BYTES: Final = 2**18
"""A query of the longest text and 256 edits fits in."""

_PAGE = Path(__file__).parent / "web_page"
_START_TIMEOUT_S = 20.0
_GRACE_S = 5


class WebApp:
    """The page and its API as an ASGI application, ``app``, with the threads that it works on.

    Parameters
    ----------
    database : Database
        Stays the caller's to close, after :meth:`close`.
    host : str
        The address that will be listened on: it decides which Host headers are answered.
    log : logger, optional
        Gets a line per API call: endpoint, status, time; never texts.
    """

    def __init__(self, database: Database, host: str = "127.0.0.1", *, log: Any = None) -> None:
        self._database = database
        self._log = log or make_logger("error")
        classes = {kind: default_classes()[kind] for kind in {endpoint.kind for endpoint in ENDPOINTS}}
        self._limiters = {kind: Limiter(kind, limits) for kind, limits in classes.items()}
        self._pools = {kind: ThreadPoolExecutor(limits.workers, thread_name_prefix=f"sparsight-web-{kind}")
                       for kind, limits in classes.items()}
        questions = [Route("/" + endpoint.path.removeprefix(API_PREFIX), self._handler(endpoint),
                           methods=[endpoint.method]) for endpoint in ENDPOINTS]
        page = StaticFiles(directory=_PAGE, html=True)
        inner = Starlette(
            routes=[Mount(API_PREFIX.rstrip("/"), routes=questions), Mount("/", page)],
            exception_handlers={HTTPException: _no_such_page},
        )
        names, any_address = allowed_names(host)
        self.app: ASGIApp = Guard(inner, names, any_address)

    def close(self) -> None:
        """Wait for running work and end the threads."""
        for pool in self._pools.values():
            pool.shutdown(wait=True, cancel_futures=True)

    def _handler(self, endpoint: WebEndpoint) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            started, extra, status = time.perf_counter(), {}, 200
            try:
                return json_answer(await self._run(endpoint, request))
            except Exception as cause:
                error = cause if isinstance(cause, SparsightError) else internal_error(cause)
                status, extra = status_of(error), {"reason": error.reason}
                if status == 500:
                    extra |= {"error_id": error.details.get("errorId", ""), **describe(cause)}
                return error_answer(error)
            finally:
                (self._log.error if status == 500 else self._log.info)(
                    "web call", method=endpoint.method, path=endpoint.path, status=status,
                    ms=round(1000 * (time.perf_counter() - started), 3), **extra
                )

        return handle

    async def _run(self, endpoint: WebEndpoint, request: Request) -> Mapping[str, Any]:
        if endpoint.method == "POST":
            arguments = Arguments(read_json_object(await _body(request)))
        else:
            arguments = Arguments(dict(request.query_params), from_text=True)
        call = WebCall(request.path_params, arguments, CancelFlag())
        slot = self._limiters[endpoint.kind].acquire()
        job: Future[Mapping[str, Any]] = self._pools[endpoint.kind].submit(endpoint.work, self._database, call)
        job.add_done_callback(lambda _: slot.release())
        answer = asyncio.wrap_future(job)
        gone = asyncio.ensure_future(_left(request))
        try:
            # A page that types on drops the search before: it need not be finished.
            await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                call.cancel.set()
            return await answer
        finally:
            gone.cancel()


async def _body(request: Request) -> bytes:
    # A form of another page can send plain text without asking first, but no JSON.
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise InvalidArgumentError("expected content of type application/json", field="body", reason="NOT_JSON")
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY_BYTES:
                raise InvalidArgumentError(f"a body has at most {MAX_BODY_BYTES:,} bytes", field="body",
                                           reason="MESSAGE_TOO_LARGE")
    except ClientDisconnect:
        raise InvalidArgumentError("the body ended early", field="body") from None
    return bytes(body)


async def _left(request: Request) -> None:
    """Returns when the caller has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _no_such_page(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    code = {404: "NO_SUCH_PAGE", 405: "METHOD_NOT_ALLOWED"}.get(status, "BAD_REQUEST")
    return refusal(status, code, f"there is nothing for {request.method} {request.url.path[:200]}")


class WebServer:
    """The web page on a thread of its own, beside a gRPC server or alone.

    ::

        with WebServer(database, port=0) as page:
            print(page.url)

    Parameters
    ----------
    database : Database
        Stays the caller's to close, after the server has stopped.
    host, port : str, int
        Where to listen; port 0 takes a free one. Not only on loopback: needs ``insecure_allow_remote``.
    insecure_allow_remote : bool
        Listen on an address that other machines may reach, without encryption or passwords.
    log_level : str
        "info" logs every call of the API.

    Raises
    ------
    InvalidArgumentError
        For an address beyond loopback without permission, or a port out of range.
    """

    def __init__(
        self,
        database: Database,
        host: str = "127.0.0.1",
        port: int = DEFAULT_WEB_PORT,
        *,
        insecure_allow_remote: bool = False,
        log_level: str = "error",
    ) -> None:
        self.host, self.port = _checked_address(host, port, insecure_allow_remote)
        self._log = make_logger(log_level)
        self._app = WebApp(database, host, log=self._log)
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Address of the page; known once started."""
        return f"http://[{self.host}]:{self.port}/" if ":" in self.host else f"http://{self.host}:{self.port}/"

    def start(self) -> Self:
        """Start, and return when the page is answered.

        Raises
        ------
        FailedPreconditionError
            If the address cannot be listened on, most often because another server does.
        """
        listening = self._listen()
        self.port = listening.getsockname()[1]
        # h11 and asyncio by name: uvicorn would take others where they happen to be installed.
        config = uvicorn.Config(
            self._app.app, http="h11", loop="asyncio", ws="none", lifespan="off", log_config=None, access_log=False,
            server_header=False, proxy_headers=False, timeout_graceful_shutdown=_GRACE_S,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listening]},
                                        name="sparsight-web", daemon=True)
        self._thread.start()
        end = time.monotonic() + _START_TIMEOUT_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > end:
                self.stop()
                raise FailedPreconditionError(f"the web page did not start at {self.url}", address=self.url)
            time.sleep(0.01)
        self._log.info("web started", url=self.url)
        return self

    def stop(self) -> None:
        """Finish calls under way (some seconds at most), close, end the threads. A second call does nothing."""
        server, thread, self._server, self._thread = self._server, self._thread, None, None
        if server is not None and thread is not None:
            server.should_exit = True
            thread.join()
            self._log.info("web stopped")
        self._app.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _listen(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((self.host, self.port))
            listening.listen(128)
        except OSError as error:
            listening.close()
            raise FailedPreconditionError(
                f"cannot listen on {self.url}; does another server?", address=self.url
            ) from error
        return listening
