"""The demonstration: 2,000 abstracts, a server on the loopback, and searches, filtered, steered and explained."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.rule import Rule

from sparsight.service.commands.indexing import index_documents
from sparsight.service.commands.rendering import print_features, print_hits
from sparsight.service.commands.searching import find_feature
from sparsight.types import DEFAULT_FIELDS, Edit, Query, Retriever, SearchResult

if TYPE_CHECKING:
    from sparsight.retrieval.engine import Collection
    from sparsight.service.client import Client
    from sparsight.service.commands.common import Output

__all__ = ["COLLECTION", "CORPUS", "run_demo"]

COLLECTION = "arxiv"
CORPUS = Path(__file__).parent / "demo_data" / "arxiv_2000.jsonl.gz"

_BATCH = 100

_PLAIN = "how do neurons represent natural images with few active units"
_FILTERED = "galaxy redshift survey"
_FILTER = 'year >= 2010 and primary in ["astro-ph.CO", "astro-ph.GA", "astro-ph.IM", "stat.AP", "stat.ME"]'
_STEERED = "recurrent neural networks for sequences"
_WORDS = "music"
_STRENGTH = 2.0


def run_demo(folder: Path, output: Output, *, documents: int = 0) -> dict[str, Any]:
    """Index, serve, search; prints what happens and returns it.

    Parameters
    ----------
    folder : Path
        Data folder; kept, and used again by the next run.
    output : Output
        Where to print.
    documents : int
        Only the first of the corpus; 0 takes all 2,000.

    Returns
    -------
    dict
        Counts, seconds and the searches with their hits, for JSON.
    """
    from sparsight.retrieval.engine import Database, warm_up
    from sparsight.service.client import Client
    from sparsight.service.server import ServerThread

    started = time.perf_counter()
    report: dict[str, Any] = {"data": str(folder), "collection": COLLECTION}
    with Database(folder) as database:
        collection = database.create_collection(COLLECTION, DEFAULT_FIELDS, exist_ok=True)
        report |= _fill(collection, documents, output)
        warm_up(database)
        with ServerThread(database) as server, Client(server.target) as client:
            output.console.print(f"\nA gRPC server listens on [bold]{server.target}[/]; what follows goes through it.")
            report["searches"] = _search(client, output)
    report["seconds"] = round(time.perf_counter() - started, 3)
    _say_how_to_go_on(folder, report["seconds"], output)
    return report


def _fill(collection: Collection, documents: int, output: Output) -> dict[str, Any]:
    from itertools import islice

    from sparsight.retrieval.datasets import read_documents

    corpus = list(islice(read_documents(CORPUS), documents or None))
    output.console.print(f"Indexing {len(corpus)} abstracts from arXiv: learned sparse (SPLADE), BM25, dense and "
                         "its features, on this machine's CPU ...")
    started = time.perf_counter()
    with output.progress() as progress:
        task = progress.add_task("indexing", total=len(corpus))
        written = index_documents(collection, corpus, _BATCH, lambda count: progress.advance(task, count)).written
    collection.flush()
    seconds = time.perf_counter() - started
    output.console.print(f"  {written} written in {seconds:.1f} s"
                         + (f", {len(corpus) - written} were there" if written < len(corpus) else ""))
    return {"documents": len(corpus), "written": written, "index_seconds": round(seconds, 3)}


def _search(client: Client, output: Output) -> dict[str, Any]:
    collection = client.collection(COLLECTION)
    console = output.console

    _headline(output, "1. A search, explained", f'"{_PLAIN}"', "SPLADE and dense in one query; every score is the sum "
              "of its parts.")
    hybrid = [Retriever("splade", weight=0.5), Retriever("dense", weight=0.5)]
    plain = collection.search(Query(text=_PLAIN, retrievers=hybrid, k=3, explain=True))
    print_hits(console, plain, explain=True, contributions=4)

    _headline(output, "2. A search with a filter", f'"{_FILTERED}"', _FILTER)
    filtered = collection.search(Query(text=_FILTERED, retrievers=hybrid, filter=_FILTER, k=5))
    print_hits(console, filtered)

    feature = find_feature(collection, _WORDS)
    _headline(output, "3. A search, steered", f'"{_STEERED}"', f'Of the features that are found by "{_WORDS}", the '
              f"first is boosted by {_STRENGTH:g}: documents that have it move up.")
    print_features(console, collection.features(_WORDS, page_size=3).features)
    console.print()
    steered = collection.search(Query(text=_STEERED, retrievers=["dense"], k=6, explain=True,
                                      edits=[Edit(feature.index, "boost", _STRENGTH, feature.field)]))
    print_hits(console, steered)
    _print_movements(output, steered)
    return {
        "plain": {"query": _PLAIN, "hits": plain.hits},
        "filtered": {"query": _FILTERED, "filter": _FILTER, "hits": filtered.hits},
        "steered": {"query": _STEERED, "feature": feature, "strength": _STRENGTH, "hits": steered.hits},
    }


def _headline(output: Output, title: str, query: str, remark: str) -> None:
    output.console.print()
    output.console.print(Rule(f"[bold]{title}[/]", align="left", style="dim"))
    output.console.print(f"[bold cyan]{escape(query)}[/]\n[dim]{escape(remark)}[/]\n")


def _print_movements(output: Output, result: SearchResult) -> None:
    output.console.print("\nWhy they moved:")
    for hit in result.hits:
        movement = hit.explanation.movement if hit.explanation else None
        if movement is None:
            continue
        before = str(movement.rank_before) if movement.rank_before else "beyond the candidates"
        parts = ", ".join(f"{part.label.split(',')[0]} {part.score:+.3f}"
                          for part in sorted(movement.by_feature, key=lambda part: -abs(part.score))[:2])
        output.console.print(f"  [green]{escape(hit.id)}[/]: rank {before} -> {movement.rank_after}, score "
                             f"{movement.score_before:.3f} -> {movement.score_after:.3f}"
                             + (f" ({escape(parts)})" if parts else ""))


def _say_how_to_go_on(folder: Path, seconds: float, output: Output) -> None:
    output.console.print()
    output.console.print(Rule(f"[bold]Done in {seconds:.0f} s. To go on:[/]", align="left", style="dim"))
    # `make demo` runs it from a virtual environment that is not on the path.
    program = "sparsight" if shutil.which("sparsight") else os.path.relpath(sys.argv[0])
    output.console.print(textwrap.dedent(f"""\
        {program} search "word embeddings" --data {folder} --explain
        {program} features robot --data {folder}
        {program} serve --data {folder}

        import sparsight

        papers = sparsight.connect("127.0.0.1:7625").collection("{COLLECTION}")   # or sparsight.open("{folder}")
        for hit in papers.search("word embeddings", k=5, filter="year >= 2015"):
            print(hit.rank, hit.title)"""), markup=False, soft_wrap=True)
