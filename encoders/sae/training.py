"""Train a k-sparse autoencoder on dense embeddings: TopK with AuxK, plain torch.

Makhzani and Frey 2013 ("k-Sparse Autoencoders") for the activation; Gao et al. 2024 ("Scaling and evaluating sparse
autoencoders") for AuxK, the initialisation and the unit-norm decoder.

Starting with 4 k active latents and falling to k over the first 70 % of the steps (CSRv2, 2026) is there but off: on
SciFact it left fewer latents silent on held-out texts (6.6 against 8.8 % of 4096) but raised FVU (0.39 against 0.36;
1024 latents: 0.405 against 0.379, none silent) and did not raise nDCG@10 (0.944 against 0.950 of the dense vectors').
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparsight.encoders.sae.model import SAE, describe_latents
from sparsight.errors import InvalidArgumentError, InvalidVectorError, SearchStoppedError, ShapeError

if TYPE_CHECKING:
    import torch

__all__ = ["SAEConfig", "default_epochs", "default_n_latents", "train_sae"]

MIN_ROWS = 16
_AUTO_FLOPS = 3e12  # work that ``epochs=0`` aims at: about half a minute on two cores
_ADAM_EPS = 6.25e-10  # Gao et al. 2024
_EVALUATE_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class SAEConfig:
    """How an autoencoder is trained.

    Attributes
    ----------
    n_latents : int
        Size of the dictionary; 0 takes :func:`default_n_latents`.
    k : int
        Latents that may be active in a row.
    epochs : int
        Passes over the data; 0 takes :func:`default_epochs`.
    seed : int
        Decides everything random. Equal seeds, data and thread counts give equal bits on one machine.
    batch : int
        Rows in a step.
    learning_rate : float
        Of Adam; falls linearly to zero over the last 30 % of the steps.
    aux_k : int
        Dead latents that rebuild the error in a step (AuxK); 0 takes half the input's dimension.
    aux_weight : float
        Weight of that loss (1/32 in Gao et al. 2024).
    anneal_from : float
        k starts at this multiple of its final value; 1 is no annealing.
    anneal_until : float
        Share of the steps over which it falls.
    held_out : float
        Share of the rows that are not trained on; the report's figures are theirs.
    """

    n_latents: int = 0
    k: int = 32
    epochs: int = 0
    seed: int = 0
    batch: int = 512
    learning_rate: float = 3e-3
    aux_k: int = 0
    aux_weight: float = 1 / 32
    anneal_from: float = 1.0
    anneal_until: float = 0.7
    held_out: float = 0.1


def default_n_latents(rows: int, k: int) -> int:
    """Dictionary size for a corpus: the largest power of two up to ``rows * k / 100``, within [256, 16384].

    A latent then fires on about a hundred texts on average, enough to mean something and to be named.

    Examples
    --------
    >>> default_n_latents(5183, 32), default_n_latents(100, 32), default_n_latents(10**6, 32)
    (1024, 256, 16384)
    """
    wanted = max(rows * k // 100, 1)
    return min(max(1 << (wanted.bit_length() - 1), 256), 16384)


def default_epochs(rows: int, n_latents: int, d_in: int) -> int:
    """Epochs for about half a minute of work on two cores, at least 10 and at most 150."""
    return int(min(max(_AUTO_FLOPS // (14 * rows * n_latents * d_in), 10), 150))


def train_sae(x: NDArray[np.float32], config: SAEConfig = SAEConfig(), *,
              progress: Callable[[int, int], None] | None = None,
              cancelled: Callable[[], bool] | None = None) -> tuple[SAE, dict[str, Any]]:
    """Train on embeddings.

    Parameters
    ----------
    x : float32, shape (B, D)
        At least 16 finite rows, usually of length 1.
    config : SAEConfig
    progress : callable, optional
        Called with (steps done, steps in all) after each step.
    cancelled : callable, optional
        Asked before each step; true stops.

    Returns
    -------
    sae : SAE
        Without labels. Its per-latent statistics are of all rows.
    report : dict
        ``fvu`` (fraction of variance unexplained), ``l0`` (mean active latents) and ``dead`` (share of latents that
        never fire) on the held-out rows, ``train_fvu`` and ``train_dead`` on the others, ``rows``, ``held_out_rows``,
        ``steps``, ``seconds`` and ``config`` with all defaults filled in.

    Raises
    ------
    ShapeError, InvalidVectorError, InvalidArgumentError
        If ``x`` is no such matrix, holds NaN or infinity, does not vary, or a setting is out of range.
    SearchStoppedError
        If ``cancelled`` said so.

    Notes
    -----
    Inputs are scaled by sqrt(D), so that components of unit vectors have a variance near 1 and learning rate and Adam's
    epsilon suit any embedder; the scale is folded into the saved weights.
    """
    started = time.monotonic()
    settings = _checked(x, config)
    order = np.random.default_rng(settings.seed).permutation(len(x))
    held = min(int(len(x) * settings.held_out), 20_000)
    train, test = x[np.sort(order[held:])], x[np.sort(order[:held])]
    trainer = _Trainer(train, settings)
    for step in range(trainer.steps):
        if cancelled is not None and cancelled():
            raise SearchStoppedError(f"training was cancelled after {step} of {trainer.steps} steps",
                                     reason="CANCELLED")
        trainer.step(step)
        if progress is not None:
            progress(step + 1, trainer.steps)
    sae = describe_latents(trainer.finish(), x)
    report = {"rows": len(train), "held_out_rows": len(test), "steps": trainer.steps,
              "seconds": round(time.monotonic() - started, 3), "config": asdict(settings)}
    report |= {f"train_{name}": value for name, value in _measure(sae, train).items() if name != "l0"}
    report |= _measure(sae, test if len(test) else train)
    return sae, report


def _checked(x: NDArray[np.float32], config: SAEConfig) -> SAEConfig:
    if x.ndim != 2 or x.dtype != np.float32 or len(x) < MIN_ROWS:
        raise ShapeError(f"expected float32 rows, at least {MIN_ROWS}, got {x.dtype} {x.shape}", field="x")
    if not np.isfinite(x).all():
        raise InvalidVectorError("expected finite embeddings", field="x")
    if not np.ptp(x, axis=0).any():
        raise InvalidVectorError("expected embeddings that differ, got equal rows", field="x")
    n_latents = config.n_latents or default_n_latents(len(x), config.k)
    settings = SAEConfig(**(asdict(config) | {
        "n_latents": n_latents, "epochs": config.epochs or default_epochs(len(x), n_latents, x.shape[1]),
        "aux_k": config.aux_k or max(x.shape[1] // 2, 1)}))
    limits = {"k": (1, n_latents), "n_latents": (1, 1 << 20), "epochs": (1, 10_000), "batch": (1, 1 << 20),
              "aux_k": (1, 1 << 20), "learning_rate": (1e-8, 1.0), "aux_weight": (0.0, 1e3), "anneal_from": (1.0, 1e3),
              "anneal_until": (0.0, 1.0), "held_out": (0.0, 0.5)}
    for name, (least, most) in limits.items():
        if not least <= getattr(settings, name) <= most:
            raise InvalidArgumentError(f"expected {name} in [{least}, {most}], got {getattr(settings, name)}",
                                       field=f"config.{name}")
    return settings


class _Trainer:
    """Weights, optimiser and counters of one training run, in units of sqrt(D) times the embeddings."""

    def __init__(self, x: NDArray[np.float32], config: SAEConfig) -> None:
        import torch

        self.config = config
        self.generator = torch.Generator().manual_seed(config.seed)
        self.scale = math.sqrt(x.shape[1])
        self.x = torch.from_numpy(np.ascontiguousarray(x)) * self.scale
        self.batch = min(config.batch, len(x))
        self.per_epoch = len(x) // self.batch  # the last, short batch of an epoch waits for the next shuffle
        self.steps = config.epochs * self.per_epoch
        self.order = torch.empty(0, dtype=torch.int64)
        mean = self.x.mean(0)
        self.variance = float((self.x - mean).square().sum(1).mean())
        w_dec = torch.nn.functional.normalize(
            torch.randn(config.n_latents, x.shape[1], generator=self.generator), dim=1)
        self.w_dec = w_dec.requires_grad_()
        self.w_enc = w_dec.detach().clone().requires_grad_()
        self.b_enc = torch.zeros(config.n_latents, requires_grad=True)
        self.b_dec = mean.clone().requires_grad_()
        self.optimiser = torch.optim.Adam([self.w_enc, self.b_enc, self.w_dec, self.b_dec], lr=config.learning_rate,
                                          betas=(0.9, 0.999), eps=_ADAM_EPS)
        self.silent = torch.zeros(config.n_latents, dtype=torch.int64)  # samples since a latent last fired
        self.dead_after = max(len(x), 50 * config.n_latents // config.k)

    def step(self, step: int) -> None:
        """One batch: forward, losses, gradient, update, unit rows again."""
        import torch

        if step % self.per_epoch == 0:
            self.order = torch.randperm(len(self.x), generator=self.generator)
        first = step % self.per_epoch * self.batch
        rows = self.x[self.order[first:first + self.batch]]
        centred = rows - self.b_dec
        with torch.no_grad():
            pre_acts = torch.addmm(self.b_enc, centred, self.w_enc.T)  # (B, N)
            found = pre_acts.topk(self._k(step), dim=1)
        values, decoded = self._code(found.values, found.indices, centred)
        error = rows - (decoded + self.b_dec)
        loss = error.square().sum(1).mean() / self.variance
        fired = torch.zeros(self.config.n_latents, dtype=torch.bool)
        fired[found.indices[values.detach() > 0]] = True
        self.silent = torch.where(fired, 0, self.silent + len(rows))
        dead = self.silent >= self.dead_after
        n_dead = int(dead.sum())
        if n_dead and self.config.aux_weight:
            loss = loss + self.config.aux_weight * self._aux(pre_acts, centred, error.detach(), dead, n_dead)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self._update(step)

    def _k(self, step: int) -> int:
        """Active latents at a step: falls linearly from ``anneal_from * k`` to k."""
        fall = max(self.config.anneal_until * self.steps, 1e-9)
        factor = 1 + (self.config.anneal_from - 1) * max(1 - step / fall, 0.0)
        return min(round(self.config.k * factor), self.config.n_latents)

    def _code(self, pre_acts: torch.Tensor, latents: torch.Tensor,
              centred: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Values (B, K) of chosen latents and what they decode to (B, D), both with gradients."""
        from sparsight.encoders.sae.sparse_codes import LatentOrder, chosen_pre_acts, decode

        order = LatentOrder(latents, self.config.n_latents)
        values = chosen_pre_acts(pre_acts, centred, self.w_enc, self.b_enc, latents, order).relu()
        return values, decode(values, self.w_dec, latents, order)

    def _aux(self, pre_acts: torch.Tensor, centred: torch.Tensor, error: torch.Tensor, dead: torch.Tensor,
             n_dead: int) -> torch.Tensor:
        """AuxK: the error rebuilt by the dead latents with the largest pre-activations, relative to its size."""
        # -inf and not 0 for the living ones: zeros would outrank the negative pre-activations of dead latents.
        found = pre_acts.masked_fill(~dead, -math.inf).topk(min(self.config.aux_k, n_dead), dim=1)
        missed = (error - self._code(found.values, found.indices, centred)[1]).square().sum(1).mean()
        return min(n_dead / self.config.aux_k, 1.0) * missed / error.square().sum(1).mean().clamp_min(1e-12)

    def _update(self, step: int) -> None:
        import torch

        with torch.no_grad():
            grad = self.w_dec.grad
            assert grad is not None
            # A step along a row's own direction would be undone by the normalisation, but would stay in Adam's moments.
            grad -= (grad * self.w_dec).sum(1, keepdim=True) * self.w_dec
            torch.nn.utils.clip_grad_norm_([self.w_enc, self.b_enc, self.w_dec, self.b_dec], 1.0)
            decay = min((self.steps - step) / max(0.3 * self.steps, 1e-9), 1.0)
            for group in self.optimiser.param_groups:
                group["lr"] = self.config.learning_rate * decay
            self.optimiser.step()
            self.w_dec /= self.w_dec.norm(dim=1, keepdim=True).clamp_min(1e-12)

    def finish(self) -> SAE:
        """The autoencoder in the embeddings' own units: ``z = relu(topk(x W_enc^T + b_enc))``."""
        import torch

        with torch.no_grad():
            b_enc = (self.b_enc - self.w_enc @ self.b_dec) / self.scale
            return SAE(k=self.config.k, W_enc=self.w_enc.numpy().copy(), b_enc=b_enc.numpy().copy(),
                           W_dec=self.w_dec.numpy().copy(), b_dec=(self.b_dec / self.scale).numpy().copy())


def _measure(sae: SAE, x: NDArray[np.float32]) -> dict[str, float]:
    """FVU, mean active latents and share of silent latents on some rows."""
    wrong, active, fired = 0.0, 0, np.zeros(sae.n_latents, bool)
    for start in range(0, len(x), _EVALUATE_AT_ONCE):
        rows = x[start:start + _EVALUATE_AT_ONCE]
        codes = sae.encode(rows)
        wrong += float(np.square(rows - sae.decode(codes), dtype=np.float64).sum())
        active += codes.nnz
        fired[codes.indices] = True
    total = float(np.square(x - x.mean(0, dtype=np.float64)).sum())
    return {"fvu": wrong / max(total, 1e-30), "l0": active / len(x), "dead": 1.0 - float(fired.mean())}
