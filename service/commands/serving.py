"""``sparsight serve``: a data folder over gRPC."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from sparsight.service.commands.common import DEFAULT_DATA, DataOption, JsonOption, Output, Usage

__all__ = ["serve"]


def serve(
    data: DataOption = "",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port; 0 takes a free one.")] = 7625,
    insecure_allow_remote: Annotated[bool, typer.Option(
        "--insecure-allow-remote", help="Listen beyond this machine too, without encryption or passwords.")] = False,
    log_level: Annotated[str, typer.Option(metavar="debug|info|warning|error", help="Of the log on standard error; "
                                           "info logs every call.")] = "info",
    as_json: JsonOption = False,
) -> None:
    """Serve a data folder over gRPC until SIGINT or SIGTERM; --json prints its address once it answers."""
    if log_level not in ("debug", "info", "warning", "error"):
        raise Usage(f"--log-level: expected debug, info, warning or error, got {log_level!r}", field="log_level")
    from sparsight.retrieval.engine import Database, warm_up
    from sparsight.service import server

    folder = data or DEFAULT_DATA
    with Output.of(as_json) as output, Database(folder) as database:

        def ready(target: str) -> None:
            output.result({"target": target, "data": folder})
            if not as_json:
                output.console.print(f"serving {folder} at {target}; Ctrl-C stops")

        for fault in warm_up(database):  # so that the first query is as quick as the others
            output.console.print(f"[yellow]not loaded:[/] {escape(fault)}")
        server.serve(database, host, port, ready=ready, insecure_allow_remote=insecure_allow_remote,
                     log_level=log_level)
