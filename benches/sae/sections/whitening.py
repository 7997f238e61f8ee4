"""Whitening by a background corpus (ICFL, 19): does it raise the number of latents that tell a category?

Donhauser et al. 2024, "Towards scientific discovery with dictionary learning", whiten embeddings by the covariance of
control samples, so that what varies everywhere no longer rules what is learnt, and find codes iteratively. Here
abstracts are trained on, the encyclopaedia's passages are the control, and labels are the primary categories of
abstracts that are held out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benches.quality.criteria import asked, row
from benches.quality.results import Row
from benches.sae.lab import Lab, measured
from benches.sae.sections._cells import control
from sparsight.encoders.sae.auroc import auroc
from sparsight.encoders.sae.training import train_many

if TYPE_CHECKING:
    from sparsight.encoders.sae.model import SAE

__all__ = ["section"]

F32 = NDArray[np.float32]
Mask = NDArray[np.bool_]
_LATENTS, _K, _SEEDS = 1024, 64, 4
_ROWS = 60_000  # abstracts
_EPOCHS, _PURSUED_EPOCHS = 16, 6
_LEAST_ROWS = 100  # of a category
_LEVELS = (0.95, 0.9, 0.8)
_CENTRED, _OWN, _BACKGROUND, _ITERATIVE = "centred", "whitened by itself", "whitened by background", "and pursuit"


def section(lab: Lab) -> list[Row]:
    """Rows "whitening": latents with an AUROC of so much for some category, mean over trainings."""
    x, held, labels = _abstracts(lab)
    background = lab.data.x[np.array([category == "wiki" for category in lab.data.categories])]
    ways: tuple[tuple[str, str, F32 | None, float, int], ...] = (
        (_CENTRED, "center", None, 0.0, _SEEDS), (_OWN, "whiten", None, 0.0, 1),
        (_BACKGROUND, "whiten", background, 0.0, _SEEDS), (f"{_CENTRED} {_ITERATIVE}", "center", None, 1.0, 1),
        (f"{_BACKGROUND} {_ITERATIVE}", "whiten", background, 1.0, 1))  # fmt: skip
    rows = []
    for name, preprocess, other, pursuit, seeds in ways:
        lab.say(f"whitening: {name} ...")
        epochs = lab.scale(_PURSUED_EPOCHS if pursuit else _EPOCHS, 2)
        configs = [control(lab, lab.scale(_LATENTS, 64), lab.scale(_K, 4), preprocess=preprocess, pursuit=pursuit,
                           seed=seed, epochs=epochs, held_out=0.0) for seed in range(seeds)]
        trained = [sae for sae, _ in train_many(x, configs, background=other, device=lab.data.device)]
        rows.append(_row(lab, name, trained, held, labels))
    return [*rows, *_criteria(rows)]


def _abstracts(lab: Lab) -> tuple[F32, F32, Mask]:
    """Abstracts to train on, those held out, and which of the frequent primary categories each of these has."""
    own, held = (np.array([category not in ("", "wiki") for category in of])
                 for of in (lab.data.categories, lab.data.held_categories))
    some = np.sort(np.random.default_rng(0).permutation(np.flatnonzero(own))[:lab.scale(_ROWS, 400)])
    categories = np.array(lab.data.held_categories)[held]
    frequent = [name for name, count in Counter(categories.tolist()).items() if count >= lab.scale(_LEAST_ROWS, 10)]
    return lab.data.x[some], lab.data.held[held], categories[:, None] == np.array(sorted(frequent))


def _row(lab: Lab, name: str, saes: Sequence[SAE], held: F32, labels: Mask) -> Row:
    codes = [lab.codes(sae, held) for sae in saes]
    areas = [auroc(of, labels) for of in codes]
    counts = {f"latents_{100 * level:.0f}": float(np.mean([(of.max(1) >= level).sum() for of in areas]))
              for level in _LEVELS}
    fvus = [measured(sae, held, of, device=lab.data.device)["fvu"] for sae, of in zip(saes, codes, strict=True)]
    return row("whitening", preprocessing=name, n_latents=saes[0].n_latents, k=saes[0].k, seeds=len(saes),
               labels=labels.shape[1], **counts, best_of_a_label=float(np.mean([of.max(0).mean() for of in areas])),
               fvu=float(np.mean(fvus)))


def _criteria(rows: Sequence[Row]) -> list[Row]:
    of, key = {each["preprocessing"]: each for each in rows}, f"latents_{100 * _LEVELS[0]:.0f}"
    base = of[_CENTRED]
    told = "; ".join(f"{each['preprocessing']}: " + ", ".join(
        f"{each[f'latents_{100 * level:.0f}']:.2f} from {level}" for level in _LEVELS) for each in rows)
    settings = (f"{base['n_latents']:,} latents, k {base['k']}, {base['labels']} categories of held-out abstracts, "
                f"codes by the encoder; {_CENTRED} and {_BACKGROUND}: mean over {base['seeds']} trainings, others one")
    return [asked(19, "ICFL", f"latents with AUROC of 0.95 or more for some category, above centring's: {name}",
                  of[name][key] - base[key], "at least", 1 / base["seeds"], unit="latents", note=f"{told}; {settings}")
            for name in (_BACKGROUND, f"{_BACKGROUND} {_ITERATIVE}")]
