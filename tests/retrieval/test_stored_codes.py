from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from sparsight.retrieval.stored_codes import KeptByField


def state(passages: int) -> Any:
    return SimpleNamespace(passages=passages)


def field(fingerprint: str = "a", name: str = "sae") -> Any:
    return SimpleNamespace(name=name, fingerprint=fingerprint)


def test_it_is_found_once_until_a_tenth_or_the_model_has_changed() -> None:
    kept, found = KeptByField[int](), iter(range(100))

    def find() -> int:
        return next(found)

    assert [kept.get(state(n), field(), find) for n in (100, 100, 110, 90)] == [0, 0, 0, 0]
    assert kept.get(state(111), field(), find) == 1
    assert kept.get(state(111), field("b"), find) == 2 == kept.get(state(111), field("b"), find)
    assert kept.get(state(111), field("b", "other"), find) == 3
    assert kept.get(state(111), field("b"), find) == 2


def test_a_failure_is_not_kept() -> None:
    kept = KeptByField[tuple[int, ...]]()
    with pytest.raises(ZeroDivisionError):
        kept.get(state(0), field(), lambda: (1 // 0,))
    assert kept.get(state(0), field(), lambda: ()) == ()
    assert kept.get(state(0), field(), lambda: pytest.fail("found again")) == ()


def test_those_that_ask_meanwhile_wait_for_it() -> None:
    kept, asked, finds = KeptByField[int](), threading.Event(), []

    def find() -> int:
        finds.append(1)
        asked.wait(5)
        return len(finds)

    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(kept.get(state(1), field(), find))) for _ in range(4)]
    for thread in threads:
        thread.start()
    asked.set()
    for thread in threads:
        thread.join()
    assert answers == [1, 1, 1, 1]
