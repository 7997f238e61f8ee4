"""Work done in another thread before it is asked for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

__all__ = ["ahead"]

T = TypeVar("T")


def ahead(items: Iterable[T], depth: int) -> Generator[T, None, None]:
    """The items, made in another thread that is up to ``depth`` of them ahead; its errors are raised here.

    Closing the generator ends the thread, after the item it is at.
    """
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: T | None, error: BaseException | None) -> None:
        while not stopped.is_set():
            try:
                return ready.put((item, error), timeout=0.05)
            except queue.Full:
                continue

    def work() -> None:
        error: BaseException = StopIteration()
        source = iter(items)
        try:
            for item in source:
                put(item, None)
                if stopped.is_set():
                    break
        except BaseException as raised:
            error = raised
        finally:
            getattr(source, "close", lambda: None)()
            put(None, error)

    thread = threading.Thread(target=work, name="sparsight-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()
