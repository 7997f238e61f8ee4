"""What every test process starts with."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before anything loads OpenMP: threads of one worker that wait for each other would take the processors from the
    # next (the autoencoder's training took 280 s beside another worker, 40 s with a thread each).
    os.environ.setdefault("OMP_NUM_THREADS", "1")
