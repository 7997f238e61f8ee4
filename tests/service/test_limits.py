"""The limiter of calls, and pages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsight.errors import InvalidArgumentError, OverloadedError
from sparsight.service.limits import CallClass, Limiter, default_classes
from sparsight.service.paging import page_of, page_size_of


def test_limit_is_workers_and_queue() -> None:
    limiter = Limiter("search", CallClass(workers=2, queue=1))
    slots = [limiter.acquire() for _ in range(3)]
    with pytest.raises(OverloadedError) as caught:
        limiter.acquire()
    assert 0.1 <= float(caught.value.details["retry_after_s"]) <= 10
    assert caught.value.details["kind"] == "search"
    slots[0].release()
    limiter.acquire()
    assert limiter.active == 3


def test_a_slot_counts_once() -> None:
    limiter = Limiter("search", CallClass(workers=1, queue=0))
    slot = limiter.acquire()
    slot.release()
    slot.release()
    assert limiter.active == 0


def test_defaults_let_every_kind_in() -> None:
    assert set(default_classes()) == {"search", "read", "write", "encode", "admin"}
    assert all(limits.workers >= 1 and limits.queue >= 1 for limits in default_classes().values())


@pytest.mark.parametrize(("asked", "size"), [(0, 100), (1, 1), (1000, 1000), (1001, 1000), (2**31 - 1, 1000)])
def test_page_size(asked: int, size: int) -> None:
    assert page_size_of(asked, 100) == size


def test_negative_page_size() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        page_size_of(-1, 100)
    assert caught.value.field == "page_size"


@given(st.lists(st.text(), unique=True, max_size=30), st.integers(1, 7))
def test_pages_give_everything_once_in_order(items: list[str], size: int) -> None:
    seen, token = [], ""
    while True:
        page, token = page_of(items, str, size, token, "all")
        seen += page
        if not token:
            break
        assert len(page) == size
    assert seen == items


@pytest.mark.parametrize("token", ["x", "====", "AAAA", "\x00", "é", "a" * 10_000, "../../etc/passwd"])
def test_tokens_that_are_none(token: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        page_of(["a", "b"], str, 1, token, "all")
    assert caught.value.field == "page_token"


def test_tokens_are_bound_to_the_arguments_and_the_list() -> None:
    _, token = page_of(["a", "b", "c"], str, 1, "", "all")
    assert page_of(["a", "b", "c"], str, 1, token, "all")[0] == ["b"]
    with pytest.raises(InvalidArgumentError):
        page_of(["a", "b", "c"], str, 1, token, "others")
    with pytest.raises(InvalidArgumentError):
        page_of(["b", "c"], str, 1, token, "all")
