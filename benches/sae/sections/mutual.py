"""Trainings drawn to each other's features (mutual feature regularisation, 12), and what others share (13).

Independent trainings are eight in two groups of four: what one group says about stability, the other should say too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benches.quality.criteria import asked, row
from benches.quality.results import Row
from benches.sae.lab import Lab
from benches.sae.sections._cells import cell, control
from sparsight.encoders.sae.config import SAEConfig
from sparsight.encoders.sae.losses import AuxK, Loss, Mutual, Nested
from sparsight.encoders.sae.model import SAE
from sparsight.encoders.sae.stability import Stability, stability
from sparsight.encoders.sae.synthetic import make_synthetic, recovery
from sparsight.encoders.sae.training import train_many

__all__ = ["section"]

_LATENTS, _K, _SEEDS = 2048, 32, 4
_WEIGHTS = (0.05, 0.1)
_REFRESH = 20  # steps between looks at which atoms are nearest: trainings are short
_EQUAL = 1.01  # FVU, times that of independent ones
_DRAWS = 3  # sets of synthetic data
_FEATURES, _WIDTH, _ACTIVE, _NOISE = 64, 64, 5, 1.0
_SYNTHETIC_WEIGHT = 0.03


def section(lab: Lab) -> list[Row]:
    """Rows "mutual" of groups of trainings on the data, and "mutual_synthetic" of such with known features."""
    n, k = lab.scale(_LATENTS, 64), lab.scale(_K, 4)
    alone = lab.train_many([control(lab, n, k, seed=seed) for seed in range(2 * _SEEDS)], name="independent")
    groups = [("independent", 0.0, alone[:_SEEDS]), ("independent", 0.0, alone[_SEEDS:])]
    for weight in _WEIGHTS:
        losses = (Nested(ks=(k,)), AuxK(), Mutual(weight=weight, refresh=_REFRESH))
        configs = [cell(lab, n, k, losses=losses, seed=seed) for seed in range(_SEEDS)]
        groups.append(("mutual", weight, lab.train_many(configs, name=f"mutual, weight {weight}")))
    real = [_real(lab, *group) for group in groups]
    synthetic = [_synthetic(lab, draw, weight) for draw in range(lab.scale(_DRAWS, 1))
                 for weight in (0.0, _SYNTHETIC_WEIGHT)]
    return [*real, *synthetic, *_mutual(real, synthetic), *_stable(real)]


def _real(lab: Lab, name: str, weight: float, trained: Sequence[tuple[SAE, Any]]) -> Row:
    """How much a group shares. ``stable`` is the share of live latents that all the others have, too."""
    saes = [sae for sae, _ in trained]
    live = [sae.density > 0 for sae in saes]
    found: Stability = stability(saes, live=live, method=lab.scale("mutual", "auto"), device=lab.data.device)
    marked = [float(stable[alive].mean()) for stable, alive in zip(found.stable, live, strict=True)]
    report = trained[0][1]
    return row("mutual", trainings=name, weight=weight, n_latents=saes[0].n_latents, k=saes[0].k, seeds=len(saes),
               first_seed=report["config"]["seed"], steps=report["steps"], shared=found.mean_shared,
               spread=found.spread_shared, stable=float(np.mean(marked)), mean_max_cosine=found.mean_max_cosine,
               fvu=float(np.mean([about["fvu"] for _, about in trained])),
               dead=float(np.mean([about["dead"] for _, about in trained])))


def _synthetic(lab: Lab, draw: int, weight: float) -> Row:
    """How well four trainings recover features that are known: mean largest cosine of true atoms with learned ones."""
    truth = make_synthetic(lab.scale(4000, 400), _WIDTH, _FEATURES, active=_ACTIVE, decay=0.5, noise=_NOISE, seed=draw)
    losses: tuple[Loss, ...] = (Nested(ks=(_ACTIVE,)), AuxK())
    if weight:
        losses += (Mutual(weight=weight, refresh=_REFRESH),)
    configs = [SAEConfig(n_latents=2 * _FEATURES, k=_ACTIVE, losses=losses, epochs=lab.scale(30, 3), batch=512,
                         seed=seed, centroids_seed=seed, learning_rate=6e-3, held_out=0.0) for seed in range(_SEEDS)]
    trained = train_many(truth.x, configs, device=lab.data.device)
    found = [recovery(truth, sae.W_dec) for sae, _ in trained]
    return row("mutual_synthetic", draw=draw, weight=weight, seeds=_SEEDS,
               recovery=float(np.mean([of.mmcs for of in found])),
               fvu=float(np.mean([report["fvu"] for _, report in trained])))


def _mutual(real: Sequence[Row], synthetic: Sequence[Row]) -> list[Row]:
    alone, drawn = real[0], [of for of in real if of["weight"]]
    # Of the weights that leave FVU as it is, the one that draws most together; the weakest if none does.
    equal = [of for of in drawn if of["fvu"] <= _EQUAL * alone["fvu"]]
    best = max(equal, key=lambda of: of["shared"]) if equal else drawn[0]
    gains = [_recovered(synthetic, draw, True) - _recovered(synthetic, draw, False)
             for draw in sorted({of["draw"] for of in synthetic})]
    settings = (f"weight {best['weight']}, {best['n_latents']:,} latents, k {best['k']}, {best['steps']} steps, "
                f"{best['seeds']} seeds")
    others = "; ".join(f"weight {of['weight']}: {of['shared']:.3f}, FVU {of['fvu']:.4f}" for of in drawn)
    known = (f"{_FEATURES} features in {_WIDTH} dimensions, {_ACTIVE} active, noise {_NOISE:g} times the signal, "
             f"{2 * _FEATURES} latents, weight {_SYNTHETIC_WEIGHT}, {_SEEDS} seeds")
    each = ", ".join(f"{100 * gain:+.1f}" for gain in gains)
    name = "Mutual Feature Regularisation"
    return [
        asked(12, name, "recovery of known features above independent trainings', least of some data sets",
              100 * min(gains), "at least", 0.1, unit="points of cosine", note=f"by data set {each}; {known}"),
        asked(12, name, "share found by other seeds above independent trainings'",
              100 * (best["shared"] - alone["shared"]), "at least", 10, unit="points", note=(
                  f"{best['shared']:.3f} against {alone['shared']:.3f}; {settings}; {others}")),
        asked(12, name, "FVU of independent trainings'", best["fvu"] / alone["fvu"], "at most", _EQUAL, unit="times",
              note=f"{best['fvu']:.4f} against {alone['fvu']:.4f}, silent {best['dead']:.3f} against "
                   f"{alone['dead']:.3f}; {settings}")]  # fmt: skip


def _recovered(rows: Sequence[Row], draw: int, mutual: bool) -> float:
    (found,) = [of["recovery"] for of in rows if of["draw"] == draw and bool(of["weight"]) is mutual]
    return float(found)


def _stable(real: Sequence[Row]) -> list[Row]:
    one, other = (of for of in real if not of["weight"])
    settings = f"two groups of {one['seeds']} seeds, {one['n_latents']:,} latents, k {one['k']}, {one['steps']} steps"
    return [asked(13, "Same data, different features", f"difference of what two groups of trainings share, {what}",
                  100 * abs(one[key] - other[key]), "at most", 1.0, unit="points",
                  note=f"{one[key]:.4f} and {other[key]:.4f}; {settings}")
            for what, key in (("mean of pairs", "shared"), ("latents marked stable: in all of the group", "stable"))]
