"""Texts a second of the native word-piece tokenizer beside the ``tokenizers`` library, and how long a query takes.

Both cut texts to the same number of pieces and must give the same ids. They take turns, so that a busy machine slows
both. Texts are generated from the tokenizer's own words, or read from files of one JSON object with ``text`` a line::

    python benches/bench_wordpiece.py --corpus corpus.jsonl --queries queries.jsonl --threads 1 16

Prints one JSON row per operation, backend and number of threads. ``tokenizers`` has no number of threads: it runs on
one or on all (``RAYON_NUM_THREADS``), and it encodes the whole of a text before it cuts; the generated texts are about
as long as the cut. A query is :meth:`WordPiece.lookup`, or one ``encode`` and numpy.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import os
import platform
import re
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from sparsight.encoders import load_encoder
from sparsight.encoders.word_pieces import native_word_pieces
from sparsight.kernels import WordPiece


def make_texts(n: int, length: int, tokenizer: Tokenizer, rng: np.random.Generator) -> list[str]:
    """Zipf-distributed words, one in ten with two endings, one in ten followed by punctuation, one in 200 not ASCII."""
    pieces = [piece for piece, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    words = [piece for piece in pieces if piece.isascii() and piece.isalpha()]
    endings = [piece[2:] for piece in pieces if re.fullmatch("##[a-z]{2,}", piece)]
    share = 1.0 / (np.arange(len(words)) + 10.0)
    texts = []
    for _ in range(n):
        chosen = []
        for word, kind in zip(rng.choice(len(words), length, p=share / share.sum()), rng.random(length), strict=True):
            ending = "".join(rng.choice(endings, 2)) if kind < 0.1 else ",.;-"[int(kind * 1e4) % 4]
            chosen.append(words[word] + (ending if kind < 0.2 else "") + ("–β" if kind > 0.995 else ""))
        texts.append(" ".join(chosen).capitalize())
    return texts


def read_texts(path: Path, n: int) -> list[str]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        return [json.loads(line)["text"] for line, _ in zip(lines, range(n), strict=False)]


def encoders(native: WordPiece, tokenizer: Tokenizer, texts: list[str], keep: int,
             threads: list[int]) -> Iterator[tuple[str, int, Callable[[], list[list[int]]]]]:
    """(backend, threads, call); a call returns the ids, as cheaply as the backend can."""
    def library(parallel: bool) -> list[list[int]]:
        os.environ["TOKENIZERS_PARALLELISM"] = str(parallel).lower()
        return [found.ids[:keep] for found in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    for count in threads:
        yield "native", count, lambda count=count: native.encode(texts, max_pieces=keep, threads=count)
    yield "tokenizers", 1, lambda: library(False)
    if max(threads) > 1:
        yield "tokenizers", int(os.environ.get("RAYON_NUM_THREADS", os.cpu_count() or 1)), lambda: library(True)


def bench_texts(native: WordPiece, tokenizer: Tokenizer, texts: list[str], keep: int, threads: list[int],
                repeats: int) -> Iterator[dict[str, object]]:
    calls = list(encoders(native, tokenizer, texts, keep, threads))
    times: dict[tuple[str, int], list[float]] = {(backend, count): [] for backend, count, _ in calls}
    found = {}
    for repeat in range(repeats + 1):
        for backend, count, call in calls:
            start = time.perf_counter()
            found[backend] = call()
            if repeat:  # the first round warms caches
                times[backend, count].append(time.perf_counter() - start)
    ids, starts = found["native"]
    assert [ids[start:stop].tolist() for start, stop in itertools.pairwise(starts.tolist())] == found["tokenizers"]
    for (backend, count), seconds in times.items():
        p20, p50, p80 = np.percentile(seconds, [20, 50, 80])
        yield {"op": "encode", "backend": backend, "threads": count, "texts": len(texts),
               "pieces_a_text": round(len(ids) / len(texts), 1), "p20_texts_s": round(len(texts) / p80),
               "p50_texts_s": round(len(texts) / p50), "p80_texts_s": round(len(texts) / p20)}  # fmt: skip


def bench_queries(native: WordPiece, tokenizer: Tokenizer, queries: list[str],
                  repeats: int) -> Iterator[dict[str, object]]:
    table = np.random.default_rng(1).random(tokenizer.get_vocab_size(), np.float32)

    def library(query: str) -> tuple[np.ndarray, np.ndarray]:
        terms = np.unique(np.asarray(tokenizer.encode(query, add_special_tokens=False).ids, np.int32))
        return terms, table[terms]

    calls: dict[str, Callable[[str], tuple[np.ndarray, np.ndarray]]] = {
        "native": lambda query: native.lookup(query, table), "tokenizers": library,
    }  # fmt: skip
    times: dict[str, list[int]] = {backend: [] for backend in calls}
    for repeat in range(repeats + 1):
        for query in queries:
            found = []
            for backend, call in calls.items():
                start = time.perf_counter_ns()
                found.append(call(query))
                if repeat:
                    times[backend].append(time.perf_counter_ns() - start)
            assert all(np.array_equal(*parts) for parts in zip(*found, strict=True))
    for backend, each in times.items():
        p20, p50, p80 = np.percentile(each, [20, 50, 80]) / 1e3
        yield {"op": "lookup", "backend": backend, "threads": 1, "queries": len(queries),
               "p20_us": round(p20, 2), "p50_us": round(p50, 2), "p80_us": round(p80, 2)}  # fmt: skip


def device() -> str:
    """The processor's name."""
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="splade-tiny", help="whose tokenizer")
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--queries", type=Path)
    parser.add_argument("--texts", type=int, default=5000)
    parser.add_argument("--max-pieces", type=int, default=128)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, len(os.sched_getaffinity(0))])
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    tokenizer = load_encoder(args.model).tokenizer
    native = native_word_pieces(tokenizer)
    assert native is not None, f"the tokenizer of {args.model} is not BERT's"
    rng = np.random.default_rng(7)
    texts = read_texts(args.corpus, args.texts) if args.corpus else make_texts(args.texts, 110, tokenizer, rng)
    queries = read_texts(args.queries, 1000) if args.queries else make_texts(1000, 12, tokenizer, rng)
    here = Path(__file__).parent
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=here)
    common = {"device": device(), "commit": commit.stdout.strip(), "date": time.strftime("%Y-%m-%d")}
    rows = itertools.chain(
        bench_texts(native, tokenizer, texts, args.max_pieces, sorted(set(args.threads)), args.repeats),
        bench_queries(native, tokenizer, queries, args.repeats),
    )
    for row in rows:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps(row | {"peak_bytes": peak} | common))


if __name__ == "__main__":
    main()
