"""``sparsight demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsight.service.commands.common import JsonOption, Output

__all__ = ["demo"]


def demo(
    data: Annotated[str, typer.Option("--data", metavar="DIR", help="Data folder; kept for the next run.")]
        = "demo-data",
    documents: Annotated[int, typer.Option(min=0, help="Only the first abstracts; 0 takes all 2,000.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Index 2,000 abstracts, start a server, and search, filter and steer."""
    from sparsight.service.demo import run_demo

    with Output.of(as_json) as output:
        output.result(run_demo(Path(data), output, documents=documents))
