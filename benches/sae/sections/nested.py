"""One model for several k, against one trained for each: fraction of variance unexplained on held-out texts."""

from __future__ import annotations

from benches.quality.results import Row
from benches.sae.lab import Coding, Lab
from benches.sae.recipes import KS, NESTED, PLAIN, WIDE, models

__all__ = ["section"]


def section(lab: Lab) -> list[Row]:
    """Rows "nested", one for each model, coding and k: that model's code of k latents, and that of one trained for k.

    Models are `NESTED`, and `WIDE`, trained for the largest k alone. Their encoders' codes are cut to the k largest; by
    pursuit each k has a code of its own. The models that are trained for each k are the plain recipes', coded the same
    way.
    """
    alone = {k: models(lab, PLAIN[k])[0][0] for k in sorted(KS)}
    codings: tuple[Coding, ...] = ("encoder", "pursuit")
    return [{"kind": "nested", "model": name, "coding": coding, "n_latents": sae.n_latents, "k": k}
            | _compared(lab.held_figures(sae, k, coding)["fvu"], lab.held_figures(own, k, coding)["fvu"])
            for name in (NESTED, WIDE) for sae, _ in models(lab, name) for coding in codings
            for k, own in alone.items()]


def _compared(fvu: float, alone: float) -> Row:
    return {"nested_fvu": round(fvu, 5), "separate_fvu": round(alone, 5), "ratio": round(fvu / alone, 4)}
