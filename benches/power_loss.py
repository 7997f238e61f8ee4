"""Cut the power of a database at thousands of moments and check that it kept its promises; prints one JSON line.

::

    python benches/power_loss.py --states 2000 --seed 1

A real process runs a script of writes while every change of its files is recorded; from the record come the folders
that a loss of power could leave: what was synced is there, of the rest any part, torn, reordered or as zeros. Each is
opened by a new process and compared. ``tests/system/simulated_disk.py`` says what the disk may do,
``tests/system/simulated_losses.py`` what is checked.

There are the four extremes of luck after every n-th operation (``--every``), losses in the life after a process was
killed before every n-th sync (``--kill-every``), and random losses, half of them in a second life. ``violations`` is 0
when nothing acknowledged was lost, nothing deleted came back, no step was there by halves, and ``verify`` found no
fault; the exit code is 1 otherwise. The line is appended to the file of results.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def simulate(**options: Any) -> dict[str, Any]:
    """The tests' simulation, from its folder."""
    sys.path.append(str(HERE.parent / "tests" / "system"))
    report: dict[str, Any] = importlib.import_module("simulated_losses").simulate(**options)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--states", type=int, default=2000, help="random losses")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=int, default=1, help="extremes after every n-th operation; 0: none")
    parser.add_argument("--kill-every", type=int, default=1, help="a kill before every n-th sync; 0: none")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "power_loss.jsonl")
    given = parser.parse_args()
    report = simulate(seed=given.seed, states=given.states, every=given.every, kill_every=given.kill_every)
    failures = report.pop("failures")
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True,
                            check=False).stdout.strip()
    line = json.dumps(report | {"commit": commit} | ({"failures": failures[:3]} if failures else {}))
    print(line)
    with given.results.open("a") as results:
        results.write(line + "\n")
    return 1 if report["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
