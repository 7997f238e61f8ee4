"""Do searches and writes wait for flushes and merges? Latencies in one process: idle, under ingest, and during merges.

One thread searches (ready sparse queries, k = 10), another writes at a steady rate, and the collection's own background
thread flushes and merges; in the last phase everything is merged again and again. Prints one JSON row a phase, with the
longest wait of a search and of a single write::

    python benches/bench_merge.py --documents 60000 --seconds 10
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import sparsight
from sparsight import Query, Retriever
from sparsight.index import maintenance
from sparsight.retrieval import Collection
from sparsight.types import SparseField, SparseVector

sys.path.insert(0, str(Path(__file__).parent))
from bench_upsert import VOCABULARY, commit, make_documents, make_matrix

QUERY_TERMS = 24


def make_queries(count: int) -> list[Query]:
    """Queries whose terms are drawn as the documents' are, without repeats."""
    matrix = make_matrix(count, QUERY_TERMS, seed=6)
    return [
        Query(retrievers=[Retriever("splade", sparse=SparseVector(row.indices, row.data))], k=10, include=[])
        for row in (matrix[n] for n in range(count))
    ]


class Repeating:
    """Calls of a function in a thread of its own until the block ends; ``ms`` are their times."""

    def __init__(self, work: Callable[[int], Any], pause_s: float = 0.0) -> None:
        self.ms: list[float] = []
        self._work, self._pause_s = work, pause_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop)

    def _loop(self) -> None:
        number = 0
        while not self._stop.is_set():
            start = time.perf_counter()
            self._work(number)
            took = time.perf_counter() - start
            self.ms.append(took * 1e3)
            number += 1
            self._stop.wait(max(0.0, self._pause_s - took))

    def __enter__(self) -> Repeating:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def summary(self, name: str) -> dict[str, float]:
        """p50, p99 and the longest, in ms."""
        if not self.ms:
            return {}
        p50, p99 = np.percentile(self.ms, [50, 99])
        numbers = {"p50": p50, "p99": p99, "max": max(self.ms)}
        return {f"{name}_{key}_ms": round(value, 2) for key, value in numbers.items()} | {f"{name}_count": len(self.ms)}


@contextmanager
def counted() -> Iterator[list[float]]:
    """Seconds of each flush and merge of the block."""
    seconds: list[float] = []
    originals = {name: getattr(maintenance, name) for name in ("_flush", "_merge")}

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args)
            finally:
                seconds.append(time.perf_counter() - start)

        return call

    for name, function in originals.items():
        setattr(maintenance, name, timed(function))
    try:
        yield seconds
    finally:
        for name, function in originals.items():
            setattr(maintenance, name, function)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=60_000)
    parser.add_argument("--weights", type=int, default=225)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each phase")
    parser.add_argument("--batch", type=int, default=100, help="documents a write")
    parser.add_argument("--rate", type=float, default=1_000.0, help="documents written a second")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--switch-ms", type=float, default=5.0, help="sys.setswitchinterval; Python's own is 5")
    args = parser.parse_args()
    sys.setswitchinterval(args.switch_ms / 1e3)
    matrix = make_matrix(args.documents, args.weights, seed=5)
    documents, queries = make_documents(matrix, 0, ""), make_queries(512)
    common = {"weights": args.weights, "batch": args.batch, "rate": args.rate, "switch_ms": args.switch_ms,
              "commit": commit(), "date": time.strftime("%Y-%m-%d")}  # fmt: skip
    with tempfile.TemporaryDirectory(dir=args.folder) as root, sparsight.open(root) as database:
        target = database.create_collection("bench", [SparseField("splade", dimension=VOCABULARY)])
        for start in range(0, len(documents), 10_000):
            target.upsert(documents[start : start + 10_000])
        target.compact()

        def searching(n: int) -> None:
            target.search(queries[n % len(queries)])

        for n in range(64):
            searching(n)

        def write(n: int) -> None:
            start = n * args.batch % len(documents)  # replaces what is there, so the collection keeps its size
            target.upsert(documents[start : start + args.batch])

        pause = args.batch / args.rate
        for phase in ("idle", "ingest", "merge"):
            with counted() as seconds, Repeating(searching) as searches:
                if phase == "idle":
                    time.sleep(args.seconds)
                    writes = None
                else:
                    with Repeating(write, pause) as writes:
                        run(phase, target, args.seconds)
            row: dict[str, Any] = {"op": "search_beside", "phase": phase, "documents": target.count()}
            row |= searches.summary("search") | (writes.summary("write") if writes else {})
            info = target.info()
            row |= {"flushes_and_merges": len(seconds), "busy_s": round(sum(seconds), 2), "segments": info.segments}
            print(json.dumps(row | common), flush=True)


def run(phase: str, target: Collection, seconds: float) -> None:
    """Let time pass, or merge everything for that long."""
    end = time.monotonic() + seconds
    while phase == "merge" and time.monotonic() < end:
        target.compact()
    time.sleep(max(0.0, end - time.monotonic()))


if __name__ == "__main__":
    main()
