from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import sparsight
from sparsight.encoders.sae.model import SAE, describe_latents
from sparsight.errors import InvalidArgumentError, UnknownFeatureError
from sparsight.retrieval import Collection
from sparsight.retrieval.stored_codes import stored_codes
from sparsight.types import DenseField, SAEField

D = 24


def _rows(count: int, seed: int) -> np.ndarray:
    """Rows along axis 0 and one of axes 1 to 4, or along one of axes 8 on: latent 0 is the parent of 1 to 4."""
    rng = np.random.default_rng(seed)
    x = np.zeros((count, D), np.float32)
    for row in x:
        if rng.random() < 0.15:
            row[0], row[rng.integers(1, 5)] = 0.8, 0.6
        else:
            row[rng.integers(8, D)] = 1.0
    return x


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("families")
    eye = np.eye(D, dtype=np.float32)
    plain = SAE(2, eye, np.zeros(D, np.float32), eye, np.full(D, 1e-3, np.float32), document_mode="pursuit")
    describe_latents(plain, _rows(500, 0)).with_names([f"latent {i}" for i in range(D)]).save(path / "sae")
    with sparsight.open(path / "data") as database:
        things = database.create_collection("things", [DenseField("vec", dimension=D),
                                                       SAEField(source="vec", model=str(path / "sae"))])
        things.upsert([{"id": str(n), "vectors": {"vec": x}} for n, x in enumerate(_rows(600, 1))])
        things.flush()
        things.upsert([{"id": str(600 + n), "vectors": {"vec": x}} for n, x in enumerate(_rows(200, 2))])
    return path / "data"


@pytest.fixture
def things(folder: Path) -> Collection:
    with sparsight.open(folder, read_only=True) as database:
        yield database["things"]


def test_a_planted_family_is_found(things: Collection) -> None:
    (family,) = things.families()
    assert family.parent.label == "latent 0" and {child.index for child in family.children} == {1, 2, 3, 4}
    assert set(family.above) == {0} and all(0.9 < strength < 1 for strength in family.strength)
    assert things.families(3) == (family,) == things.families(0) and things.families(9) == ()


def test_codes_are_those_of_the_index(things: Collection) -> None:
    codes = stored_codes(things._generation(), "sae")
    x = np.concatenate([_rows(600, 1), _rows(200, 2)])
    assert codes.shape == (800, D) and codes.has_canonical_format
    assert np.abs(codes.toarray() - x).max() < 0.02  # unit rows over axes, in float16
    assert stored_codes(things._generation(), "sae", most=100).shape == (100, D)


def test_a_changed_collection_is_looked_at_again(folder: Path) -> None:
    with sparsight.open(folder) as database:
        things = database["things"]
        (family,) = things.families()
        everything = np.concatenate([_rows(600, 1), _rows(200, 2)])
        things.delete([str(n) for n in np.flatnonzero(everything[:, 0] > 0).tolist()])  # a seventh: all of its members
        things.compact()
        assert things.families() == ()
        things.upsert([{"id": f"again-{n}", "vectors": {"vec": x}} for n, x in enumerate(everything)])
        assert {child.index for child in things.families(0)[0].children} == {child.index for child in family.children}


def test_what_is_wrong_is_named(things: Collection) -> None:
    with pytest.raises(UnknownFeatureError) as unknown:
        things.families(D)
    assert unknown.value.field == "feature"
    with pytest.raises(InvalidArgumentError, match="count is 1 to 256"):
        things.families(count=0)
