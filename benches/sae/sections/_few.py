"""Two and four active latents (CSRv2): what is left of three kinds of task, and how many latents stay silent.

CSRv2's scores are means of MTEB's six kinds of task, with e5-Mistral. Three of the kinds can be had here: retrieval,
and by arXiv's categories classification and clustering, each as a share of the dense vectors' own score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benches.quality.results import Row
from benches.sae.lab import Coding, Lab
from benches.sae.recipes import OURS, RECIPES, scaled
from benches.sae.sections._cells import cell, silent
from benches.sae.sections._labels import Labelled, labelled, share_right, v_measure
from benches.sae.sections._retained import Retained, small_dev, small_test
from benches.sae.sections._rows import asked, row
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
    dev, tasks, rows = Retained(lab, small_dev(lab)), _Tasks.of(lab), []
    for k, limit in _ASKED.items():
        tried = [_tried(lab, dev, recipe, coding, sae) for recipe, sae in _recipes(lab, k).items()
                 for coding in _CODINGS]
        best = max(tried, key=lambda one: one.dev)
        kept = tasks.kept(lab, best)
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


@dataclass(frozen=True, eq=False)
class _Tasks:
    """Three kinds of task, and what the dense vectors score in two of them."""

    retrieval: Retained
    rows: Labelled
    classified: float
    clustered: float

    @classmethod
    def of(cls, lab: Lab) -> _Tasks:
        rows = labelled(lab)
        return cls(Retained(lab, small_test(lab)), rows, share_right(rows, lab.data.device), _clustered(lab, rows))

    def kept(self, lab: Lab, tried: _Tried) -> dict[str, float]:
        """Shares of the dense scores, and their mean."""
        train, test = (_decoded(lab, tried.sae, tried.coding, x) for x in (self.rows.train, self.rows.test))
        rebuilt = self.rows.of(train, test)
        shares = {"retrieval": self.retrieval.vectors(partial(_rebuilt, lab, tried.sae, tried.coding)),
                  "classification": share_right(rebuilt, lab.data.device) / self.classified,
                  "clustering": _clustered(lab, rebuilt) / max(self.clustered, 1e-12)}
        return shares | {"mean": float(np.mean(list(shares.values())))}


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
