"""One model for several k, against one trained for each: fraction of variance unexplained on held-out texts."""

from __future__ import annotations

from dataclasses import replace

from benches.quality.results import Row
from benches.sae.lab import Lab
from benches.sae.recipes import KS, PLAIN, RECIPES, models, scaled
from sparsight.encoders.sae.losses import AuxK, Nested

__all__ = ["section"]


def section(lab: Lab) -> list[Row]:
    """Rows "nested", one for each k: both models coded by their encoders, the nested one's code cut to its k largest.

    Settings are those of the plain recipes but for the loss, which takes the mean over all k.
    """
    plain = scaled(lab, RECIPES[PLAIN[max(KS)]].config)
    sae, _ = lab.train("nested", replace(plain, losses=(Nested(ks=tuple(sorted(KS))), AuxK())))
    rows = []
    for k in sorted(KS):
        _, alone = models(lab, PLAIN[k])[0]
        fvu = lab.held_figures(sae, k)["fvu"]
        rows.append({"kind": "nested", "k": k, "n_latents": sae.n_latents, "nested_fvu": round(fvu, 5),
                     "separate_fvu": round(alone["fvu"], 5), "ratio": round(fvu / alone["fvu"], 4)})
    return rows
