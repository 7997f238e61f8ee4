"""The models that the package brings along."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sparsight.encoders import load_encoder, resolve
from sparsight.encoders.known_models import PRETRAINED
from sparsight.encoders.sparse import SparseEncoder
from sparsight.retrieval.datasets import read_documents
from sparsight.service.demo import CORPUS
from sparsight.types import DEFAULT_FIELDS, SparseField

LIMIT_BYTES = {"sparsight-small": 24_000_000, "sparsight-tiny": 9_000_000}
# A collection remembers these: other weights need another name.
FINGERPRINTS = {"sparsight-small": "77e57749f72d", "sparsight-tiny": "da1c17c7e0b9"}


@pytest.fixture(scope="module", params=sorted(PRETRAINED))
def model(request: pytest.FixtureRequest) -> Any:
    return load_encoder(request.param)


def test_both_are_small_and_have_cards() -> None:
    assert set(PRETRAINED) == set(LIMIT_BYTES)
    for name, limit in LIMIT_BYTES.items():
        folder = resolve(name)
        assert sum(path.stat().st_size for path in folder.iterdir()) <= limit
        card = (folder / "README.md").read_text("utf-8")
        for section in ("## Data", "## Recipe", "## Figures", "## Limits", "## Licence"):
            assert section in card, f"{name}: {section}"


def test_the_default_is_one_of_them() -> None:
    (sparse,) = (field for field in DEFAULT_FIELDS if isinstance(field, SparseField))
    assert sparse.encoder in PRETRAINED


def test_weights_are_what_they_were(model: SparseEncoder) -> None:
    assert model.fingerprint.startswith(FINGERPRINTS[model.name])
    assert (model.dimension, model.max_tokens) == (30_522, 256)
    table = load_encoder(f"{model.name}#table")
    assert table.fingerprint == model.fingerprint


def test_a_title_finds_its_abstract(model: SparseEncoder) -> None:
    """Not how good they are (`benches/quality` says that): that nothing is broken."""
    papers = [paper for _, paper in zip(range(150), read_documents(CORPUS), strict=False)]
    abstracts = model.encode([paper.text for paper in papers])
    assert 60 < abstracts.nnz / len(papers) < 250
    for encoder in (model, load_encoder(f"{model.name}#table")):
        assert isinstance(encoder, SparseEncoder)
        queries = encoder.encode([paper.title for paper in papers], mode="query")
        scores = (queries @ abstracts.T).toarray()
        ranks = (scores > scores.diagonal()[:, None]).sum(1)
        assert np.mean(ranks == 0) > 0.9, f"{encoder.name}: {np.mean(ranks == 0):.3f}"


def test_words_that_are_not_there(model: SparseEncoder) -> None:
    """Expansion: words that the text does not have."""
    terms, weights = model.encode_query("neurons of the visual cortex")
    named = {model.term(int(term)): float(weight) for term, weight in zip(terms, weights, strict=True)}
    assert {"visual", "cortex"} < set(named) and {"brain", "neural", "vision"} & set(named)
