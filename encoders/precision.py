"""In which numbers a model computes.

==========  ==========================================================================================================
"float32"   everything in float32: what others' float32 gives within 1e-3
"bfloat16"  weights, layers and the head's product in bfloat16 (8 significant bits); sums in float32
"auto"      on a CPU with AMX or AVX512-BF16, bfloat16 for SPLADE; on a GPU, float16 for BERTs (with
            :mod:`sparsight.encoders.gpu_encoding` for SPLADE) and dense MPNets; float32 otherwise
==========  ==========================================================================================================

What is returned is float32 in any case, and the fingerprint is that of the weights: vectors of different precisions
meet in one index. nDCG@10 on SciFact's 300 test queries (``benches.quality --sets scifact`` with
``SPARSIGHT_PRECISION`` set):

=========================  ===========  =========
model, word pieces         float32      bfloat16
=========================  ===========  =========
splade-tiny, 256           0.6436       0.6434
all-MiniLM-L6-v2, 256      0.6451       0.6449
=========================  ===========  =========

all-mpnet-base-v2 encodes 3,650 abstracts of arXiv a second (190 word pieces each) in float16 on an H200, and 940 in
float32: ``load_encoder(folder, device="cuda", precision=...).encode`` of 43,690 and 10,000 of them. Of the ten
neighbours of 500 among those 10,000, 99.94 % are the same.

Dense encoders stay with float32 on a CPU under "auto": what bfloat16 does to the latents of an autoencoder over their
vectors was not measured. In bfloat16 the last bits of a text's vector may depend on the texts it is encoded with, and
one bit is 0.4 %.
"""

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
