"""Settings: what the data decides, and what is refused."""

from __future__ import annotations

import json
import math
import re
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from sparsight.encoders.sae.config import SAEConfig, default_epochs, default_n_latents
from sparsight.encoders.sae.losses import (
    AuxK,
    Contrast,
    Distill,
    Loss,
    Masked,
    Mutual,
    Nested,
    Reconstruction,
    WeightL2,
)
from sparsight.errors import InvalidArgumentError


@pytest.mark.parametrize(
    ("rows", "k", "expected"), [(1, 1, 256), (800, 32, 256), (1600, 32, 512), (10_000, 32, 2048), (10**7, 32, 16384)])
def test_default_n_latents(rows: int, k: int, expected: int) -> None:
    assert default_n_latents(rows, k) == expected


def test_default_epochs() -> None:
    assert default_epochs(100, 256, 384) == 150 and default_epochs(10**6, 16384, 384) == 10
    assert default_epochs(5183, 1024, 384) == 105


def test_the_data_fills_what_is_left_open() -> None:
    small = SAEConfig().filled(5183, 384)
    assert (small.n_latents, small.k, small.batch, small.epochs, small.learning_rate) == (1024, 32, 512, 105, 3e-3)
    large = SAEConfig().filled(10**6, 384)
    assert (large.n_latents, large.batch, large.epochs) == (16384, 4096, 10)
    said = SAEConfig(n_latents=64, k=4, batch=7, epochs=2, learning_rate=0.5)
    assert said.filled(5183, 384) == said
    assert SAEConfig(k=300).filled(20, 8).k == 256  # no more than there are


def test_described_is_plain_and_whole() -> None:
    config = SAEConfig(losses=(Reconstruction(tilt=0.1), Distill(weight=0.5, ks=(8, 32))))
    made = config.described()
    assert json.loads(json.dumps(made)) == made | {"losses": [
        {"kind": "reconstruction", "weight": 1.0, "tilt": 0.1},
        {"kind": "distill", "weight": 0.5, "tau": 0.05, "terms": 256, "ks": [8, 32]}]}
    assert made.keys() == {item.name for item in fields(SAEConfig)}


@pytest.mark.parametrize(("losses", "weight", "expected"), [
    ((Reconstruction(), AuxK(), Nested(), Masked(), Mutual(), WeightL2()), 0.0, False),
    ((Reconstruction(),), 0.5, True), ((Reconstruction(), Distill()), 0.0, True), ((Contrast(),), 0.0, True),
], ids=["none", "weight", "distill", "contrast"])
def test_what_needs_neighbours(losses: tuple[Loss, ...], weight: float, expected: bool) -> None:
    assert SAEConfig(losses=losses, gradient_weight=weight).needs_neighbours is expected


@pytest.mark.parametrize(("change", "name", "message"), [
    ({"k": 0}, "k", "k: expected a whole number in [1, 1024], got 0"),
    ({"k": 65}, "k", "k: expected at most n_latents, 64, got 65"),
    ({"k": 2.5}, "k", "k: expected a whole number, got 2.5"),
    ({"k": "4"}, "k", "k: expected a whole number, got '4'"),
    ({"k": True}, "k", "k: expected a whole number, got True"),
    ({"epochs": -1}, "epochs", "epochs: expected a whole number in [0, 100000], got -1"),
    ({"learning_rate": 2.0}, "learning_rate", "learning_rate: expected a number in [0, 1], got 2.0"),
    ({"learning_rate": math.nan}, "learning_rate", "learning_rate: expected a number in [0, 1], got nan"),
    ({"held_out": 0.9}, "held_out", "held_out: expected a number in [0, 0.5], got 0.9"),
    ({"anneal_from": 0.5}, "anneal_from", "anneal_from: expected a number in [1, 1000], got 0.5"),
    ({"batch": -1}, "batch", "batch: expected a whole number in [0, "),
    ({"seed": -1}, "seed", "seed: expected a whole number in [0, "),
    ({"activation": "relu"}, "activation", 'activation: expected one of "topk", "batchtopk", "jumprelu", got "relu"'),
    ({"tie": 3}, "tie", "tie: expected a string, got 3"),
    ({"dictionary": "frozen"}, "dictionary", 'dictionary: expected one of "free", "archetypal", got "frozen"'),
    ({"start": "zeros"}, "start", "start: expected one of "),
    ({"preprocess": "none"}, "preprocess", 'preprocess: expected one of "center", "whiten", got "none"'),
    ({"pursuit": 0.5, "activation": "jumprelu"}, "pursuit", "pursuit: expected 0 with activation 'jumprelu', got 0.5"),
    ({"nested_ks": (2, 4), "activation": "batchtopk"}, "nested_ks", "nested_ks: expected none with activation"),
    ({"nested_ks": (2, 4), "anneal_from": 2.0}, "nested_ks", "nested_ks: expected none with anneal_from above 1"),
    ({"nested_ks": (2, 8)}, "nested_ks", "nested_ks: expected numbers of which the largest is k, 4, got (2, 8)"),
    ({"losses": ()}, "losses", "losses: expected at least one beside AuxK and Mutual, got ()"),
    ({"losses": (AuxK(), Mutual())}, "losses", "losses: expected at least one beside AuxK and Mutual"),
    ({"losses": [Reconstruction()]}, "losses", "losses: expected a tuple of losses"),
    ({"losses": ("reconstruction",)}, "losses", "losses: expected a tuple of losses"),
    ({"losses": (Nested(ks=(), widths=(8, 65)),)}, "losses",
     "losses: expected widths in nested of at most n_latents, 64, got (8, 65)"),
    ({"losses": (Nested(),), "activation": "batchtopk"}, "losses",
     "losses: expected no ks in nested with activation 'batchtopk', got (2, 4, "),
    ({"losses": (Distill(ks=(8,)),), "activation": "jumprelu"}, "losses", "expected no ks in distill with activation"),
], ids=lambda value: "-".join(value) if isinstance(value, dict) else "")
def test_what_is_wrong_is_named(change: dict[str, Any], name: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=re.escape(message)) as caught:
        SAEConfig(**({"n_latents": 64, "k": 4} | change))
    assert caught.value.field == f"config.{name}"


def test_it_is_checked_with_what_the_data_decides() -> None:
    config = SAEConfig(losses=(Nested(ks=(), widths=(512,)),))
    assert config.filled(5183, 384).n_latents == 1024
    with pytest.raises(InvalidArgumentError, match="widths in nested of at most n_latents, 256"):
        config.filled(100, 384)


def test_what_goes_together() -> None:
    for activation in ("batchtopk", "jumprelu"):
        SAEConfig(activation=activation, losses=(Nested(ks=(), widths=(8,)), Distill()))
    assert replace(SAEConfig(), learning_rate=1).learning_rate == 1


def test_numbers_of_numpy_become_pythons() -> None:
    made: Any = SAEConfig(k=np.int64(8), learning_rate=np.float32(0.5), losses=(  # type: ignore[arg-type]
        Nested(weight=np.float64(0.5), ks=(np.int32(4),)),))
    assert made == SAEConfig(k=8, learning_rate=0.5, losses=(Nested(weight=0.5, ks=(4,)),))
    assert json.loads(json.dumps(made.described()))["losses"][0]["ks"] == [4]


@pytest.mark.parametrize("setting", fields(SAEConfig), ids=lambda field: field.name)
def test_every_setting_is_documented_and_limited(setting: Any) -> None:
    names = re.findall(r"^    (\w[\w, ]*) : ", SAEConfig.__doc__ or "", re.MULTILINE)
    assert setting.name in ", ".join(names).split(", ")
    if isinstance(setting.default, int | float):
        with pytest.raises(InvalidArgumentError):
            SAEConfig(**{setting.name: 1e30 if isinstance(setting.default, float) else 2**70})
