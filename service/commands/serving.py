"""``sparsight serve``: a data folder over gRPC, and as a web page if asked for."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from sparsight.errors import FailedPreconditionError
from sparsight.service.commands.common import DEFAULT_DATA, DataOption, JsonOption, Output, Usage

if TYPE_CHECKING:
    from sparsight.retrieval.engine import Database
    from sparsight.service.web import WebServer

__all__ = ["serve"]


def serve(
    data: DataOption = "",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port; 0 takes a free one.")] = 7625,
    insecure_allow_remote: Annotated[bool, typer.Option(
        "--insecure-allow-remote", help="Listen beyond this machine too, without encryption or passwords.")] = False,
    web: Annotated[bool, typer.Option("--web/--no-web", help="Serve a web page too, for searching and steering in a "
                                      "browser.")] = False,
    web_port: Annotated[int, typer.Option(min=0, max=65_535, help="Port of the web page; 0 takes a free one.")] = 7626,
    log_level: Annotated[str, typer.Option(metavar="debug|info|warning|error", help="Of the log on standard error; "
                                           "info logs every call.")] = "info",
    as_json: JsonOption = False,
) -> None:
    """Serve a data folder over gRPC until SIGINT or SIGTERM; --json prints its address once it answers.

    With --web, a web page is served from the same process on a port of its own, on the same address.
    """
    if log_level not in ("debug", "info", "warning", "error"):
        raise Usage(f"--log-level: expected debug, info, warning or error, got {log_level!r}", field="log_level")
    from sparsight.retrieval.engine import Database, warm_up
    from sparsight.service import server

    folder = data or DEFAULT_DATA
    with Output.of(as_json) as output, Database(folder) as database, contextlib.ExitStack() as stack:
        page = _web_server(database, host, web_port, insecure_allow_remote, log_level) if web else None

        def ready(target: str) -> None:
            output.result({"target": target, "data": folder, **({"web": page.url} if page else {})})
            if not as_json:
                output.console.print(f"serving {folder} at {target}; Ctrl-C stops")
                if page:
                    output.console.print(f"the web page is at {page.url}", soft_wrap=True)

        for fault in warm_up(database):  # so that the first query is as quick as the others
            output.console.print(f"[yellow]not loaded:[/] {escape(fault)}")
        if page:
            stack.enter_context(page)
        server.serve(database, host, port, ready=ready, insecure_allow_remote=insecure_allow_remote,
                     log_level=log_level)


def _web_server(database: Database, host: str, port: int, insecure_allow_remote: bool, log_level: str) -> WebServer:
    """The web page's server, not started.

    Raises
    ------
    FailedPreconditionError
        If what it stands on is not installed.
    """
    try:
        from sparsight.service.web import WebServer
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("starlette", "uvicorn", "anyio"):
            raise
        raise FailedPreconditionError(
            f"the web page needs packages that are not installed ({error.name}): pip install sparsight[web]",
            field="web", reason="NOT_INSTALLED", package=error.name,
        ) from None
    return WebServer(database, host, port, insecure_allow_remote=insecure_allow_remote, log_level=log_level)
