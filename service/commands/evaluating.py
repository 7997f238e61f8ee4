"""``sparsight eval``: how well each way of searching does on a BEIR data set, and how fast.

The data set goes into a scratch collection: through a server on the loopback by default (what a user of the service
gets), in this process with ``--embedded``, or on a running server. Every test query is then asked once per retriever.
"""

from __future__ import annotations

import contextlib
import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.table import Table

from sparsight.errors import InvalidArgumentError
from sparsight.service.commands.common import JsonOption, Output, ServerOption, Usage
from sparsight.service.commands.fields import parse_fields
from sparsight.service.commands.indexing import index_documents
from sparsight.service.commands.training import follow
from sparsight.types import Document, Field, Fusion, PassageSpec, Query, Retriever, SAEField

if TYPE_CHECKING:
    from sparsight.service.commands.common import AnyCollection, Store

__all__ = ["evaluate"]

# What published figures of these models are made with: title and text, cut after 256 word pieces.
_CUT = PassageSpec(max_tokens=256, max_passages=1)
_SPLIT = PassageSpec()
_MEASURES = ("nDCG@10", "R@100", "RR@10")
_DEPTH = 100
_WARM_UP = 5
_TIMEOUT_S = 120.0  # for the first query, which loads the models
_HYBRID = ("splade", "dense")


def evaluate(
    source: Annotated[str, typer.Argument(metavar="BEIR_DIR", help="BEIR folder, or ir_datasets:NAME.")],
    split: Annotated[str, typer.Option(help="Judgements to use.")] = "test",
    fields: Annotated[str, typer.Option(metavar="FIELDS", help="Fields to compare; splade and dense together give "
                                        "hybrid too.")] = "splade,bm25,dense,sae",
    passages: Annotated[str, typer.Option(metavar="cut|split", help="Cut documents after 256 word pieces, or split "
                                          "them into passages of that size.")] = "cut",
    embedded: Annotated[bool, typer.Option("--embedded", help="In this process, without gRPC.")] = False,
    server: ServerOption = "",
    limit_queries: Annotated[int, typer.Option(min=0, help="Only the first queries; 0 takes all.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, max=10_000, help="Documents a write.")] = 64,
    latents: Annotated[int, typer.Option(min=0, help="Features of an SAE field without a model (sae;model=), which "
                                        "is trained on the documents; 0 chooses.")] = 0,
    sae_k: Annotated[int, typer.Option("--sae-k", min=1, help="Features active in a passage, likewise.")] = 32,
    runs_dir: Annotated[str, typer.Option(metavar="DIR", help="Write a TREC run per retriever here.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Measure retrieval quality and latency on a data set."""
    from sparsight.retrieval.datasets import open_dataset

    if passages not in ("cut", "split"):
        raise Usage(f"--passages: expected cut or split, got {passages!r}", field="passages")
    if embedded and server:
        raise Usage("give --embedded or --server, not both", field="embedded")
    with Output.of(as_json) as output:
        wanted = parse_fields(fields)
        dataset = open_dataset(source)
        qrels = {query: grades for query, grades in dataset.qrels(split).items() if any(g > 0 for g in grades.values())}
        queries = {query: text for query, text in dataset.queries().items() if query in qrels}
        if limit_queries:
            queries = dict(list(queries.items())[:limit_queries])
        if not queries:
            raise InvalidArgumentError(f"{source} has no queries with judgements in {split!r}", field="split")
        qrels = {query: qrels[query] for query in queries}
        with _scratch(server, embedded) as store, _collection(store, wanted, passages) as collection:
            report: dict[str, Any] = {
                "dataset": dataset.name, "split": split, "documents": 0, "queries": len(queries),
                "door": "embedded" if embedded else server or "grpc", "passages": passages,
            }
            report["index_seconds"] = _index(collection, dataset.documents(), dataset.count(), batch_size, output)
            report["documents"] = collection.info().documents
            if _untrained(wanted):
                report["sae"] = _train(store, collection, wanted, latents, sae_k, output)
            report["runs"] = {}
            for name, retrievers in _retrievers(wanted).items():
                run, latencies = _ask(collection, name, retrievers, queries, output)
                report["runs"][name] = _figures(run, qrels, latencies)
                if runs_dir:
                    _write_run(Path(runs_dir), dataset.name, name, run)
        output.result(report)
        if not as_json:
            _print(output, report)


@contextlib.contextmanager
def _scratch(server: str, embedded: bool) -> Iterator[Store]:
    if server:
        from sparsight.service.client import Client

        with Client(server) as client:
            yield client
        return
    from sparsight.retrieval.engine import Database

    with tempfile.TemporaryDirectory(prefix="sparsight-eval-") as folder, Database(folder) as database:
        if embedded:
            yield database
            return
        from sparsight.service.client import Client
        from sparsight.service.server import ServerThread

        with ServerThread(database) as thread, Client(thread.target) as client:
            yield client


def _untrained(fields: Sequence[Field]) -> list[SAEField]:
    """SAE fields without a model, which is trained on what is there."""
    return [field for field in fields if isinstance(field, SAEField) and not field.model]


@contextlib.contextmanager
def _collection(store: Store, fields: Sequence[Field], passages: str) -> Iterator[AnyCollection]:
    name = f"eval-{secrets.token_hex(6)}"
    stored = [field for field in fields if field not in _untrained(fields)]
    collection = store.create_collection(name, stored, passages=_CUT if passages == "cut" else _SPLIT)
    try:
        yield collection
    finally:
        store.drop_collection(name)


def _index(collection: AnyCollection, documents: Iterator[Document], total: int, batch: int, output: Output) -> float:
    started = time.perf_counter()
    with output.progress() as progress:
        task = progress.add_task("indexing", total=total or None)
        # Text only: metadata takes no part, and not every data set's would be accepted.
        plain = (Document(document.id, document.text, document.title) for document in documents)
        index_documents(collection, plain, batch, lambda count: progress.advance(task, count))
    collection.flush()
    return round(time.perf_counter() - started, 3)


def _train(
    store: Store, collection: AnyCollection, fields: Sequence[Field], latents: int, k: int, output: Output
) -> dict[str, Any]:
    (field, *_) = _untrained(fields)
    started = time.perf_counter()
    operation = collection.train_sae(
        field.name, source=field.source, n_latents=latents, k=k, scorer=field.scorer,
        max_query_terms=field.max_query_terms, rescore=field.rescore, weighting=field.weighting, k1=field.k1,
        wait=False)
    result = follow(store, operation, output).result
    return {"seconds": round(time.perf_counter() - started, 3), **result}


def _retrievers(fields: Sequence[Field]) -> dict[str, list[Retriever]]:
    names = [field.name for field in fields]
    retrievers = {name: [Retriever(name)] for name in names}
    if all(name in names for name in _HYBRID):
        retrievers["hybrid"] = [Retriever(name, weight=0.5) for name in _HYBRID]
    return retrievers


def _ask(
    collection: AnyCollection, name: str, retrievers: Sequence[Retriever], queries: Mapping[str, str], output: Output
) -> tuple[dict[str, list[tuple[str, float]]], list[float]]:
    def ask(text: str) -> Any:
        return collection.search(Query(text=text, retrievers=retrievers, k=_DEPTH, include=(),
                                       fusion=Fusion(depth=_DEPTH)), timeout=_TIMEOUT_S)

    for text in list(queries.values())[:_WARM_UP]:
        ask(text)
    run: dict[str, list[tuple[str, float]]] = {}
    latencies = []
    with output.progress() as progress:
        for query, text in progress.track(queries.items(), description=f"searching {name}"):
            started = time.perf_counter()
            result = ask(text)
            latencies.append((time.perf_counter() - started) * 1000)
            run[query] = [(hit.id, hit.score) for hit in result.hits]
    return run, latencies


def _figures(
    run: Mapping[str, Sequence[tuple[str, float]]], qrels: Mapping[str, Mapping[str, int]], latencies: Sequence[float]
) -> dict[str, float]:
    from sparsight.retrieval.evaluation import evaluate as measure

    figures = {name: round(value, 4) for name, value in measure(run, qrels, _MEASURES).mean.items()}
    middle, high = np.percentile(latencies, [50, 99])
    return {**figures, "p50_ms": round(float(middle), 3), "p99_ms": round(float(high), 3)}


def _write_run(folder: Path, dataset: str, name: str, run: Mapping[str, Sequence[tuple[str, float]]]) -> None:
    from sparsight.retrieval.runs import write_run

    write_run(folder / f"{dataset.replace('/', '-')}.{name}.trec", run, f"sparsight-{name}")


def _print(output: Output, report: Mapping[str, Any]) -> None:
    table = Table(title=f"{report['dataset']} ({report['split']}): {report['documents']} documents, "
                        f"{report['queries']} queries, through {report['door']}", title_justify="left")
    table.add_column("retriever")
    for name in (*_MEASURES, "p50 ms", "p99 ms"):
        table.add_column(name, justify="right")
    for name, figures in report["runs"].items():
        table.add_row(name, *(f"{figures[measure]:.3f}" for measure in _MEASURES),
                      f"{figures['p50_ms']:.1f}", f"{figures['p99_ms']:.1f}")
    output.console.print(table)
    trained = f", the SAE trained in {report['sae']['seconds']:.1f} s" if "sae" in report else ""
    output.console.print(f"indexed in {report['index_seconds']:.1f} s{trained}")
