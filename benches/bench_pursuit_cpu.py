"""How long does coding by pursuit take on the CPU, and how much of the error do its shortlists cost?

    python benches/bench_pursuit_cpu.py [--latents 4096 16384] [--rows 512] [--k 32] [--threads 1] [--rounds 5]

Rows are all-MiniLM-L6-v2 embeddings of abstracts of the demonstration's corpus. A dictionary is the embeddings of so
many sentences, and pairs of them, of the others, centred, of length 1: harder to choose from than a trained one, since
its atoms are more alike. Beside pursuit with several numbers of candidates and with all atoms stand TopK of as many
latents (its time alone: such a dictionary has no encoder) and the gradient pursuit of training, in torch. Time is
processor time of the thread where one is used, else the clock's; the ways take turns, but for that of all atoms, which
is slow and timed once. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from sparsight.encoders import load_encoder
from sparsight.kernels import default_path, pursue, topk_encode
from sparsight.retrieval.datasets import read_documents
from sparsight.service.demo import CORPUS

CANDIDATES = (64, 128, 256)
ALL = "pursue, all"
Code = Callable[[], tuple[Any, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=int, nargs="+", default=[4096, 16384])
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(arguments.threads)
    x, sentences = embeddings(arguments.rows, max(arguments.latents))
    report: dict[str, Any] = {"op": "pursue", "backend": "cpu", "path": default_path(), "threads": arguments.threads,
                              "rows": len(x), "d_in": x.shape[1], "k": arguments.k, "latents": {}}
    print(f"{'latents':>8} {'way':<18} {'us a row':>9} {'FVU':>7} {'against all':>12}")
    for n in arguments.latents:
        row = report["latents"][n] = measure(x, sentences[:n], arguments.k, arguments.threads, arguments.rounds)
        for way, found in row.items():
            fvu, more = (f"{found[name]:{form}}" if name in found else "" for name, form in
                         (("fvu", ".4f"), ("against_all", "+.2%")))
            print(f"{n:>8} {way:<18} {found['us']:>9.0f} {fvu:>7} {more:>12}")
    print(json.dumps(report))


def embeddings(rows: int, sentences: int) -> tuple[np.ndarray, np.ndarray]:
    """Of abstracts (rows, D), and of sentences of the others (at most so many, D)."""
    texts = [f"{document.title}. {document.text}" for document in read_documents(CORPUS)]
    parts = [part for text in texts[rows:] for part in re.split(r"(?<=[.?!])\s+", text) if len(part) > 40]
    parts += list(map(" ".join, pairwise(parts)))
    encoder = load_encoder("all-MiniLM-L6-v2")
    return (np.asarray(encoder.encode(texts[:rows]), np.float32),
            np.asarray(encoder.encode(parts[:sentences], max_tokens=64), np.float32))


def measure(x: np.ndarray, sentences: np.ndarray, k: int, threads: int, rounds: int) -> dict[str, dict[str, float]]:
    """Time and, but for TopK, fraction of variance unexplained of each way; the latter against that of all atoms."""
    b_dec = sentences.mean(0)
    w_dec = np.ascontiguousarray(sentences - b_dec)
    w_dec /= np.linalg.norm(w_dec, axis=1, keepdims=True)
    y = np.ascontiguousarray(x - b_dec)
    ways = ways_to_code(x, y, w_dec, -w_dec @ b_dec, k, threads)
    taken, codes = take_turns({ALL: ways.pop(ALL)}, threads, 1)
    for into, more in zip((taken, codes), take_turns(ways, threads, rounds), strict=True):
        into |= more
    out = {way: {"us": round(1e6 * seconds / len(x), 1)} for way, seconds in taken.items()}
    codes.pop("topk")
    wrong = {way: float(np.square(y - rebuilt(found, w_dec)).sum()) for way, found in codes.items()}
    variance = float(np.square(x - x.mean(0)).sum())
    for way, squares in wrong.items():
        out[way] |= {"fvu": round(squares / variance, 5), "against_all": round(squares / wrong[ALL] - 1, 5)}
    return out


def ways_to_code(x: np.ndarray, y: np.ndarray, w_dec: np.ndarray, b_enc: np.ndarray, k: int,
                 threads: int) -> dict[str, Code]:
    import torch

    from sparsight.encoders.sae.pursuit import best_codes

    ways: dict[str, Code] = {"topk": partial(topk_encode, x, w_dec, b_enc, k, threads=threads)}
    for candidates in CANDIDATES:
        ways[f"pursue, {candidates}"] = partial(pursue, y, w_dec, k, candidates=candidates, threads=threads)
    ways[ALL] = partial(pursue, y, w_dec, k, candidates=0, threads=threads)
    ways["gradient, torch"] = partial(best_codes, torch.from_numpy(y), torch.from_numpy(w_dec), k)
    return ways


def take_turns(ways: dict[str, Code], threads: int, rounds: int) -> tuple[dict[str, float], dict[str, tuple[Any, Any]]]:
    """Median seconds of each way, and what it found."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    taken: dict[str, list[float]] = {way: [] for way in ways}
    codes = {}
    for turn in range(rounds):
        for way in list(ways)[:: 1 if turn % 2 == 0 else -1]:
            started = clock()
            codes[way] = ways[way]()
            taken[way].append(clock() - started)
    return {way: statistics.median(seconds) for way, seconds in taken.items()}, codes


def rebuilt(codes: tuple[Any, Any], w_dec: np.ndarray) -> np.ndarray:
    latents, values = (np.asarray(part) for part in codes)
    return np.einsum("bk,bkd->bd", values, w_dec[latents])  # where there is no latent the value is 0


if __name__ == "__main__":
    main()
