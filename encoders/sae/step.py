"""One step of training as its losses see it: rows, codes, reconstruction.

What only some losses need is made when they ask for it.

Shapes: B rows of D components, N latents, K of them chosen for a row, Q queries.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from sparsight.encoders.sae import choice
from sparsight.encoders.sae.pursuit import best_codes
from sparsight.encoders.sae.sparse_codes import LatentOrder, chosen_pre_acts, decode, row_products, taken

if TYPE_CHECKING:
    from sparsight.encoders.sae.trainer import Trainer

__all__ = ["Step"]


class Step:
    """Codes of a batch, with gradients.

    Attributes
    ----------
    x : (B, D)
        Inputs as the preprocessing leaves them.
    bias : (D,)
        ``b_dec``.
    w_enc, w_dec : (N, D)
    latents, values : int64 and float32, (B, K)
        By value descending; values are 0 where a latent is not active.
    error : (B, D)
        Of the reconstruction from the code that was asked for: inputs less reconstruction.
    variance : float
        Mean squared distance of the inputs from their mean.
    queries : (Q, D) or None
        Embeddings as they came.
    k : int
        Active latents asked for; K is larger where a loss needs more.
    """

    def __init__(self, trainer: Trainer, x: torch.Tensor, queries: torch.Tensor | None, k: int) -> None:
        self.trainer, self.x, self.queries, self.k = trainer, x, queries, k
        dictionary = trainer.dictionary
        self.w_dec = dictionary.decoder()
        self.w_enc = dictionary.encoder(self.w_dec)
        self.b_enc, self.bias = dictionary.parameters["b_enc"], dictionary.parameters["b_dec"]
        self.variance = trainer.variance
        levels = max(loss.levels(k) for loss in trainer.config.losses)
        self.latents, self.values, self.steps, self.order = self._codes(x, levels, trainer.bonus(self))
        self.error = x - self.bias - self.prefix(k)

    # --- codes --------------------------------------------------------------------------------------------------

    def _codes(self, x: torch.Tensor, levels: int, bonus: torch.Tensor | None = None,
               ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, LatentOrder]:
        """Latents and values (B, K); which are active, with a gradient for the thresholds of a JumpReLU; the order."""
        config, centred = self.trainer.config, x - self.bias
        if self.trainer.pursuing:
            latents, values = self._pursued(centred, levels)
            return latents, values, None, LatentOrder(latents, len(self.w_dec))
        spread = 1 if config.activation == "topk" else choice.SPREAD
        with torch.no_grad():
            latents, found = self._largest(centred, max(levels, spread * self.k), bonus)
        order = LatentOrder(latents, len(self.w_dec))
        pre_acts = chosen_pre_acts(found, centred, self.w_enc, self.b_enc, latents, order)
        if config.activation == "jumprelu":
            thresholds = self.trainer.dictionary.parameters["threshold"]
            values, steps = choice.jump(pre_acts, taken(thresholds, latents, order))
            return latents, values, steps, order
        return latents, pre_acts.relu(), None, order

    def _pursued(self, centred: torch.Tensor, levels: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes by pursuit, without a gradient: at the best values, the dictionary's own is that of fixed ones."""
        levels = min(levels, len(self.w_dec))
        with torch.no_grad():
            latents, values = best_codes(centred, self.w_dec, levels)
            # The encoder is held to what it would choose as well: what pursuit did not choose shall be 0 there.
            own, _ = choice.largest(centred, self.w_enc, self.b_enc, levels)
            both = torch.cat([latents, own], 1)
            same = own[:, :, None] == latents[:, None]
            self._wanted = torch.cat([values, torch.zeros_like(values)], 1)
            self._counts = torch.cat([torch.ones_like(values), (~same.any(2)).to(values)], 1)
            found = row_products(centred, self.w_enc, both) + self.b_enc[both]
        self._predicted = chosen_pre_acts(found, centred.detach(), self.w_enc, self.b_enc, both,
                                          LatentOrder(both, len(self.w_dec))).relu()
        return latents, values

    def _largest(self, centred: torch.Tensor, k: int, bonus: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """The choice. Where rows are scaled on the way out, as whitened ones are, by the size that they will have."""
        w_enc, b_enc, sizes = self.w_enc, self.b_enc, self.trainer.sizes(self.w_dec)
        if sizes is not None:
            w_enc, b_enc = w_enc * sizes[:, None], b_enc * sizes
        latents, found = choice.largest(centred, w_enc, b_enc, k, bonus)
        if self.trainer.config.activation == "batchtopk":
            found = choice.keep_batch(found, self.k * len(found))
        return latents, found if sizes is None else found / sizes[latents]

    def decode(self, latents: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """``values W_dec`` without the bias, (B, D)."""
        return decode(values, self.w_dec, latents, LatentOrder(latents, len(self.w_dec)))

    def prefix(self, k: int) -> torch.Tensor:
        """What the k largest activations of a row decode to, without the bias: (B, D)."""
        if self.trainer.config.activation != "topk":
            return self._whole
        if k not in self._prefixes:
            k = min(k, self.latents.shape[1])
            self._prefixes[k] = self._whole if k == self.latents.shape[1] else self.decode(
                self.latents[:, :k].contiguous(), self.values[:, :k].contiguous())
        return self._prefixes[k]

    @cached_property
    def _prefixes(self) -> dict[int, torch.Tensor]:
        return {}

    @cached_property
    def _whole(self) -> torch.Tensor:
        return decode(self.values, self.w_dec, self.latents, self.order)

    def choose_among(self, some: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The k largest pre-activations of some latents (S,), clipped at 0: latents and values (B, k)."""
        centred = self.x - self.bias
        with torch.no_grad():
            found = torch.addmm(self.b_enc[some], centred, self.w_enc[some].T).topk(k, dim=1)
            latents = some[found.indices]
        order = LatentOrder(latents, len(self.w_dec))
        return latents, chosen_pre_acts(found.values, centred, self.w_enc, self.b_enc, latents, order).relu()

    def choose_first(self, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The k largest among the first ``width`` latents."""
        return self.choose_among(torch.arange(width, device=self.x.device), min(self.k, width))

    def rebuilt(self, x: torch.Tensor) -> torch.Tensor:
        """What other inputs (B, D) decode to, without the bias."""
        latents, values, _, order = self._codes(x, self.k)
        return decode(values, self.w_dec, latents, order)

    def l0(self) -> torch.Tensor:
        """Mean number of active latents in the code that was asked for."""
        return (self.values[:, :self.k if self.trainer.config.activation == "topk" else None] > 0).sum(1).float().mean()

    # --- latents and peers --------------------------------------------------------------------------------------

    def dead(self) -> torch.Tensor:
        """Latents that have been silent for long, int64."""
        return self.trainer.dead

    def peers(self, refresh: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Decoder rows (N, D) of each autoencoder that trains beside this one, and for each own row the nearest."""
        return self.trainer.nearest_of_peers(self.w_dec, refresh)

    def hidden_directions(self, fraction: float) -> torch.Tensor:
        """Random ones of the directions of a fixed rotation: (D, H)."""
        return self.trainer.hidden_directions(fraction)

    # --- queries ------------------------------------------------------------------------------------------------

    @cached_property
    def _embeddings(self) -> torch.Tensor:
        return self.trainer.preprocessing.restored(self.x)

    @cached_property
    def _teacher(self) -> torch.Tensor:
        assert self.queries is not None
        return self.queries @ self._embeddings.T

    def teacher(self) -> torch.Tensor:
        """Inner products (Q, B) of queries and rows as embeddings."""
        return self._teacher

    def query_weights(self, terms: int) -> torch.Tensor:
        """``w_i . q``, with all but the ``terms`` most important at 0 (0 keeps all): (Q, N).

        They are chosen as :func:`~sparsight.encoders.sae.weighting.importance` does.
        """
        assert self.queries is not None
        weights = self.queries @ self.trainer.preprocessing.rows(self.w_dec).T
        if not 0 < terms < weights.shape[1]:
            return weights
        sizes = weights.detach()
        sizes = torch.where(sizes > 0, sizes, -0.5 * sizes)
        bound = sizes.topk(terms, dim=1).values[:, -1:]
        return torch.where(sizes >= bound, weights, 0.0)

    def scores(self, weights: torch.Tensor, k: int) -> torch.Tensor:
        """Products (Q, B) of query weights (Q, N) and codes over the norm of their reconstructions."""
        norms = self.trainer.preprocessing.restored(self.prefix(k) + self.bias).norm(dim=1)
        k = min(k, self.latents.shape[1]) if self.trainer.config.activation == "topk" else self.latents.shape[1]
        codes = self._dense(self.latents[:, :k], self.values[:, :k] / norms[:, None])
        return weights @ codes.T

    def dense_codes(self) -> torch.Tensor:
        """Codes (B, N)."""
        k = self.k if self.trainer.config.activation == "topk" else self.latents.shape[1]
        return self._dense(self.latents[:, :k], self.values[:, :k])

    def query_codes(self) -> torch.Tensor:
        """Codes (Q, N) of the queries."""
        assert self.queries is not None
        latents, values, *_ = self._codes(self.trainer.preprocessing(self.queries), self.k)
        return self._dense(latents, values)

    def _dense(self, latents: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        # Added up: on a GPU a slot without a latent names latent 0, beside the one that may really be it.
        return values.new_zeros(len(values), len(self.w_dec)).scatter_add(1, latents, values)

    def prediction(self) -> torch.Tensor:
        """How far the encoder is from the codes that pursuit found, as a share of the variance (PSD)."""
        return (self._counts * (self._predicted - self._wanted).square()).sum(1).mean() / self.variance

    def sparsity(self) -> torch.Tensor:
        """How far a JumpReLU's mean number of active latents is from k: ``(l0 / k - 1)^2``."""
        assert self.steps is not None
        return functional.mse_loss(self.steps.sum(1).mean() / self.k, self.x.new_ones(()))
