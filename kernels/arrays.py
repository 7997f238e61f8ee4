"""Checks of arrays that come from callers and from files: each names what was expected, what came, and where."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sparsight.errors import CorruptIndexError, ShapeError

__all__ = ["corrupt", "require_all", "require_array", "require_end", "require_offsets", "require_sorted_groups"]


def require_array(array: Any, name: str, dtype: DTypeLike, shape: tuple[int | None, ...]) -> None:
    """Raise unless ``array`` is a C-contiguous, aligned numpy array of this dtype and shape.

    Parameters
    ----------
    array : object
        What the caller passed; nothing is converted, since a silent copy of a mapped file would be costly.
    name : str
        Place of the argument, for the error.
    dtype : dtype-like
        Exact dtype, native byte order.
    shape : tuple of int or None
        Expected length of each axis; None takes any.

    Raises
    ------
    ShapeError
        With ``expected`` and ``received`` among its details.
    """
    wanted = np.dtype(dtype)
    if (
        isinstance(array, np.ndarray)
        and array.dtype == wanted
        and array.ndim == len(shape)
        and array.flags.c_contiguous
        and array.flags.aligned
        and all(want is None or length == want for length, want in zip(array.shape, shape, strict=True))
    ):
        return
    sizes = ", ".join("any" if n is None else str(n) for n in shape)
    expected = f"C-contiguous aligned {wanted.name} array of shape ({sizes})"
    if isinstance(array, np.ndarray):
        layout = "" if array.flags.c_contiguous and array.flags.aligned else ", not contiguous or not aligned"
        received = f"{array.dtype} of shape {array.shape}{layout}"
    else:
        received = type(array).__name__
    raise ShapeError(
        f"{name}: expected {expected}, received {received}", field=name, expected=expected, received=received
    )


def require_offsets(offsets: NDArray[Any], name: str) -> None:
    """There is at least one offset, and the first is 0."""
    if len(offsets) == 0:
        raise ShapeError(f"{name}: expected at least 1 offset, received 0", field=name, expected=">= 1", received=0)
    if offsets[0] != 0:
        raise ShapeError(f"{name}[0]: expected 0, received {offsets[0]}", field=name, expected=0, received=offsets[0])


def require_end(offsets: NDArray[Any], name: str, total: int, of: str) -> None:
    """The last offset is the number of entries that the offsets cut up."""
    if offsets[-1] != total:
        raise ShapeError(
            f"{name}[-1]: expected {total}, the length of {of}, received {offsets[-1]}",
            field=name,
            expected=total,
            received=offsets[-1],
        )


def corrupt(name: str, rule: str, at: int) -> CorruptIndexError:
    return CorruptIndexError(f"{name}: {rule} (position {at})", field=name, rule=rule, position=at)


def require_all(good: NDArray[np.bool_], name: str, rule: str) -> None:
    if not good.all():
        raise corrupt(name, rule, int(np.argmin(good)))


def require_sorted_groups(values: NDArray[np.uint32], offsets: NDArray[np.uint64], name: str) -> None:
    """Strictly ascending within each group that ``offsets`` cuts out."""
    if len(values) < 2:
        return
    good = values[1:] > values[:-1]
    starts = offsets[(offsets > 0) & (offsets < len(values))].astype(np.int64)
    good[starts - 1] = True  # across the border of two groups anything goes
    require_all(good, name, "expected strictly ascending values within a group")
