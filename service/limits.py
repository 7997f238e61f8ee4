"""Limits that protect the service: sizes of messages, and how many calls of each kind may be under way.

Calls are limited here and not by gRPC: ``maximum_concurrent_rpcs`` of ``grpc.aio`` was ignored in some releases and
counted wrongly in others (grpc/grpc issues 30424 and 41531), and knows no kinds of calls.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sparsight.errors import OverloadedError

__all__ = ["MAX_MESSAGE_BYTES", "PART_BYTES", "CallClass", "Limiter", "Slot", "default_classes"]

MAX_MESSAGE_BYTES = 16 * 2**20
"""Largest message either way. gRPC's own default of 4 MiB is hit by any batch of vectors."""

PART_BYTES = 8 * 2**20
"""What the client aims at when it splits a request: half of the limit, so that the answer has room too."""


@dataclass(frozen=True, slots=True)
class CallClass:
    """How many calls of one kind run at a time, and how many more may wait for their turn."""

    workers: int
    queue: int


def default_classes() -> Mapping[str, CallClass]:
    """Limits by kind of call, from the number of processors.

    Searches use all processors each, so few run at once; writes mostly wait for the disk, and those that wait
    together are committed together; encoding is as many as there are processors at most.
    """
    processors = os.cpu_count() or 1
    return MappingProxyType(
        {
            "search": CallClass(workers=max(2, processors), queue=64),
            "read": CallClass(workers=max(4, processors), queue=128),
            "write": CallClass(workers=8, queue=24),
            "encode": CallClass(workers=max(1, processors // 2), queue=16),
            "admin": CallClass(workers=2, queue=16),
        }
    )


class Limiter:
    """Counts the calls of one class, and refuses those beyond its limit.

    Parameters
    ----------
    name : str
        Of the class, for the error.
    limits : CallClass

    Notes
    -----
    Safe to use from any thread: slots are taken on the event loop and given back by worker threads.
    """

    _SMOOTHING = 0.1  # weight of the newest call in the moving average of durations

    def __init__(self, name: str, limits: CallClass) -> None:
        self.name = name
        self.limits = limits
        self._lock = threading.Lock()
        self._active = 0
        self._mean_s = 0.05

    @property
    def active(self) -> int:
        """Calls that run or wait."""
        return self._active

    def acquire(self) -> Slot:
        """A slot for one call.

        Raises
        ------
        OverloadedError
            At the limit. ``details["retry_after_s"]`` is about the time until half of the waiting calls are done.
        """
        with self._lock:
            if self._active >= self.limits.workers + self.limits.queue:
                retry = min(10.0, max(0.1, self._mean_s * self._active / self.limits.workers / 2))
                raise OverloadedError(
                    f"{self._active} {self.name} calls are under way, as many as the server takes; try again",
                    kind=self.name,
                    active=self._active,
                    retry_after_s=f"{retry:.3g}",
                )
            self._active += 1
        return Slot(self)

    def _release(self, seconds: float) -> None:
        with self._lock:
            self._active -= 1
            self._mean_s += self._SMOOTHING * (seconds - self._mean_s)


class Slot:
    """One call's place; give it back exactly once, when the work (not only the call) is over."""

    __slots__ = ("_limiter", "_started")

    def __init__(self, limiter: Limiter) -> None:
        self._limiter: Limiter | None = limiter
        self._started = time.perf_counter()

    def release(self) -> None:
        """Give the place back; a second time does nothing."""
        limiter, self._limiter = self._limiter, None
        if limiter is not None:
            limiter._release(time.perf_counter() - self._started)
