"""Do upper bounds of windows say where the best documents are? The experiments that the index's design rests on.

``python -m benches.bound_experiments`` takes the SPLADE vectors of ``make bench-vectors`` and asks, for windows of 64
to 8,192 documents in the corpus's order, with similar documents side by side, and shuffled:

* how dense are the postings that queries touch, by window (that decides between bitmaps and lists);
* how many windows could an exact search skip: those whose bound, the sum of weight times the window's largest impact,
  lies below the k-th best score;
* how far down a visit of windows by descending bound must go to meet 99 % of the true top 10.

Writes ``results/bounds.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from benches.search import ours
from benches.search.ordering import cluster_order
from sparsight.index.vectors import quantise_query
from sparsight.kernels import Postings, topk_documents

WIDTHS = (8192, 1024, 256, 64)


def main() -> None:
    """Measure every order."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=Path, default=Path("~/.cache/sparsight/bench").expanduser())
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "bounds.json")
    args = parser.parse_args()
    with np.load(args.vectors / "splade.npz") as arrays:
        vocab = int(arrays["vocab"])
        indptr = arrays["d_indptr"]
        documents = csr_matrix((arrays["d_data"], arrays["d_indices"], indptr), (len(indptr) - 1, vocab))
        queries = csr_matrix((arrays["q_data"], arrays["q_indices"], arrays["q_indptr"]))
        tuning = np.flatnonzero(arrays["split"] == 0)
    chosen = queries[tuning[np.linspace(0, len(tuning) - 1, args.queries).astype(int)]]
    orders = {"similar": lambda: cluster_order(documents),
              "shuffled": lambda: np.random.default_rng(1).permutation(documents.shape[0])}  # fmt: skip
    rows = []
    for name in ("corpus", "similar", "shuffled"):
        ordered = documents if name == "corpus" else documents[orders[name]()]
        postings, _ = ours.make_postings(ordered.indptr, ordered.indices, ordered.data, vocab, 0)
        size = sum(getattr(postings, part).nbytes for part in ours.POSTINGS_ARRAYS)
        for width in WIDTHS:
            rows.append({"order": name, "width": width, "bytes_a_posting": round(size / postings.n_postings, 3)}
                        | measure(postings, chosen, width))  # fmt: skip
            print(rows[-1], flush=True)
        del ordered, postings
    args.out.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")


def measure(postings: Postings, queries: csr_matrix, width: int) -> dict[str, float | list[float]]:
    """The three answers for one width."""
    windows = -(-postings.n_passages // width)
    by_density = np.zeros(8)
    survive10, survive1000, places = [], [], []
    for row in queries:
        query = quantise_query(row.indices.astype(np.uint32), row.data.astype(np.float64))
        bounds = np.zeros(windows, np.int64)
        for term, weight in zip(query.terms.tolist(), query.weights.tolist(), strict=True):
            largest, counts = by_window(postings, term, width, windows)
            bounds += weight * largest
            held = counts[counts > 0]
            np.add.at(by_density, np.minimum(-np.log2(held / width).astype(int), 7), held)
        top = topk_documents(postings, query.terms, query.weights, 1000)
        survive10.append((bounds >= top.scores[9]).mean())
        survive1000.append((bounds >= top.scores[-1]).mean())
        place = np.empty(windows)
        place[np.argsort(-bounds, kind="stable")] = np.arange(windows)
        places.append(place[top.documents[:10] // width] / windows)
    return {
        "query_postings_by_density": np.round(by_density / by_density.sum(), 3).tolist(),
        "windows_exact_k10": round(float(np.mean(survive10)), 3),
        "windows_exact_k1000": round(float(np.mean(survive1000)), 3),
        "windows_for_99_percent_of_top10": round(float(np.quantile(np.concatenate(places), 0.99)), 3),
    }


def by_window(postings: Postings, term: int, width: int, windows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Largest impact and number of postings of a term in every window."""
    passages, impacts = postings.decode(term)
    largest = np.zeros(windows, np.int64)
    if len(passages):
        at, starts = np.unique(passages // width, return_index=True)
        largest[at] = np.maximum.reduceat(impacts, starts)
    return largest, np.bincount(passages // width, minlength=windows)


if __name__ == "__main__":
    main()
