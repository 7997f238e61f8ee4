"""Long-running work of a database: started, watched, cancelled, waited for.

Operations live in memory: after a restart their names are unknown, while what they had committed is there.
"""

from __future__ import annotations

import dataclasses
import threading
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from sparsight.errors import (
    DeadlineError,
    FailedPreconditionError,
    SearchStoppedError,
    SparsightError,
    UnknownOperationError,
)
from sparsight.types import Operation

__all__ = ["Operations", "Progress"]

_KEPT = 256


class Progress:
    """What running work reports to, and learns from that it should stop."""

    def __init__(self, operations: Operations, name: str) -> None:
        self._operations = operations
        self._name = name

    def __call__(self, fraction: float, message: str = "") -> None:
        """Set the progress, 0 to 1, and say what is being done.

        Raises
        ------
        SearchStoppedError
            The operation was cancelled; let it pass.
        """
        if self.cancelled:
            raise SearchStoppedError(f"{self._name} was cancelled")
        self._operations._update(self._name, progress=min(1.0, max(0.0, fraction)), message=message)

    @property
    def cancelled(self) -> bool:
        """Whether someone asked to stop."""
        return self._operations._is_cancelled(self._name)


class Operations:
    """The operations of one database."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._known: dict[str, Operation] = {}
        self._cancelled: set[str] = set()
        self._threads: dict[str, threading.Thread] = {}

    def start(self, kind: str, work: Callable[[Progress], Mapping[str, Any]]) -> Operation:
        """Run ``work`` in a thread of its own; its mapping becomes the operation's result."""
        name = f"operations/{kind}-{uuid.uuid4().hex[:12]}"
        operation = Operation(name, kind)
        with self._lock:
            done = [key for key, value in self._known.items() if value.done]
            for key in done[: max(0, len(self._known) - _KEPT)]:
                del self._known[key]
            self._known[name] = operation
            thread = threading.Thread(target=self._run, args=(name, work), name=name, daemon=True)
            self._threads[name] = thread
            thread.start()
        return operation

    def _run(self, name: str, work: Callable[[Progress], Mapping[str, Any]]) -> None:
        try:
            result = work(Progress(self, name))
            self._update(name, done=True, progress=1.0, result=dict(result))
        except SparsightError as error:
            self._update(name, done=True, error=error.message)
        except Exception as error:  # the caller must learn of it, whatever it is
            self._update(name, done=True, error=f"{type(error).__name__}: {error}")
        finally:
            with self._lock:
                self._threads.pop(name, None)

    def _update(self, name: str, **changes: Any) -> None:
        with self._lock:
            if name in self._known:
                self._known[name] = dataclasses.replace(self._known[name], **changes)
            self._lock.notify_all()

    def _is_cancelled(self, name: str) -> bool:
        with self._lock:
            return name in self._cancelled

    def get(self, name: str) -> Operation:
        """The operation of that name as it is now.

        Raises
        ------
        UnknownOperationError
        """
        with self._lock:
            if name not in self._known:
                raise UnknownOperationError(f"no operation {name!r:.120}", field="name")
            return self._known[name]

    def list(self) -> list[Operation]:
        """All operations, oldest first."""
        with self._lock:
            return [*self._known.values()]

    def cancel(self, name: str) -> None:
        """Ask an operation to stop; it ends soon after, with an error that says so."""
        self.get(name)
        with self._lock:
            self._cancelled.add(name)

    def delete(self, name: str) -> None:
        """Forget a finished operation."""
        if not self.get(name).done:
            raise FailedPreconditionError(f"{name} is still running; cancel it first", field="name")
        with self._lock:
            self._known.pop(name, None)

    def wait(self, name: str, timeout: float | None = None) -> Operation:
        """Wait until an operation is done.

        Raises
        ------
        DeadlineError
            It was not done after ``timeout`` seconds.
        """
        with self._lock:
            if not self._lock.wait_for(lambda: name not in self._known or self._known[name].done, timeout):
                raise DeadlineError(f"{name} was not done after {timeout} s")
        return self.get(name)

    def close(self) -> None:
        """Cancel what runs and wait for it to end."""
        with self._lock:
            self._cancelled.update(self._threads)
            threads = [*self._threads.values()]
        for thread in threads:
            thread.join()
