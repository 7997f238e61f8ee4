"""Recipes by name: how an autoencoder is trained, and how documents are coded with it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benches.sae.lab import Coding, Lab, Report
from sparsight.encoders.sae.config import SAEConfig
from sparsight.encoders.sae.model import SAE

__all__ = ["EVEN", "KS", "NESTED", "OURS", "PLAIN", "RECIPES", "STABLE", "WIDE", "Recipe", "models", "scaled"]

KS = (32, 16, 8, 4, 2)
"""Active latents that are asked for."""
_SMALLER = 128  # times fewer latents where there is little data
_LEAST = 64  # latents


@dataclass(frozen=True)
class Recipe:
    """A way to make codes.

    Attributes
    ----------
    config : SAEConfig
        Its seed does not count.
    coding : "encoder" or "pursuit"
        Of documents, and of queries where their own codes are asked for.
    seeds : int
        Trainings, of seeds 0, 1, ...
    pool : int
        As an SAE has it.
    """

    config: SAEConfig
    coding: Coding = "encoder"
    seeds: int = 4
    pool: int = 0


def _config(n_latents: int, k: int, **more: object) -> SAEConfig:
    settings = {"epochs": 30, "batch": 4096, "learning_rate": 3e-3, "held_out": 0.0} | more
    return SAEConfig(n_latents=n_latents, k=k, **settings)  # type: ignore[arg-type]


def _ours(n_latents: int, k: int, learning_rate: float, pool: int = 0, epochs: int = 30) -> Recipe:
    config = _config(n_latents, k, start="centroids", learning_rate=learning_rate, epochs=epochs)
    return Recipe(config, "pursuit", pool=pool)


PLAIN: dict[int, str] = {k: f"plain-{k}" for k in KS}
"""By k: TopK with AuxK from rows of the data (Gao et al. 2024), codes by the encoder."""
OURS: dict[int, str] = {k: f"ours-{k}" for k in KS}
"""By k: the project's recipes."""
WIDE = "wide-32"
"""The large dictionary, of which no latent should stay silent."""
EVEN = "even-2"
"""Of few active latents, and no more latents than 20,000 texts can show."""
NESTED = "nested"
"""One for every k: a step's k is drawn, 2 twice as often, and later steps learn from pursuit's codes."""
STABLE = OURS[32]
"""The one that other seeds should find again; what is asked of it is asked from 4,096 latents on."""

RECIPES: dict[str, Recipe] = {
    **{name: Recipe(_config(16_384, k, start="rows"), seeds=4 if k == 32 else 1) for k, name in PLAIN.items()},
    OURS[32]: _ours(4096, 32, 1e-3, pool=384, epochs=50), OURS[16]: _ours(8192, 16, 3e-3, pool=384),
    OURS[8]: _ours(8192, 8, 3e-3, pool=384), OURS[4]: _ours(16_384, 4, 1e-3), OURS[2]: _ours(32_768, 2, 1e-3),
    WIDE: Recipe(_config(16_384, 32, start="centroids", learning_rate=1e-3, epochs=50), seeds=1),
    NESTED: Recipe(_config(16_384, 32, start="centroids", learning_rate=1e-3, epochs=50, pursuit=0.5,
                           nested_ks=(2, *sorted(KS))), "pursuit", seeds=1),
    EVEN: replace(_ours(16_384, 2, 5e-4), seeds=1),
}  # fmt: skip


def scaled(lab: Lab, config: SAEConfig) -> SAEConfig:
    """The configuration, or where there is little data one with few latents, epochs and rows in a step."""
    small = replace(config, n_latents=max(config.n_latents // _SMALLER, _LEAST), epochs=2, batch=0)
    return lab.scale(config, small)


def models(lab: Lab, name: str) -> list[tuple[SAE, Report]]:
    """The recipe's models, a training for each seed; one where there is little data."""
    recipe = RECIPES[name]
    seeds = range(lab.scale(recipe.seeds, 1))
    trained = lab.train_many([replace(scaled(lab, recipe.config), seed=seed) for seed in seeds], name=name)
    return [(replace(sae, pool=recipe.pool), report) for sae, report in trained]
