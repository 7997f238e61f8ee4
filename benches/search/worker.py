"""One process of the benchmark: build an index, or open one and time searches. The runner writes what it is to do.

``python -m benches.search.worker JOB.json``. It runs in the peers' environment too, so it needs numpy and scipy only.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benches.search.engines import ENGINES, Engine, Setting
from benches.search.measure import pin, pss_bytes, timed
from benches.search.workloads import DOCUMENT_LEVELS, QUERY_LEVELS, TEST, Workload, terms_and_weights, to_levels

__all__ = ["Job", "main"]

_WARM_SECONDS = 10.0, 1.0  # at most, of a process and of each further setting


@dataclass
class Job:
    """What a worker is to do.

    Attributes
    ----------
    engine, build, workload : str
    vectors : str
        Folder of the workloads.
    folder : str
        Where the index is, or is to be.
    out : str
        JSON file for the answer; found documents go beside it as ``.npz``.
    threads : int
        Threads to build with.
    order : str
        ``.npy`` with the order of the documents, for engines that want one.
    core : int
        The core to search on.
    split, queries : int
        Which queries, and how many at most.
    tasks : list of {"k": int, "setting": dict}
        Searches to time; none means: build.
    """

    engine: str
    build: str
    workload: str
    vectors: str
    folder: str
    out: str
    threads: int = 1
    order: str = ""
    core: int = 0
    split: int = TEST
    queries: int = 0
    tasks: list[dict[str, Any]] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write it for :func:`main`."""
        path.write_text(json.dumps(asdict(self)))


def _build(job: Job, engine: Engine, parameters: Setting) -> dict[str, Any]:
    documents = Workload(Path(job.vectors), job.workload).documents
    if engine.integers == "levels":
        documents = to_levels(documents, DOCUMENT_LEVELS)
    order = np.load(job.order) if job.order else None
    engine.start()
    start = time.perf_counter()
    engine.build(documents, Path(job.folder), job.threads, order, parameters)
    seconds = time.perf_counter() - start
    return {"build_s": seconds, "bytes": engine.size(Path(job.folder)), "version": engine.version()}


def _search(job: Job, engine: Engine, parameters: Setting) -> dict[str, Any]:
    workload = Workload(Path(job.vectors), job.workload)
    matrix = to_levels(workload.queries, QUERY_LEVELS) if engine.integers == "levels" else workload.queries
    engine.start()
    rows = workload.choose(job.split, job.queries)
    queries = [engine.query(*terms_and_weights(matrix, row)) for row in rows]
    before = pss_bytes()
    engine.open(Path(job.folder), parameters)
    memory, results, found = 0, [], {}
    for at, task in enumerate(job.tasks):
        k, setting = task["k"], task["setting"]

        def search(query: Any, k: int = k, setting: Setting = setting) -> Any:
            return engine.search(query, k, **setting)

        _warm(search, queries, _WARM_SECONDS[at > 0])
        memory = max(memory, pss_bytes() - before)
        times, found[f"found_{at}"] = timed(search, queries, k)
        p50, p99 = np.percentile(times, [50, 99]) / 1e3
        results.append({"p50_us": p50, "p99_us": p99, "mean_us": float(times.mean()) / 1e3})
    np.savez(Path(job.out).with_suffix(".npz"), **found)
    return {"pss_bytes": memory, "results": results}


def _warm(search: Callable[[Any], Any], queries: list[Any], seconds: float) -> None:
    """All queries once, or as many as the seconds allow: pages are read, code is compiled."""
    stop = time.perf_counter() + seconds
    for query in queries:
        search(query)
        if time.perf_counter() > stop:
            break


def main() -> None:
    """Do the job whose file is named on the command line."""
    job = Job(**json.loads(Path(sys.argv[1]).read_text()))
    if job.tasks:
        pin(job.core)
    engine = ENGINES[job.engine]()
    answer = (_search if job.tasks else _build)(job, engine, dict(engine.builds[job.build]))
    Path(job.out).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
