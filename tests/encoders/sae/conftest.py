"""Rows with planted directions, and trainers of them before their first step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from sparsight.encoders.sae.config import SAEConfig
from sparsight.encoders.sae.neighbours import Neighbours
from sparsight.encoders.sae.preprocessing import fit
from sparsight.encoders.sae.trainer import Trainer


def make_rows(rows: int = 600, atoms: int = 32, d: int = 16, seed: int = 0) -> np.ndarray:
    """Unit vectors that are sums of three of some directions, around a common mean."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(atoms, d))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    x = np.array([rng.uniform(0.5, 1.5, 3) @ directions[rng.choice(atoms, 3, replace=False)] for _ in range(rows)])
    x += rng.normal(size=d) * 0.3
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def make_trainer(x: np.ndarray, neighbours: Neighbours | None = None, **settings: Any) -> Trainer:
    """One with 64 latents and k = 4 where nothing else is said."""
    config = SAEConfig(**{"n_latents": 64, "k": 4, "epochs": 30, "batch": 64, **settings}).filled(*x.shape)
    preprocessing = fit(torch.from_numpy(x), config.preprocess)
    return Trainer(preprocessing(torch.from_numpy(x)), config, preprocessing, neighbours)


@pytest.fixture(scope="session")
def planted() -> Callable[..., np.ndarray]:
    return make_rows


@pytest.fixture(scope="session")
def trainer_of() -> Callable[..., Trainer]:
    return make_trainer
