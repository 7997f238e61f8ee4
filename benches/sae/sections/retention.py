"""nDCG@10 that codes keep of the dense vectors', by active latents and scorers, beside other forms of as many bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benches.quality.results import Row
from benches.sae.lab import Lab
from benches.sae.recipes import KS, OURS, PLAIN, RECIPES, models, scaled
from sparsight.encoders.sae.model import SAE
from sparsight.retrieval import sae_baselines as short
from sparsight.retrieval.judged_vectors import JudgedVectors, Quality
from sparsight.retrieval.sae_retention import Coder, dense_quality, parse_scorer, ratio, retentions
from sparsight.retrieval.sae_scoring import Scorer

__all__ = ["SCORERS", "SETS", "mean_over_sets", "section"]

F32 = NDArray[np.float32]
SETS = {"scifact": ("scifact",), "cranfield": ("cranfield",), "cacm": ("cacm",), "arxiv": ("arxiv_cs", "arxiv_sci")}
"""What counts as one set, and what it is the mean of."""
SCORERS = tuple(map(parse_scorer, (
    "decode-256-refocus-20", "decode-256-refocus-50", "decode-256", "decode-512", "decode-all", "symmetric")))
_TRAINED = 50_000  # rows that baselines are fitted to


def section(lab: Lab) -> list[Row]:
    """Rows "retention", one for each recipe and scorer, and "baselines", for each k at the bytes of our codes."""
    dense = {name: dense_quality(judged, device=lab.data.device) for name, judged in lab.data.judged.items()}
    rows = [row for name in (*PLAIN.values(), *OURS.values()) for row in _of_recipe(lab, name, dense)]
    return rows + _random(lab, dense) + _short(lab, dense)


def mean_over_sets(of: Mapping[str, float]) -> dict[str, float]:
    """Figures of `SETS` from those of the judged sets, and their "mean".

    Examples
    --------
    >>> mean_over_sets({"scifact": 0.9, "cranfield": 0.9, "cacm": 0.9, "arxiv_cs": 0.8, "arxiv_sci": 0.6})["mean"]
    0.85
    """
    sets = {name: float(np.mean([of[part] for part in parts])) for name, parts in SETS.items()}
    return {name: round(value, 4) for name, value in (sets | {"mean": float(np.mean(list(sets.values())))}).items()}


def _of_recipe(lab: Lab, name: str, dense: Mapping[str, Quality]) -> list[Row]:
    recipe, trained = RECIPES[name], models(lab, name)
    lab.say(f"retention of {name} ...")

    def pursued(sae: SAE) -> Coder:
        return lambda x, k: lab.pursued(sae, x, k)

    k = recipe.config.k
    kept: dict[Scorer, list[dict[str, float]]] = {scorer: [] for scorer in SCORERS}
    postings: dict[Scorer, list[float]] = {scorer: [] for scorer in SCORERS}
    for sae, _ in trained:
        of, reads = _retained(lab, sae, k, dense, pursued(sae) if recipe.coding == "pursuit" else None)
        for scorer in SCORERS:
            kept[scorer].append(mean_over_sets(of[scorer]))
            postings[scorer].append(reads[scorer])
    sae = trained[0][0]
    about = {"kind": "retention", "recipe": name, "k": k, "n_latents": sae.n_latents, "coding": recipe.coding,
             "bytes": short.posting_bytes(sae.n_latents, k), "epochs": scaled(lab, recipe.config).epochs}
    return [about | {"scorer": scorer.name, "weights": _weights(scorer, sae.n_latents, k)} | _over_seeds(kept[scorer])
            | {"postings": round(float(np.mean(postings[scorer])))} for scorer in SCORERS]  # fmt: skip


def _retained(lab: Lab, sae: SAE, k: int, dense: Mapping[str, Quality], code: Coder | None,
              ) -> tuple[dict[Scorer, dict[str, float]], dict[Scorer, float]]:
    """Retention by scorer and set, and the postings that a query reads as a mean over the sets."""
    of: dict[Scorer, dict[str, float]] = {scorer: {} for scorer in SCORERS}
    reads: dict[Scorer, list[float]] = {scorer: [] for scorer in SCORERS}
    for name, judged in lab.data.judged.items():
        for found in retentions(sae, judged, [k], SCORERS, dense=dense[name], code=code, device=lab.data.device):
            of[found.scorer][name] = found.ndcg
            reads[found.scorer].append(found.postings)
    return of, {scorer: float(np.mean(values)) for scorer, values in reads.items()}


def _weights(scorer: Scorer, n_latents: int, k: int) -> int:
    """Most weights that a query has."""
    if scorer.query == "symmetric":
        return scorer.m or k
    return min(scorer.m or n_latents, n_latents)


def _over_seeds(of: Sequence[Mapping[str, float]]) -> Row:
    """Means over trainings, and "spread": the standard deviation of the mean over sets, 0 of one training."""
    means = {name: round(float(np.mean([one[name] for one in of])), 4) for name in of[0]}
    spread = float(np.std([one["mean"] for one in of], ddof=1)) if len(of) > 1 else 0.0
    return means | {"spread": round(spread, 4), "seeds": len(of)}


# --- other forms of as many bytes ---------------------------------------------------------------------------------


def _train(lab: Lab) -> F32:
    x = lab.data.x
    return x[np.linspace(0, len(x) - 1, min(_TRAINED, len(x))).astype(np.int64)]


def _sizes(lab: Lab) -> dict[int, int]:
    """Latents of our dictionary for each k."""
    return {k: scaled(lab, RECIPES[OURS[k]].config).n_latents for k in KS}


def _random(lab: Lab, dense: Mapping[str, Quality]) -> list[Row]:
    """Random atoms, coded by the k largest products: what an autoencoder is without training."""
    rows: list[Row] = []
    for n_latents in dict.fromkeys(_sizes(lab).values()):
        lab.say(f"random projection to {n_latents} ...")
        for k in (k for k, size in _sizes(lab).items() if size == n_latents):
            sae = short.random_atoms(n_latents, k, _train(lab))
            of, _ = _retained(lab, sae, k, dense, None)
            rows += [{"kind": "baselines", "system": "random projection, top k", "k": k, "n_latents": n_latents,
                      "bytes": short.posting_bytes(n_latents, k), "scorer": scorer.name,
                      "weights": _weights(scorer, n_latents, k)} | mean_over_sets(of[scorer])
                     for scorer in SCORERS]  # fmt: skip
    return rows


def _short(lab: Lab, dense: Mapping[str, Quality]) -> list[Row]:
    """PCA in 8 bits a dimension, and product quantisation, of no more bytes than our postings of k take."""
    train, device = _train(lab), lab.data.device
    axes, width = short.principal_axes(train), train.shape[1]
    rows: list[Row] = []
    for k, n_latents in _sizes(lab).items():
        room = short.posting_bytes(n_latents, k)
        lab.say(f"short vectors of at most {room:g} bytes ...")
        makers: list[Callable[[JudgedVectors], short.ShortVectors]] = [
            partial(short.pca, axes=axes, dimensions=min(int(room), width), train=train)]
        if len(train) >= short.LEAST_ROWS:
            makers.append(short.ProductQuantiser.fit(train, short.most_parts(width, room)).shorten)
        for make in makers:
            made = {name: make(judged) for name, judged in lab.data.judged.items()}
            of = {name: ratio(vectors.quality(lab.data.judged[name], device=device).ndcg, dense[name].ndcg)
                  for name, vectors in made.items()}
            one = next(iter(made.values()))
            rows.append({"kind": "baselines", "system": one.name, "k": k, "n_latents": n_latents, "bytes": one.bytes,
                         "scorer": "", "weights": one.dimensions} | mean_over_sets(of))
    return rows
