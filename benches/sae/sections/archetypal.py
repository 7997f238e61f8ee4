"""Atoms that are mixes of the data's centroids (archetypal autoencoders, 9): do other seeds find the same ones?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from benches.quality.criteria import asked, row
from benches.quality.results import Row
from benches.sae.lab import Lab
from benches.sae.sections._cells import cell, control, silent
from sparsight.encoders.sae.config import SAEConfig
from sparsight.encoders.sae.matching import assignment, nearest

__all__ = ["section"]

F32 = NDArray[np.float32]
_LATENTS = 2048
_K = 32
_ROWS = 100_000  # documents among which an atom's nearest is sought
_FREE, _OWN = "TopK", "archetypal"
_CENTROIDS, _OTHERS = "TopK from the same centroids", "archetypal, other centroids"
_TRAININGS = {_FREE: 4, _CENTROIDS: 2, _OWN: 4, _OTHERS: 2}
"""Seeds of each kind of dictionary."""


def section(lab: Lab) -> list[Row]:
    """Rows "archetypal": stability over seeds, FVU and nearest documents of each kind of dictionary.

    As in the paper, centroids are the data's, and equal for all seeds. So there are two controls: free atoms that start
    from them, which tells what the start alone does, and archetypal ones with centroids of each seed's own.
    """
    n, k = lab.scale(_LATENTS, 64), lab.scale(_K, 4)
    some = lab.data.x[np.linspace(0, len(lab.data.x) - 1, min(_ROWS, len(lab.data.x))).astype(np.int64)]
    centred = some - some.mean(0)
    by_chance = float(nearest(_random(n, centred.shape[1]), centred, device=lab.data.device)[1].max())
    rows = [_row(lab, kind, [_config(lab, n, k, kind, seed) for seed in range(seeds)], centred, by_chance)
            for kind, seeds in _TRAININGS.items()]
    return [*rows, *_criteria({of["dictionary"]: of for of in rows})]


def _config(lab: Lab, n: int, k: int, kind: str, seed: int) -> SAEConfig:
    if kind in (_FREE, _CENTROIDS):
        return control(lab, n, k, seed=seed, start="rows" if kind == _FREE else "centroids")
    return cell(lab, n, k, seed=seed, dictionary="archetypal", centroids_seed=seed if kind == _OTHERS else 0)


def _row(lab: Lab, kind: str, configs: Sequence[SAEConfig], centred: F32, by_chance: float) -> Row:
    trained = lab.train_many(configs, name=kind)
    live = [sae.W_dec[sae.density > 0] for sae, _ in trained]
    pairs = [_agreement(*pair, device=lab.data.device) for pair in combinations(live, 2)]
    near = np.concatenate([nearest(atoms, centred, device=lab.data.device)[1] for atoms in live])
    sae, report = trained[0]
    return row("archetypal", dictionary=kind, n_latents=sae.n_latents, k=sae.k, seeds=len(trained),
               steps=report["steps"], stability=float(np.mean(pairs)), lowest_pair=min(pairs),
               fvu=float(np.mean([about["fvu"] for _, about in trained])),
               dead=float(np.mean([silent(sae) for sae, _ in trained])), nearest_document=float(near.mean()),
               nearest_document_least=float(near.min()), nearest_by_chance=by_chance,
               explained=float((near > by_chance).mean()), documents=len(centred))


def _agreement(a: F32, b: F32, *, device: str) -> float:
    """Mean cosine of atoms with their partners, one to one; of the fewer where one has more."""
    few, many = (a, b) if len(a) <= len(b) else (b, a)
    return float(assignment(few, many, device=device)[1].mean(dtype=np.float64))


def _random(count: int, width: int) -> F32:
    return np.random.default_rng(0).standard_normal((count, width)).astype(np.float32)


def _criteria(by: dict[str, Row]) -> list[Row]:
    free, own, name = by[_FREE], by[_OWN], "Archetypal SAE"
    settings = f"{own['n_latents']:,} latents, k {own['k']}, {own['steps']} steps, {own['seeds']} seeds"
    several = ", ".join(f"{kind} {of['stability']:.3f}" for kind, of in by.items())
    dead = f"silent latents, left out: {100 * own['dead']:.1f} %, of TopK {100 * free['dead']:.1f} %"
    near = "; ".join(f"{kind}: mean {of['nearest_document']:.3f}, least {of['nearest_document_least']:.3f}"
                     for kind, of in ((_OWN, own), (_FREE, free)))
    return [
        asked(9, name, "stability: mean cosine of partners (Hungarian)", own["stability"], "at least", 0.9,
              unit="cosine", note=f"{several}; {dead}; {settings}"),
        asked(9, name, "stability above TopK's", own["stability"] - free["stability"], "at least", 0.2, unit="cosine",
              note=f"{several}; {settings}"),
        asked(9, name, "FVU of TopK's", own["fvu"] / free["fvu"], "at most", 1.05, unit="times",
              note=", ".join(f"{kind} {of['fvu']:.4f}" for kind, of in by.items()) + f"; {settings}"),
        asked(9, name, "atoms with a document nearer than any random direction has", 100 * own["explained"],
              "at least", 100, unit="% of atoms", note=(
                  f"cosine with the nearest of {own['documents']:,} centred documents: {near}; of as many random "
                  f"directions at most {own['nearest_by_chance']:.3f}; {settings}")),
    ]  # fmt: skip
