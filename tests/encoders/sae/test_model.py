from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from sparsight.encoders.sae.model import SAE, as_codes, describe_latents
from sparsight.errors import CheckpointError, InvalidArgumentError, InvalidVectorError, ShapeError

F32 = np.float32


def random_sae(n: int = 40, d: int = 12, k: int = 5, seed: int = 0) -> SAE:
    rng = np.random.default_rng(seed)
    w_dec = rng.normal(size=(n, d))
    w_dec /= np.linalg.norm(w_dec, axis=1, keepdims=True)
    return SAE(
        k=k,
        W_enc=rng.normal(size=(n, d)).astype(F32),
        b_enc=rng.normal(size=n).astype(F32),
        W_dec=w_dec.astype(F32),
        b_dec=(rng.normal(size=d) / 10).astype(F32),
    )


def embeddings(rows: int = 30, d: int = 12, seed: int = 1) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(rows, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(F32)


@pytest.fixture
def by_hand() -> SAE:
    """Three latents along x, y and the diagonal."""
    root = np.sqrt(0.5).astype(F32)
    return SAE(
        k=2,
        W_enc=np.array([[1, 0], [0, 1], [2, 2]], F32),
        b_enc=np.array([0, 0, -1], F32),
        W_dec=np.array([[1, 0], [0, 1], [root, root]], F32),
        b_dec=np.array([0, 1], F32),
    )


def test_numbers_by_hand(by_hand: SAE) -> None:
    # Pre-activations of (1, 0): 1, 0, 1; of (0.5, 1): 0.5, 1, 2; of (-1, 0): -1, 0, -3.
    x = np.array([[1, 0], [0.5, 1], [-1, 0]], F32)
    assert by_hand.encode(x).toarray().tolist() == [[1, 0, 1], [0, 1, 2], [0, 0, 0]]
    assert by_hand.encode(x, k=1).toarray().tolist() == [[1, 0, 0], [0, 0, 2], [0, 0, 0]]  # a tie: the lower latent
    root = np.sqrt(0.5)
    np.testing.assert_allclose(
        by_hand.decode(by_hand.encode(x)), [[1 + root, 1 + root], [2 * root, 2 + 2 * root], [0, 1]], rtol=1e-6
    )
    norm = (1 + root) * np.sqrt(2)
    np.testing.assert_allclose(by_hand.document_weights(x).toarray()[0], [1 / norm, 0, 1 / norm], rtol=1e-6)
    (decode,) = by_hand.query_weights(np.array([[1, -3]], F32))
    assert decode.indices.tolist() == [0, 1, 2]
    np.testing.assert_allclose(decode.values, [1, -3, -2 * root], rtol=1e-6)
    (pruned,) = by_hand.query_weights(np.array([[1, -3]], F32), max_terms=2)
    assert pruned.indices.tolist() == [0, 1]  # negative weights count half
    (symmetric,) = by_hand.query_weights(x[1:2], scorer="symmetric", max_terms=1)
    assert symmetric.to_dict() == {2: 2.0}


def test_codes_against_numpy() -> None:
    sae, x = random_sae(), embeddings()
    codes = sae.encode(x)
    assert codes.shape == (30, 40) and codes.dtype == F32 and codes.indices.dtype == np.int32
    assert codes.has_canonical_format and (codes.data > 0).all() and np.diff(codes.indptr).max() <= 5
    pre_acts = x.astype(np.float64) @ sae.W_enc.T + sae.b_enc
    for row, pre in zip(codes.toarray(), pre_acts, strict=True):
        kept = [i for i in np.argsort(-pre)[:5] if pre[i] > 0]
        assert sorted(kept) == np.flatnonzero(row).tolist()
        np.testing.assert_allclose(row[kept], pre[kept], rtol=1e-5)


def test_thresholds_by_hand(by_hand: SAE) -> None:
    x = np.array([[1, 0], [0.5, 1], [-1, 0]], F32)  # pre-activations 1, 0, 1; 0.5, 1, 2; -1, 0, -3
    sae = replace(by_hand, threshold=np.array([0.25, -2, 1], F32))
    assert (by_hand.mode, sae.mode) == ("topk", "threshold")
    codes = sae.encode(x)  # neither what equals its threshold nor what is not above 0
    assert codes.toarray().tolist() == [[1, 0, 0], [0.5, 1, 2], [0, 0, 0]]
    assert codes.dtype == F32 and codes.indices.dtype == np.int32 and codes.has_canonical_format
    assert sae.encode(x, mode="threshold").toarray().tolist() == codes.toarray().tolist()
    for options in ({"mode": "topk"}, {"k": 2}):
        assert sae.encode(x, **options).toarray().tolist() == by_hand.encode(x).toarray().tolist()
    np.testing.assert_allclose(sae.decode(codes)[0], [1, 1])
    np.testing.assert_allclose(sae.document_weights(x).toarray()[0], [1 / np.sqrt(2), 0, 0], rtol=1e-6)
    (symmetric,) = sae.query_weights(x[1:2], scorer="symmetric")
    assert symmetric.to_dict() == {0: 0.5, 1: 1.0, 2: 2.0}
    np.testing.assert_allclose(describe_latents(sae, x).density, [2 / 3, 1 / 3, 1 / 3], rtol=1e-6)
    silent = replace(sae, threshold=np.array([np.inf, 0, 0], F32))
    assert silent.encode(x).toarray().tolist() == [[0, 0, 1], [0, 1, 2], [0, 0, 0]]


@pytest.mark.parametrize("threshold", [0.0, 0.4, 2.0])
def test_thresholds_against_numpy(threshold: float) -> None:
    rng, x = np.random.default_rng(3), embeddings()
    sae = replace(random_sae(), threshold=(threshold + 0.2 * rng.normal(size=40)).astype(F32))
    pre_acts = x.astype(np.float64) @ sae.W_enc.T + sae.b_enc
    assert np.abs(pre_acts - sae.threshold).min() > 1e-5  # no rounding decides
    expected = np.where((pre_acts > sae.threshold) & (pre_acts > 0), pre_acts, 0)
    np.testing.assert_allclose(sae.encode(x).toarray(), expected, rtol=1e-5, atol=1e-6)


def test_pursuit_by_hand(by_hand: SAE) -> None:
    # Less b_dec = (0, 1): (3, 0) is x alone. (1, 2) is 2 y at first, and x of what is left; with one latent, the
    # diagonal, whose product is 3 root. Of (-1, -1) nothing is.
    x = np.array([[3, 1], [1, 3], [-1, 0]], F32)
    codes = by_hand.encode(x, mode="pursuit")
    assert codes.dtype == F32 and codes.indices.dtype == np.int32 and codes.has_canonical_format
    root = np.sqrt(0.5)
    np.testing.assert_allclose(codes.toarray(), [[3, 0, 0], [0, 1, 2 * root], [0, 0, 0]], atol=1e-4)
    np.testing.assert_allclose(by_hand.encode(x, 1, mode="pursuit").toarray()[1], [0, 0, 3 * root], atol=1e-6)
    np.testing.assert_allclose(by_hand.decode(codes)[:2], x[:2], atol=1e-4)
    sought = replace(by_hand, document_mode="pursuit")
    assert (sought.document_codes(x) != codes).nnz == 0 == (by_hand.document_codes(x) != by_hand.encode(x)).nnz
    assert (sought.encode(x) != by_hand.encode(x)).nnz == 0  # the encoder is what it was, and so are queries
    (query,) = sought.query_weights(x[:1], scorer="symmetric")
    assert query.to_dict() == by_hand.query_weights(x[:1], scorer="symmetric")[0].to_dict()
    np.testing.assert_allclose(sought.document_weights(x)[0].toarray(), [[3 / np.sqrt(10), 0, 0]], rtol=1e-5)
    described = describe_latents(sought, x)
    np.testing.assert_allclose(described.density, np.array([1, 1, 1]) / 3)
    np.testing.assert_allclose(described.impact_scale, sought.document_weights(x).toarray().max(0), rtol=1e-6)


def test_a_pool_holds_the_latents_nearest_to_the_document() -> None:
    sae, x = random_sae(), embeddings()
    pooled = replace(sae, pool=9, document_mode="pursuit").document_codes(x)
    nearest = np.argsort(-(x - sae.b_dec) @ sae.W_dec.T, axis=1)[:, :10]  # one more: products have 8 bits
    assert all(np.isin(pooled[row].indices, nearest[row]).all() for row in range(len(x)))
    free = sae.encode(x, mode="pursuit")
    assert not all(np.isin(free[row].indices, nearest[row]).all() for row in range(len(x)))
    assert np.square(x - sae.decode(pooled)).sum() > np.square(x - sae.decode(free)).sum()


def test_pursuit_rebuilds_better_than_the_encoder() -> None:
    sae, x = random_sae(), embeddings()
    wrong = {mode: np.square(x - sae.decode(sae.encode(x, mode=mode))).sum() for mode in ("topk", "pursuit")}
    assert wrong["pursuit"] < 0.5 * wrong["topk"]
    assert np.diff(sae.encode(x, 3, mode="pursuit").indptr).max() == 3


@pytest.mark.parametrize("mode", ["topk", "threshold", "pursuit"])
def test_a_code_is_the_same_alone_and_in_any_batch(mode: str) -> None:
    rng = np.random.default_rng(4)
    sae = replace(random_sae(600, 50, 20), threshold=rng.uniform(1, 2, 600).astype(F32),
                  document_mode="pursuit" if mode == "pursuit" else "encoder")
    x = rng.normal(size=(130, 50)).astype(F32)
    shuffled = rng.permutation(130)
    whole = sae.encode(x, mode=mode)  # type: ignore[arg-type]
    weights = sae.document_weights(x)
    assert whole.nnz > 1000
    for rows in (np.array([7]), np.arange(64), np.arange(3, 70), shuffled):
        for all_rows, part in ((whole, sae.encode(x[rows], mode=mode)),  # type: ignore[arg-type]
                               (weights, sae.document_weights(x[rows]))):  # fmt: skip
            expected = all_rows[rows]
            assert part.indptr.tolist() == expected.indptr.tolist()
            assert part.indices.tobytes() == expected.indices.tobytes()
            assert part.data.tobytes() == expected.data.tobytes()


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(0, 5), k=st.integers(0, 7), seed=st.integers(0, 999))
def test_as_codes_is_what_a_dense_matrix_holds(rows: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    latents = np.array([rng.permutation(9)[:k] for _ in range(rows)], np.int64).reshape(rows, k)
    values = rng.integers(-2, 4, (rows, k)).astype(F32)
    codes, dense = as_codes(latents, values, 9), np.zeros((rows, 9), F32)
    np.put_along_axis(dense, latents, np.maximum(values, 0), 1)
    assert codes.toarray().tolist() == dense.tolist()
    assert codes.indices.dtype == np.int32 and codes.has_canonical_format and (codes.data > 0).all()


def test_unpruned_decode_scores_the_reconstruction() -> None:
    sae, x, queries = random_sae(), embeddings(), embeddings(4, seed=2)
    documents = sae.document_weights(x).toarray().astype(np.float64)
    rebuilt = sae.decode(sae.encode(x)).astype(np.float64)
    expected = queries @ (rebuilt - sae.b_dec).T / np.linalg.norm(rebuilt, axis=1)
    for query, weights in enumerate(sae.query_weights(queries, max_terms=0)):
        assert len(weights.indices) == 40 and (weights.values < 0).any()
        scores = documents[:, weights.indices] @ weights.values
        np.testing.assert_allclose(scores, expected[query], rtol=1e-4, atol=1e-5)


def test_pruning_keeps_the_largest_and_halves_negative_ones() -> None:
    sae, queries = random_sae(), embeddings(4, seed=2)
    for whole, pruned in zip(
        sae.query_weights(queries, max_terms=0), sae.query_weights(queries, max_terms=7), strict=True
    ):
        best = sorted(whole.to_dict().items(), key=lambda pair: (-max(pair[1], -pair[1] / 2), pair[0]))[:7]
        assert pruned.to_dict() == dict(best) and pruned.indices.tolist() == sorted(pruned.indices.tolist())


def test_describe_latents_by_hand(by_hand: SAE) -> None:
    x = np.array([[1, 0], [2, 0], [0, 1], [-1, 0]], F32)  # codes (1, ., 1), (2, ., 3), (., 1, 1), none
    sae = describe_latents(by_hand, x)
    np.testing.assert_allclose(sae.density, [0.5, 0.25, 0.75])
    weights = by_hand.document_weights(x).toarray()
    expected = [np.quantile(column[column > 0], 0.9) for column in weights.T]
    np.testing.assert_allclose(sae.scale, expected, rtol=1e-6)
    np.testing.assert_allclose(sae.impact_scale, sae.document_weights(x).toarray().max(0), rtol=1e-6)
    silent = describe_latents(by_hand, x[:2])  # latent 1 never fires
    assert silent.density[1] == silent.scale[1] == 0 and silent.impact_scale[1] == np.median(
        silent.impact_scale[[0, 2]]
    )


def test_fingerprint() -> None:
    sae = random_sae()
    assert sae.fingerprint == random_sae().fingerprint == sae.with_names(["x"] * 40).fingerprint
    others = [replace(sae, k=4), random_sae(seed=1)]
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        array = getattr(sae, name).copy()
        array.flat[0] = np.nextafter(array.flat[0], F32(9))
        others.append(replace(sae, **{name: array}))
    others += [replace(sae, threshold=np.full(40, value, F32)) for value in (0, 1)]
    others += [replace(sae, document_mode="pursuit", pool=pool) for pool in (0, 8, 9)]
    assert len({sae.fingerprint, *(other.fingerprint for other in others)}) == 12
    assert replace(sae, pool=8).fingerprint == sae.fingerprint  # of no account to an encoder


def test_fingerprint_of_topk_codes_is_what_it_always_was(by_hand: SAE) -> None:
    assert by_hand.fingerprint == "1fc768069163272d5a39b7e9b33ae8cf908d9dde3dca8643ae2ca1615223e47f"


def test_round_trip(tmp_path: Path) -> None:
    sae = describe_latents(random_sae(), embeddings()).with_names([f"größe {i}" for i in range(40)], [["a", "b"]] * 40)
    sae.save(tmp_path / "new" / "sae")
    sae.save(tmp_path / "new" / "sae")
    assert sorted(path.name for path in (tmp_path / "new" / "sae").iterdir()) == ["sae.json", "sae.safetensors"]
    again = SAE.load(tmp_path / "new" / "sae")
    assert (again.k, again.fingerprint, again.labels, again.examples) == (5, sae.fingerprint, sae.labels, sae.examples)
    for name in ("W_enc", "b_enc", "W_dec", "b_dec", "density", "scale", "impact_scale"):
        np.testing.assert_array_equal(getattr(again, name), getattr(sae, name))
    assert again.mode == "topk" and "threshold" not in load_file(tmp_path / "new" / "sae" / "sae.safetensors")
    assert again.document_mode == "encoder"


def test_round_trip_of_the_document_mode(tmp_path: Path) -> None:
    sae, x = replace(random_sae(), document_mode="pursuit", pool=9), embeddings()
    sae.save(tmp_path / "pursuit")
    again = SAE.load(tmp_path / "pursuit")
    assert (again.document_mode, again.pool, again.fingerprint) == ("pursuit", 9, sae.fingerprint)
    assert (again.document_weights(x) != sae.document_weights(x)).nnz == 0
    about = tmp_path / "pursuit" / "sae.json"
    said = json.loads(about.read_text())
    for change in ({"document_mode": "encoder"}, {"document_mode": "best"}, {"pool": 8}, {"pool": -1}):
        about.write_text(json.dumps(said | change))
        with pytest.raises(CheckpointError):
            SAE.load(tmp_path / "pursuit")
    random_sae().save(tmp_path / "old")  # as it was before there was a choice
    about = tmp_path / "old" / "sae.json"
    about.write_text(json.dumps({key: value for key, value in json.loads(about.read_text()).items()
                                 if key not in ("document_mode", "pool")}))
    old = SAE.load(tmp_path / "old")
    assert (old.document_mode, old.pool) == ("encoder", 0)


def test_round_trip_of_thresholds(tmp_path: Path) -> None:
    sae = replace(random_sae(), threshold=np.linspace(-1, 3, 40, dtype=F32))
    sae = replace(sae, threshold=np.where(sae.threshold > 2, F32(np.inf), sae.threshold))
    sae.save(tmp_path)
    again = SAE.load(tmp_path)
    assert again.fingerprint == sae.fingerprint and again.threshold.tobytes() == sae.threshold.tobytes()
    assert (again.encode(embeddings()) != sae.encode(embeddings())).nnz == 0


@pytest.mark.parametrize("damage", ["flip", "cut", "other k", "labels", "json", "no json", "no weights", "mixed"])
def test_damaged_files(tmp_path: Path, damage: str) -> None:
    random_sae().save(tmp_path)
    weights, about = tmp_path / "sae.safetensors", tmp_path / "sae.json"
    data, said = bytearray(weights.read_bytes()), json.loads(about.read_text())
    if damage == "flip":
        data[-1] ^= 1
        weights.write_bytes(data)
    elif damage == "cut":
        weights.write_bytes(data[:-8])
    elif damage == "other k":
        about.write_text(json.dumps(said | {"k": 6}))
    elif damage == "labels":
        about.write_text(json.dumps(said | {"labels": ["one"]}))
    elif damage == "json":
        about.write_text("{")
    elif damage == "mixed":
        random_sae(seed=5).save(tmp_path / "other")
        weights.write_bytes((tmp_path / "other" / "sae.safetensors").read_bytes())
    else:
        (about if damage == "no json" else weights).unlink()
    with pytest.raises(CheckpointError):
        SAE.load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"k": 0},
        {"k": 41},
        {"b_enc": np.zeros(3, F32)},
        {"W_dec": np.ones((40, 12), F32)},
        {"b_dec": np.zeros(12)},
        {"b_dec": np.full(12, np.nan, F32)},
        {"labels": ["x"]},
        {"W_enc": np.zeros(3, F32)},
        {"threshold": np.zeros(39, F32)},
        {"threshold": np.zeros(40)},
        {"threshold": np.full(40, np.nan, F32)},
        {"document_mode": "topk"}, {"pool": -1},
    ],
)
def test_wrong_parts(change: dict[str, Any]) -> None:
    with pytest.raises((ShapeError, InvalidVectorError, InvalidArgumentError)):
        replace(random_sae(), **change)


def test_wrong_arguments() -> None:
    sae, x = random_sae(), embeddings()
    for wrong in (x[0], x[:, :5], x.astype(np.float64)):
        with pytest.raises(ShapeError):
            sae.encode(wrong)
        with pytest.raises(ShapeError):
            sae.query_weights(wrong)
    with pytest.raises(ShapeError):
        sae.decode(random_sae(n=30).encode(x))
    for options in ({"scorer": "cosine"}, {"max_terms": -1}):
        with pytest.raises(InvalidArgumentError):
            sae.query_weights(x, **options)  # type: ignore[arg-type]
    limited = replace(sae, threshold=np.zeros(40, F32))
    for model, options in (
        (sae, {"k": -1}),
        (sae, {"mode": "threshold"}),
        (limited, {"mode": "batchtopk"}),
        (limited, {"mode": "threshold", "k": 3}),
    ):
        with pytest.raises(InvalidArgumentError):
            model.encode(x, **options)


def test_no_rows() -> None:
    sae, none = random_sae(), np.zeros((0, 12), F32)
    assert sae.encode(none).shape == (0, 40) == sae.document_weights(none).shape
    assert sae.decode(sae.encode(none)).shape == (0, 12) and sae.query_weights(none) == []
    assert replace(sae, threshold=np.zeros(40, F32)).encode(none).shape == (0, 40)
