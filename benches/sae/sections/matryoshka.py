"""One autoencoder for several sparsities (Matryoshka by sparsity, 7) beside one trained for each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benches.quality.criteria import asked, row
from benches.quality.results import Row
from benches.sae.lab import Lab
from benches.sae.sections._cells import cell, control
from sparsight.encoders.sae.config import SAEConfig
from sparsight.encoders.sae.losses import AuxK, Nested
from sparsight.encoders.sae.reconstruction import reconstruction

__all__ = ["section"]

_LATENTS = 4096
_KS = (8, 16, 32, 64)
_EACH = "a model each"
_WEIGHTS = {"uniform weights": "uniform", "sparser heavier": "reverse"}


def section(lab: Lab) -> list[Row]:
    """Rows "matryoshka": FVU and cosine of codes of each k, cut from one model's by value, and of a model of that k.

    Everything is of the held-out rows; the weighting is the one whose worst FVU is nearer to a model each, on one half
    of them, and the criteria are of the other half.
    """
    n, ks = lab.scale(_LATENTS, 64), lab.scale(_KS, (2, 4, 8, 16))
    models = {name: cell(lab, n, max(ks), losses=(Nested(ks=ks, weights=weights), AuxK()))
              for name, weights in _WEIGHTS.items()}
    rows = [_row(lab, _EACH, control(lab, n, k), k) for k in ks]
    rows += [_row(lab, name, config, k) for name, config in models.items() for k in ks]
    return [*rows, *_criteria(rows)]


def _row(lab: Lab, name: str, config: SAEConfig, k: int) -> Row:
    sae, report = lab.train(name, config)
    chosen, judged = (reconstruction(sae, x, lab.codes(sae, x, k), device=lab.data.device)
                      for x in (lab.data.held[::2], lab.data.held[1::2]))
    return row("matryoshka", model=name, n_latents=sae.n_latents, k=k, steps=report["steps"], fvu=judged.fvu,
               cosine=judged.cosine, l0=judged.l0, first_half_fvu=chosen.fvu)


def _criteria(rows: Sequence[Row]) -> list[Row]:
    over = {name: _column(rows, name, "fvu") / _column(rows, _EACH, "fvu") for name in _WEIGHTS}
    best = min(_WEIGHTS, key=lambda name: float(
        (_column(rows, name, "first_half_fvu") / _column(rows, _EACH, "first_half_fvu")).max()))
    ks = sorted({of["k"] for of in rows})
    cosines = _column(rows, best, "cosine")
    settings = f"{rows[0]['n_latents']:,} latents, {rows[0]['steps']} steps each, {best}"
    several = "; ".join(f"{name}: " + ", ".join(f"k {k} {share:.3f}" for k, share in zip(ks, of, strict=True))
                        for name, of in over.items())
    kept = ", ".join(f"k {k} {cosine:.3f}" for k, cosine in zip(ks, cosines, strict=True))
    return [
        asked(7, "Matryoshka SAE", f"one model's FVU of that of a model for each of {len(ks)} sparsities",
              over[best].max(), "at most", 1.02, unit="times", note=f"the worst k; {several}; {settings}"),
        asked(7, "Matryoshka SAE", "cosine of reconstructions from codes cut by value, of a model's each",
              (cosines / _column(rows, _EACH, "cosine")).min(), "at least", 0.99, unit="times",
              note=f"the worst k; cosines of {kept}; {settings}"),
    ]  # fmt: skip


def _column(rows: Sequence[Row], model: str, key: str) -> NDArray[np.float64]:
    return np.array([of[key] for of in rows if of["model"] == model])
