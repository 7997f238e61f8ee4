"""What the analyses of autoencoders ask of their arguments, checked once, at the door."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from sparsight.errors import InvalidArgumentError, InvalidVectorError, ShapeError

if TYPE_CHECKING:
    import torch

__all__ = ["check_codes", "check_live", "check_rows", "torch_device"]


def check_rows(name: str, x: NDArray[Any], *, rows: int = -1, columns: int = -1) -> None:
    """Raise unless ``x`` is a finite floating matrix, with that many rows and columns where they are not -1."""
    wanted = f"({'B' if rows < 0 else rows}, {'D' if columns < 0 else columns})"
    fits = x.ndim == 2 and rows in (-1, x.shape[0]) and columns in (-1, x.shape[1])
    if not fits or not np.issubdtype(x.dtype, np.floating):
        raise ShapeError(f"expected {name} floating {wanted}, got {x.dtype} {x.shape}", field=name)
    if not np.isfinite(x).all():
        raise InvalidVectorError(f"expected finite {name}", field=name)


def check_codes(name: str, codes: csr_matrix, *, rows: int = -1, latents: int = -1) -> None:
    """Raise unless ``codes`` are csr with finite values > 0 and no latent twice in a row, as those of an SAE are.

    They may be unsorted, as after taking some columns.
    """
    if codes.format != "csr" or rows not in (-1, codes.shape[0]) or latents not in (-1, codes.shape[1]):
        wanted = f"({'B' if rows < 0 else rows}, {'N' if latents < 0 else latents})"
        raise ShapeError(f"expected {name} csr {wanted}, got {codes.format} {codes.shape}", field=name)
    in_order = codes if codes.has_sorted_indices else codes.sorted_indices()
    if not (np.isfinite(codes.data).all() and (codes.data > 0).all() and in_order.has_canonical_format):
        raise InvalidVectorError(f"expected {name} with finite values above 0 and no latent twice in a row", field=name)


def check_live(name: str, live: NDArray[np.bool_] | None, latents: int) -> NDArray[np.bool_]:
    """The mask itself, or one of all latents where there is none; raises if it is no mask of that length or empty."""
    if live is None:
        return np.ones(latents, bool)
    if live.shape != (latents,) or live.dtype != bool:
        raise ShapeError(f"expected {name} bool ({latents},), got {live.dtype} {live.shape}", field=name)
    if not live.any():
        raise InvalidArgumentError(f"expected a live latent in {name}, got none of {latents}", field=name)
    return live


def torch_device(device: str) -> torch.device:
    """The torch device of that name.

    Raises
    ------
    InvalidArgumentError
        If torch knows no such device or cannot use it here.
    """
    import torch

    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:  # a build without CUDA asserts
        raise InvalidArgumentError(f"expected a device that torch can use, got {device!r}: {error}",
                                   field="device") from error
    return chosen
