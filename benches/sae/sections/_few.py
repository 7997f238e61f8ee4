"""Two and four active latents (CSRv2): what is left of three kinds of task, and how many latents stay silent.

CSRv2's scores are means over MTEB's six kinds of task, with e5-Mistral, and shares of the dense vectors' mean. Three of
the kinds can be had here: retrieval, and by arXiv's categories classification and clustering.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benches.quality.criteria import asked, row
from benches.quality.results import Row
from benches.sae.lab import Coding, Lab
from benches.sae.recipes import OURS, RECIPES, scaled
from benches.sae.sections._cells import cell, silent
from benches.sae.sections._labels import Labelled, labelled, share_right, v_measure
from benches.sae.sections._retained import Retained, small_dev, small_test
from sparsight.encoders.sae.losses import AuxK, Contrast, Nested, Reconstruction
from sparsight.encoders.sae.model import SAE
from sparsight.retrieval.judged_vectors import JudgedVectors
from sparsight.retrieval.sae_baselines import ShortVectors, posting_bytes

__all__ = ["few_latents"]

F32 = NDArray[np.float32]
_LATENTS = 16_384
_ASKED = {4: 83.8, 2: 76.2}  # percent of the dense score that CSRv2-linear keeps
_EPOCHS = 4
_FROM = 64  # active latents that annealing starts at
_CODINGS: tuple[Coding, ...] = ("encoder", "pursuit")
_CLUSTERINGS = 3


def few_latents(lab: Lab) -> list[Row]:
    """Rows "few_latents": for each k some recipes on the dev sets, and the best of them on the tasks."""
    dev, tasks, rows = Retained(lab, small_dev(lab)), _Tasks(lab), []
    for k, limit in _ASKED.items():
        tried = [_tried(lab, dev, recipe, coding, sae) for recipe, sae in _recipes(lab, k).items()
                 for coding in _CODINGS]
        best = max(tried, key=lambda one: one.dev)
        kept = tasks.kept(best)
        rows += [one.row(kept if one is best else dict.fromkeys(kept, "")) for one in tried]
        rows += _criteria(k, limit, best, kept, tried)
    return rows


@dataclass(frozen=True, eq=False)
class _Tried:
    """A model and a way of coding with it; ``dev`` is its mean share of nDCG@10 on the dev sets."""

    recipe: str
    coding: Coding
    sae: SAE
    dev: float

    def row(self, tasks: dict[str, float] | dict[str, str]) -> Row:
        return row("few_latents", k=self.sae.k, n_latents=self.sae.n_latents, recipe=self.recipe, coding=self.coding,
                   dead=silent(self.sae), dev_retention=self.dev, **tasks)


def _tried(lab: Lab, dev: Retained, recipe: str, coding: Coding, sae: SAE) -> _Tried:
    return _Tried(recipe, coding, sae, dev.vectors(partial(_rebuilt, lab, sae, coding)))


def _recipes(lab: Lab, k: int) -> dict[str, SAE]:
    """CSRv2's losses with annealed k, and the project's recipe for this k, its first seed."""
    n = lab.scale(_LATENTS, 64)
    losses = (Reconstruction(), Nested(ks=(min(4 * k, n),), weight=1 / 8), AuxK(weight=0.1), Contrast())
    config = cell(lab, n, k, losses=losses, epochs=lab.scale(_EPOCHS, 3), anneal_from=min(_FROM, n) / k)
    ours = scaled(lab, RECIPES[OURS[k]].config)
    return {"contrast": lab.train("CSRv2", config)[0], "ours": lab.train(OURS[k], ours)[0]}


def _decoded(lab: Lab, sae: SAE, coding: Coding, x: F32) -> F32:
    return sae.decode(lab.codes(sae, x, how=coding))


def _rebuilt(lab: Lab, sae: SAE, coding: Coding, judged: JudgedVectors) -> ShortVectors:
    """What postings of ``z / |xhat|`` score with all of a query's products: the bias has no posting."""
    decoded = _decoded(lab, sae, coding, judged.documents)
    norms = np.maximum(np.linalg.norm(decoded, axis=1, keepdims=True), 1e-12)
    return ShortVectors("codes", sae.k, posting_bytes(sae.n_latents, sae.k), (decoded - sae.b_dec) / norms,
                        judged.queries)


class _Tasks:
    """Three kinds of task, and what the dense vectors score in them."""

    def __init__(self, lab: Lab) -> None:
        self._lab, self._rows, self._retrieval = lab, labelled(lab), Retained(lab, small_test(lab))
        self._dense = self._scores(self._retrieval.score(), self._rows)

    def kept(self, tried: _Tried) -> dict[str, float]:
        """Shares of the dense scores; "mean" is that of the sums, as averages over kinds of task are compared."""
        decoded = partial(_decoded, self._lab, tried.sae, tried.coding)
        found = self._scores(self._retrieval.score(partial(_rebuilt, self._lab, tried.sae, tried.coding)),
                             self._rows.of(decoded(self._rows.train), decoded(self._rows.test)))
        shares = {name: score / max(self._dense[name], 1e-12) for name, score in found.items()}
        return shares | {"mean": sum(found.values()) / sum(self._dense.values())}

    def _scores(self, retrieval: float, rows: Labelled) -> dict[str, float]:
        """nDCG@10, accuracy and V-measure."""
        return {"retrieval": retrieval, "classification": share_right(rows, self._lab.data.device),
                "clustering": _clustered(self._lab, rows)}


def _clustered(lab: Lab, rows: Labelled) -> float:
    """V-measure of spherical k-means of the test rows, as many clusters as labels, mean of some starts."""
    import torch

    from sparsight.encoders.sae.centroids import centroids

    x = torch.nn.functional.normalize(torch.from_numpy(np.asarray(rows.test)).to(lab.data.device), dim=1)
    found = []
    for seed in range(_CLUSTERINGS):
        centres = centroids(x, rows.count, rounds=30, seed=seed)
        found.append(v_measure(rows.test_labels, (x @ centres.T).argmax(1).cpu().numpy()))
    return float(np.mean(found))


def _criteria(k: int, limit: float, best: _Tried, kept: dict[str, float], tried: Sequence[_Tried]) -> list[Row]:
    others = ", ".join(f"{one.recipe} by {one.coding} {one.dev:.3f}" for one in tried)
    kinds = ", ".join(f"{name} {100 * share:.1f}" for name, share in kept.items() if name != "mean")
    out = [asked(6, "CSRv2", f"score at k = {k}, of the dense vectors', with the embedder frozen", 100 * kept["mean"],
                 "at least", limit, unit="%", note=(
                     f"mean of three kinds of task where {limit} is of six, of another embedder: {kinds}; "
                     f"{best.recipe} by {best.coding}, {best.sae.n_latents:,} latents, the best on dev sets of "
                     f"{others}"))]  # fmt: skip
    if k == min(_ASKED):
        dead = {one.recipe: 100 * silent(one.sae) for one in tried}
        out.append(asked(6, "CSRv2", f"silent latents at k = {k}, with k annealed", dead["contrast"], "at most", 20.0,
                         unit="%", note=(
                             f"in no code of rows that were trained on; from k = {_FROM}, {tried[0].sae.n_latents:,} "
                             f"latents; ours, without annealing, by its encoder: {dead['ours']:.1f} %")))  # fmt: skip
    return out
