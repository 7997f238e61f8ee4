"""Sparse autoencoders with an L1 penalty: what k-sparse ones are measured against.

``z = relu(x W_enc^T + b_enc)`` is trained for ``|x - z W_dec - b_dec|^2 / variance + penalty sum(z) / sqrt(variance)``
with decoder rows of length 1 (Cunningham et al. 2024, "Sparse Autoencoders Find Highly Interpretable Features in
Language Models", ICLR). The penalty decides how many latents are active, but not in advance: it is sought. Start, data,
steps and learning rate are those of the k-sparse trainings; all penalties of a round are one batched product.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sparsight.encoders.sae.model import SAE
from sparsight.encoders.sae.preprocessing import Preprocessing, fit

__all__ = ["L1Run", "tuned"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
_ADAM_EPS = 6.25e-10
_COOL_DOWN = 0.3  # as the k-sparse trainings have it
_WARM_UP = 0.2  # of the penalty, a share of the steps: latents that it meets untrained would die
_SCALED_BY = 512  # rows
_INSIDE = 0.1  # a trial stays this share of the bracket away from its ends
_NEAR = 0.03


@dataclass(frozen=True)
class L1Run:
    """An autoencoder whose penalty was sought: ``l0`` latents are active in a row of those that it was sought with."""

    sae: SAE
    penalty: float
    l0: float


def tuned(x: F32, held: F32, n_latents: int, targets: Sequence[int], *, steps: int, batch: int, rounds: int = 8,
          bracket: tuple[float, float] = (0.02, 3.0), learning_rate: float = 3e-3, seed: int = 0,
          device: str = "cpu") -> list[L1Run]:
    """For each target, of runs that have at least as many active latents, the one with the fewest.

    Parameters
    ----------
    x, held : float32, shapes (B, D) and (H, D)
        What is trained on, and what active latents are counted in.
    n_latents : int
    targets : sequence of M ints
        Active latents a row, on average.
    steps, batch : int
        Of each training.
    rounds : int
        At most, and at least 2. The first two try the ends of the bracket, the others narrow it in logarithms, cutting
        it where a straight line between its ends has the target. It ends where all runs are within 3 % of theirs.
    bracket : pair of floats
        Penalties between which the answers lie. Where no run is active enough the densest is taken.
    learning_rate, seed, device

    Returns
    -------
    list of M L1Run
        The caller has to look at ``l0``: with few steps the bracket may not hold the target.
    """
    rows = torch.from_numpy(np.ascontiguousarray(x)).to(device)
    preprocessing = fit(rows, "center")
    trainer = _Batched(preprocessing(rows), preprocessing, n_latents, batch, learning_rate, seed)
    counted = preprocessing(torch.from_numpy(np.ascontiguousarray(held)).to(device))
    wanted = np.log(np.asarray(targets, np.float64) * (1 + _NEAR / 2))  # in the middle of what is near enough
    ends = np.log(np.tile(np.asarray(bracket)[:, None], (1, len(targets))))  # log penalties: dense end, sparse end
    found = np.full((2, len(targets)), np.nan)  # log L0 at the ends
    best: list[L1Run | None] = [None] * len(targets)
    for number in range(rounds):
        trial = ends[number] if number < 2 else _between(ends, found, wanted)
        trained = trainer.train(np.exp(trial), steps)
        active = trainer.active(trained, counted)
        for at, (penalty, l0) in enumerate(zip(np.exp(trial).tolist(), active, strict=True)):
            best[at] = _better(best[at], L1Run(trainer.finish(trained, at, l0), penalty, l0), targets[at])
        if all(run and target <= run.l0 <= (1 + _NEAR) * target for run, target in zip(best, targets, strict=True)):
            break
        side = np.full(len(targets), number) if number < 2 else (np.log(active) < wanted).astype(np.int64)
        ends[side, np.arange(len(targets))], found[side, np.arange(len(targets))] = trial, np.log(active)
    return [run for run in best if run is not None]


def _between(ends: F64, found: F64, wanted: F64) -> F64:
    """Where a straight line through both ends has what is wanted, but never too near to an end."""
    share = (found[0] - wanted) / np.maximum(found[0] - found[1], 1e-9)
    return ends[0] + (ends[1] - ends[0]) * np.clip(share, _INSIDE, 1 - _INSIDE)


def _better(one: L1Run | None, other: L1Run, target: int) -> L1Run:
    """Of two runs the sparser one with at least ``target`` latents; the denser one if none has them."""
    if one is None or one.l0 < target:
        return other if one is None or other.l0 > one.l0 else one
    return other if target <= other.l0 < one.l0 else one


class _Batched:
    """Trainings that differ in the penalty alone. Parameters have a leading axis of M."""

    def __init__(self, x: torch.Tensor, preprocessing: Preprocessing, n_latents: int, batch: int, learning_rate: float,
                 seed: int) -> None:
        self.x, self.preprocessing, self.n_latents = x, preprocessing, n_latents
        self.batch, self.learning_rate, self.seed = min(batch, len(x)), learning_rate, seed
        self.variance = float((x - x.mean(0)).square().sum(1).mean())

    def train(self, penalties: F64, steps: int) -> dict[str, torch.Tensor]:
        """Parameters after all steps."""
        parameters = self._start(len(penalties))
        adam = torch.optim.Adam(list(parameters.values()), lr=self.learning_rate, eps=_ADAM_EPS,
                                fused=self.x.is_cuda or None)
        weights = torch.from_numpy(penalties).to(self.x)[:, None] / math.sqrt(self.variance)
        for step in range(steps):
            rows = self._draw(step)
            codes = _codes(parameters, rows)
            wrong = rows - torch.baddbmm(parameters["b_dec"][:, None], codes, parameters["w_dec"])
            warm = min((step + 1) / max(_WARM_UP * steps, 1.0), 1.0)
            loss = wrong.square().sum(2) / self.variance + warm * weights * codes.sum(2)
            adam.zero_grad(set_to_none=True)
            loss.mean(1).sum().backward()
            adam.param_groups[0]["lr"] = self.learning_rate * min((steps - step) / max(_COOL_DOWN * steps, 1.0), 1.0)
            _update(adam, parameters["w_dec"])
        return parameters

    def active(self, parameters: dict[str, torch.Tensor], x: torch.Tensor) -> list[float]:
        """Mean active latents of rows, for each training."""
        with torch.no_grad():
            counts = sum((_codes(parameters, part) > 0).sum((1, 2)).double() for part in x.split(self.batch))
        assert isinstance(counts, torch.Tensor)
        return [max(count / len(x), 1e-3) for count in counts.tolist()]

    def finish(self, parameters: dict[str, torch.Tensor], at: int, l0: float) -> SAE:
        """One of them for embeddings as they came: a JumpReLU with thresholds of 0."""
        with torch.no_grad():
            w_enc, w_dec, b_enc, b_dec = (parameters[name][at] for name in ("w_enc", "w_dec", "b_enc", "b_dec"))
            size = self.preprocessing.forward[0, 0]
            bias = (b_enc - w_enc @ b_dec) / size - w_enc @ self.preprocessing.mean
            arrays = [tensor.float().cpu().numpy().copy() for tensor in
                      (w_enc, bias, w_dec, self.preprocessing.restored(b_dec))]
        return SAE(min(max(round(l0), 1), self.n_latents), *arrays, threshold=np.zeros(self.n_latents, np.float32))

    def _start(self, count: int) -> dict[str, torch.Tensor]:
        """Decoder rows are rows of the data, and the encoder is as large as gives reconstructions the data's size."""
        generator = torch.Generator().manual_seed(self.seed)
        start = torch.randn(self.n_latents, self.x.shape[1], generator=generator).to(self.x)
        chosen = torch.randperm(len(self.x), generator=generator)[:self.n_latents].to(self.x.device)
        start[:len(chosen)] = self.x[chosen]
        start = torch.nn.functional.normalize(start, dim=1)
        some = self.x[:_SCALED_BY]
        rebuilt = (some @ start.T).relu() @ start
        scale = (some * rebuilt).sum() / rebuilt.square().sum()
        zeros = self.x.new_zeros(self.n_latents), self.x.new_zeros(self.x.shape[1])
        parameters = {"w_enc": start * scale, "w_dec": start, "b_enc": zeros[0], "b_dec": zeros[1]}
        return {name: one.expand(count, *one.shape).clone().requires_grad_() for name, one in parameters.items()}

    def _draw(self, step: int) -> torch.Tensor:
        epoch, at = divmod(step, len(self.x) // self.batch)
        if at == 0:
            generator = torch.Generator().manual_seed((self.seed + 1) * 1_000_003 + epoch)
            self.order = torch.randperm(len(self.x), generator=generator).to(self.x.device)
        return self.x[self.order[at * self.batch:(at + 1) * self.batch]]


def _codes(parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """(M, B, N)."""
    centred = x - parameters["b_dec"][:, None]
    return torch.baddbmm(parameters["b_enc"][:, None], centred, parameters["w_enc"].mT).relu()


def _update(adam: torch.optim.Adam, w_dec: torch.Tensor) -> None:
    """A step that keeps decoder rows at length 1."""
    with torch.no_grad():
        assert w_dec.grad is not None
        w_dec.grad -= (w_dec.grad * w_dec).sum(2, keepdim=True) * w_dec
        adam.step()
        w_dec /= w_dec.norm(dim=2, keepdim=True).clamp_min(1e-12)
