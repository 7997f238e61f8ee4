"""Settings that trainings of several sections share.

On a GPU plain trainings take a quick trainer of their own, which differs from the general one in details: the decoder's
bias, clipping, the learning rate's rise. Where something is compared with TopK, both go through the general one.
"""

from __future__ import annotations

from typing import Any

from benches.sae.lab import Lab
from sparsight.encoders.sae.config import SAEConfig
from sparsight.encoders.sae.losses import AuxK, Nested
from sparsight.encoders.sae.model import SAE

__all__ = ["cell", "control", "plain", "silent"]

_EPOCHS, _PLAIN_EPOCHS = 3, 6  # of 475,000 rows: figures compare with each other, and are not the best that can be had
_BATCH = 4096


def cell(lab: Lab, n_latents: int, k: int, **more: Any) -> SAEConfig:
    """TopK with AuxK from rows of the data (Gao et al. 2024), but for what is given."""
    settings = {"epochs": _EPOCHS, "batch": lab.scale(_BATCH, 256), "start": "rows"} | more
    return SAEConfig(n_latents=n_latents, k=k, **settings)


def control(lab: Lab, n_latents: int, k: int, **more: Any) -> SAEConfig:
    """TopK to compare a `cell` with: the loss is the same number, written so that it takes the general trainer."""
    return cell(lab, n_latents, k, losses=(Nested(ks=(k,)), AuxK()), **more)


def plain(lab: Lab, n_latents: int, k: int, **more: Any) -> SAEConfig:
    """TopK by itself, twice as long."""
    return cell(lab, n_latents, k, **({"epochs": lab.scale(_PLAIN_EPOCHS, _EPOCHS)} | more))


def silent(sae: SAE) -> float:
    """Share of latents that fired on none of the rows that the model was described by, 100,000 of those trained on."""
    return float((sae.density == 0).mean())
