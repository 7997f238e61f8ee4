"""A workload while it is measured: what was asked, its queries, its judges of recall and its order of documents."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benches.search.engines import Engine
from benches.search.ordering import cluster_order
from benches.search.truth import KS, Judge, cached_truth
from benches.search.workloads import DOCUMENT_LEVELS, QUERY_LEVELS, TEST, TUNING, Workload, to_levels

__all__ = ["ROOT", "Case", "Options", "say"]

ROOT = Path(__file__).resolve().parents[2]


def say(text: str) -> None:
    """A line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


@dataclass(frozen=True)
class Options:
    """What to measure and how; the command line's options."""

    vectors: Path
    results: Path
    workloads: Sequence[str]
    engines: Sequence[str]
    ks: Sequence[int] = KS
    rounds: int = 5
    queries: int = 1000
    tuning: int = 300
    builds: Sequence[str] = ()
    core: int = max(os.sched_getaffinity(0))
    limit_s: float = 3600.0
    peers_python: Path = ROOT / ".venv-peers/bin/python"
    fresh: bool = False


class Case:
    """A workload on its way.

    Parameters
    ----------
    options : Options
    name : str
        The workload's.

    Attributes
    ----------
    workload : Workload
    scratch : Path
        Folder for what is made of it; emptied when the workload's file is another than last time.
    """

    def __init__(self, options: Options, name: str) -> None:
        self._options = options
        self._judges: dict[tuple[int, str], Judge] = {}
        self.workload = Workload(options.vectors, name)
        self.scratch = options.vectors / "search" / name
        self._clear_if_stale()

    @cached_property
    def rows_of(self) -> dict[int, NDArray[np.int64]]:
        """Rows of the queries of each split."""
        wanted = {TUNING: self._options.tuning, TEST: self._options.queries}
        return {split: self.workload.choose(split, n) for split, n in wanted.items()}

    def judge(self, split: int, integers: str = "", engine: Engine | None = None) -> Judge:
        """A judge by float weights, or by an engine's integers; kept, since truths take minutes."""
        key = (split, engine.distribution if integers == "own" and engine else integers)
        if key not in self._judges:
            documents, queries = self.workload.documents, self.workload.queries
            if integers == "levels":
                documents, queries = to_levels(documents, DOCUMENT_LEVELS), to_levels(queries, QUERY_LEVELS)
            elif engine is not None and integers == "own":
                documents, queries = engine.rounded(documents, queries)
            queries = queries[self.rows_of[split]]
            say(f"{self.workload.name}: truth of {queries.shape[0]} queries {integers or 'float'} ...")
            path = self.scratch / f"truth-{split}-{key[1] or 'float'}.npz"
            self._judges[key] = Judge(documents, queries, cached_truth(path, documents, queries))
        return self._judges[key]

    def order(self) -> tuple[Path, float]:
        """File of the cluster order, and the seconds it took."""
        path, about = self.scratch / "order.npy", self.scratch / "order.json"
        if not about.exists():
            say(f"{self.workload.name}: cluster order ...")
            start = time.perf_counter()
            order = cluster_order(self.workload.documents)
            seconds = time.perf_counter() - start
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, order)
            about.write_text(json.dumps(seconds))
        return path, float(json.loads(about.read_text()))

    def _clear_if_stale(self) -> None:
        """What was made of another workload file is of no use."""
        about, stamp = self.workload.file.stat(), self.scratch / "stamp.json"
        now = json.dumps([about.st_size, about.st_mtime_ns])
        if not stamp.exists() or stamp.read_text() != now:
            shutil.rmtree(self.scratch, ignore_errors=True)
            self.scratch.mkdir(parents=True)
            stamp.write_text(now)
