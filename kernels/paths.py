"""Which implementation of the kernels runs: chosen for the machine, or named by the caller.

"avx512" and "avx2" are compiled for those instruction sets and offered where the processor has them; "portable" is
the same C++ for any processor; "reference" is numpy. All return the same integers; floating-point results differ
between paths by rounding only, where a kernel says so.
"""

from __future__ import annotations

import os
from functools import cache

from sparsight.errors import InvalidArgumentError
from sparsight.kernels.cpu import _native

__all__ = ["ENVIRONMENT_VARIABLE", "available_paths", "default_path", "resolve_path"]

ENVIRONMENT_VARIABLE = "SPARSIGHT_KERNEL_PATH"


@cache
def available_paths() -> tuple[str, ...]:
    """Names that ``path=`` may take on this machine beside "auto": fastest first, "reference" last."""
    return (*_native.available_paths(), "reference")


def default_path() -> str:
    """The path that ``path="auto"`` stands for: the fastest one, or what SPARSIGHT_KERNEL_PATH names.

    Raises
    ------
    InvalidArgumentError
        If the environment variable names a path that this machine does not have.
    """
    forced = os.environ.get(ENVIRONMENT_VARIABLE, "")
    if forced and forced != "auto":
        return _require(forced, ENVIRONMENT_VARIABLE)
    return available_paths()[0]


def resolve_path(path: str) -> str:
    """The path that will run for a caller's ``path=``.

    Raises
    ------
    InvalidArgumentError
        If it is unknown or this machine does not have it.
    """
    return default_path() if path == "auto" else _require(path, "path")


def _require(path: str, field: str) -> str:
    if path not in available_paths():
        names = ", ".join(("auto", *available_paths()))
        raise InvalidArgumentError(
            f"{field}: expected one of {names} on this machine, received {path!r}",
            field=field,
            expected=names,
            received=path,
        )
    return path
