"""An encoder taught the codes of pursuit (25, predictive sparse decomposition): how much of the gap does it close?

Kavukcuoglu, Ranzato, LeCun 2010, "Fast Inference in Sparse Coding Algorithms": the dictionary learns from the best
codes, and a predictor learns those codes. Here the predictor is the encoder, which costs what it did. Two ways: all of
it is trained so for the last steps, or an encoder alone is, for a dictionary that stays as the plain training left it.
The gap is what pursuit gains on the plain dictionary.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from benches.quality.criteria import asked, row
from benches.quality.results import Row
from benches.sae.lab import Lab
from benches.sae.sections._cells import control
from sparsight.encoders.sae.blocks import encode
from sparsight.encoders.sae.config import SAEConfig
from sparsight.encoders.sae.losses import AuxK, Reconstruction
from sparsight.encoders.sae.model import SAE

__all__ = ["section"]

_LATENTS, _K = 4096, 32
_SHARES = (0.1, 0.4)  # of the steps, in which codes come from pursuit
_TAUGHT_STEPS, _BATCH, _RATE = 200, 4096, 3e-4
_PLAIN, _TAUGHT = "plain", "encoder alone, taught"
_CLOSED = 50.0  # percent of the gap


def section(lab: Lab) -> list[Row]:
    """Rows "predict": FVU on held-out rows by the encoder, and by pursuit with the same dictionary."""
    base = control(lab, lab.scale(_LATENTS, 64), lab.scale(_K, 4))
    plain, _ = lab.train("plain", base)
    models = {_PLAIN: plain}
    for share in _SHARES:
        config = replace(base, losses=(Reconstruction(), AuxK()), pursuit=share)
        models[f"pursuit in the last {share:.0%} of the steps"] = lab.train("taught by pursuit", config)[0]
    models[_TAUGHT] = _taught(lab, plain)
    rows = [row("predict", training=name, n_latents=sae.n_latents, k=sae.k, fvu=lab.held_figures(sae)["fvu"],
                pursued_fvu=lab.held_figures(sae, how="pursuit")["fvu"]) for name, sae in models.items()]
    return [*rows, *_criteria(rows, _times(lab, plain))]


def _taught(lab: Lab, sae: SAE) -> SAE:
    """The autoencoder with an encoder that goes on learning from pursuit's codes, and nothing else of it."""
    import torch

    from sparsight.encoders.sae.preprocessing import fit
    from sparsight.encoders.sae.trainer import Trainer

    x = torch.from_numpy(lab.data.x).to(lab.data.device)
    prepared = fit(x, "center")
    batch = lab.scale(_BATCH, 256)
    config = SAEConfig(n_latents=sae.n_latents, k=sae.k, losses=(Reconstruction(),), pursuit=1.0, batch=batch,
                       learning_rate=_RATE, epochs=math.ceil(lab.scale(_TAUGHT_STEPS, 4) / max(len(x) // batch, 1)),
                       start="random")
    trainer = Trainer(prepared(x), config.filled(*x.shape), prepared)
    weights, scale = trainer.dictionary.parameters, math.sqrt(x.shape[1])
    given = {"w_dec": sae.W_dec, "w_enc": sae.W_enc, "b_enc": scale * (sae.b_enc + sae.W_enc @ sae.b_dec),
             "b_dec": scale * (sae.b_dec - prepared.mean.cpu().numpy())}
    with torch.no_grad():
        for name, array in given.items():
            weights[name].copy_(torch.from_numpy(np.asarray(array, np.float32)))
    trainer.optimiser = torch.optim.Adam([weights["w_enc"], weights["b_enc"]], lr=_RATE)
    for step in range(min(trainer.steps, lab.scale(_TAUGHT_STEPS, 4))):
        trainer.step(step)
    return trainer.finish()


def _times(lab: Lab, sae: SAE) -> tuple[float, float]:
    """Microseconds a row by the encoder and by pursuit: the median of three runs over the held-out rows, after one."""
    encoder, pursuit = (_microseconds(lab, coded) for coded in (
        lambda: encode(sae, lab.data.held, device=lab.data.device),
        lambda: lab.codes(sae, lab.data.held, how="pursuit")))
    return encoder, pursuit


def _microseconds(lab: Lab, coded: Callable[[], object]) -> float:
    seconds = []
    for _ in range(4):
        started = time.perf_counter()
        coded()  # ends with arrays on this side of the bus: there is nothing to wait for
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds[1:])) / len(lab.data.held) * 1e6


def _criteria(rows: Sequence[Row], times: tuple[float, float]) -> list[Row]:
    plain, taught = rows[0], rows[1:]
    gap = plain["fvu"] - plain["pursued_fvu"]
    closed = {of["training"]: 100 * (plain["fvu"] - of["fvu"]) / gap for of in taught}
    best = max(closed, key=closed.__getitem__)
    told = "; ".join(f"{of['training']}: encoder {of['fvu']:.4f}, pursuit {of['pursued_fvu']:.4f}" for of in rows)
    settings = f"{plain['n_latents']:,} latents, k {plain['k']}, equal steps"
    encoder, pursuit = times
    name = "PSD"
    return [
        asked(25, name, "gap in FVU between encoder and pursuit that a taught encoder closes", closed[best], "at least",
              _CLOSED, unit="%", note=f"the best: {best}; {told}; {settings}"),
        asked(25, name, "time of pursuit, of the encoder's: reported", pursuit / encoder, "at least", 1.0, unit="times",
              note=f"{encoder:.2f} and {pursuit:.2f} microseconds a document, transfers included; {settings}"),
    ]  # fmt: skip
