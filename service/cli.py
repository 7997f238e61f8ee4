"""The command line: ``sparsight COMMAND``.

Results go to standard output, progress and remarks to standard error. With ``--json``, standard output holds
exactly one JSON object: the result, or ``{"error": {...}}``. The exit code is 0 for success, 1 when the command
failed, 2 when the command line is wrong, 130 after an interrupt.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import typer

from sparsight import __version__
from sparsight.errors import SparsightError
from sparsight.service.commands.common import JsonOption, Output, Usage, print_json
from sparsight.service.commands.demonstrating import demo
from sparsight.service.commands.evaluating import evaluate
from sparsight.service.commands.evaluating_sae import evaluate_sae
from sparsight.service.commands.indexing import index
from sparsight.service.commands.keeping import repair, verify
from sparsight.service.commands.naming import name_features
from sparsight.service.commands.searching import features, search
from sparsight.service.commands.serving import serve
from sparsight.service.commands.training import train_sae, train_splade

__all__ = ["app", "main"]

app = typer.Typer(
    name="sparsight",
    help="Learned sparse retrieval and SAE search: explainable, steerable, durable.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def version(as_json: JsonOption = False) -> None:
    """Print the versions of sparsight and of what it stands on."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    with Output.of(as_json) as output:
        versions = {"sparsight": __version__, "python": platform.python_version()}
        for package in ("torch", "transformers", "faiss-cpu", "grpcio", "numpy"):
            try:
                versions[package] = version(package)
            except PackageNotFoundError:
                versions[package] = "not installed"
        output.result(versions)
        for name, number in versions.items():
            output.console.print(f"{name} {number}")


app.command()(demo)
app.command()(serve)
app.command()(index)
app.command()(search)
app.command()(features)
app.command("train-sae")(train_sae)
app.command("name-features")(name_features)
app.command("train-splade")(train_splade)
app.command("eval")(evaluate)
app.command("eval-sae")(evaluate_sae)
app.command()(verify)
app.command()(repair)
app.command()(version)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit code. Failures that are known end with one line, others with a traceback."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in words
    command = typer.main.get_command(app)
    try:
        code = command.main(args=words, prog_name="sparsight", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except SparsightError as error:
        return _fail(error.message, 2 if isinstance(error, Usage) else 1, as_json, _details(error))
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 130, as_json, {"reason": "INTERRUPTED"})
    except BrokenPipeError:
        # Whoever read our output has gone (`| head`). Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if not hasattr(error, "format_message"):  # what typer raises for a wrong command line has it
            if as_json:
                _fail(str(error), 1, as_json, {"type": type(error).__name__, "reason": "INTERNAL"})
            raise
        if not words:  # the message is the help
            print(error.format_message(), file=sys.stderr)
            return 2
        return _fail(error.format_message(), 2, as_json, {"type": "Usage", "reason": "USAGE"})


def _details(error: SparsightError) -> dict[str, Any]:
    return {"type": type(error).__name__, "reason": error.reason, "field": error.field, "details": error.details}


def _fail(message: str, code: int, as_json: bool, details: Mapping[str, Any]) -> int:
    print(f"sparsight: {' '.join(message.split())}", file=sys.stderr)
    if as_json:
        print_json({"error": {"message": message, **details}}, sys.stdout)
    return code


if __name__ == "__main__":
    sys.exit(main())
