"""Partners of vectors by cosine: nearest, mutually nearest, and the best assignment of all together.

All three see cosines only, so lengths do not matter; a row of zeros has cosine 0 with everything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparsight.encoders.sae.checks import check_rows, torch_device
from sparsight.errors import InvalidArgumentError

if TYPE_CHECKING:
    import torch

__all__ = ["assignment", "mutual_nearest", "nearest"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
_ENTRIES = 1 << 26  # cosines at once: 256 MiB


def nearest(a: F32, b: F32, *, others: bool = False, device: str = "cpu") -> tuple[I64, F32]:
    """Row of ``b`` with the largest cosine, for each row of ``a``.

    Parameters
    ----------
    a : float, shape (N, D)
    b : float, shape (M, D)
        At least one row (two with ``others``).
    others : bool
        Leave out row i of ``b`` for row i of ``a``: with ``b`` equal to ``a``, the nearest other one. N must be M.
    device : str

    Returns
    -------
    partner : int64, shape (N,)
        Of equal ones the lowest on the CPU, any elsewhere.
    cosine : float32, shape (N,)

    Raises
    ------
    ShapeError, InvalidVectorError, InvalidArgumentError
        If an array is no finite matrix of that width, ``b`` is too short, or the device cannot be used.

    Notes
    -----
    2 N M D FLOP in blocks of 256 MiB; no N x M matrix.
    """
    import torch

    check_rows("a", a)
    check_rows("b", b, rows=len(a) if others else -1, columns=a.shape[1])
    if len(b) < 1 + others:
        raise InvalidArgumentError(f"expected at least {1 + others} rows to choose from, got {len(b)}", field="b")
    own, theirs = _unit(a, device), _unit(b, device)
    partner, cosine = np.empty(len(a), np.int64), np.empty(len(a), np.float32)
    step = max(_ENTRIES // len(b), 1)
    for start in range(0, len(a), step):
        cosines = own[start:start + step] @ theirs.T  # (step, M)
        if others:
            row = torch.arange(len(cosines), device=cosines.device)
            cosines[row, start + row] = -2.0
        best = cosines.max(dim=1)
        partner[start:start + step] = best.indices.cpu().numpy()
        cosine[start:start + step] = best.values.cpu().numpy()
    return partner, cosine


def mutual_nearest(a: F32, b: F32, *, device: str = "cpu") -> tuple[I64, F32]:
    """Partners that are each other's nearest row: int64 (N,), -1 for none, and cosines float32 (N,), 0 for none.

    Raises as :func:`nearest`, for an empty ``a`` too. Costs two of it.
    """
    forth, cosine = nearest(a, b, device=device)
    back, _ = nearest(b, a, device=device)
    chosen = back[forth] == np.arange(len(a))
    return np.where(chosen, forth, -1), np.where(chosen, cosine, np.float32(0))


def assignment(a: F32, b: F32, *, device: str = "cpu") -> tuple[I64, F32]:
    """One-to-one partners with the largest sum of cosines: int64 (N,), -1 for none, and cosines float32 (N,).

    With N rows in ``a`` and M in ``b``, min(N, M) have a partner; the others have cosine 0.

    Raises
    ------
    ShapeError, InvalidVectorError, InvalidArgumentError
        As :func:`nearest`.

    Notes
    -----
    The Hungarian method (Kuhn 1955; scipy's is the variant of Crouse 2016): O(min(N, M)^2 max(N, M)) at worst, on one
    core, and at least 12 N M bytes. Seconds for 4,096 rows, many minutes for 16,384.
    """
    from scipy.optimize import linear_sum_assignment

    check_rows("a", a)
    check_rows("b", b, columns=a.shape[1])
    cosines = (_unit(a, device) @ _unit(b, device).T).cpu().numpy()
    rows, columns = linear_sum_assignment(cosines, maximize=True)
    partner, cosine = np.full(len(a), -1, np.int64), np.zeros(len(a), np.float32)
    partner[rows], cosine[rows] = columns, cosines[rows, columns]
    return partner, cosine


def _unit(x: F32, device: str) -> torch.Tensor:
    import torch

    rows = torch.from_numpy(np.ascontiguousarray(x, np.float32)).to(torch_device(device))
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
