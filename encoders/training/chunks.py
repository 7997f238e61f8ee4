"""Large batches in little memory: the encoder takes a chunk of texts at a time, the loss sees all of them.

Gao, Zhang, Han and Callan 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", RepL4NLP,
arXiv 2101.06983: vectors of every chunk without what their gradient would need, the loss's gradient with respect to
the vectors, then each chunk once more with gradients. That is a checkpoint of activations (Chen et al. 2016, arXiv
1604.06174) around every chunk, which is how it is done here: torch runs the second passes, one after another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.checkpoint import checkpoint

__all__ = ["in_chunks"]


def in_chunks(run: Callable[[NDArray[np.int64]], tuple[torch.Tensor, ...]], count: int, size: int,
              ) -> tuple[torch.Tensor, ...]:
    """What ``run`` makes of rows 0 to ``count``, ``size`` rows at a time, joined along the first axis.

    Parameters
    ----------
    run : callable
        From row numbers to tensors. It runs twice for each chunk and has to give the same both times.
    count : int
        Rows.
    size : int
        Rows of a chunk; 0 takes all at once, without a second pass.

    Returns
    -------
    tuple of torch.Tensor
        As many as ``run`` gives. Their gradients are those without chunks, up to the order of sums.
    """
    rows = np.arange(count)
    if not 0 < size < count:
        return run(rows)
    # With gradients on in both passes: without, a GPU would take other kernels, whose numbers differ a little.
    parts: list[Any] = [checkpoint(run, rows[first:first + size], use_reentrant=False, preserve_rng_state=False)
                        for first in range(0, count, size)]
    return tuple(torch.cat(pieces) for pieces in zip(*parts, strict=True))
