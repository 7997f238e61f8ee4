"""In which numbers a model computes."""

from __future__ import annotations

import os
from functools import cache
from typing import Any, Literal, cast, get_args

from sparsight.errors import InvalidArgumentError

__all__ = ["PRECISION_VARIABLE", "Precision", "bfloat16_is_fast", "chosen_precision"]

Precision = Literal["auto", "float32", "bfloat16"]
PRECISION_VARIABLE = "SPARSIGHT_PRECISION"


def chosen_precision(asked: str | None) -> Precision:
    """``asked``, else what the environment variable SPARSIGHT_PRECISION says, else "auto".

    Raises
    ------
    InvalidArgumentError
        If it is no :data:`Precision`.
    """
    chosen = asked or os.environ.get(PRECISION_VARIABLE) or "auto"
    if chosen not in get_args(Precision):
        raise InvalidArgumentError(f"expected precision {', '.join(get_args(Precision))}, got {chosen!r}",
                                   field="precision")
    return cast(Precision, chosen)


@cache
def bfloat16_is_fast() -> bool:
    """Whether this processor multiplies bfloat16 matrices in hardware (AMX or AVX512-BF16)."""
    import torch

    tests: Any = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return any(test is not None and bool(test()) for test in tests)
