"""Which latents another training finds again, and what that costs in reconstruction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benches.quality.results import Row
from benches.sae.lab import Coding, Lab, Report
from benches.sae.recipes import PLAIN, RECIPES, STABLE, scaled
from sparsight.encoders.sae.config import SAEConfig
from sparsight.encoders.sae.model import SAE
from sparsight.encoders.sae.stability import match, stability

__all__ = ["section"]

I64 = NDArray[np.int64]
_SPLITS = 2  # ways to halve the data


@dataclass(frozen=True)
class _Group:
    """Trainings that are compared with each other, in sets: pairs of different sets do not count."""

    name: str
    differ: str
    coding: Coding
    sets: list[list[tuple[SAE, Report]]]


def section(lab: Lab) -> list[Row]:
    """Rows "stability": the share of live latents found again by decoder and encoder rows, cosine 0.7 or more.

    Latents are live if they fire on rows of the data. Partners are each other's nearest; ``assigned`` is the share of
    one pair by the best assignment of all (Hungarian), which takes long. ``fvu`` is of the codes that a recipe gives,
    ``fvu_ratio`` that over plain's of the same size, ``encoder_fvu_ratio`` the same by encoders alone.
    """
    plain, *others = _groups(lab)
    base = _fvu(lab, plain, plain.coding)
    return [_row(lab, group, base) for group in (plain, *others)]


def _groups(lab: Lab) -> Iterator[_Group]:
    ours = RECIPES[STABLE]
    config, count = scaled(lab, ours.config), lab.scale(ours.seeds, 2)
    plain = replace(scaled(lab, RECIPES[PLAIN[32]].config), n_latents=config.n_latents, epochs=config.epochs)
    seeds = [replace(config, seed=seed) for seed in range(count)]
    yield _Group("plain", "seeds", "encoder", [lab.train_many([replace(plain, seed=seed) for seed in range(count)],
                                                              name="plain, stability")])
    yield _Group("ours", "seeds, same centroids", ours.coding, [lab.train_many(seeds, name="ours")])
    own = [replace(of, centroids_seed=of.seed) for of in seeds]
    yield _Group("ours", "seeds and centroids", ours.coding, [lab.train_many(own, name="ours, own centroids")])
    yield _Group("ours", "disjoint halves of the data, seeds", ours.coding,
                 [_halves(lab, config, split) for split in range(lab.scale(_SPLITS, 1))])


def _halves(lab: Lab, config: SAEConfig, split: int) -> list[tuple[SAE, Report]]:
    """A training on each half; as many epochs, so half the steps."""
    order = np.random.default_rng(split).permutation(len(lab.data.x))
    return [lab.train("ours, half the data", replace(config, seed=2 * split + part, centroids_seed=2 * split + part),
                      rows=np.sort(rows)) for part, rows in enumerate(np.array_split(order, 2))]


def _row(lab: Lab, group: _Group, base: tuple[float, float]) -> Row:
    lab.say(f"stability of {group.name}: {group.differ} ...")
    device, method = lab.data.device, lab.scale("mutual", "auto")
    found = [stability([sae for sae, _ in of], live=[sae.density > 0 for sae, _ in of], method=method, device=device)
             for of in group.sets]
    shared = np.concatenate([one.shared[~np.isnan(one.shared)] for one in found])
    fvu, encoder_fvu = _fvu(lab, group, group.coding)
    config = group.sets[0][0][1]["config"]
    return {"kind": "stability", "name": group.name, "differ": group.differ,
            "recipe": STABLE if group.name == "ours" else "", "n_latents": config["n_latents"], "k": config["k"],
            "trainings": sum(map(len, group.sets)), "pairs": len(shared) // 2,
            "shared": round(float(shared.mean()), 4), "spread": round(float(shared.std()), 4),
            "assigned": _assigned(group, device) if group.differ.startswith("seeds, same") else None,
            "mean_max_cosine": round(float(np.mean([one.mean_max_cosine for one in found])), 4),
            "live": round(float(np.mean([(sae.density > 0).mean() for of in group.sets for sae, _ in of])), 4),
            "coding": group.coding, "fvu": round(fvu, 5), "fvu_ratio": round(fvu / base[0], 4),
            "encoder_fvu_ratio": round(encoder_fvu / base[1], 4), "epochs": config["epochs"]}  # fmt: skip


def _assigned(group: _Group, device: str) -> float:
    """Share found again by the best assignment, of the first pair."""
    (a, _), (b, _) = group.sets[0][:2]
    return round(match(a, b, live_a=a.density > 0, live_b=b.density > 0, method="hungarian", device=device).shared, 4)


def _fvu(lab: Lab, group: _Group, coding: Coding) -> tuple[float, float]:
    """Mean FVU on held-out rows by these codes, and by the encoder's."""
    trained: Sequence[tuple[SAE, Report]] = [one for of in group.sets for one in of]
    by_encoder = float(np.mean([report["fvu"] for _, report in trained]))
    if coding == "encoder":
        return by_encoder, by_encoder
    return float(np.mean([lab.held_figures(sae, how=coding)["fvu"] for sae, _ in trained])), by_encoder
