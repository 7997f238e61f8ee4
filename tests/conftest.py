"""What every test process starts with."""

from __future__ import annotations

import os

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before anything loads OpenMP: threads of one worker that wait for each other would take the processors from the
    # next (the autoencoder's training took 280 s beside another worker, 40 s with a thread each).
    os.environ.setdefault("OMP_NUM_THREADS", "1")

LONG = {"system", "test_packaging.py", "test_tutorial.py"}
"""Folders and files whose slow tests take long, each by itself."""


@pytest.hookimpl(trylast=True)  # when what does not run has been left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring long tests to the front, so that none is the last one, of one worker, while the others have no more to do.

    Each worker begins with an equal share of the list, in one piece, and is given others' tests when it has done its
    own (``--dist worksteal``): so the long tests are dealt out to the beginnings of these shares.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers == 1:
        return
    long = [item for item in items if item.get_closest_marker("slow") and LONG & set(item.path.parts)]
    others = [item for item in items if item not in long]
    total = len(items)
    items.clear()
    for worker in range(workers):
        share = (total - len(items)) // (workers - worker)
        items += long[worker::workers]
        taken = max(0, share - len(long[worker::workers]))
        items += others[:taken]
        del others[:taken]
