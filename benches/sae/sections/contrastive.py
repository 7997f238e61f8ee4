"""Codes that learn from pairs of a query and its document: CSR (5), and with very few latents CSRv2 (6).

Queries are float32 on both sides: codes are scored by all products of latents with the query, baselines by inner
products. CSR's own scorer, the product of both codes, is beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benches.quality.criteria import asked, row
from benches.quality.results import Row
from benches.sae.lab import Lab
from benches.sae.sections._cells import cell, silent
from benches.sae.sections._few import few_latents
from benches.sae.sections._retained import Retained, small_test
from sparsight.encoders.sae.losses import AuxK, Contrast, Nested, Reconstruction
from sparsight.retrieval.sae_baselines import pca, posting_bytes, principal_axes

__all__ = ["section"]

F32 = NDArray[np.float32]
_LATENTS = 4096
_KS = (2, 4, 8, 16, 32, 64)
_DECODE, _SYMMETRIC = "decode-all", "symmetric"
_EPOCHS = 4
_ROWS = 50_000  # that axes and 8-bit steps are taken from


def section(lab: Lab) -> list[Row]:
    """Rows "contrast": R@k of CSR, a model for each k, and of what it is compared with. Then those of `few_latents`."""
    n, ks = lab.scale(_LATENTS, 64), lab.scale(_KS, (2, 4))
    test = Retained(lab, small_test(lab))
    some = lab.data.x[np.linspace(0, len(lab.data.x) - 1, min(_ROWS, len(lab.data.x))).astype(np.int64)]
    axes = _axes(some)
    rows = [one for k in ks for one in (*_codes(lab, test, n, k), *_baselines(test, axes, some, n, k))]
    return [*rows, *_criteria(rows, f"mean of {', '.join(test.sets)}; {n:,} latents"), *few_latents(lab)]


def _codes(lab: Lab, test: Retained, n: int, k: int) -> list[Row]:
    losses = (Reconstruction(), Nested(ks=(min(4 * k, n),), weight=1 / 8), AuxK(), Contrast(weight=0.1))
    sae, report = lab.train("CSR", cell(lab, n, k, losses=losses, epochs=lab.scale(_EPOCHS, 3)))
    kept = test.codes(sae, k, (_DECODE, _SYMMETRIC))
    return [row("contrast", model="CSR", scorer=scorer, k=k, equal="", dimensions=k, bytes=posting_bytes(n, k),
                retention=kept[scorer], fvu=report["fvu"], dead=silent(sae), steps=report["steps"]) for scorer in kept]


def _baselines(test: Retained, axes: dict[str, F32], some: F32, n: int, k: int) -> list[Row]:
    """Coordinates along axes: as many float32 as latents are active, or as many of 8 bits as the codes have bytes."""
    rows = []
    for name, own in axes.items():
        for equal, count, train in (("dimensions", k, None), ("bytes", int(posting_bytes(n, k)), some)):
            count = min(count, len(own))
            rows.append(row("contrast", model=name, scorer="", k=k, equal=equal, dimensions=count,
                            bytes=count * (4.0 if train is None else 1.0), fvu="", dead="", steps="",
                            retention=test.vectors(partial(pca, axes=own, dimensions=count, train=train))))
    return rows


def _axes(some: F32) -> dict[str, F32]:
    """Orthonormal columns (D, D), of which a baseline keeps the first ones."""
    width = some.shape[1]
    turned = np.linalg.qr(np.random.default_rng(0).standard_normal((width, width))).Q
    return {"PCA": principal_axes(some), "truncation": np.eye(width, dtype=np.float32),
            "random projection": turned.astype(np.float32)}


def _criteria(rows: Sequence[Row], settings: str) -> list[Row]:
    kept = {scorer: {of["k"]: of["retention"] for of in rows if of["scorer"] == scorer}
            for scorer in (_DECODE, _SYMMETRIC)}
    out = []
    for equal in ("dimensions", "bytes"):
        best = {k: max((of["retention"], of["model"]) for of in rows if (of["equal"], of["k"]) == (equal, k))
                for k in kept[_DECODE]}
        several = ", ".join(f"k {k}: {kept[_DECODE][k]:.3f} (symmetric {kept[_SYMMETRIC][k]:.3f}) against {other:.3f} "
                            f"of {name}" for k, (other, name) in best.items())
        out.append(asked(5, "CSR", f"R@k above PCA, truncation and random projection of equal {equal}, at every k",
                         min(100 * (kept[_DECODE][k] - best[k][0]) for k in best), "at least", 0.0, unit="points",
                         note=f"the worst k; {several}; {settings}, a model for each k"))
    return out
