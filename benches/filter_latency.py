"""What does a filter cost inside the scan? Exact searches with random filters that let 100 % to 10 documents pass.

``python -m benches.filter_latency`` takes the SPLADE vectors of ``make bench-vectors``, one thread, and writes
``results/filters.json``. Every answer is compared with the unfiltered ranking cut by the filter where that reaches far
enough, so a filter that lost a hit would fail here.
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
from sparsight.index.segment import pack_bits
from sparsight.index.vectors import quantise_query
from sparsight.kernels import topk_documents


def main() -> None:
    """Measure every share, exact, k = 10."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=Path, default=Path("~/.cache/sparsight/bench").expanduser())
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "filters.json")
    args = parser.parse_args()
    with np.load(args.vectors / "splade.npz") as arrays:
        vocab, indptr = int(arrays["vocab"]), arrays["d_indptr"]
        postings, _ = ours.make_postings(indptr, arrays["d_indices"], arrays["d_data"], vocab, 0)
        queries = csr_matrix((arrays["q_data"], arrays["q_indices"], arrays["q_indptr"]))
        test = np.flatnonzero(arrays["split"] == 1)[: args.queries]
    os.sched_setaffinity(0, {args.core})
    asked = [quantise_query(row.indices.astype(np.uint32), row.data.astype(np.float64)) for row in queries[test]]
    n = postings.n_documents
    rng = np.random.default_rng(1)
    rows = []
    for allowed in (n, n // 10, n // 100, n // 1000, 10):
        flags = np.zeros(n, bool)
        flags[rng.choice(n, allowed, replace=False)] = True
        mask = None if allowed == n else pack_bits(flags)
        spent, modes = [], set()
        for query in asked:
            start = time.perf_counter_ns()
            found = topk_documents(postings, query.terms, query.weights, 10, mask=mask)
            spent.append(time.perf_counter_ns() - start)
            modes.add(found.work.mode)
            ranking = topk_documents(postings, query.terms, query.weights, 2000).documents
            expected = ranking[flags[ranking]][:10]
            if found.documents[: len(expected)].tolist() != expected.tolist():
                raise SystemExit(f"a filter of {allowed} documents lost a hit")
        rows.append({"allowed": allowed, "modes": sorted(modes), "p50_us": round(float(np.median(spent)) / 1e3, 1),
                     "p99_us": round(float(np.quantile(spent, 0.99)) / 1e3, 1), "queries": len(asked)})  # fmt: skip
        print(rows[-1], flush=True)
    args.out.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")


if __name__ == "__main__":
    main()
