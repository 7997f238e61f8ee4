"""``sparsight train-sae``: a sparse autoencoder over a collection's own dense vectors."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from sparsight.errors import FailedPreconditionError
from sparsight.service.commands.common import (
    CollectionOption,
    DataOption,
    JsonOption,
    Output,
    ServerOption,
    open_collection,
    open_store,
)

if TYPE_CHECKING:
    from sparsight.service.commands.common import Store
    from sparsight.types import Operation

__all__ = ["follow", "train_sae"]

_POLL_S = 0.2


def train_sae(
    collection: CollectionOption = "",
    data: DataOption = "",
    server: ServerOption = "",
    field: Annotated[str, typer.Option(metavar="FIELD", help="SAE field to fill; made when missing.")] = "sae",
    source: Annotated[str, typer.Option(metavar="FIELD", help="Dense field to train on.")] = "dense",
    latents: Annotated[int, typer.Option(min=0, help="Features; 0 chooses by the size of the collection.")] = 0,
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Features active in a passage.")] = 32,
    epochs: Annotated[int, typer.Option(min=0, help="Passes over the vectors; 0 chooses.")] = 0,
    seed: Annotated[int, typer.Option(help="Of the training.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Train a sparse autoencoder in a collection, and name its features."""
    with Output.of(as_json) as output, open_store(data, server, write=True) as store:
        target = open_collection(store, collection)
        started = time.perf_counter()
        operation = target.train_sae(field, source=source, n_latents=latents, k=k, epochs=epochs, seed=seed,
                                     wait=False)
        operation = follow(store, operation, output)
        seconds = time.perf_counter() - started
        output.result({"collection": target.name, "field": field, "seconds": round(seconds, 3),
                       "report": operation.result})
        output.console.print(f"trained {field} of {target.name} in {seconds:.1f} s")
        for name, value in operation.result.items():
            output.console.print(f"  {name}: {value:.4g}" if isinstance(value, float) else f"  {name}: {value}")


def follow(store: Store, operation: Operation, output: Output) -> Operation:
    """Wait for an operation to end, with a progress bar; a Ctrl-C cancels it.

    Raises
    ------
    FailedPreconditionError
        If the operation failed.
    """
    with output.progress() as progress:
        task = progress.add_task(operation.kind or "working", total=100)
        try:
            while not operation.done:
                time.sleep(_POLL_S)
                operation = store.operation(operation.name)
                progress.update(task, completed=round(100 * operation.progress),
                                description=operation.message or operation.kind)
        except KeyboardInterrupt:
            store.cancel_operation(operation.name)
            raise
    if operation.error:
        raise FailedPreconditionError(f"{operation.kind} failed: {operation.error}", reason="OPERATION_FAILED",
                                      operation=operation.name)
    return operation
