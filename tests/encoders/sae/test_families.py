from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from sparsight.encoders.sae import coactivation
from sparsight.encoders.sae.coactivation import firing_counts, parent_links, phi_coefficients
from sparsight.encoders.sae.families import Family, find_families
from sparsight.encoders.sae.family_matching import match_families
from sparsight.encoders.sae.family_quality import family_quality
from sparsight.errors import InvalidArgumentError, InvalidVectorError, ShapeError

F32 = np.float32
CHILDREN = 5


def random_codes(texts: int = 60, latents: int = 20, share: float = 0.3, seed: int = 0) -> csr_matrix:
    rng = np.random.default_rng(seed)
    return csr_matrix((rng.random((texts, latents)) * (rng.random((texts, latents)) < share)).astype(F32))


def planted(families: int = 6, others: int = 40, texts: int = 4000, seed: int = 0) -> csr_matrix:
    """Parents 0, 6, 12 ..., each with five children after it that fire only when it does; then latents on their own."""
    rng = np.random.default_rng(seed)
    codes = np.zeros((texts, families * (CHILDREN + 1) + others))
    for family in range(families):
        parent = family * (CHILDREN + 1)
        codes[:, parent] = (rng.random(texts) < 0.06) * rng.uniform(0.5, 1.5, texts)
        for child in range(parent + 1, parent + 1 + CHILDREN):
            codes[:, child] = (codes[:, parent] > 0) * (rng.random(texts) < 0.4) * rng.uniform(0.5, 1.5, texts)
    alone = families * (CHILDREN + 1)
    codes[:, alone:] = (rng.random((texts, others)) < 0.03) * rng.uniform(0.5, 1.5, (texts, others))
    return csr_matrix(codes.astype(F32))


def planted_families(count: int = 6) -> list[Family]:
    family = [range(first, first + CHILDREN + 1) for first in range(0, count * (CHILDREN + 1), CHILDREN + 1)]
    return [made(*members) for members in family]


def made(parent: int, *children: int) -> Family:
    there = len(children)
    return Family(parent, children, (parent,) * there, (1.0,) * there, (1.0,) * there)


def test_links_by_hand() -> None:
    # Latent 0 fires on texts 0 to 3, latent 1 on 0 and 1, latent 2 on 3 and 4.
    codes = csr_matrix(np.array([[1, 2, 0], [1, 2, 0], [1, 0, 0], [1, 0, 3], [0, 0, 4]], F32))
    links = parent_links(codes, least=0.1, least_lift=0.0, most_density=0.9, min_together=1)
    assert links.parent.tolist() == [0, 0] and links.child.tolist() == [1, 2]
    np.testing.assert_allclose(links.strength, [2 / 3, 1 / 3])
    np.testing.assert_allclose(links.similarity, [4 / (2 * np.sqrt(8)), 3 / (2 * 5)])
    for options, children in [({"min_together": 2}, [1]), ({"least": 0.5}, [1]), ({"least_lift": 0.8}, [1]),
                              ({"least_lift": 0.9}, []), ({"most_density": 0.8}, [])]:  # 0 fires on 4 of 5
        found = parent_links(codes, **{"least_lift": 0.0, "most_density": 0.9, "min_together": 1, **options})
        assert found.child.tolist() == children


def test_phi_by_hand() -> None:
    codes = csr_matrix(np.array([[1, 1, 0], [1, 1, 0], [1, 0, 0], [0, 0, 1]], F32))
    # 0 and 1: (4 * 2 - 3 * 2) / sqrt(3 * 1 * 2 * 2); the other pairs are never together.
    wanted = np.zeros((3, 3))
    wanted[0, 1] = wanted[1, 0] = 2 / np.sqrt(12)
    np.testing.assert_allclose(phi_coefficients(codes).toarray(), wanted)


@pytest.mark.parametrize(("latents_at_once", "pairs_at_once"), [(256, 1 << 23), (3, 1 << 23), (256, 5)])
def test_against_the_whole_matrix(monkeypatch: pytest.MonkeyPatch, latents_at_once: int, pairs_at_once: int) -> None:
    monkeypatch.setattr(coactivation, "_LATENTS_AT_ONCE", latents_at_once)
    monkeypatch.setattr(coactivation, "_PAIRS_AT_ONCE", pairs_at_once)
    codes = random_codes()
    dense = codes.toarray().astype(np.float64)
    fires = (dense > 0).astype(np.float64)
    together, counts = fires.T @ fires, fires.sum(0)
    assert firing_counts(codes).tolist() == counts.tolist()
    rarer = np.minimum.outer(counts, counts)
    links = parent_links(codes, least=0.3, least_lift=0.0, most_density=1.0, min_together=2)
    strength = np.triu(together / (rarer + 1), 1)
    assert len(links.parent) == ((strength >= 0.3) & (together >= 2)).sum()
    np.testing.assert_allclose(links.strength, (together / (rarer + 1))[links.parent, links.child])
    cosines = dense / np.linalg.norm(dense, axis=0)
    np.testing.assert_allclose(links.similarity, (cosines.T @ cosines)[links.parent, links.child], rtol=1e-6)
    assert (counts[links.parent] >= counts[links.child]).all()
    phi = np.corrcoef(fires.T)
    np.fill_diagonal(phi, 0)
    np.testing.assert_allclose(phi_coefficients(codes, partners=20).toarray(), np.maximum(phi, 0), atol=1e-12)
    few = phi_coefficients(codes, partners=2)
    assert (few != few.T).nnz == 0 and (np.diff(few.indptr) >= 2).all()
    best = np.argsort(-phi, axis=1)[:, :2]
    assert all(few[row, column] > 0 for row in range(20) for column in best[row])


def test_family_by_hand() -> None:
    # 0 fires on 12 texts; 1, 2, 3 on some of them; 4, 5, 6 on some of 1's.
    codes = np.zeros((60, 8), F32)
    for latent, texts in enumerate([range(12), range(8), range(8, 10), range(10, 12), range(3), range(3, 5),
                                    range(5, 7), range(20, 23)]):
        codes[list(texts), latent] = 1
    found = find_families(csr_matrix(codes), most_density=1.0, min_together=2)
    assert [(family.parent, set(family.children)) for family in found] == [(0, {1, 2, 3, 4, 5, 6}), (1, {4, 5, 6})]
    above = dict(zip(found[0].children, found[0].above, strict=True))
    assert above == {1: 0, 2: 0, 3: 0, 4: 1, 5: 1, 6: 1}  # of 0 and 1, equally strong above 4 to 6, 1 is more like them
    assert found[0].children[:3] == (1, 2, 3) and found[0].strength[0] == pytest.approx(8 / 9)
    assert found[0].members[0] == 0 and found[0].round == 0


def named(families: list[Family]) -> set[tuple[int, frozenset[int]]]:
    return {(family.parent, frozenset(family.children)) for family in families}


def test_planted_families_are_found() -> None:
    assert named(find_families(planted(), least=0.3, rounds=1)) == named(planted_families())
    assert named(find_families(planted(), least=0.3)) >= named(planted_families())


def test_parents_leave_so_that_others_show() -> None:
    """Three families, of which every member also fires with a general latent, more often than with its parent."""
    rng = np.random.default_rng(0)
    codes = planted(3, 10).toarray()
    own = codes[:, 0:18:6].copy()
    codes[:, 0:18:6] *= rng.random(own.shape) < 0.8  # parents miss a fifth of their children's texts
    general = ((own > 0).any(1)).astype(F32)[:, None]
    both = csr_matrix(np.hstack([codes, general]).astype(F32))
    found = find_families(both, most_density=0.9)
    first = [family for family in found if family.round == 0]
    assert [family.parent for family in first] == [28] and len(first[0].children) >= 15
    assert named([family for family in found if family.round == 1]) == named(planted_families(3))
    assert len(find_families(both, most_density=0.9, rounds=1)) == 1
    assert not any(family.parent == 28 for family in find_families(both, most_density=0.15))


@pytest.mark.parametrize("most_overlap", [0.0, 0.3, 0.6])
def test_nearly_equal_families_are_told_once(most_overlap: float) -> None:
    everything = find_families(random_codes(400, 40), most_overlap=1.0, least_lift=0.0, most_density=1.0)
    found = find_families(random_codes(400, 40), most_overlap=most_overlap, least_lift=0.0,
                          most_density=1.0)
    sets = [set(family.members) for family in found]
    overlaps = [len(a & b) / len(a | b) for i, a in enumerate(sets) for b in sets[:i]]
    assert named(found) <= named(everything) and max(overlaps, default=0) <= most_overlap
    assert most_overlap == 0.6 or len(found) < len(everything)
    for family in everything:  # a larger one, or itself, is why each is left out or not
        members = set(family.members)
        near = [a for a in sets if len(a & members) / len(a | members) > most_overlap]
        assert any(len(a) >= len(members) for a in near)


def test_other_numbers_for_latents_change_only_names() -> None:
    codes = planted()
    order = np.random.default_rng(1).permutation(codes.shape[1])
    renamed = find_families(csr_matrix(codes[:, order]))
    there = {(int(order[f.parent]), tuple(order[list(f.children)]), tuple(order[list(f.above)]), f.round)
             for f in renamed}
    assert there == {(f.parent, f.children, f.above, f.round) for f in find_families(codes)}


@pytest.mark.parametrize("codes", [csr_matrix((0, 5), dtype=F32), csr_matrix((1, 5), dtype=F32),
                                   csr_matrix(np.ones((1, 5), F32)), csr_matrix(np.ones((7, 1), F32)),
                                   csr_matrix((3, 0), dtype=F32)])
def test_too_little_for_families(codes: csr_matrix) -> None:
    assert find_families(codes) == [] and find_families(codes, min_together=1, most_density=2.0, rounds=1) is not None
    assert phi_coefficients(codes).nnz == 0


def test_quality_by_hand() -> None:
    # Counts 3, 2, 2, 1, 0. Together: 0 and 1 twice, 0 and 2 once, 2 and 3 once.
    codes = csr_matrix(np.array([[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [0, 0, 1, 1, 0]], F32))
    quality = family_quality(codes, [made(0, 1), made(0, 1, 2)], draws=3)
    np.testing.assert_allclose(quality.in_block, [1, (1 + 0.5 + 0) / 3])
    np.testing.assert_allclose(quality.off_block, [(0.5 + 0 + 0 + 0) / 4, (0 + 0 + 1) / 3])
    np.testing.assert_allclose(quality.ratio, [8, 1.5])
    assert np.isnan(quality.parent_ratio[0]) and np.isinf(quality.parent_ratio[1])  # 1 and 2 are never together


def test_quality_of_planted_families_and_of_others() -> None:
    codes = planted()
    quality = family_quality(planted(seed=1), find_families(codes, least=0.3, rounds=1), draws=10)
    assert quality.gain > 5 and (quality.ratio > 5 * quality.null_ratio).all()
    assert 0.5 < quality.mean_null < 4  # small: a family of six in groups of 32 keeps some of its members
    assert (quality.parent_ratio > 1.5).all()
    rng = np.random.default_rng(0)
    anyhow = [made(*rng.choice(76, 6, replace=False).tolist()) for _ in range(40)]
    by_chance = family_quality(random_codes(2000, 76, 0.05), anyhow, draws=10)
    assert by_chance.gain == pytest.approx(1, abs=0.1) and by_chance.mean_null == pytest.approx(1, abs=0.1)
    assert by_chance.null_spread < 0.1


def test_quality_does_not_depend_on_names_or_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    codes, families = planted(), planted_families()
    wanted = family_quality(codes, families, seed=3)
    again = family_quality(codes, families, seed=3)
    assert np.array_equal(wanted.null_ratio, again.null_ratio) and wanted.gain == again.gain
    monkeypatch.setattr(coactivation, "_LATENTS_AT_ONCE", 7)
    np.testing.assert_allclose(family_quality(codes, families, seed=3).null_ratio, wanted.null_ratio)
    order = np.random.default_rng(1).permutation(codes.shape[1])
    name = np.argsort(order).tolist()
    renamed = [made(*(name[i] for i in family.members)) for family in families]
    np.testing.assert_allclose(family_quality(csr_matrix(codes[:, order]), renamed).ratio, wanted.ratio)


def test_quality_of_what_cannot_be_compared() -> None:
    codes = csr_matrix(np.array([[1, 1, 0]], F32))
    quality = family_quality(codes, [made(2), made(0, 1), made(1, 2)])
    assert np.isnan(quality.ratio[0]) and np.isnan(quality.ratio[1])  # no pair; nothing outside
    assert quality.ratio[2] == 0  # a latent that never fires
    assert np.isnan(family_quality(codes, [made(2)]).gain)


def test_families_are_found_again() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(76, 32)).astype(F32)
    families = planted_families()
    order = rng.permutation(76)
    name = np.argsort(order).tolist()
    renamed = [made(*(name[i] for i in family.members)) for family in families][::-1]
    noisy = rows[order] + 0.1 * rng.normal(size=rows.shape).astype(F32)
    matches = match_families(families, renamed, rows, noisy)
    assert matches.partner.tolist() == [5, 4, 3, 2, 1, 0] and matches.found.all()
    assert matches.share == matches.mean_score == 1
    assert matches.share_by_chance < 0.4 and matches.mean_by_chance < 0.5  # few families of few members
    by_codes = match_families(families, renamed, planted(), csr_matrix(planted()[:, order]), least=0.5)
    assert by_codes.partner.tolist() == [5, 4, 3, 2, 1, 0] and by_codes.share == 1


def test_match_by_hand_of_another_size() -> None:
    # b splits 1 into 1 and 2, and has 3 for a's 2; a's family is 0, 1 and 2, b's are (0, 1, 2) and (3, 4).
    a = np.eye(4, dtype=F32)[:3]
    b = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0.1, 0], [0, 0, 1, 0], [0, 0, 0, 1]], F32)
    matches = match_families([made(0, 1, 2)], [made(0, 1, 2), made(3, 4)], a, b)
    # 0 and 1 of three point into the first family, all of which point back: 2 (2/3) 1 / (2/3 + 1).
    assert matches.partner.tolist() == [0] and matches.score[0] == pytest.approx(0.8)
    none = match_families([made(0, 1)], [made(3, 4)], a, b)
    assert none.partner.tolist() == [-1] and none.score.tolist() == [0] and none.share == 0


def test_what_is_refused() -> None:
    codes = random_codes()
    for call, wrong, field in [
        (parent_links, {"least": 0}, "least"), (parent_links, {"least": 1.5}, "least"),
        (parent_links, {"most_density": 0}, "most_density"), (parent_links, {"min_together": 0}, "min_together"),
        (phi_coefficients, {"partners": 0}, "partners"), (find_families, {"min_children": 0}, "min_children"),
        (find_families, {"rounds": 0}, "rounds"), (find_families, {"most_overlap": 1.2}, "most_overlap"),
    ]:
        with pytest.raises(InvalidArgumentError) as caught:
            call(codes, **wrong)
        assert caught.value.field == field
        with pytest.raises(ShapeError, match="expected codes csr"):
            call(codes.tocsc())
        with pytest.raises(InvalidVectorError):
            call(csr_matrix(-codes))
    with pytest.raises(InvalidArgumentError, match="got 0 and 20"):
        family_quality(codes, [])
    with pytest.raises(InvalidArgumentError, match="got 1 and 0"):
        family_quality(codes, [made(0, 1)], draws=0)
    with pytest.raises(ShapeError, match="more than 20 latents, got 20"):
        family_quality(codes, [made(0, 20)])


def test_what_matching_refuses() -> None:
    rows, one = np.eye(4, dtype=F32), [made(0, 1)]
    for a, b, of_b, options, field in [
        ([], one, rows, {}, "a"), (one, [], rows, {}, "b"), (one, one, rows, {"draws": 0}, "draws"),
        (one, one, rows, {"least": -1}, "least"), (one, one, rows, {"found": 0}, "found"),
        (one, [made(4)], rows, {}, "of_b"), (one, one, random_codes(), {}, "of_b"), (one, one, rows[:, :3], {}, "b"),
    ]:
        with pytest.raises(InvalidArgumentError) as caught:
            match_families(a, b, rows, of_b, **options)
        assert caught.value.field == field
