"""Libraries that watch or disturb a process's file operations, compiled and preloaded; forks that report by lines."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["compile_library", "environment", "forked", "in_memory", "say"]

LIMIT_S = 20.0


def compile_library(name: str, folder: Path) -> Path:
    """``<name>.c`` beside this file, as a shared library (the kernels need a compiler too, so there is one)."""
    names = [os.environ.get("CC", ""), "cc", "gcc", "clang", os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    compiler = next((found for name in names if name and (found := shutil.which(name))), None)
    assert compiler, f"no C compiler among {names}"
    library = folder / f"{name}.so"
    source = Path(__file__).with_name(f"{name}.c")
    command = [compiler, "-x", "c", "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return library


def environment(library: Path) -> dict[str, str]:
    """For a child process with a library preloaded; single-threaded, since it forks."""
    return {**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@contextlib.contextmanager
def in_memory(otherwise: Path) -> Iterator[Path]:
    """A temporary folder in memory where there is such a place: what is synced outlives a process anyway."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else otherwise) as folder:
        yield Path(folder)


def forked(work: Callable[[int], None], limit_s: float = LIMIT_S) -> tuple[int | None, list[Any]]:
    """Run ``work(pipe)`` in a fork: its exit status (None: it hung and was killed) and the JSON lines it wrote."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        try:
            work(writer)
        except BaseException:
            say(writer, {"raised": traceback.format_exc(limit=-3)})
        os._exit(0)
    os.close(writer)
    data, end, status = b"", time.monotonic() + limit_s, None
    while select.select([reader], [], [], max(0.0, end - time.monotonic()))[0]:
        if not (more := os.read(reader, 65536)):
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            break
        data += more
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    os.close(reader)
    return status, [json.loads(line) for line in data.splitlines()]


def say(pipe: int, value: Any) -> None:
    """Write a JSON line; a pipe takes short ones whole."""
    os.write(pipe, json.dumps(value).encode() + b"\n")
