"""Does a batch of searches get faster with more cores, and how does a search grow with the number of documents?

``python -m benches.batch_scaling`` generates SPLADE-like vectors (or takes ``--vectors FILE.npz``), searches 1,000
queries with 1, 2, 4, … threads, exact and at recall 0.99, and samples of the documents with one. Writes
``results/batch.json``, and the growth as a plot beside it; ``--plot-only`` draws what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benches.search import ours
from benches.search.generate import generate
from sparsight.index.vectors import quantise_query
from sparsight.kernels import Effort, Postings, default_path, topk_documents_batch
from sparsight.kernels.search import SparseQuery


def main() -> None:
    """Scaling with threads on all documents, growth with one thread."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=Path, help="a workload of make bench-vectors; absent: generated")
    parser.add_argument("--documents", type=int, default=1_000_000, help="of the generated workload")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "batch.json")
    parser.add_argument("--plot-only", action="store_true")
    args = parser.parse_args()
    if args.plot_only:
        return plot(json.loads(args.out.read_text()), args.out.with_suffix(".svg"))
    with tempfile.TemporaryDirectory() as folder:
        path = args.vectors or Path(folder) / "generated_splade.npz"
        if not args.vectors:
            generate("splade", args.documents, path)
        with np.load(path) as arrays:
            parts = {name: arrays[name] for name in arrays.files}
    vocab, indptr = int(parts["vocab"]), parts["d_indptr"]
    starts = parts["q_indptr"][-args.queries - 1 :]
    queries: list[SparseQuery] = []
    for start, stop in pairwise(starts.tolist()):
        terms, weights = parts["q_indices"][start:stop], parts["q_data"][start:stop]
        query = quantise_query(terms.astype(np.uint32), weights.astype(np.float64))
        queries.append((query.terms, query.weights))
    about = {"workload": path.stem, "path": default_path(),
             "machine": machine(), "queries": len(queries)}  # fmt: skip
    rows = []
    cores = len(os.sched_getaffinity(0))
    total = len(indptr) - 1
    for documents in sorted({min(total, size) for size in (50_000, 100_000, 200_000, 400_000, 800_000, total)}):
        end = int(indptr[documents])
        began = time.perf_counter()
        rows = indptr[: documents + 1], parts["d_indices"][:end], parts["d_data"][:end]
        postings, _ = ours.make_postings(*rows, vocab, 0)
        build_s = time.perf_counter() - began
        size = sum(getattr(postings, name).nbytes for name in ours.POSTINGS_ARRAYS)
        thread_counts = [1] if documents < total else sorted({1, *(2**i for i in range(1, 10) if 2**i <= cores), cores})
        for threads in thread_counts:
            for recall in (1.0, 0.99):
                seconds = measure(postings, queries, Effort.for_recall(recall, 10), threads, args.rounds)
                rows.append(about | {
                    "documents": documents, "threads": threads, "recall": recall, "k": 10,
                    "mean_us": round(seconds / len(queries) * 1e6, 1), "qps": round(len(queries) / seconds),
                    "build_s": round(build_s, 2), "bytes_a_posting": round(size / postings.n_postings, 3),
                })  # fmt: skip
                print(rows[-1], flush=True)
    args.out.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
    plot(rows, args.out.with_suffix(".svg"))


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Time of a search against documents, one thread, both axes logarithmic, with the fitted slopes."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "sparsight"  # equal rows, equal files
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for recall, label in ((1.0, "exact"), (0.99, "recall 0.99")):
        points = [(row["documents"], row["mean_us"]) for row in rows if row["threads"] == 1 and row["recall"] == recall]
        sizes, times = np.array(sorted(points), float).T
        slope = np.polyfit(np.log(sizes), np.log(times), 1)[0]
        axes.loglog(sizes, times, "o-", label=f"{label}: N^{slope:.2f}")
    title = f"{rows[0]['workload']}, k = {rows[0]['k']}, one thread"
    axes.set(xlabel="documents", ylabel="mean µs a query", title=title)
    axes.grid(True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(path, metadata={"Date": None})


def measure(postings: Postings, queries: list[SparseQuery], effort: Effort, threads: int, rounds: int) -> float:
    """Median seconds of a batch."""
    topk_documents_batch(postings, queries, 10, effort=effort, threads=threads)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        topk_documents_batch(postings, queries, 10, effort=effort, threads=threads)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def machine() -> str:
    """The processor, as Linux names it, and its cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


if __name__ == "__main__":
    main()
