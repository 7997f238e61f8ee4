"""How long one search takes through a real server, and what the time goes to.

Indexes a BEIR folder with the default fields, trains an SAE field, serves the folder from a process of its own on the
loopback interface, and asks every test query, one at a time, of each field and of all together::

    python benches/bench_grpc_latency.py /data/scifact --output latency.json

The time that the client sees is split into the encoder, the search in the index, the fetching of hits, and the rest
(gRPC, messages, threads). Configurations take turns query by query, so that a slow minute of the machine hits all of
them; each figure is the median over the rounds of that round's percentile. Beside it stand the time of a query in a
batch of all queries, and of the same calls on the embedded database. ``--data`` keeps the indexed folder for another
run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsight.retrieval.datasets import open_dataset
from sparsight.retrieval.engine import Database
from sparsight.service.client import Client

COLLECTION = "bench"
PARTS = ("total", "encode", "search", "fetch", "rest")
WARM_UP = 20
WRITE = 256  # documents a write


def fill(data: Path, source: str, limit: int) -> dict[str, Any]:
    """Index a data set and train its SAE, unless the folder holds them already."""
    dataset, started = open_dataset(source), time.perf_counter()
    with Database(data) as database:
        collection = database.create_collection(COLLECTION, exist_ok=True)
        batch = []
        for number, document in enumerate(dataset.documents()):
            if limit and number == limit:
                break
            batch.append(document)
            if len(batch) == WRITE:
                write(collection, batch)
                batch = []
        write(collection, batch)
        if all(field.name != "sae" for field in collection.info().fields):
            collection.train_sae("sae")
        collection.compact()
        info = collection.info()
    return {"dataset": dataset.name, "documents": info.documents, "passages": info.passage_count,
            "bytes_on_disk": info.bytes_on_disk, "fill_seconds": round(time.perf_counter() - started, 1)}


def write(collection: Any, batch: list[Any]) -> None:
    """Write the documents that are not there yet."""
    there = {document.id for document in collection.get_many([document.id for document in batch], include=())}
    if missing := [document for document in batch if document.id not in there]:
        collection.upsert(missing)
        print(f"{collection.count()} documents", file=sys.stderr)


@contextlib.contextmanager
def served(data: Path) -> Iterator[str]:
    """The address of ``sparsight serve`` in a process of its own."""
    command = [sys.executable, "-m", "sparsight.service.cli", "serve", "--data", str(data), "--port", "0", "--json",
               "--log-level", "error"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield str(json.loads(process.stdout.readline())["target"])
        finally:
            process.terminate()


def measure(collection: Any, queries: Sequence[str], configurations: Mapping[str, Sequence[str]], k: int,
            rng: random.Random) -> dict[str, dict[str, list[float]]]:
    """One round: milliseconds by configuration and part, a figure a query."""
    times: dict[str, dict[str, list[float]]] = {name: {part: [] for part in PARTS} for name in configurations}
    for text in rng.sample(queries, len(queries)):
        for name in rng.sample(list(configurations), len(configurations)):
            began = time.perf_counter()
            found = collection.search(text, retrievers=configurations[name], k=k, timeout=120.0)
            total = 1000 * (time.perf_counter() - began)
            parts = found.timings
            row = (total, parts.encode_ms, parts.search_ms, parts.fetch_ms, total - parts.server_ms)
            for part, value in zip(PARTS, row, strict=True):
                times[name][part].append(value)
    return times


def measure_batch(collection: Any, queries: Sequence[str], configurations: Mapping[str, Sequence[str]], k: int,
                  rng: random.Random) -> dict[str, float]:
    """Milliseconds a query when all are asked in one call."""
    each = {}
    for name in rng.sample(list(configurations), len(configurations)):
        began = time.perf_counter()
        collection.batch_search(queries, retrievers=configurations[name], k=k, timeout=600.0)
        each[name] = 1000 * (time.perf_counter() - began) / len(queries)
    return each


def door(collection: Any, queries: Sequence[str], configurations: Mapping[str, Sequence[str]], arguments: Any,
         ) -> dict[str, dict[str, float]]:
    """All rounds through one door; medians over rounds, by configuration."""
    rng = random.Random(arguments.seed)
    measure(collection, queries[:WARM_UP], configurations, arguments.k, rng)
    rounds = [measure(collection, queries, configurations, arguments.k, rng) for _ in range(arguments.rounds)]
    batches = [measure_batch(collection, queries, configurations, arguments.k, rng) for _ in range(arguments.rounds)]
    report: dict[str, dict[str, float]] = {}
    for name in configurations:
        figures = {f"{part}_p50_ms": median(percentile(one[name][part], 50) for one in rounds) for part in PARTS}
        figures["total_p99_ms"] = median(percentile(one[name]["total"], 99) for one in rounds)
        figures["batch_each_ms"] = median(one[name] for one in batches)
        report[name] = {key: round(value, 3) for key, value in figures.items()}
    return report


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest value that at least ``percent`` % of the values do not exceed (nearest rank)."""
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]


def median(values: Iterator[float]) -> float:
    return statistics.median(values)


def device() -> str:
    """The processor's name."""
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


def commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def table(report: Mapping[str, Any]) -> str:
    """The figures for a reader, in milliseconds."""
    names = ("p50", "p99", "encode", "search", "fetch", "rest", "batch")
    keys = ("total_p50_ms", "total_p99_ms", *(f"{part}_p50_ms" for part in PARTS[1:]), "batch_each_ms")
    lines = [f"{'ms a query':<22}" + "".join(f"{name:>9}" for name in names)]
    for place in ("grpc", "embedded"):
        for name, figures in report.get(place, {}).items():
            lines.append(f"{place + ' ' + name:<22}" + "".join(f"{figures[key]:9.2f}" for key in keys))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("beir_dir")
    parser.add_argument("--split", default="test")
    parser.add_argument("--data", type=Path, help="where to keep the index; a temporary folder if not given")
    parser.add_argument("--output", type=Path, help="write the JSON report here too")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=0, help="only the first documents; 0 takes all")
    parser.add_argument("--limit-queries", type=int, default=0, help="only the first queries; 0 takes all")
    parser.add_argument("--no-embedded", action="store_true", help="through gRPC only")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        data = arguments.data or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sparsight-bench-")))
        report = fill(data, arguments.beir_dir, arguments.limit)
        dataset = open_dataset(arguments.beir_dir)
        judged = dataset.qrels(arguments.split)
        queries = [text for query, text in dataset.queries().items() if query in judged]
        queries = queries[: arguments.limit_queries or None]
        report |= {"queries": len(queries), "k": arguments.k, "rounds": arguments.rounds, "device": device(),
                   "processors": len(os.sched_getaffinity(0)), "python": platform.python_version(),
                   "commit": commit(), "date": time.strftime("%Y-%m-%d"), "load_before": os.getloadavg()[0]}
        with served(data) as target, Client(target) as client:
            collection = client.collection(COLLECTION)
            fields = [field.name for field in collection.info().fields]
            configurations = {**{name: [name] for name in fields}, "hybrid": fields}
            report["grpc"] = door(collection, queries, configurations, arguments)
        if not arguments.no_embedded:
            with Database(data) as database:
                report["embedded"] = door(database[COLLECTION], queries, configurations, arguments)
        report["load_after"] = os.getloadavg()[0]
    print(table(report))
    print(json.dumps(report))
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
