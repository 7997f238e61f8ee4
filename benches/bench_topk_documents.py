"""How long one exact top-k search takes on each path of the kernel, one thread.

The workload is generated: passages with Zipf-distributed terms and impacts like those of learned sparse models,
queries drawn from the same terms. Prints one JSON row per path::

    python benches/bench_topk_documents.py --passages 200000 --k 10

Queries like those of SAE fields have many weights of both signs, of which a passage holds few; what it saves to know
how many (``most_terms``)::

    python benches/bench_topk_documents.py --terms 32 --vocabulary 4096 --query-terms 256 --signed [--unknown]
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import resource
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import sparse

from sparsight.kernels import Postings, available_paths, topk_documents
from sparsight.kernels.postings import UNKNOWN


def make_postings(n_passages: int, terms_per_passage: int, vocabulary: int, rng: np.random.Generator) -> Postings:
    """Single-passage documents; a term's share of the postings falls with its rank to the power 0.75."""
    share = 1.0 / (np.arange(vocabulary) + 20.0) ** 0.75
    terms = rng.choice(vocabulary, (n_passages, terms_per_passage), p=share / share.sum()).ravel()
    passages = np.repeat(np.arange(n_passages), terms_per_passage)
    impacts = np.minimum(255, rng.gamma(1.5, 30, len(terms)).astype(int) + 1)
    rows = sparse.coo_matrix((impacts, (passages, terms)), (n_passages, vocabulary)).tocsr()
    return Postings.from_rows(
        rows.indptr.astype(np.uint64),
        rows.indices.astype(np.uint32),
        np.minimum(rows.data, 255).astype(np.uint8),
        np.arange(n_passages + 1, dtype=np.uint32),
    )


def make_queries(n: int, length: int, postings: Postings, rng: np.random.Generator, signed: bool) -> list[tuple]:
    """Terms drawn as often as they occur, without repeats; weights even, or normal and of both signs."""
    share = postings.frequencies / postings.n_postings
    queries = []
    for _ in range(n):
        places = np.sort(rng.choice(len(share), length, replace=False, p=share))
        weights = rng.normal(0, 300, length).round() if signed else rng.integers(1, 400, length)
        queries.append((postings.term_ids[places], weights.astype(np.int16)))
    return queries


def device() -> str:
    """The processor's name."""
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passages", type=int, default=200_000)
    parser.add_argument("--terms", type=int, default=80, help="terms per passage")
    parser.add_argument("--vocabulary", type=int, default=30_522)
    parser.add_argument("--query-terms", type=int, default=24)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--signed", action="store_true", help="query weights of both signs")
    parser.add_argument("--unknown", action="store_true", help="as if nobody knew how many terms a passage holds")
    parser.add_argument("--paths", nargs="*", default=[p for p in available_paths() if p != "reference"])
    args = parser.parse_args()
    rng = np.random.default_rng(7)
    postings = make_postings(args.passages, args.terms, args.vocabulary, rng)
    queries = make_queries(args.queries, args.query_terms, postings, rng, args.signed)
    if args.unknown:
        postings = replace(postings, most_terms=UNKNOWN)
    here = Path(__file__).parent
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=here)
    for path in args.paths:
        times, touched, rescored = [], [], []
        for repeat in range(3):
            for terms, weights in queries:
                start = time.perf_counter_ns()
                found = topk_documents(postings, terms, weights, args.k, path=path)
                if repeat:  # the first round warms caches
                    times.append(time.perf_counter_ns() - start)
                    touched.append(found.work.postings)
                    rescored.append(found.work.rescored)
                assert found.path == path
        p20, p50, p80 = np.percentile(times, [20, 50, 80]) / 1e3
        row = {
            "op": "topk_documents", "backend": path, "passages": args.passages, "terms_per_passage": args.terms,
            "query_terms": args.query_terms, "signed": args.signed, "most_terms": postings.most_terms, "k": args.k,
            "dtype": "u8 x i16", "rescored": round(float(np.mean(rescored)), 1),
            "p20_us": round(p20, 1), "p50_us": round(p50, 1), "p80_us": round(p80, 1),
            "ns_per_posting": round(p50 * 1e3 / float(np.mean(touched)), 3), "index_bytes": postings.data.nbytes,
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "device": device(),
            "commit": commit.stdout.strip(), "date": time.strftime("%Y-%m-%d"),
        }  # fmt: skip
        print(json.dumps(row))


if __name__ == "__main__":
    main()
