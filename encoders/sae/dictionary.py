"""The weights of an autoencoder in training: encoder and decoder rows, and how they depend on each other.

A free dictionary's decoder rows are parameters, kept at length 1. An archetypal one's are ``A C + R``, scaled to length
1: C are centroids of the data, each row mixes its ``support`` nearest ones with weights that are not negative and sum
to 1, and the rest R is at most ``relaxation`` long (Fel et al. 2025, "Archetypal SAE", where every row mixes all
centroids). Rows then stay where data is, and find the same places from other seeds.
"""

from __future__ import annotations

import torch

from sparsight.encoders.sae.centroids import centroids
from sparsight.encoders.sae.config import SAEConfig
from sparsight.encoders.sae.sparse_codes import LatentOrder, decode

__all__ = ["Dictionary"]

_SAMPLE = 512  # rows
_LEAST_THRESHOLD = 1e-3


class Dictionary:
    """Parameters of a run, for inputs as the preprocessing leaves them.

    Parameters
    ----------
    x : float32, shape (B, D)
    config : SAEConfig
        With ``n_latents`` filled in.
    """

    def __init__(self, x: torch.Tensor, config: SAEConfig) -> None:
        self.config = config
        generator = torch.Generator().manual_seed(config.seed)
        start = self._start(x, generator)
        self.parameters: dict[str, torch.Tensor] = {
            "b_enc": x.new_zeros(config.n_latents), "b_dec": x.new_zeros(x.shape[1])}
        if config.dictionary == "archetypal":
            self.centres = centroids(x, config.n_latents, seed=config.centroids_seed)
            cosines = [(part @ self.centres.T).topk(min(config.support, config.n_latents), dim=1).indices
                       for part in self.centres.split(4096)]
            self.support = torch.cat(cosines)  # (N, s); a centroid is the nearest to itself
            self.order = LatentOrder(self.support, config.n_latents)
            mix = torch.zeros_like(self.support, dtype=torch.float32)
            mix[:, 0] = 1.0
            self.parameters |= {"mix": mix, "rest": torch.zeros_like(self.centres)}
            start = self.centres
        else:
            self.parameters["w_dec"] = start.clone()
        if config.tie != "hard":
            self.parameters["w_enc"] = start * _encoder_scale(x, start, config.k)
        if config.activation == "jumprelu":
            first = _first_threshold(x, self.encoder(self.decoder()), round(config.k * config.anneal_from))
            self.parameters["threshold"] = x.new_full((config.n_latents,), first)
        for parameter in self.parameters.values():
            parameter.requires_grad_()

    def _start(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        n, width = self.config.n_latents, x.shape[1]
        if self.config.start == "centroids":
            return centroids(x, n, seed=self.config.centroids_seed)
        rows = torch.randn(n, width, generator=generator).to(x)
        if self.config.start == "rows":
            chosen = torch.randperm(len(x), generator=generator)[:n].to(x.device)
            rows[:len(chosen)] = x[chosen]
        return torch.nn.functional.normalize(rows, dim=1)

    def decoder(self) -> torch.Tensor:
        """W_dec (N, D), rows of length 1, with gradients."""
        if "w_dec" in self.parameters:
            return self.parameters["w_dec"]
        mixed = decode(self.parameters["mix"], self.centres, self.support, self.order) + self.parameters["rest"]
        return torch.nn.functional.normalize(mixed, dim=1)

    def encoder(self, w_dec: torch.Tensor) -> torch.Tensor:
        """W_enc (N, D), given the decoder, with gradients."""
        if self.config.tie == "hard":
            return w_dec
        w_enc = self.parameters["w_enc"]
        if self.config.tie == "aligned":
            return w_enc + (1 - (w_enc * w_dec).sum(1, keepdim=True)) * w_dec
        return w_enc

    def before_update(self) -> None:
        """Drop what of a gradient would be undone by scaling rows to length 1, but would stay in Adam's moments."""
        row = self.parameters.get("w_dec")
        if row is not None and row.grad is not None:
            row.grad -= (row.grad * row).sum(1, keepdim=True) * row

    def after_update(self) -> None:
        """Put the parameters back where they have to be."""
        if "w_dec" in self.parameters:
            row = self.parameters["w_dec"]
            row /= row.norm(dim=1, keepdim=True).clamp_min(1e-12)
        else:
            mix, rest = self.parameters["mix"], self.parameters["rest"]
            mix.clamp_min_(0)
            mix /= mix.sum(1, keepdim=True) + 1e-8
            rest *= (self.config.relaxation / rest.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp_max(1.0)
        if "threshold" in self.parameters:
            self.parameters["threshold"].clamp_min_(_LEAST_THRESHOLD)


def _encoder_scale(x: torch.Tensor, rows: torch.Tensor, k: int) -> float:
    """What the first encoder is multiplied by, so that its reconstructions have the inputs' size (Gao et al. 2024).

    Rows of the data, or centroids, are alike: k of them that look the same way would rebuild an input several times.
    """
    some = x[:_SAMPLE]
    found = (some @ rows.T).topk(min(k, len(rows)), dim=1)
    rebuilt = (found.values.relu()[:, None] @ rows[found.indices])[:, 0]
    return float((some * rebuilt).sum() / rebuilt.square().sum().clamp_min(1e-12))


def _first_threshold(x: torch.Tensor, w_enc: torch.Tensor, k: int) -> float:
    """What k of a row's pre-activations exceed on average: from far off it a threshold would need the whole run."""
    some = x[:_SAMPLE]
    pre_acts = (some @ w_enc.T).reshape(-1)
    return max(float(pre_acts.topk(min(k * len(some), len(pre_acts))).values[-1]), _LEAST_THRESHOLD)
