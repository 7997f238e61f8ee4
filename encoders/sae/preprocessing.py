"""What is done to embeddings before an autoencoder sees them, and undone in the weights that are saved.

``center``: ``sqrt(D) (x - mean)``, so that components of unit vectors have a variance near one, and learning rates and
thresholds suit any embedder. ``whiten``: ``(x - mean) V / sqrt(l + eps)`` with the covariance's eigenvectors V and
eigenvalues l, ``eps`` 1e-3 of their mean: every direction of the data counts alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

__all__ = ["Preprocessing", "fit"]

_RIDGE = 1e-3


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """``y = (x - mean) @ forward`` and back: ``x = y @ back + mean``; matrices are (D, D), float32."""

    mean: torch.Tensor
    forward: torch.Tensor
    back: torch.Tensor
    isotropic: bool

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, D) as the autoencoder sees them."""
        return (x - self.mean) * self.forward[0, 0] if self.isotropic else (x - self.mean) @ self.forward

    def restored(self, y: torch.Tensor) -> torch.Tensor:
        """The way back, (B, D)."""
        return self.rows(y) + self.mean

    def rows(self, y: torch.Tensor) -> torch.Tensor:
        """The way back for directions (N, D), without the mean."""
        return y * self.back[0, 0] if self.isotropic else y @ self.back


def fit(x: torch.Tensor, kind: str) -> Preprocessing:
    """What the rows of ``x``, float32 (B, D), ask for; ``kind`` is "center" or "whiten"."""
    mean, width = x.mean(0), x.shape[1]
    if kind == "center":
        eye = torch.eye(width, device=x.device)
        return Preprocessing(mean, eye * math.sqrt(width), eye / math.sqrt(width), True)
    centred = x - mean
    values, vectors = torch.linalg.eigh((centred.T @ centred / len(x)).double())
    spread = (values.clamp_min(0) + _RIDGE * values.mean()).sqrt()
    return Preprocessing(mean, (vectors / spread).float(), (vectors * spread).T.contiguous().float(), False)
