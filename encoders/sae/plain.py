"""Plain runs on a GPU: TopK, reconstruction and AuxK, by the fused step, behind the interface of ``Trainer``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sparsight.encoders.sae.config import SAEConfig
from sparsight.encoders.sae.dictionary import Dictionary
from sparsight.encoders.sae.folding import folded
from sparsight.encoders.sae.losses import AuxK, Reconstruction
from sparsight.encoders.sae.model import SAE
from sparsight.encoders.sae.neighbours import Neighbours
from sparsight.encoders.sae.preprocessing import Preprocessing
from sparsight.encoders.sae.trainer import Trainer, drawn_sizes

__all__ = ["PlainTrainer", "is_plain", "make_trainer"]

_MOST = 128  # latents that the kernels choose for a row


def is_plain(config: SAEConfig) -> bool:
    """Whether the fused step does what the settings say."""
    kinds = {type(loss): loss for loss in config.losses}
    return (config.activation == "topk" and config.dictionary == "free" and config.tie == "init"
            and config.preprocess == "center" and not config.pursuit and not config.gradient_weight
            and len(kinds) == len(config.losses) and Reconstruction in kinds and kinds.keys() <= {Reconstruction, AuxK}
            and kinds[Reconstruction] == Reconstruction() and config.k * config.anneal_from <= _MOST)


def make_trainer(x: torch.Tensor, config: SAEConfig, preprocessing: Preprocessing,
                 neighbours: Neighbours | None = None) -> Trainer | PlainTrainer:
    """The quickest trainer for these settings on the device that ``x`` is on; arguments as for ``Trainer``."""
    width = x.shape[1]
    if x.is_cuda and is_plain(config) and width % 16 == 0 and width <= 1024:
        return PlainTrainer(x, config, preprocessing)
    return Trainer(x, config, preprocessing, neighbours)


class PlainTrainer:
    """A run whose settings are plain; see :class:`sparsight.encoders.sae.trainer.Trainer` for the parameters.

    Beside kernels in bfloat16, what differs: the decoder's bias stays at the data's mean, gradients are not clipped,
    the learning rate rises over the first 1 % of the steps, and AuxK has 128 latents at most.
    """

    def __init__(self, x: torch.Tensor, config: SAEConfig, preprocessing: Preprocessing) -> None:
        from sparsight.encoders.sae.fused import FusedTrainer

        self.x, self.config, self.preprocessing = x, config, preprocessing
        batch = min(config.batch, len(x))
        self.steps = config.epochs * max(len(x) // batch, 1)
        self.drawn = drawn_sizes(config, self.steps)
        start = Dictionary(x, config).parameters
        aux = next((loss for loss in config.losses if isinstance(loss, AuxK)), AuxK(weight=0.0))
        self._run = FusedTrainer(
            x, n_latents=config.n_latents, k=config.k, batch=batch, steps=self.steps,
            learning_rate=config.learning_rate, seed=config.seed, aux_k=min(aux.k or x.shape[1] // 2, _MOST),
            aux_weight=aux.weight, w_dec=start["w_dec"].detach(), k_schedule=self.k_at)
        self._run.rows.w_enc.copy_(start["w_enc"].detach())
        self._run.rows.short_enc.copy_(start["w_enc"].detach())
        self.others: Sequence[Any] = ()

    def k_at(self, step: int) -> int:
        """Active latents at a step, as ``Trainer`` has it."""
        return Trainer.k_at(self, step)  # type: ignore[arg-type]

    def step(self, step: int) -> dict[str, torch.Tensor]:
        """One batch. "fvu" of it, before the update."""
        self._run.step(step)
        return {"fvu": self._run.squared[0].mean() / self._run.variance}

    def finish(self) -> SAE:
        """The autoencoder for embeddings as they came."""
        w_enc, b_enc, w_dec = self._run.finish()
        return folded(self.preprocessing, self.config.k, w_enc, b_enc, w_dec, self.x.new_zeros(self.x.shape[1]))
