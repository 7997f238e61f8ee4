"""The models that the package brings along."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sparsight.encoders import load_encoder, resolve
from sparsight.encoders.known_models import PRETRAINED, PRETRAINED_SAES
from sparsight.encoders.sae.checkpoints import read_sae
from sparsight.encoders.sparse import SparseEncoder
from sparsight.retrieval.datasets import read_documents
from sparsight.service.demo import CORPUS
from sparsight.types import DEFAULT_FIELDS, DenseField, SAEField, SparseField

LIMIT_BYTES = {"sparsight-small": 24_000_000, "sparsight-tiny": 9_000_000}
# A collection remembers these: other weights need another name.
FINGERPRINTS = {"sparsight-small": "77e57749f72d", "sparsight-tiny": "da1c17c7e0b9"}
SECTIONS = ("## Data", "## Recipe", "## Figures", "## Limits", "## Licence")


@pytest.fixture(scope="module", params=sorted(PRETRAINED))
def model(request: pytest.FixtureRequest) -> Any:
    return load_encoder(request.param)


def test_both_are_small_and_have_cards() -> None:
    assert set(PRETRAINED) == set(LIMIT_BYTES)
    for name, limit in LIMIT_BYTES.items():
        folder = resolve(name)
        assert sum(path.stat().st_size for path in folder.iterdir()) <= limit
        card = (folder / "README.md").read_text("utf-8")
        for section in SECTIONS:
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


# --- the dictionary of features -----------------------------------------------------------------------------------


def test_the_dictionary_is_small_and_has_a_card() -> None:
    (name, folder), = PRETRAINED_SAES.items()
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 7_000_000
    card = (folder / "README.md").read_text("utf-8")
    assert all(section in card for section in SECTIONS) and name in card


def test_the_dictionary_is_what_it_was() -> None:
    sae = read_sae("sparsight-minilm-sae")
    assert sae.fingerprint.startswith("c2b756476cbdfeed")  # collections remember it: others need another name
    assert (sae.n_latents, sae.d_in, sae.k, sae.document_mode, sae.pool) == (4096, 384, 32, "pursuit", 384)
    assert all(sae.labels) and (sae.density > 0).all()
    dense, = (field for field in DEFAULT_FIELDS if isinstance(field, DenseField))
    own, = (field for field in DEFAULT_FIELDS if isinstance(field, SAEField))
    assert (own.source, own.model) == (dense.name, "sparsight-minilm-sae")
    assert sae.embedder == load_encoder(dense.encoder).fingerprint


def test_the_dictionary_rebuilds_abstracts() -> None:
    """Not how well (`benches/sae` says that): that nothing is broken."""
    papers = [paper.text for _, paper in zip(range(60), read_documents(CORPUS), strict=False)]
    x = load_encoder("all-MiniLM-L6-v2").encode(papers)
    sae = read_sae("sparsight-minilm-sae")
    for codes, most in ((sae.document_codes(x), 0.2), (sae.encode(x), 0.35)):
        assert codes.nnz > 30 * len(papers)
        assert np.square(x - sae.decode(codes)).sum() < most * np.square(x - x.mean(0)).sum()
    scores = sae.document_weights(x) @ (x @ sae.W_dec.T).T
    assert (scores.argmax(0) == np.arange(len(papers))).all()  # each finds itself
