"""Where the Triton kernels run: on a GPU if there is one, else on the CPU in Triton's interpreter.

Triton reads TRITON_INTERPRET when a kernel is defined, those of its own library too. So it is set here, before any test
module imports a kernel, and nothing may import triton earlier: transformers does with its models, which is why tests
import those inside functions.
"""

from __future__ import annotations

import os

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def device() -> str:
    """Where to put tensors: "cuda", or "cpu" with the kernels interpreted."""
    if DEVICE == "cpu":
        import triton.language as tl
        from triton.runtime.interpreter import InterpretedFunction

        from sparsight.kernels.gpu import add_norm, gather_sum, max_logits, pruned_csr, sae_step, topk_encode
        from sparsight.kernels.gpu.top_positive import _top_positive_kernel

        kernels = (tl.zeros, max_logits._max_logits_kernel, gather_sum._gather_sum_kernel,
                   gather_sum._row_dots_kernel, topk_encode._group_maxima_kernel, topk_encode._candidates_kernel,
                   topk_encode._exact_kernel, pruned_csr._cut_kernel,
                   pruned_csr._write_kernel, add_norm._add_norm_kernel, _top_positive_kernel,
                   sae_step._decode_loss_kernel, sae_step._chunk_sums_kernel, sae_step._adam_rows_kernel)
        if not all(isinstance(kernel, InterpretedFunction) for kernel in kernels):
            pytest.fail("triton or its kernels were imported before TRITON_INTERPRET was set: a test module imports "
                        "them, or a model of transformers, at its top; import inside the tests")
    return DEVICE
