"""The steps of training one sparse autoencoder, on any device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from sparsight.encoders.sae.config import SAEConfig
from sparsight.encoders.sae.dictionary import Dictionary
from sparsight.encoders.sae.folding import folded
from sparsight.encoders.sae.losses import Mutual
from sparsight.encoders.sae.model import SAE
from sparsight.encoders.sae.neighbours import Neighbours
from sparsight.encoders.sae.preprocessing import Preprocessing
from sparsight.encoders.sae.step import Step

__all__ = ["Trainer", "drawn_sizes"]

_ADAM_EPS = 6.25e-10  # Gao et al. 2024
_CLIP = 1.0
_DEAD_EVERY = 32  # steps between looks at which latents are dead: each look waits for the GPU
_BONUS_TAU = 0.05


class Trainer:
    """Weights, optimiser and counters of one run.

    Parameters
    ----------
    x : float32, shape (B, D), on the device
        Rows as the preprocessing leaves them. Runs that train together share them.
    config : SAEConfig
        With everything filled in.
    preprocessing : Preprocessing
    neighbours : Neighbours, optional
        With them a step's rows are the neighbours of some queries, and without them any rows.
    """

    def __init__(self, x: torch.Tensor, config: SAEConfig, preprocessing: Preprocessing,
                 neighbours: Neighbours | None = None) -> None:
        self.x, self.config, self.preprocessing, self.neighbours = x, config, preprocessing, neighbours
        self.variance = float((x - x.mean(0)).square().sum(1).mean())
        self.batch = min(config.batch, len(x))
        self.per_epoch = max(len(x) // self.batch, 1)  # the last, short batch of an epoch waits for the next shuffle
        self.steps = config.epochs * self.per_epoch
        self.drawn = drawn_sizes(config, self.steps)
        self.dictionary = Dictionary(x, config)
        self.optimiser = torch.optim.Adam(list(self.dictionary.parameters.values()), lr=config.learning_rate,
                                          betas=(0.9, 0.999), eps=_ADAM_EPS, fused=x.is_cuda or None)
        n = config.n_latents
        self.silent = torch.zeros(n, dtype=torch.int64, device=x.device)  # rows since a latent last fired
        self.dead_after = max(len(x), 50 * n // config.k)
        self.dead = torch.zeros(0, dtype=torch.int64, device=x.device)
        self.others: Sequence[Trainer] = ()
        self._nearest: dict[int, torch.Tensor] = {}
        self._orders: dict[str, torch.Tensor] = {}
        self._rotation: torch.Tensor | None = None
        self._step = 0
        if neighbours is not None:
            self.queries = torch.from_numpy(np.ascontiguousarray(neighbours.queries)).to(x.device)
            self.found = torch.from_numpy(np.ascontiguousarray(neighbours.rows)).to(x.device)

    # --- a step ---------------------------------------------------------------------------------------------------

    def step(self, step: int) -> dict[str, torch.Tensor]:
        """One batch: codes, losses, gradients, update. What was seen: losses by kind, "fvu" and "l0" of the batch."""
        self._step = step
        rows, queries = self._draw()
        made = Step(self, self.x[rows], queries, self.k_at(step))
        self._count(made)
        seen = {"fvu": made.error.detach().square().sum(1).mean() / self.variance, "l0": made.l0()}
        total = made.x.new_zeros(())
        if self.config.activation == "jumprelu":
            total = made.sparsity()
        if self.pursuing:
            total = made.prediction()
            seen["prediction"] = total.detach()
        for loss in self.config.losses:
            part = loss(made)
            seen[loss.kind()] = part.detach()
            total = total + loss.weight * part
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        self._update(step)
        return seen

    @property
    def pursuing(self) -> bool:
        """Whether this step's codes come from pursuit."""
        return self._step >= (1 - self.config.pursuit) * self.steps

    def k_at(self, step: int) -> int:
        """Active latents: as drawn, or falling linearly from ``anneal_from * k`` to k (CSRv2, 2026), by 8 above 16."""
        if self.drawn:
            return self.drawn[step]
        fall = max(self.config.anneal_until * self.steps, 1e-9)
        factor = 1 + (self.config.anneal_from - 1) * max(1 - step / fall, 0.0)
        k = round(self.config.k * factor)
        if factor > 1 and k > 16:
            k = max(k // 8 * 8, self.config.k)  # each k is compiled for, on a GPU
        return min(k, self.config.n_latents)

    def rate_at(self, step: int) -> float:
        """Learning rate: up, level, and down to zero."""
        up = max(self.config.warm_up * self.steps, 1e-9)
        down = max(self.config.cool_down * self.steps, 1e-9)
        return self.config.learning_rate * min((step + 1) / up, (self.steps - step) / down, 1.0)

    def _draw(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Numbers of a step's rows. With neighbours the first are those of some queries, and the rest any."""
        if self.neighbours is None:
            return self._next("rows", len(self.x), self.batch), None
        of_each = self.found.shape[1]
        wanted = max(round(self.config.neighbour_share * self.batch / of_each), 1)
        asked = self._next("queries", len(self.queries), wanted)
        rows = self.found[asked].reshape(-1)
        if len(rows) < self.batch:
            rows = torch.cat([rows, self._next("rows", len(self.x), self.batch - len(rows))])
        return rows, self.queries[asked]

    def _next(self, name: str, count: int, size: int) -> torch.Tensor:
        """The next ``size`` of ``count`` numbers in random order; a remainder waits for the next shuffle."""
        size = min(size, count)
        epoch, at = divmod(self._step, count // size)
        if at == 0 or name not in self._orders:
            self._orders[name] = torch.randperm(
                count, generator=self._generator(2 * epoch + (name == "queries"))).to(self.x.device)
        return self._orders[name][at * size:(at + 1) * size]

    def _generator(self, number: int) -> torch.Generator:
        """The random numbers with that number of the run's."""
        return torch.Generator().manual_seed(((self.config.seed + 1) * 1_000_003 + number) % 2**63)

    def _count(self, made: Step) -> None:
        """Which latents fired, and which have long been silent."""
        with torch.no_grad():
            values = made.values.detach()
            fired = made.order.sums(values) > 0
            self.silent = torch.where(fired, 0, self.silent + len(values))
            if self._step % _DEAD_EVERY == 0:
                self.dead = (self.silent >= self.dead_after).nonzero()[:, 0]

    def _update(self, step: int) -> None:
        with torch.no_grad():
            self.dictionary.before_update()
            torch.nn.utils.clip_grad_norm_(list(self.dictionary.parameters.values()), _CLIP)
            for group in self.optimiser.param_groups:
                group["lr"] = self.rate_at(step)
            self.optimiser.step()
            self.dictionary.after_update()

    # --- what steps ask for ---------------------------------------------------------------------------------------

    def sizes(self, w_dec: torch.Tensor) -> torch.Tensor | None:
        """Lengths of decoder rows once the preprocessing is undone, up to a factor; None where all are alike."""
        return None if self.preprocessing.isotropic else self.preprocessing.rows(w_dec.detach()).norm(dim=1)

    @torch.no_grad()
    def bonus(self, made: Step) -> torch.Tensor | None:
        """Factors (B, N) of the choice by gradients (Gradient SAE): how much a retrieval loss depends on a latent."""
        if not self.config.gradient_weight or made.queries is None:
            return None
        chances = torch.softmax(made.teacher() / _BONUS_TAU, 1)  # d log-likelihood of each query's best row / d row
        best = torch.nn.functional.one_hot(made.teacher().argmax(1), len(made.x)).to(chances)
        slopes = (chances - best).T @ made.queries  # (B, D)
        pulls = (slopes @ self.preprocessing.rows(made.w_dec).T).abs()
        return 1 + self.config.gradient_weight * pulls / pulls.mean(1, keepdim=True).clamp_min(1e-12)

    def nearest_of_peers(self, w_dec: torch.Tensor, refresh: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Decoder rows of each run that trains beside this one, and which of them is nearest to each own row."""
        for number, other in enumerate(self.others):
            rows = other.dictionary.decoder().detach()
            if number not in self._nearest or self._step % refresh == 0:
                with torch.no_grad():
                    self._nearest[number] = torch.cat([(part @ rows.T).argmax(1) for part in w_dec.split(4096)])
            yield rows, self._nearest[number]

    def hidden_directions(self, fraction: float) -> torch.Tensor:
        """Some directions (D, H) of a rotation that the seed fixes; others in every step."""
        width = self.x.shape[1]
        generator = torch.Generator().manual_seed(self.config.seed)
        if self._rotation is None:
            self._rotation = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q.to(self.x.device)
        count = min(max(round(fraction * width), 1), width - 1)
        some = torch.randperm(width, generator=self._generator(self._step))[:count]
        return self._rotation[:, some.to(self.x.device)]

    # --- the end --------------------------------------------------------------------------------------------------

    def finish(self) -> SAE:
        """The autoencoder for embeddings as they came: ``z = relu(topk(x W_enc^T + b_enc))``, unit decoder rows."""
        with torch.no_grad():
            w_dec, parameters = self.dictionary.decoder(), self.dictionary.parameters
            return folded(self.preprocessing, self.config.k, self.dictionary.encoder(w_dec), parameters["b_enc"], w_dec,
                          parameters["b_dec"], parameters.get("threshold"))

    def state(self) -> dict[str, Any]:
        """Everything that a later process needs to go on after :meth:`step` number ``self._step``."""
        return {"parameters": {name: p.detach() for name, p in self.dictionary.parameters.items()},
                "optimiser": self.optimiser.state_dict(), "silent": self.silent, "dead": self.dead,
                "nearest": self._nearest, "step": self._step}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state` was taken."""
        with torch.no_grad():
            for name, parameter in self.dictionary.parameters.items():
                parameter.copy_(state["parameters"][name])
        self.optimiser.load_state_dict(state["optimiser"])
        self.silent, self.dead = state["silent"], state["dead"]
        self._nearest, self._step = state["nearest"], state["step"]


def drawn_sizes(config: SAEConfig, steps: int) -> list[int]:
    """Each step's k where ``nested_ks`` says that it varies, all equally likely; else none.

    (Nested dropout, Rippel, Gelbart, Adams 2014, "Learning ordered representations with nested dropout", ICML, cuts
    codes at a random place likewise, where multi-TopK sums the errors of all sizes in every step.)
    """
    ks = sorted(config.nested_ks)
    seeded = torch.Generator().manual_seed(((config.seed + 1) * 1_000_003 - 1) % 2**63)
    return [ks[at] for at in torch.randint(len(ks), (steps,), generator=seeded).tolist()] if ks else []


def needs_queries(config: SAEConfig) -> bool:
    """Whether something of the settings learns from queries."""
    return config.needs_neighbours


def has_peers(config: SAEConfig) -> bool:
    """Whether runs that train together look at each other."""
    return any(isinstance(loss, Mutual) for loss in config.losses)

