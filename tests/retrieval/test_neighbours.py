from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import sparsight
from sparsight.encoders.sae.config import SAEConfig
from sparsight.encoders.sae.examples import direction_of, direction_with, latents_towards
from sparsight.encoders.sae.training import train_sae
from sparsight.retrieval import Collection
from sparsight.retrieval.neighbours import passages_along
from sparsight.types import DenseField, Document, SAEField

COUNT, WIDTH = 1_300, 16


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    found = np.random.default_rng(7).standard_normal((COUNT, WIDTH)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def many(x: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    """A collection that is just large enough for neighbours: six of 1,300, in two segments."""
    folder = tmp_path_factory.mktemp("many")
    sae, _ = train_sae(x, SAEConfig(n_latents=64, k=4, epochs=5, seed=0))
    sae.save(folder / "sae")
    with sparsight.open(folder / "data") as database:
        made = database.create_collection("many", [DenseField("vec", dimension=WIDTH),
                                                   SAEField("sae", "vec", str(folder / "sae"))])
        for part in (slice(0, 700), slice(700, COUNT)):
            made.upsert([Document(str(at), vectors={"vec": x[at]}) for at in range(COUNT)[part]])
            made.flush()
        yield made


def test_passages_along_a_direction(many: Collection, x: np.ndarray) -> None:
    generation, none = many._generation(), np.zeros((0, WIDTH), np.float32)
    way = x[0] - x[1]  # of no particular length
    order = np.argsort(-(x @ way))
    assert passages_along(generation, "vec", way, none) == pytest.approx(x[order[:6]], abs=1e-6)
    known = x[order[[0, 3, 900]]]  # two of the first six, and one that is far
    left = [at for at in order[:8] if at not in order[[0, 3]]]
    assert passages_along(generation, "vec", way, known) == pytest.approx(x[left], abs=1e-6)
    assert passages_along(generation, "vec", 0 * way, none).shape == (0, WIDTH)


def test_a_small_collection_has_no_neighbours(many: Collection, x: np.ndarray, tmp_path: Path) -> None:
    with sparsight.open(tmp_path) as database:
        few = database.create_collection("few", [DenseField("vec", dimension=WIDTH)])
        few.upsert([Document(str(at), vectors={"vec": x[at]}) for at in range(999)])
        assert passages_along(few._generation(), "vec", x[0], x[:1]).shape == (0, WIDTH)
        few.upsert([Document("one more", vectors={"vec": x[999]})])
        assert len(passages_along(few._generation(), "vec", x[0], x[:1])) == 5


def test_features_are_those_of_examples_and_their_neighbours(many: Collection, x: np.ndarray) -> None:
    positives, negatives = ["3", "710", "20"], ["8"]
    found = many.find_features(positives, negatives, count=10)
    own, others = x[[3, 710, 20]], x[[8]]
    sae = many._generation().derived["sae"].sae  # type: ignore[attr-defined]
    way = direction_of(sae, own, others)
    order = [at for at in np.argsort(-(x @ way)) if at not in (3, 710, 20, 8)]
    expected = direction_with(sae, x[order[:6]], own, others)
    latents, weights = latents_towards(sae, expected, 10)
    assert [item.feature.index for item in found] == latents.tolist()
    assert [item.weight for item in found] == pytest.approx((weights / sae.scale[latents]).tolist(), rel=1e-4)
    assert latents.tolist() != latents_towards(sae, way, 10)[0].tolist()  # what examples alone would have said
