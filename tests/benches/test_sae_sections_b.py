"""Sections of the report on autoencoders, systems 10 to 15, 19, 24, 25: well-formed rows, met as their figures say."""

from __future__ import annotations

import json
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from benches.sae.data import Data
from benches.sae.lab import Lab
from benches.sae.sections import find, mdl, names, predict, specialised, universality
from benches.sae.sections._retained import Retained, small_dev
from sparsight.encoders.sae.config import SAEConfig
from sparsight.encoders.sae.neighbours import Neighbours, nearest
from sparsight.retrieval.judged_vectors import JudgedVectors
from sparsight.retrieval.sae_baselines import product_quantised

_WIDTH, _ATOMS, _ROWS, _HELD = 32, 60, 900, 200
_CATEGORIES = ("cs.LG", "math.AG", "astro-ph", "stat.ML", "cs.CL", "wiki")
_SYSTEMS = {"mdl": {10}, "specialised": {11}, "mutual": {12, 13}, "universality": {14}, "dark_matter": {15},
            "whitening": {19}, "masked": {24}, "predict": {25}}  # fmt: skip
_KINDS = {"mdl": {"mdl", "short_forms"}, "mutual": {"mutual", "mutual_synthetic"}}
_KEYS = ["kind", "system", "name", "asks", "asked", "bound", "measured", "unit", "met", "note"]


def _unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def _words(active: np.ndarray) -> str:
    return " ".join(f"word{chr(97 + at // 10)}{chr(97 + at % 10)}" for at in np.flatnonzero(active))


def _data() -> Data:
    """Rows around a centre a category, each a mix of a few atoms; a text has a word for each of them."""
    rng = np.random.default_rng(0)
    atoms, centres = _unit(rng.standard_normal((_ATOMS, _WIDTH))), _unit(rng.standard_normal((6, _WIDTH)))
    category = rng.integers(0, len(_CATEGORIES), _ROWS)
    active = rng.random((_ROWS, _ATOMS)) < 0.08
    x = _unit(0.7 * centres[category] + (rng.exponential(size=active.shape) * active) @ atoms
              + 0.05 * rng.standard_normal((_ROWS, _WIDTH)))
    texts, categories = [_words(row) for row in active], [_CATEGORIES[at] for at in category]
    own, held = x[_HELD:], x[:_HELD]
    queries = _unit(own[:80] + 0.1 * rng.standard_normal((80, _WIDTH)))

    def judged(name: str) -> JudgedVectors:
        of = rng.permutation(len(own))[:25]
        qrels = np.stack([np.arange(25), of, np.ones(25, np.int64)], axis=1)
        return JudgedVectors(name, own, _unit(own[of] + 0.1 * rng.standard_normal((25, _WIDTH))), qrels)

    test = {name: judged(name) for name in ("scifact", "cranfield", "cacm", "arxiv_cs", "arxiv_sci")}
    dev = {name: judged(name) for name in ("scitldr", "medquad", "squad_sent", "arxiv_dev")}
    return Data(own, held, categories[_HELD:], categories[:_HELD], texts[_HELD:], texts[:_HELD],
                Neighbours(queries, nearest(queries, own, 8).rows), test, dev, "cpu", True, "tiny-b")


class _Bags:
    """A sparse encoder that counts the words of ``_words``, in place of a model."""

    def encode(self, texts: list[str], *, max_tokens: int = 0) -> csr_matrix:
        rows = [[10 * (ord(word[4]) - 97) + ord(word[5]) - 97 for word in text.split()] for text in texts]
        indptr = np.cumsum([0, *map(len, rows)])
        columns = np.array([at for row in rows for at in row], np.int32)
        return csr_matrix((np.ones(len(columns), np.float32), columns, indptr), shape=(len(texts), _ATOMS))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(_data(), tmp_path_factory.mktemp("sae"))


@pytest.fixture(scope="module")
def rows(lab: Lab) -> Any:
    found: dict[str, list[dict[str, Any]]] = {}

    def of(name: str) -> list[dict[str, Any]]:
        if name not in found:
            found[name] = find(name)(lab)
        return found[name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(universality, "load_encoder", lambda name, device: _Bags())
        yield of


def of_kind(found: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [each for each in found if each["kind"] == kind]


def criteria(found: list[dict[str, Any]], system: int) -> list[dict[str, Any]]:
    return [each for each in of_kind(found, "systems") if each["system"] == system]


@pytest.mark.parametrize("name", _SYSTEMS)
def test_rows_are_well_formed(name: str, rows: Any, lab: Lab) -> None:
    found = rows(name)
    assert name in names()
    assert {each["kind"] for each in found} == _KINDS.get(name, {name}) | {"systems"}
    json.dumps(found)  # plain values only
    columns = {each["kind"]: set(each) for each in found}
    assert all(set(each) == columns[each["kind"]] for each in found)  # a kind is a table


@pytest.mark.parametrize("name", _SYSTEMS)
def test_met_follows_from_the_figures(name: str, rows: Any) -> None:
    found = of_kind(rows(name), "systems")
    assert {each["system"] for each in found} == _SYSTEMS[name]
    for each in found:
        assert list(each) == _KEYS
        measured, limit = each["measured"], each["asked"]
        assert each["met"] is (measured >= limit if each["bound"] == "at least" else measured <= limit)
        assert each["note"] and each["unit"] and each["asks"]


class TestMDL:
    def test_parts_sum_and_the_fewest_bits_are_chosen(self, rows: Any) -> None:
        found = rows("mdl")
        table, forms = of_kind(found, "mdl"), {each["form"]: each for each in of_kind(found, "short_forms")}
        for each in table:
            parts = each["activity"] + each["values"] + each["dictionary"]
            assert each["bits"] == pytest.approx(parts, rel=1e-4)
            sent = 16 * (each["n_latents"] + 1) * _WIDTH
            assert each["dictionary"] == pytest.approx(sent / (_ROWS - _HELD), rel=1e-4)
        assert forms["int8"]["bits"] == 8 * _WIDTH and forms["int8"]["retained"] > 0.9
        assert _WIDTH % forms["PQ"]["parts"] == 0 and forms["PQ"]["bits"] > 8 * forms["PQ"]["parts"]
        enough = [each["bits"] for each in table if each["retained"] >= 0.95]
        one = next(each for each in criteria(found, 10) if "int8" in each["asks"])
        assert one["measured"] == min(enough) if enough else np.isnan(one["measured"])

    def test_least_between_the_ends(self, rows: Any) -> None:
        found = rows("mdl")
        curve = {each["n_latents"]: each["bits_at_retention"] for each in of_kind(found, "mdl")}
        reached = {n: bits for n, bits in curve.items() if bits is not None}
        (one,) = [each for each in criteria(found, 10) if "range" in each["asks"]]
        ends = [reached[n] for n in (min(curve), max(curve)) if n in reached]
        assert ends and one["measured"] == pytest.approx(min(ends) / min(reached.values()), rel=1e-3)

    @given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(0, 10))
    def test_the_first_that_is_enough(self, options: list[int], limit: int) -> None:
        options = sorted(options)
        at = mdl._first(options, lambda option: option >= limit)
        assert at == next((i for i, option in enumerate(options) if option >= limit), len(options) - 1)

    def test_between_two_points(self) -> None:
        def point(k: int, retained: float, bits: float) -> Any:
            return SimpleNamespace(k=k, retained=retained, length=SimpleNamespace(total=bits))

        assert mdl._between([point(8, 0.93, 100.0), point(12, 0.97, 140.0)]) == pytest.approx(120.0)
        assert mdl._between([point(8, 0.93, 100.0), point(12, 0.949, 140.0)]) is None
        assert mdl._between([point(8, 0.96, 100.0)]) == 100.0  # the sparsest is enough

    def test_a_product_quantiser_of_all_sets_is_that_of_each(self, lab: Lab) -> None:
        kept, train = Retained(lab, small_dev(lab)), lab.data.x[:300]
        assert mdl._product(kept, train, 8) == pytest.approx(
            kept.vectors(lambda judged: product_quantised(judged, train, 8)), abs=1e-6)

    def test_quantised_codes_retain_what_their_vectors_do(self, lab: Lab) -> None:
        sae, _ = lab.train("quantised", SAEConfig(n_latents=64, k=8, epochs=2, batch=256))
        judged = lab.data.dev["scitldr"]
        fine = mdl._decoded(lab, sae, 8, 1e-4, judged)
        exact = mdl._decoded(lab, sae, 8, 0.0, judged)
        expected = sae.decode(lab.codes(sae, judged.documents, 8, "pursuit"))
        np.testing.assert_allclose(exact.documents, _unit(expected), atol=1e-5)
        np.testing.assert_allclose(fine.documents, exact.documents, atol=1e-3)
        assert np.abs(mdl._decoded(lab, sae, 8, 0.5, judged).documents - exact.documents).max() > 0.01
        kept = Retained(lab, small_dev(lab))
        assert 0 < kept.vectors(lambda judged: mdl._decoded(lab, sae, 8, 0.0, judged)) <= 1.05


class TestSpecialised:
    def test_counts_are_of_the_domain(self, rows: Any, lab: Lab) -> None:
        found = rows("specialised")
        table = of_kind(found, "specialised")
        assert [each["training"] for each in table[:3]] == ["general", "specialised", "specialised, tilt 5"]
        assert {each["rows"] + each["tested"] for each in table} == {int(0.25 * len(lab.data.x))}
        assert all(each["telling"] <= each["n_latents"] and each["concepts"] > 0 for each in table)
        first, second = criteria(found, 11)
        assert first["measured"] == pytest.approx(table[2]["telling"] / max(table[0]["telling"], 1), rel=1e-4)
        ratio = table[2]["worst_decile_fvu"] / table[0]["worst_decile_fvu"]
        assert second["measured"] == pytest.approx(ratio, rel=1e-3)

    def test_the_largest_category_that_is_small_enough(self, lab: Lab) -> None:
        domain = specialised._domain(lab)
        counts = {name: lab.data.categories.count(name) for name in _CATEGORIES[:-1]}
        most = int(0.25 * len(lab.data.x))
        assert counts[domain.name] == max(count for count in counts.values() if count <= most)
        assert not set(domain.train) & set(domain.test)
        own = [lab.data.categories[at] == domain.name for at in np.concatenate([domain.train, domain.test])]
        assert domain.precision == pytest.approx(np.mean(own)) and domain.precision > domain.share
        for at, word in enumerate(domain.words):
            assert domain.holds[:, at].tolist() == [word in lab.data.texts[row].split() for row in domain.test]

    def test_rows_nearest_to_any_seed(self, lab: Lab) -> None:
        x, seeds = lab.data.x, lab.data.held[:6]
        found = specialised.retrieved(x, seeds, 40)
        best = (x @ seeds.T).max(1)
        assert len(found) == len(set(found)) == 40
        np.testing.assert_allclose(best[found], np.sort(best)[::-1][:40], atol=1e-6)


class TestMutual:
    def test_groups_and_their_differences(self, rows: Any) -> None:
        found = rows("mutual")
        alone = [each for each in of_kind(found, "mutual") if not each["weight"]]
        drawn = [each for each in of_kind(found, "mutual") if each["weight"]]
        assert [each["first_seed"] for each in alone] == [0, 4] and {each["seeds"] for each in alone + drawn} == {4}
        assert max(drawn, key=lambda each: each["weight"])["mean_max_cosine"] > alone[0]["mean_max_cosine"]
        shared, stable = criteria(found, 13)
        assert shared["measured"] == pytest.approx(100 * abs(alone[0]["shared"] - alone[1]["shared"]), abs=0.02)
        assert stable["measured"] == pytest.approx(100 * abs(alone[0]["stable"] - alone[1]["stable"]), abs=0.02)
        recovered, gain, fvu = criteria(found, 12)
        same = [each for each in drawn if each["fvu"] <= 1.01 * alone[0]["fvu"]]
        best = max(same, key=lambda each: each["shared"]) if same else drawn[0]
        assert gain["measured"] == pytest.approx(100 * (best["shared"] - alone[0]["shared"]), abs=0.02)
        assert fvu["measured"] == pytest.approx(best["fvu"] / alone[0]["fvu"], rel=1e-3)
        by = {(each["draw"], bool(each["weight"])): each["recovery"] for each in of_kind(found, "mutual_synthetic")}
        gains = [by[draw, True] - by[draw, False] for draw, mutual in by if mutual]
        assert recovered["measured"] == pytest.approx(100 * min(gains), abs=0.02)


class TestUniversality:
    def test_the_second_space_has_the_first_one_s_features(self, rows: Any) -> None:
        (one,) = of_kind(rows("universality"), "universality")
        sigmas, transfer = criteria(rows("universality"), 14)
        assert sigmas["measured"] == one["svcca_sigmas"] > 0
        assert one["svcca"] > one["svcca_by_chance"]
        assert transfer["measured"] == pytest.approx(100 * (one["first_word"] - one["first_word_by_chance"]), abs=0.02)

    def test_reduction_keeps_the_widest_directions(self) -> None:
        rng = np.random.default_rng(0)
        wide, narrow = rng.standard_normal((80, 8)), rng.standard_normal((8, 50)) * np.linspace(3, 1, 8)[:, None]
        x = csr_matrix((wide @ narrow + 0.05 * rng.standard_normal((80, 50))).astype(np.float32))
        u, s, _ = np.linalg.svd(x.toarray(), full_matrices=False)
        best = _unit(u[:, :8] * s[:8])
        found = universality._reduced(x, 8, "cpu")
        assert found.shape == (80, 8) and found.dtype == np.float32
        np.testing.assert_allclose(found @ found.T, best @ best.T, atol=1e-3)
        few = universality._reduced(x[:5], 8, "cpu")  # fewer texts than components: the others are 0
        exact = _unit(x[:5].toarray())
        np.testing.assert_allclose(few @ few.T, exact @ exact.T, atol=1e-4)


class TestDarkMatter:
    def test_pursuit_against_the_encoder(self, rows: Any) -> None:
        found = rows("dark_matter")
        of = {(each["recipe"], each["coding"]): each for each in of_kind(found, "dark_matter")}
        recipes = {recipe for recipe, _ in of}
        ratios = [of[name, "pursuit from the encoder's candidates"]["fvu"] / of[name, "encoder"]["fvu"]
                  for name in recipes]
        lower, linear = criteria(found, 15)
        assert lower["measured"] == pytest.approx(max(ratios), rel=1e-3) and max(ratios) < 1
        assert linear["measured"] == next(iter(of.values()))["vector_r2"]
        for each in of.values():
            assert each["fvu"] == pytest.approx(each["linear_fvu"] + each["nonlinear_fvu"], rel=1e-3)


class TestWhitening:
    def test_counts_of_telling_latents(self, rows: Any) -> None:
        found = rows("whitening")
        table = {each["preprocessing"]: each for each in of_kind(found, "whitening")}
        assert all(each["latents_95"] <= each["latents_90"] <= each["latents_80"] <= each["n_latents"]
                   for each in table.values())
        assert {each["labels"] for each in table.values()} == {len(_CATEGORIES) - 1}
        assert table["centred"]["fvu"] != table["whitened by background"]["fvu"]
        measured = [each["measured"] for each in criteria(found, 19)]
        names = ("whitened by background", "whitened by background and pursuit")
        assert measured == pytest.approx([table[name]["latents_95"] - table["centred"]["latents_95"] for name in names])


class TestMasked:
    def test_gaps(self, rows: Any) -> None:
        found = rows("masked")
        table = of_kind(found, "masked")
        assert [(each["k"], each["times"]) for each in table] == [(k, times) for k in (10, 5) for times in (1, 2, 4)]
        gaps = [each["plain"] - each["masked"] for each in table[:3]]
        worst, growth = criteria(found, 24)
        assert worst["measured"] == pytest.approx(min(gaps), abs=1e-4)
        assert growth["measured"] == pytest.approx(min(b - a for a, b in pairwise(gaps)), abs=1e-4)


class TestPredict:
    def test_share_of_the_gap(self, rows: Any) -> None:
        found = rows("predict")
        plain, *taught = of_kind(found, "predict")
        gap = plain["fvu"] - plain["pursued_fvu"]
        closed, times = criteria(found, 25)
        assert gap > 0 and times["measured"] > 0
        assert closed["measured"] == pytest.approx(100 * (plain["fvu"] - min(each["fvu"] for each in taught)) / gap,
                                                   abs=0.1)

    def test_only_the_encoder_is_taught(self, lab: Lab) -> None:
        sae, _ = lab.train("to be taught", SAEConfig(n_latents=64, k=4, epochs=4, batch=256))
        taught = predict._taught(lab, sae)
        np.testing.assert_allclose(taught.W_dec, sae.W_dec, atol=1e-5)
        np.testing.assert_allclose(taught.b_dec, sae.b_dec, atol=1e-5)
        assert np.abs(taught.W_enc - sae.W_enc).max() > 1e-4
        # Few steps at a low rate: it still chooses nearly what it did.
        same = (taught.encode(lab.data.held) > 0).multiply(sae.encode(lab.data.held) > 0).sum()
        assert same > 0.9 * sae.encode(lab.data.held).nnz
