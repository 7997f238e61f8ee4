"""``sparsight train-sae`` and ``train-splade``: a collection's sparse autoencoder, and an encoder from texts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Literal, cast

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

__all__ = ["follow", "tell", "train_sae", "train_splade"]

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
    seeds: Annotated[int, typer.Option(min=1, max=16, help="Trainings; those after the first tell which features they "
                                       "find again.")] = 1,
    scorer: Annotated[str, typer.Option(metavar="decode|symmetric", help="How the field weights queries.")] = "decode",
    max_query_terms: Annotated[int, typer.Option(min=0, help="Weights to search with; 0 takes all.")] = 256,
    rescore: Annotated[int, typer.Option(min=0, help="Documents found by them that are scored with all.")] = 50,
    weighting: Annotated[str, typer.Option(metavar="none|idf|bm25", help="How the field weights features: by rarity, "
                                           "and in documents by BM25's saturation.")] = "none",
    k1: Annotated[float, typer.Option(min=0.0, max=100.0, help="That saturation; the smaller, the more.")] = 1.2,
    config: Annotated[str, typer.Option(metavar="FILE.toml", help="Settings of a run outside a collection; needs "
                                        "--vectors and --out, and the options above do not count.")] = "",
    vectors: Annotated[str, typer.Option(metavar="FILE.npy", help="Vectors that the run is trained on.")] = "",
    queries: Annotated[str, typer.Option(metavar="FILE.npy", help="Queries that losses learn rankings from; vectors "
                                         "themselves if left out.")] = "",
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder of the run; the same command goes on with it.")] = "",
    slice_seconds: Annotated[float, typer.Option("--slice", min=0, metavar="SECONDS", help="Stop a run after so long; "
                                                 "0: no limit.")] = 0.0,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where the run is trained.")] = "auto",
    changes: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Another value for a setting "
                                                      "of the file; may be repeated.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a sparse autoencoder in a collection, and name its features; or, with --config, on a file of vectors."""
    if config or vectors or out:
        if not (config and vectors and out):
            raise Usage("a run outside a collection needs --config, --vectors and --out", field="--config")
        _train_sae_run(config, vectors, out, queries, slice_seconds, device, changes or [], as_json)
        return
    with Output.of(as_json) as output, open_store(data, server, write=True) as store:
        target = open_collection(store, collection)
        started = time.perf_counter()
        operation = target.train_sae(
            field, source=source, n_latents=latents, k=k, epochs=epochs, seed=seed, seeds=seeds,
            scorer=cast(Literal["decode", "symmetric"], scorer), max_query_terms=max_query_terms,
            rescore=rescore, weighting=cast(Literal["none", "idf", "bm25"], weighting), k1=k1, wait=False)
        operation = follow(store, operation, output)
        tell(output, operation, f"trained {field}", target.name, field, time.perf_counter() - started)


def tell(output: Output, operation: Operation, done: str, collection: str, field: str, seconds: float) -> None:
    """Print what an operation on a collection's features reports."""
    output.result({"collection": collection, "field": field, "seconds": round(seconds, 3), "report": operation.result})
    output.console.print(f"{done} of {collection} in {seconds:.1f} s")
    for name, value in operation.result.items():
        output.console.print(f"  {name}: {value:.4g}" if isinstance(value, float) else f"  {name}: {value}")


def _train_sae_run(config: str, vectors: str, out: str, queries: str, slice_seconds: float, device: str,
                   changes: list[str], as_json: bool) -> None:
    with Output.of(as_json) as output:
        from sparsight.retrieval.sae_training import train_sae_run

        report = train_sae_run(config, vectors, out, queries=queries or None, slice_seconds=slice_seconds,
                               device=device, changes=changes,
                               say=lambda line: output.notes.print(line, markup=False, soft_wrap=True))
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


def train_splade(
    config: Annotated[list[str], typer.Argument(metavar="CONFIG.toml...", help="Settings of a run; several run one "
                                                "after another.")],
    data: Annotated[str, typer.Option(metavar="DIR", help="Where the sources' folders are; the file's own folder if "
                                      "left out.")] = "",
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder of a single run; run.output if left out.")] = "",
    slice_seconds: Annotated[float, typer.Option("--slice", min=0, metavar="SECONDS", help="Stop after so long; the "
                                                 "same command goes on. 0 takes run.slice_seconds.")] = 0.0,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where to train.")] = "auto",
    changes: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Another value for a setting, "
                                                      "as train.steps=100; may be repeated.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Train SPLADE encoders on folders of texts. The same command goes on with a run that was stopped."""
    if device not in ("auto", "cpu", "cuda"):
        raise Usage(f"--device: expected auto, cpu or cuda, got {device!r}", field="device")
    with Output.of(as_json) as output:
        from sparsight.retrieval import splade_training

        reports = splade_training.train_splade(
            config, data=data or None, out=out or None, slice_seconds=slice_seconds, device=device,
            changes=changes or (), say=lambda line: output.notes.print(line, markup=False, soft_wrap=True))
        finished = len(reports) == len(config) and reports[-1].finished
        output.result({"finished": finished, "runs": [
            {"finished": report.finished, "step": report.step, "steps": report.steps,
             "seconds": round(report.seconds, 1), "out": report.folder, "model": report.model, "plot": report.plot,
             "last": report.last} for report in reports]})
        for report in reports:
            if report.finished:
                output.console.print(f"trained {report.steps:,} steps in {report.seconds:.0f} s: {report.model}",
                                     soft_wrap=True)
            if report.plot is not None:
                output.console.print(f"drawn: {report.plot}", soft_wrap=True)
        if not finished:
            output.console.print(f"the slice is over at step {reports[-1].step:,} of {reports[-1].steps:,} of "
                                 f"{reports[-1].folder}: the same command goes on from there", soft_wrap=True)


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
