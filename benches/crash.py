"""Kill a server under load many times and check that it kept its promises; prints one JSON line.

::

    python benches/crash.py --cycles 200 --seed 1

The line counts kills, acknowledged writes, requests in doubt and documents compared; ``violations`` is 0 when nothing
acknowledged was lost, nothing deleted came back, no batch was there by halves, nothing was there twice, and ``verify``
found no fault. The exit code is 1 otherwise. The same seed makes the same requests in the same order for each writer,
kills after the same delays; how the threads interleave is the machine's.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from types import ModuleType


def load_workload() -> ModuleType:
    """The workload that the tests use, from its file: the repository's root is not on the path."""
    path = Path(__file__).parent.parent / "tests" / "system" / "crash_workload.py"
    spec = importlib.util.spec_from_file_location("crash_workload", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder if not given")
    arguments = parser.parse_args()
    folder = (arguments.folder or Path(tempfile.mkdtemp(prefix="sparsight-crash-"))) / f"seed-{arguments.seed}"
    report = load_workload().run(folder, cycles=arguments.cycles, seed=arguments.seed)
    print(json.dumps(report))
    return 1 if report["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
