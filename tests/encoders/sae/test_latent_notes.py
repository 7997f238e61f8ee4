"""Notes on latents: checked, counted, and kept in a model's folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csc_matrix, csr_matrix

from sparsight.encoders.sae.latent_notes import BINS, LatentNotes, activation_histogram
from sparsight.encoders.sae.model import SAE, describe_latents
from sparsight.errors import InvalidVectorError, ShapeError


@pytest.fixture
def sae() -> SAE:
    rows = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return SAE(k=2, W_enc=rows, b_enc=np.zeros(6, np.float32), W_dec=rows, b_dec=np.zeros(4, np.float32))


def test_histogram_counts_tenths_of_the_largest() -> None:
    weights = np.zeros((7, 3), np.float32)
    weights[:, 0] = [0.0, 1.0, 10.0, 0.5, 2.0, 0.0, 10.0]  # the largest is 10: 1 is in the first tenth, 2 in the second
    weights[2, 2] = 0.25
    counts = activation_histogram(csc_matrix(weights))
    assert counts.dtype == np.uint32 and counts.shape == (3, BINS)
    assert counts[0].tolist() == [2, 1, 0, 0, 0, 0, 0, 0, 0, 2]
    assert counts[1].tolist() == [0] * BINS
    assert counts[2].tolist() == [0] * 9 + [1]


def test_histogram_counts_every_weight_once(sae: SAE) -> None:
    x = np.random.default_rng(1).normal(size=(500, 4)).astype(np.float32)
    described = describe_latents(sae, x)
    fired = np.diff(sae.document_weights(x).tocsc().indptr)
    assert described.notes.histogram.sum(1).tolist() == fired.tolist()
    assert sae.weights_of(sae.document_codes(x)).toarray() == pytest.approx(sae.document_weights(x).toarray())


def test_notes_are_saved_and_loaded(sae: SAE, tmp_path: Path) -> None:
    scores = np.full((6, 4), np.nan, np.float32)
    scores[1] = [0.9, 1.0, 0.5, 0.8]
    notes = LatentNotes(("contrast", "", "model", "nearest", "", ""), scores,
                        np.arange(60, dtype=np.uint32).reshape(6, 10), np.linspace(0, 1, 6, dtype=np.float32))
    replace(sae, notes=notes).save(tmp_path)
    loaded = SAE.load(tmp_path)
    assert loaded.fingerprint == sae.fingerprint
    assert loaded.notes.sources == notes.sources
    for name in ("scores", "histogram", "stability"):
        assert np.array_equal(getattr(loaded.notes, name), getattr(notes, name), equal_nan=True), name
    sae.save(tmp_path)  # without notes: nothing of those before is left
    assert SAE.load(tmp_path).notes.sources == () and not len(SAE.load(tmp_path).notes.histogram)


def test_names_replace_what_was_known_of_labels_alone(sae: SAE) -> None:
    known = replace(sae, notes=LatentNotes(stability=np.ones(6, np.float32)))
    scores = np.ones((6, 4), np.float32)
    named = known.with_names(list("abcdef"), sources=["contrast"] * 6, scores=scores)
    assert named.notes.scores is scores and named.notes.stability.tolist() == [1.0] * 6
    again = named.with_names(list("ghijkl"))
    assert again.notes.sources == () and len(again.notes.scores) == 0 and len(again.notes.stability) == 6


@pytest.mark.parametrize(("notes", "error", "said"), [
    (LatentNotes(("contrast",)), ShapeError, "6 sources"),
    (LatentNotes(scores=np.zeros((5, 4), np.float32)), ShapeError, "scores"),
    (LatentNotes(histogram=np.zeros((6, 10), np.int64)), ShapeError, "histogram"),  # type: ignore[arg-type]
    (LatentNotes(stability=np.full(6, np.nan, np.float32)), InvalidVectorError, "stability"),
    (LatentNotes(scores=np.full((6, 4), np.inf, np.float32)), InvalidVectorError, "finite"),
])  # fmt: skip
def test_notes_that_do_not_fit(sae: SAE, notes: LatentNotes, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        replace(sae, notes=notes)


def test_histogram_of_nothing() -> None:
    assert activation_histogram(csr_matrix((0, 2), dtype=np.float32).tocsc()).tolist() == [[0] * BINS] * 2
