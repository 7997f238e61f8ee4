"""``sparsight train-sae`` and ``train-splade``: a collection's sparse autoencoder, and an encoder from texts."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsight.errors import FailedPreconditionError
from sparsight.service.commands.common import (
    CollectionOption,
    DataOption,
    JsonOption,
    Output,
    ServerOption,
    Usage,
    open_collection,
    open_store,
)

if TYPE_CHECKING:
    from sparsight.service.commands.common import Store
    from sparsight.types import Operation

__all__ = ["follow", "train_sae", "train_splade"]

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


def train_splade(
    config: Annotated[str, typer.Argument(metavar="CONFIG.toml", help="Settings of the run.")],
    data: Annotated[str, typer.Option(metavar="DIR", help="Where the sources' folders are; the file's own folder if "
                                      "left out.")] = "",
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder of the run; run.output if left out.")] = "",
    slice_seconds: Annotated[float, typer.Option("--slice", min=0, metavar="SECONDS", help="Stop after so long; the "
                                                 "same command goes on. 0 takes run.slice_seconds.")] = 0.0,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where to train.")] = "auto",
    changes: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Another value for a setting, "
                                                      "as train.steps=100; may be repeated.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a SPLADE encoder on folders of texts. The same command goes on with a run that was stopped."""
    if device not in ("auto", "cpu", "cuda"):
        raise Usage(f"--device: expected auto, cpu or cuda, got {device!r}", field="device")
    with Output.of(as_json) as output:
        from sparsight.encoders.training.config import read_config
        from sparsight.encoders.training.runs import train

        settings = read_config(config, data or None, changes or ())
        settings = replace(settings, output=Path(out) if out else settings.output,
                           slice_seconds=slice_seconds or settings.slice_seconds)
        report = train(settings, device, lambda line: output.notes.print(line, markup=False, soft_wrap=True))
        output.result({"finished": report.finished, "step": report.step, "steps": report.steps,
                       "seconds": round(report.seconds, 1), "out": report.folder, "model": report.model,
                       "plot": report.plot, "last": report.last})
        if report.finished:
            output.console.print(f"trained {report.steps:,} steps in {report.seconds:.0f} s: {report.model}",
                                 soft_wrap=True)
        else:
            output.console.print(f"the slice is over at step {report.step:,} of {report.steps:,}: the same command "
                                 "goes on from there", soft_wrap=True)
        if report.plot is not None:
            output.console.print(f"drawn: {report.plot}", soft_wrap=True)


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
