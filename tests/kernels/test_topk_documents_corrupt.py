"""Postings that contradict themselves raise, or give a useless answer; they never read or write elsewhere.

Run with the sanitizers as well (sanitized.py), which see what a plain run may survive.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsight.errors import CorruptIndexError
from sparsight.kernels import Effort, Postings, available_paths, score_postings, topk_documents, topk_documents_batch

PATHS = available_paths()
NATIVE = [path for path in PATHS if path != "reference"]
ARRAYS = [field.name for field in fields(Postings) if field.init and field.name != "most_terms"]
WINDOW, BLOCK = 8_192, 65_536

TERMS = np.arange(5, dtype=np.uint32)
WEIGHTS = np.array([1, 300, -7, 20_000, 3], np.int16)


def damaged(postings, **changes) -> Postings:
    return Postings(**{name: changes.get(name, getattr(postings, name)) for name in ARRAYS})


def changed(array, at, value):
    copy = array.copy()
    copy[at] = value
    return copy


@pytest.fixture(scope="module", params=[False, True], ids=["single", "grouped"])
def good(request, random_corpus) -> Postings:
    """Five terms 0 to 4 over two blocks: bitmaps, lists, both in a cell, a bitmap as the last cell's last bytes."""
    densities = [[0.04, 0.01, 0.04, 0.005, 0.3], [0.04, 0.01, 0.005, 0.04, 0.3]]
    return random_corpus(1, BLOCK + 1_200, densities, grouped=request.param, largest_id=5).postings


@pytest.fixture(scope="module")
def cells(good) -> list[int]:
    """First byte of each cell."""
    starts = np.repeat(good.byte_offsets[:-1], np.diff(good.cell_offsets)) + good.cell_bytes
    assert len(starts) == 10
    return starts.tolist()


# --- damage that is found ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("name", "at", "value"),
    [
        ("cell_offsets", 1, 2**32 - 1),  # of terms that cannot be
        ("cell_offsets", 3, 1),
        ("byte_offsets", 2, 2**64 - 1),
        ("byte_offsets", 2, 2**63),
        ("byte_offsets", 3, 0),
        ("cell_bytes", 1, 2**32 - 1),  # beyond the term's bytes
        ("cell_blocks", 1, 7),  # beyond the last passage
        ("cell_blocks", 1, 0),  # twice the same block
        ("cell_blocks", 0, 1),
    ],
)
def test_damaged_offsets_are_found(good, path, name, at, value):
    postings = damaged(good, **{name: changed(getattr(good, name), at, value)})
    with pytest.raises(CorruptIndexError):
        topk_documents(postings, TERMS, WEIGHTS, 5, path=path)


@pytest.mark.parametrize("path", PATHS)
def test_cells_that_are_longer_than_their_bytes_are_found(good, cells, path):
    for cell in (1, 5, 9):  # the last ones of their terms
        for at, value in [(1, 255), (2, 255)]:  # a longer list, more bitmaps
            postings = damaged(good, data=changed(good.data, cells[cell] + at, value))
            with pytest.raises(CorruptIndexError):
                topk_documents(postings, TERMS, WEIGHTS, 5, path=path)


@pytest.mark.parametrize("path", PATHS)
def test_a_bitmap_at_the_end_that_has_too_many_bits(good, cells, path):
    """Its impacts would be read far beyond the data."""
    assert good.data[cells[9] : cells[9] + 4].tolist() == [0, 0, 1, 0]  # no list, one bitmap
    masks = cells[9] + 4 + 2 + 32
    data = good.data.copy()
    data[masks : masks + 1024] = 255
    with pytest.raises(CorruptIndexError):
        topk_documents(damaged(good, data=data), TERMS, WEIGHTS, 5, path=path)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("count", [0, 255, WINDOW + 1, 65_535])
def test_a_bitmap_of_an_impossible_number_of_postings(good, cells, path, count):
    """In the scan, and where chosen passages are looked up."""
    postings = damaged(good, data=changed(good.data, slice(cells[9] + 4, cells[9] + 6), [count % 256, count // 256]))
    mask = np.zeros(-(-good.n_documents // 64), np.uint64)
    mask[-1] = 1
    for allowed in (None, mask):
        with pytest.raises(CorruptIndexError):
            topk_documents(postings, TERMS, WEIGHTS, 5, mask=allowed, path=path)


@pytest.mark.parametrize("path", PATHS)
def test_bitmaps_that_say_they_are_longer_than_the_cell(good, cells, path):
    """Each number is possible, together they are more than the term's bytes, and more than the data."""
    assert good.data[cells[8] : cells[8] + 4].tolist() == [0, 0, 255, 0]
    counts = np.frombuffer(np.full(8, WINDOW, "<u2").tobytes(), np.uint8)
    postings = damaged(good, data=changed(good.data, slice(cells[8] + 4, cells[8] + 20), counts))
    with pytest.raises(CorruptIndexError):
        topk_documents(postings, TERMS, WEIGHTS, 5, path=path)
    with pytest.raises(CorruptIndexError):
        score_postings(postings, TERMS, WEIGHTS, np.arange(good.n_passages, dtype=np.uint32))


@pytest.mark.parametrize("path", PATHS)
def test_passages_of_no_document(postings_of, path):
    """Postings, and fewer passages than they speak of: none, or as many as the first block does not reach."""
    full = postings_of([{term: 9 for term in range(5)}] * 3, [1, 1, 1])
    for offsets in ([0], [0, 0, 0]):
        postings = damaged(full, passage_offsets=np.array(offsets, np.uint32))
        try:
            found = topk_documents(postings, TERMS, WEIGHTS, 5, path=path)
        except CorruptIndexError:
            continue
        assert len(found) == 0


@pytest.mark.parametrize("path", PATHS)
def test_damage_to_passage_offsets(postings_of, path):
    """Offsets that fall: a passage belongs to two documents, or to none."""
    full = postings_of([{}, {}, {term: 9 for term in range(5)}], [1, 1, 1])
    for offsets in ([0, 3, 1, 2, 3], [0, 2**32 - 1, 3], [0, 1, 1_000_000, 2, 3]):
        for mask in (None, np.array([2**64 - 1], np.uint64), np.array([2], np.uint64)):
            postings = damaged(full, passage_offsets=np.array(offsets, np.uint32))
            with contextlib.suppress(CorruptIndexError):
                found = topk_documents(postings, TERMS, WEIGHTS, 5, mask=mask, path=path)
                assert all(0 <= document < len(offsets) - 1 for document in found.documents.tolist())


@pytest.mark.parametrize("path", PATHS)
def test_an_error_leaves_no_trace_in_the_next_search(good, path):
    """The damage lies in the second block: by then the first one's sums have been through the thread's memory."""
    expected = topk_documents(good, TERMS, WEIGHTS, 5, path="reference")
    for name, value in [("cell_blocks", 9), ("cell_bytes", 2**31)]:
        broken = damaged(good, **{name: changed(getattr(good, name), 9, value)})
        for k in (5, 10**6):  # in 16 and in 32 bits
            with pytest.raises(CorruptIndexError):
                topk_documents(broken, TERMS, WEIGHTS, k, path=path)
            found = topk_documents(good, TERMS, WEIGHTS, 5, path=path)
            assert found.documents.tolist() == expected.documents.tolist()
            assert found.scores.tolist() == expected.scores.tolist()
        with pytest.raises(CorruptIndexError):
            topk_documents_batch(broken, [(TERMS, WEIGHTS)] * 4, 5, threads=2, path=path)


# --- any damage -------------------------------------------------------------------------------------------

EXTREMES = [0, 1, 2, 3, 7, 8, 63, 64, 255, 256, 8_191, 8_192, 65_535, 2**31, 2**32 - 1, 2**63, 2**64 - 64, 2**64 - 1]


@st.composite
def damages(draw):
    """An array, a place in it (as a share of its length, or near the start of a cell), and what is written there."""
    name = draw(st.sampled_from([*ARRAYS, "data", "data"]))
    place = draw(st.floats(0, 1, exclude_max=True))
    in_cell = draw(st.none() | st.tuples(st.integers(0, 9), st.integers(0, 60)))
    return name, place, in_cell, draw(st.sampled_from(EXTREMES) | st.integers(0, 2**64 - 1)), draw(st.integers(1, 9))


def apply(good, cells, damage):
    """Damaged postings; first and last offsets stay right, since the constructor looks at them."""
    arrays = {name: getattr(good, name).copy() for name in ARRAYS}
    for name, place, in_cell, value, run in damage:
        array = arrays[name]
        inside = slice(1, -1) if name.endswith("offsets") else slice(0, -64) if name == "data" else slice(None)
        part = array[inside]
        at = int(place * len(part))
        if name == "data" and in_cell is not None:
            at = cells[in_cell[0]] + in_cell[1]
        part[at : at + run] = value & (2 ** (8 * array.itemsize) - 1)
    return Postings(**arrays)


def survive(postings, weights, k, mask, effort, paths=PATHS):
    n_documents, n_passages = postings.n_documents, postings.n_passages
    for path in paths:
        with contextlib.suppress(CorruptIndexError):
            found = topk_documents(postings, TERMS, weights, k, mask=mask, effort=effort, path=path)
            assert len(found) <= k
            assert all(0 <= document < n_documents for document in found.documents.tolist())
    chosen = np.arange(0, n_passages, 97, dtype=np.uint32)
    with contextlib.suppress(CorruptIndexError):
        assert len(score_postings(postings, TERMS, weights, chosen)) == len(chosen)
    for term in range(5):
        with contextlib.suppress(CorruptIndexError):
            passages, impacts = postings.decode(term)
            assert len(passages) == len(impacts)
    with contextlib.suppress(CorruptIndexError):
        postings.validate()


CASE = {
    "damage": st.lists(damages(), min_size=1, max_size=4),
    "signs": st.lists(st.sampled_from([1, -1]), min_size=5, max_size=5),
    "k": st.sampled_from([1, 3, 100, 100_000]),
    "mask_seed": st.none() | st.integers(0, 100),
    "effort": st.sampled_from([Effort(), Effort(0.5, 50, 1.0), Effort(0.3, 0, -1.0, 10**9)]),
}


def run_case(good, cells, damage, signs, k, mask_seed, effort, paths=PATHS):
    postings = apply(good, cells, damage)
    mask = None
    if mask_seed is not None:
        rng = np.random.default_rng(mask_seed)
        mask = rng.integers(0, 2**64, -(-good.n_documents // 64), np.uint64, endpoint=False)
        mask[rng.random(len(mask)) < rng.choice([0, 0.9, 0.999])] = 0
    survive(postings, WEIGHTS * np.array(signs, np.int16), k, mask, effort, paths)


@settings(max_examples=150, deadline=None)
@given(**CASE)
def test_fuzz(good, cells, damage, signs, k, mask_seed, effort):
    run_case(good, cells, damage, signs, k, mask_seed, effort)


@pytest.mark.slow
@settings(max_examples=int(os.environ.get("SPARSIGHT_FUZZ", "1000")), deadline=None)
@given(**CASE)
def test_fuzz_for_minutes(good, cells, damage, signs, k, mask_seed, effort):
    """Without the reference, which is Python: it cannot read or write elsewhere, and takes most of the time."""
    run_case(good, cells, damage, signs, k, mask_seed, effort, NATIVE)


@settings(max_examples=100, deadline=None)
@given(
    data=st.binary(max_size=400),
    cuts=st.lists(st.sampled_from([0, 1, 5, 2**32 - 1]) | st.integers(0, 400), min_size=4, max_size=4),
    cell_cuts=st.lists(st.integers(0, 8) | st.just(2**32 - 1), min_size=4, max_size=4),
    blocks=st.lists(st.integers(0, 3), min_size=8, max_size=8),
    starts=st.lists(st.integers(0, 300) | st.just(2**32 - 1), min_size=8, max_size=8),
    n=st.sampled_from([1, 600, BLOCK + 1, 3 * BLOCK]),
    k=st.sampled_from([1, 70, 10**6]),
)
def test_arbitrary_bytes(data, cuts, cell_cuts, blocks, starts, n, k):
    """Nothing in these arrays was postings before."""
    postings = Postings(
        TERMS, np.full(5, 9, np.uint32), np.full(5, 255, np.uint8), np.array([0, *cell_cuts, 8], np.uint32),
        np.array([0, *cuts, len(data)], np.uint64), np.array(blocks, np.uint16), np.array(starts, np.uint32),
        np.frombuffer(data + bytes(64), np.uint8).copy(), np.arange(n + 1, dtype=np.uint32),
    )  # fmt: skip
    survive(postings, WEIGHTS, k, None, Effort())
