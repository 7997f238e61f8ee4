"""Pages of lists that the server holds as a whole: collections and operations.

A token is opaque to callers, bound to the arguments of the list (changing them between pages is refused) and gives no
rights: it holds the last key of the page before. Conventions: Google AIP-158.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar

from sparsight.errors import InvalidArgumentError

__all__ = ["page_of", "page_size_of"]

T = TypeVar("T")

_DIGEST_BYTES = 6  # against mistakes, not against forgery: a forged token only starts elsewhere in the same list


def page_size_of(requested: int, default: int, most: int = 1000) -> int:
    """Size of a page: 0 is the default, more than ``most`` is taken as that, negative ones are refused."""
    if requested < 0:
        raise InvalidArgumentError(f"expected 0 or more, got {requested}", field="page_size", received=requested)
    return min(requested or default, most)


def page_of(items: Sequence[T], key: Callable[[T], str], size: int, token: str, bound: str) -> tuple[list[T], str]:
    """The page of ``items`` after ``token``, in their order, and the token of the next one ("" on the last).

    Parameters
    ----------
    items : sequence
    key : callable
        Unique string of an item.
    size : int
        At least 1.
    token : str
        "" for the first page.
    bound : str
        The list's other arguments.

    Raises
    ------
    InvalidArgumentError
        For a token that was not given out for these arguments, or whose item is gone.
    """
    start = 0
    if token:
        last = _unpack(token, bound)
        start = 1 + next((position for position, item in enumerate(items) if key(item) == last), len(items))
        if start > len(items):
            raise _refused("the list has changed since this page token was given; start again")
    rest = items[start:]
    page = list(rest[:size])
    return page, _pack(key(page[-1]), bound) if len(rest) > size else ""


def _digest(last: bytes, bound: str) -> bytes:
    return hashlib.blake2b(bound.encode() + b"\0" + last, digest_size=_DIGEST_BYTES).digest()


def _pack(last: str, bound: str) -> str:
    data = last.encode()
    return base64.urlsafe_b64encode(_digest(data, bound) + data).decode().rstrip("=")


def _unpack(token: str, bound: str) -> str:
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        digest, data = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
        if digest != _digest(data, bound):
            raise ValueError
        return data.decode()
    except (ValueError, binascii.Error):
        raise _refused("expected a page token of the same list with the same arguments") from None


def _refused(message: str) -> InvalidArgumentError:
    return InvalidArgumentError(message, field="page_token", reason="INVALID_PAGE_TOKEN")
