"""What autoencoders leave over (15): how much of it is linear in the input, and what pursuit makes of their atoms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from benches.quality.criteria import asked, row
from benches.quality.results import Row
from benches.sae.lab import Lab
from benches.sae.recipes import OURS, PLAIN, RECIPES, scaled
from sparsight.encoders.sae.blocks import errors
from sparsight.encoders.sae.error import split_error
from sparsight.encoders.sae.model import SAE
from sparsight.encoders.sae.refinement import pursue

__all__ = ["section"]

F32 = NDArray[np.float32]
_FEW = 1500  # rows where there is little data: more than an embedding has components
_CANDIDATES = 4  # times k: the encoder's largest pre-activations, among which pursuit chooses
_SEEDED, _ENCODER = "pursuit from the encoder's candidates", "encoder"


def section(lab: Lab) -> list[Row]:
    """Rows "dark_matter": linear maps are fitted to one half of the held-out rows, and all is measured on the other."""
    rows, x = [], lab.scale(lab.data.held, lab.data.x[:_FEW])
    for name in (PLAIN[32], OURS[32]):
        sae, _ = lab.train(name, replace(scaled(lab, RECIPES[name].config), seed=0))
        rows += [_row(lab, name, how, sae, x, codes) for how, codes in _codings(lab, sae, x)]
    return [*rows, *_criteria(rows)]


def _codings(lab: Lab, sae: SAE, x: F32) -> list[tuple[str, csr_matrix]]:
    most = min(_CANDIDATES * sae.k, sae.n_latents)
    return [(_ENCODER, lab.codes(sae, x)), (_SEEDED, pursue(sae, x, candidates=most, device=lab.data.device)),
            ("pursuit", lab.codes(sae, x, how="pursuit"))]


def _row(lab: Lab, name: str, how: str, sae: SAE, x: F32, codes: csr_matrix) -> Row:
    split = split_error(x, errors(sae, x, codes, device=lab.data.device), device=lab.data.device)
    return row("dark_matter", recipe=name, coding=how, n_latents=sae.n_latents, k=sae.k, fvu=split.fvu,
               linear_fvu=split.linear_fvu, nonlinear_fvu=split.nonlinear_fvu, vector_r2=split.vector_r2,
               norm_r2=split.norm_r2, log_norm_r2=split.log_norm_r2, rows=split.held_out_rows)


def _criteria(rows: Sequence[Row]) -> list[Row]:
    first = rows[0]
    of = {(each["recipe"], each["coding"]): each for each in rows}
    names = list(dict.fromkeys(each["recipe"] for each in rows))
    ratios = {name: of[name, _SEEDED]["fvu"] / of[name, _ENCODER]["fvu"] for name in names}
    worst = max(ratios, key=ratios.__getitem__)
    told = "; ".join(f"{each['recipe']} by {each['coding']}: {each['fvu']:.4f}" for each in rows)
    linear = "; ".join(f"{each['recipe']} by {each['coding']}: {each['vector_r2']:.3f} and {each['norm_r2']:.3f}"
                       for each in rows)
    settings = f"{first['recipe']} by {first['coding']}: {first['n_latents']:,} latents, k {first['k']}"
    name = "Dark matter"
    return [
        asked(15, name, "FVU by pursuit among the encoder's candidates, of the encoder's, at the same k", ratios[worst],
              "at most", 0.99, unit="times", note=(
                  f"the worse of {len(names)} models; {told}; {_CANDIDATES} k candidates")),
        asked(15, name, "share of the error vector that is linear in the input, and of its squared norm: reported",
              first["vector_r2"], "at least", 0.0, unit="R2", note=(
                  f"{settings}, on {first['rows']:,} held-out rows; squared norm {first['norm_r2']:.3f}, log norm "
                  f"{first['log_norm_r2']:.3f}; in language models about half, and over 0.9; vector and squared norm "
                  f"of all: {linear}"))]  # fmt: skip
