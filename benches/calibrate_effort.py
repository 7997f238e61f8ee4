"""What share of the exact top k each effort finds, and how long it takes: the source of ``Effort.for_recall``'s table.

``python -m benches.calibrate_effort`` takes the tuning queries of the vectors that ``make bench-vectors`` made (the
test queries stay unseen) and writes ``results/effort.json``: a row for each workload, k, mass, pool and deviations.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from benches.search import ours
from sparsight.index.vectors import quantise_query
from sparsight.kernels import EXACT, Effort, TopK, topk_documents

MASSES = (1.0, 0.92, 0.87, 0.82, 0.77, 0.72, 0.65)
DEVIATIONS = (-1.0, 1.0, 1.5, 2.0, 3.0)


def main() -> None:
    """Measure every effort on every workload named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=Path, default=Path("~/.cache/sparsight/bench").expanduser())
    parser.add_argument("--workloads", nargs="+", default=["splade", "splade_short", "sae_16k", "sae_64k"])
    parser.add_argument("--k", nargs="+", type=int, default=[10, 100])
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "effort.json")
    args = parser.parse_args()
    os.sched_setaffinity(0, {args.core})
    rows = [row for name in args.workloads for row in measure(args.vectors / f"{name}.npz", args.k, args.queries)]
    args.out.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")


def measure(path: Path, ks: list[int], n_queries: int) -> list[dict[str, float | int | str]]:
    """Rows of one workload."""
    with np.load(path) as arrays:
        vocab = int(arrays["vocab"])
        indptr, indices, data = arrays["d_indptr"], arrays["d_indices"], arrays["d_data"]
        queries = csr_matrix((arrays["q_data"], arrays["q_indices"], arrays["q_indptr"]))
        tuning = np.flatnonzero(arrays["split"] == 0)
    chosen = tuning[np.linspace(0, len(tuning) - 1, n_queries).astype(int)]
    postings, scales = ours.make_postings(indptr, indices, data, vocab, 0)
    asked = []
    for row in queries[chosen]:
        terms = row.indices.astype(np.uint32)
        worth = scales if scales.ndim == 0 else scales[terms]
        asked.append(quantise_query(terms, row.data.astype(np.float64) * worth))
    rows = []
    for k in ks:
        exact = [topk_documents(postings, query.terms, query.weights, k) for query in asked]
        for mass in MASSES:
            for deviations in DEVIATIONS[:1] if mass == 1.0 else DEVIATIONS:
                effort = EXACT if mass == 1.0 else Effort(mass, 2 * k + 30, deviations)
                found, spent = [], []
                for query in asked:
                    start = time.perf_counter_ns()
                    found.append(topk_documents(postings, query.terms, query.weights, k, effort=effort))
                    spent.append(time.perf_counter_ns() - start)
                row = {
                    "workload": path.stem, "k": k, "mass": mass, "pool": effort.pool, "deviations": deviations,
                    "recall": round(float(np.mean(list(map(recall, found, exact)))), 5),
                    "ended_exact": round(float(np.mean([one.work.mode.startswith("exact") for one in found])), 4),
                    "p50_us": round(float(np.median(spent)) / 1e3, 1),
                    "p99_us": round(float(np.quantile(spent, 0.99)) / 1e3, 1),
                }  # fmt: skip
                print(row, flush=True)
                rows.append(row)
    return rows


def recall(found: TopK, exact: TopK) -> float:
    """The share of the exact hits whose score was reached: ties count. 1 where nothing matches."""
    return float((found.scores >= exact.scores[-1]).sum()) / len(exact.scores) if len(exact.scores) else 1.0


if __name__ == "__main__":
    main()
