"""How many documents with ready sparse vectors a collection takes in a second, durable before it is answered.

Two questions. **bulk**: batches of 2,000 to 10,000 documents, each batch one write; with the seconds of each stage
(``write`` holds the rows, the commit and the segment, which is built beside the rows) and the bytes that reached the
disk. **single**: writes of one document by 1, 8 and 64 callers at once, who share commits: documents a second and the
p50 and p99 of a caller's wait. Flushes and merges run meanwhile, as they do for a user. One JSON row a setting::

    python benches/bench_upsert.py --documents 60000 --batches 2000 10000 --callers 1 8 64

The documents are generated: Zipf-distributed terms, gamma-distributed weights, as many of them as a SPLADE model gives.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import shutil
import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from scipy.sparse import csr_matrix

import sparsight
from sparsight.index import store
from sparsight.retrieval import Collection, collection
from sparsight.types import Document, SparseField, SparseVector

VOCABULARY = 30_522


def make_matrix(documents: int, weights: int, seed: int, vocabulary: int = VOCABULARY) -> csr_matrix:
    """Rows of about ``weights`` positive float32 weights; a term's share falls with its rank to the power 0.75."""
    rng = np.random.default_rng(seed)
    share = np.cumsum(1.0 / (np.arange(vocabulary) + 20.0) ** 0.75)
    lengths = np.clip(rng.normal(weights * 1.03, weights / 6, documents), 1, None).astype(np.int64)
    rows = np.repeat(np.arange(documents), lengths)
    terms = np.searchsorted(share, rng.random(len(rows)) * share[-1])
    terms = rng.permutation(vocabulary)[terms]  # frequent terms are spread over the vocabulary, as word pieces are
    values = np.minimum(3.9, rng.gamma(1.5, 0.45, len(rows)) + 0.01).astype(np.float32)
    matrix = csr_matrix((values, (rows, terms)), (documents, vocabulary))
    matrix.data = np.minimum(matrix.data, np.float32(3.9))  # repeats were added up
    return matrix


def make_documents(matrix: csr_matrix, first: int, text: str) -> list[Document]:
    """One document a row of the matrix."""
    spans = zip(matrix.indptr[:-1].tolist(), matrix.indptr[1:].tolist(), strict=True)
    return [
        Document(
            f"document-{first + n:08d}",
            text=text,
            metadata={"year": 1990 + n % 30},
            vectors={"splade": SparseVector(matrix.indices[a:b], matrix.data[a:b])},
        )
        for n, (a, b) in enumerate(spans)
    ]


class Stages:
    """Seconds spent in functions while they are watched, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def watch(self, **places: tuple[Any, str]) -> Iterator[None]:
        """Time every call of ``owner.function`` under the name given."""
        with ExitStack() as stack:
            for name, (owner, function) in places.items():
                stack.enter_context(mock.patch.object(owner, function, self._timed(name, getattr(owner, function))))
            yield

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[name] += time.perf_counter() - start

        return timed


@contextmanager
def collection_in(folder: Path) -> Iterator[Collection]:
    """A new collection with one sparse field."""
    root = Path(tempfile.mkdtemp(dir=folder))
    try:
        with sparsight.open(root) as database:
            yield database.create_collection("bench", [SparseField("splade", dimension=VOCABULARY)])
    finally:
        shutil.rmtree(root)


def written_bytes() -> int:
    """Bytes this process has sent to the disk."""
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["write_bytes"])


def bench_bulk(folder: Path, matrix: csr_matrix, batch: int, text: str) -> dict[str, Any]:
    """All rows of the matrix in writes of ``batch`` documents, one after the other."""
    stages = Stages()
    starts = range(0, matrix.shape[0], batch)
    with collection_in(folder) as target:
        batches = [make_documents(matrix[start : start + batch], start, text) for start in starts]
        gc.collect()
        times, before = [], written_bytes()
        with stages.watch(
            check=(collection, "check_documents"),
            prepare=(collection, "prepare_rows"),
            write=(store.CollectionStore, "write"),
            segment=(store.CollectionStore, "build"),
        ):
            for documents in batches:
                start = time.perf_counter()
                target.upsert(documents)
                times.append(time.perf_counter() - start)
        size = written_bytes() - before
        count = target.count()
    seconds = sum(times)
    return {
        "op": "upsert_bulk", "batch": batch, "documents": count, "documents_per_s": round(count / seconds),
        "batch_p50_ms": round(float(np.median(times)) * 1e3, 1), "batch_max_ms": round(max(times) * 1e3, 1),
        "stages_s": {name: round(value, 3) for name, value in stages.seconds.items()}, "seconds": round(seconds, 3),
        "disk_bytes_per_document": round(size / count),
    }  # fmt: skip


def bench_single(folder: Path, matrix: csr_matrix, callers: int, text: str) -> dict[str, Any]:
    """One document a write, from ``callers`` threads at once."""
    waits: list[float] = []
    with collection_in(folder) as target:
        queue = iter(make_documents(matrix, 0, text))
        lock = threading.Lock()

        def work() -> None:
            while True:
                with lock:
                    document = next(queue, None)
                if document is None:
                    return
                start = time.perf_counter()
                target.upsert([document])
                waits.append(time.perf_counter() - start)

        begin = time.perf_counter()
        with ThreadPoolExecutor(callers) as pool:
            for future in [pool.submit(work) for _ in range(callers)]:
                future.result()
        seconds, count = time.perf_counter() - begin, target.count()
    p50, p99 = np.percentile(waits, [50, 99]) * 1e3
    return {
        "op": "upsert_single", "callers": callers, "documents": count, "documents_per_s": round(count / seconds),
        "p50_ms": round(p50, 2), "p99_ms": round(p99, 2), "max_ms": round(max(waits) * 1e3, 2),
    }  # fmt: skip


def commit() -> str:
    """The commit measured."""
    here = Path(__file__).parent
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=here)
    return found.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=60_000)
    parser.add_argument("--weights", type=int, default=225, help="weights a document")
    parser.add_argument("--text-bytes", type=int, default=0, help="characters of text a document")
    parser.add_argument("--batches", type=int, nargs="*", default=[2_000, 5_000, 10_000])
    parser.add_argument("--callers", type=int, nargs="*", default=[1, 8, 64])
    parser.add_argument("--singles", type=int, default=4_000, help="documents of the single writes")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to be measured")
    args = parser.parse_args()
    matrix = make_matrix(args.documents, args.weights, seed=5)
    text = "a text of some words and more " * (args.text_bytes // 30 + 1)
    text = text[: args.text_bytes]
    common = {
        "weights": round(matrix.nnz / args.documents, 1), "text_bytes": args.text_bytes,
        "commit": commit(), "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    for batch in args.batches:
        row = bench_bulk(args.folder, matrix, batch, text)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps(row | common | {"peak_bytes": peak}), flush=True)
    for callers in args.callers:
        print(json.dumps(bench_single(args.folder, matrix[: args.singles], callers, text) | common), flush=True)


if __name__ == "__main__":
    main()
