"""The grid of N latents and k active ones: how FVU falls with both, and multi-TopK (2), over real abstracts (4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise

import numpy as np

from benches.quality.criteria import asked, row
from benches.quality.results import Row
from benches.sae.lab import Lab
from benches.sae.sections._cells import plain, silent
from sparsight.encoders.sae.losses import AuxK, Nested, Reconstruction
from sparsight.encoders.sae.scaling import ScalingFit, fit_scaling

__all__ = ["section"]

_LATENTS, _KS = (1024, 2048, 4096, 8192, 16_384), (8, 16, 32, 64, 128)
_SMALL_LATENTS, _SMALL_KS = (32, 64, 128), (2, 4, 8, 16)
_MULTI = (8192, 16)  # N and k of the two models that are asked for other k
_MULTI_WEIGHT = 1 / 8  # of the error at 4 k (Gao et al. 2024)
_SECOND, _FOURTH = "Scaling and evaluating", "Disentangling dense embeddings"


def section(lab: Lab) -> list[Row]:
    """Rows "grid", a cell each; "scaling", the law of cells up to some k; "budgets", FVU by k, multi-TopK or not."""
    sizes, ks = lab.scale(_LATENTS, _SMALL_LATENTS), lab.scale(_KS, _SMALL_KS)
    grid = [_cell_row(lab, n, k) for n in sizes for k in ks]
    fits = {most: _fitted([of for of in grid if of["k"] <= most]) for most in ks[2:]}
    laws = [row("scaling", k_up_to=most, **asdict(fit.law), r2=fit.r2, held_out_r2=fit.held_out_r2)
            for most, fit in fits.items()]
    budgets = _budgets(lab, *lab.scale(_MULTI, (64, 2)))
    return [*grid, *laws, *budgets, *_of_scaling(grid, fits), *_of_budgets(budgets), *_of_abstracts(lab, grid)]


def _cell_row(lab: Lab, n: int, k: int) -> Row:
    sae, report = lab.train("grid", plain(lab, n, k))
    return row("grid", n_latents=n, k=k, fvu=report["fvu"], l0=report["l0"], dead=silent(sae), rows=report["rows"],
               steps=report["steps"], seconds=report["seconds"])


def _fitted(cells: Sequence[Row]) -> ScalingFit:
    """The joint law of some cells; it needs three different k."""
    return fit_scaling(*([of[key] for of in cells] for key in ("n_latents", "k", "fvu")))


def _budgets(lab: Lab, n: int, k: int) -> list[Row]:
    """FVU of codes of k / 2 to 8 k from two models, one of them with an error at 4 k in its loss."""
    losses = (Reconstruction(), Nested(ks=(4 * k,), weight=_MULTI_WEIGHT), AuxK())
    rows = []
    for multi, config in ((False, plain(lab, n, k)), (True, plain(lab, n, k, losses=losses))):
        sae, _ = lab.train("multi-TopK" if multi else "grid", config)
        for other in _between(k // 2, 8 * k):
            found = lab.held_figures(sae, other)
            rows.append(row("budgets", multi=multi, n_latents=n, trained_k=k, k=other, fvu=found["fvu"],
                            l0=found["l0"]))
    return rows


def _between(low: int, high: int) -> list[int]:
    """Whole numbers from ``low`` to ``high``, each about the root of 2 times the one before.

    >>> _between(8, 32)
    [8, 11, 16, 23, 32]
    """
    count = round(2 * np.log2(high / low))
    return sorted({round(low * 2 ** (i / 2)) for i in range(count + 1)})


def _of_scaling(grid: Sequence[Row], fits: dict[int, ScalingFit]) -> list[Row]:
    fit = fits[max(fits)]
    less = ", ".join(f"up to {most} {of.held_out_r2:.4f}" for most, of in fits.items() if of is not fit)
    largest = max(of["n_latents"] for of in grid)
    dead = {of["k"]: 100 * of["dead"] for of in grid if of["n_latents"] == largest}
    several = ", ".join(f"k {k}: {share:.2f}" for k, share in dead.items())
    furthest = 100 * np.abs(np.expm1(fit.held_out_residuals)).max()
    return [
        asked(2, _SECOND, "FVU by N and k follows the joint law: R2 on held-out cells", fit.held_out_r2, "at least",
              0.99, unit="R2", note=f"{len(grid)} cells in 5 folds, each predicted without its own; furthest off "
                                    f"{furthest:.1f} %; gamma {fit.law.gamma:.3f}; R2 of cells with k {less}; "
                                    f"{_settings(grid)}"),
        asked(2, _SECOND, f"silent latents at N = {largest:,}", max(dead.values()), "at most", 7.0, unit="%",
              note=f"the worst of {several}; in no code of rows that were trained on; {_settings(grid)}"),
    ]  # fmt: skip


def _of_budgets(rows: Sequence[Row]) -> list[Row]:
    """With multi-TopK a larger k must never raise FVU, and without it must at least once."""
    out = []
    for multi, bound, limit in ((True, "at most", 0), (False, "at least", 1)):
        of = [one for one in rows if one["multi"] == multi]
        rises = sum(after["fvu"] >= before["fvu"] for before, after in pairwise(of))
        curve = ", ".join(f"{one['k']}: {one['fvu']:.3f}" for one in of)
        out.append(asked(2, _SECOND, f"{'with' if multi else 'without'} multi-TopK: a larger k raises FVU", rises,
                         bound, limit, unit=f"of {len(of) - 1} steps", note=(
                             f"FVU by k: {curve}; {of[0]['n_latents']:,} latents, trained at k = "
                             f"{of[0]['trained_k']}")))
    return out


def _of_abstracts(lab: Lab, grid: Sequence[Row]) -> list[Row]:
    """Of system 4 what concerns codes: how many abstracts the grid is of, and how low FVU is."""
    abstracts = sum(category != "wiki" for category in lab.data.categories)
    asked_for = [of for of in grid if 3072 <= of["n_latents"] <= 12_288 and 16 <= of["k"] <= 128] or grid
    low, high = (choose(asked_for, key=lambda of: of["fvu"]) for choose in (min, max))
    ends = " to ".join(f"{of['fvu']:.3f} (N {of['n_latents']:,}, k {of['k']})" for of in (low, high))
    return [
        asked(4, _FOURTH, "abstracts that a grid of N and k is trained on", abstracts, "at least", 400_000,
              unit="abstracts", note=f"of arXiv, beside {len(lab.data.x) - abstracts:,} passages; {len(grid)} cells; "
                                     f"{_settings(grid)}"),
        asked(4, _FOURTH, "lowest FVU for N of 3,072 to 12,288 and k of 16 to 128", low["fvu"], "at most", 0.2,
              unit="FVU", note=f"{ends}; 0.2 is the upper end of a published axis, of an embedder with 1,536 "
                               f"dimensions; {_settings(grid)}"),
    ]  # fmt: skip


def _settings(grid: Sequence[Row]) -> str:
    return f"{grid[0]['rows']:,} rows, {grid[0]['steps']} steps each"
