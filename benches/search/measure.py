"""How time and memory are taken, and where."""

from __future__ import annotations

import gc
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benches.search.engines import Found

__all__ = ["machine", "pin", "pss_bytes", "timed"]


def pin(core: int) -> None:
    """Keep this process, and what it starts later, on one core; call it before anything starts threads."""
    os.sched_setaffinity(0, {core})


def pss_bytes() -> int:
    """Memory of this process, pages that it shares counted in part; mapped files count where they are resident."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return int(re.search(r"^Pss:\s+(\d+) kB", text, re.M)[1]) * 1024  # type: ignore[index]


def timed(search: Callable[[Any], Found], queries: Sequence[Any], k: int) -> tuple[
        NDArray[np.int64], NDArray[np.int64]]:  # fmt: skip
    """Nanoseconds of each search, and the first k documents that it returned, padded with -1."""
    times = np.zeros(len(queries), np.int64)
    answers: list[Found] = []
    gc.collect()
    gc.disable()
    try:
        for at, query in enumerate(queries):
            start = time.perf_counter_ns()
            answer = search(query)
            times[at] = time.perf_counter_ns() - start
            answers.append(answer)
    finally:
        gc.enable()
    found = np.full((len(queries), k), -1, np.int64)
    for row, answer in zip(found, answers, strict=True):
        kept = np.asarray(answer[:k], dtype=np.int64)
        row[: len(kept)] = kept
    return times, found


def machine() -> str:
    """Processor, cores that may be used, memory and the widest vectors."""
    info = Path("/proc/cpuinfo").read_text()
    name = re.search(r"model name\s*: (.*)", info)
    flags = set((re.search(r"^flags\s*: (.*)", info, re.M) or ["", ""])[1].split())
    vectors = next((flag for flag in ("avx512f", "avx2", "sse4_2") if flag in flags), "none")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    return f"{name[1] if name else os.uname().machine}, {cores} cores, {memory:.0f} GiB, {vectors}"
