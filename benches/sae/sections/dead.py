"""Reconstruction and silent latents of every recipe on held-out texts, and how long its training takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benches.quality.results import Row
from benches.sae.lab import Lab
from benches.sae.recipes import RECIPES, models

__all__ = ["section"]


def section(lab: Lab) -> list[Row]:
    """Rows "models", one for each recipe.

    ``fvu`` and ``dead`` are of the codes that the recipe gives documents, ``encoder_fvu`` and ``encoder_dead`` of the
    encoder's; means over trainings with the spread of ``dead``. ``seconds`` is the median.
    """
    rows = []
    for name, recipe in RECIPES.items():
        trained = models(lab, name)
        coded = [report if recipe.coding == "encoder" else lab.held_figures(sae, how=recipe.coding)
                 for sae, report in trained]
        sae, report = trained[0]
        rows.append({
            "kind": "models", "recipe": name, "k": sae.k, "n_latents": sae.n_latents, "coding": recipe.coding,
            "seeds": len(trained), "epochs": report["config"]["epochs"], "rows": report["rows"],
            "seconds": round(float(np.median([report["seconds"] for _, report in trained])), 2),
            "fvu": _mean([of["fvu"] for of in coded]), "dead": _mean([of["dead"] for of in coded]),
            "dead_spread": round(float(np.std([of["dead"] for of in coded])), 5),
            "encoder_fvu": _mean([report["fvu"] for _, report in trained]),
            "encoder_dead": _mean([report["dead"] for _, report in trained])})  # fmt: skip
    return rows


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 5)
