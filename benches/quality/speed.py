"""How fast systems encode on one thread: ``python -m benches.quality.speed`` reads a job and writes its rows, as JSON.

A process of its own, because it gives up all processors but one before torch looks how many there are.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benches.quality.systems import BM25, System
from sparsight.encoders.sparse import SparseEncoder

__all__ = ["measure_speed"]

_ROOT = Path(__file__).resolve().parents[2]
_WARM_UP = 16


def measure_speed(systems: Sequence[System], texts: Sequence[str], questions: Sequence[str], max_tokens: int,
                  rounds: int) -> list[dict[str, Any]]:
    """A row for each system; see `_rows`.

    Raises
    ------
    RuntimeError
        If the process fails; what it said is on stderr.
    """
    job = {"systems": [dataclasses.asdict(system) for system in systems], "texts": list(texts),
           "questions": list(questions), "max_tokens": max_tokens, "rounds": rounds}
    done = subprocess.run([sys.executable, "-m", "benches.quality.speed"], input=json.dumps(job), text=True,
                          stdout=subprocess.PIPE, cwd=_ROOT)
    if done.returncode:
        raise RuntimeError(f"the process that measures speed ended with {done.returncode}")
    rows: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return rows


def _rows(systems: Sequence[System], texts: list[str], questions: list[str], max_tokens: int,
          rounds: int) -> list[dict[str, Any]]:
    """Median texts a second over the rounds, in which systems take turns; median and 99th percentile of a query.

    A query is one call with one text; all calls of all rounds count. BM25 encodes no queries of its own here: None.
    """
    import numpy as np

    rates: dict[str, list[float]] = {system.model: [] for system in systems}  # ways of asking share documents
    asked: dict[str, list[list[float]]] = {system.name: [] for system in systems}
    ways = {system.name: _ways(system, max_tokens) for system in systems}
    for documents, query in ways.values():
        documents(texts[:_WARM_UP])
        for question in questions[:_WARM_UP]:
            query(question)
    for turn in range(rounds):
        for system in systems[:: 1 if turn % 2 else -1]:
            name, (documents, query) = system.name, ways[system.name]
            rates[system.model].append(len(texts) / _seconds(documents, texts))
            asked[name].append([_seconds(query, question) * 1e6 for question in questions])
    rows = []
    for system in systems:
        taken = np.concatenate(asked[system.name])
        encodes = system.kind != BM25 and len(taken)
        rows.append({"system": system.name, "kind": system.kind, "threads": 1, "texts": len(texts),
                     "max_tokens": 0 if system.kind == BM25 else max_tokens, "rounds": rounds,
                     "precision": "" if system.kind == BM25 else system.encoder().precision,
                     "texts_per_s": round(float(np.median(rates[system.model])), 1),
                     "query_p50_us": round(float(np.percentile(taken, 50)), 1) if encodes else None,
                     "query_p99_us": round(float(np.percentile(taken, 99)), 1) if encodes else None})
    return rows


def _ways(system: System, max_tokens: int) -> tuple[Callable[[list[str]], Any], Callable[[str], Any]]:
    """How a system encodes documents, and a query."""
    if system.kind == BM25:
        from sparsight.encoders.training.bm25 import bm25_impacts

        return lambda texts: bm25_impacts(texts, []), lambda question: None
    encoder = system.encoder()

    def documents(texts: list[str]) -> Any:
        return encoder.encode(texts, max_tokens=max_tokens)

    if isinstance(encoder, SparseEncoder):
        return documents, encoder.encode_query
    return documents, lambda question: encoder.encode([question], mode="query")


def _seconds(function: Callable[[Any], Any], argument: Any) -> float:
    started = time.perf_counter()
    function(argument)
    return time.perf_counter() - started


def main() -> None:
    """Rows of the job on stdin, as the last line of stdout."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    job = json.load(sys.stdin)
    systems = [System(**system) for system in job.pop("systems")]
    print(json.dumps(_rows(systems, **job)))


if __name__ == "__main__":
    main()
