"""Postings from rows: bytes by hand, the same bytes for any number of threads, and decoding back to the rows."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsight.errors import CorruptIndexError, InvalidArgumentError, ShapeError
from sparsight.kernels import Postings
from sparsight.kernels.reference.postings import decode_term

WINDOW, BLOCK = 8_192, 65_536
ARRAYS = [field.name for field in fields(Postings) if field.init and field.name != "most_terms"]


def cells_of(postings, term):
    """(block, postings in the list, windows with a bitmap) of each cell, from the bytes."""
    at = postings.term_ids.tolist().index(term)
    cells = []
    for cell in range(*postings.cell_offsets[at : at + 2].tolist()):
        start = int(postings.byte_offsets[at]) + int(postings.cell_bytes[cell])
        head = postings.data[start : start + 4].tolist()
        dense = [window for window in range(8) if head[2] >> window & 1]
        cells.append((int(postings.cell_blocks[cell]), head[0] + 256 * head[1], dense))
    return cells


def assert_decodes_to(corpus):
    """Both decoders give every term's passages and impacts as the rows have them, and the counts agree."""
    by_term = corpus.rows.tocsc()
    by_term.eliminate_zeros()
    by_term.sort_indices()
    postings = corpus.postings
    occurring = np.flatnonzero(np.diff(by_term.indptr))
    assert postings.term_ids.tolist() == corpus.term_ids[occurring].tolist()
    for at, column in enumerate(occurring):
        entries = slice(*by_term.indptr[column : column + 2])
        passages, impacts = by_term.indices[entries], by_term.data[entries]
        native, specified = postings.decode(int(corpus.term_ids[column])), decode_term(postings, at)
        assert (native[0].dtype, native[1].dtype) == (np.uint32, np.uint8)
        for decoded in (native, specified):
            assert np.array_equal(decoded[0], passages)
            assert np.array_equal(decoded[1], impacts)
        assert (postings.frequencies[at], postings.max_impacts[at]) == (len(passages), impacts.max())
    postings.validate()


# --- by hand ----------------------------------------------------------------------------------------------


def test_bytes_of_a_list(postings_of):
    postings = postings_of([{3: 5}, {3: 7}, *({} for _ in range(62)), {3: 9}], [65])
    assert (postings.term_ids.tolist(), postings.frequencies.tolist(), postings.max_impacts.tolist()) == ([3], [3], [9])
    assert (postings.cell_offsets.tolist(), postings.byte_offsets.tolist()) == ([0, 1], [0, 13])
    assert (postings.cell_blocks.tolist(), postings.cell_bytes.tolist()) == ([0], [0])
    # 3 in the list, no bitmap; passages 0, 1, 64 have slots 0, 32 (the first odd one of its group), 64
    assert postings.data.tolist() == [3, 0, 0, 0, 0, 0, 32, 0, 64, 0, 5, 7, 9] + [0] * 64


def test_bytes_of_a_bitmap(corpus_of_matrix):
    # 256 passages of the second window: every second one of its first 512
    rows = np.zeros((2 * WINDOW, 1), np.int64)
    rows[WINDOW : WINDOW + 512 : 2, 0] = np.arange(256) % 255 + 1
    postings = corpus_of_matrix(rows, [7], [1] * len(rows)).postings
    ranks = b"\0\0" + b"\0\1" * 15  # all 256 lie in the first eight groups of 64
    masks = b"\x55" * 64 + bytes(960)
    impacts = bytes(range(1, 256)) + b"\1"
    assert postings.data.tobytes() == b"\0\0\2\0" + b"\0\1" + ranks + masks + impacts + bytes(64)


@pytest.mark.parametrize("count", [1, 254, 255, 256, 257, WINDOW])
@pytest.mark.parametrize("window", [0, 3, 7, 8])
def test_the_border_between_lists_and_bitmaps(corpus_of_matrix, count, window):
    """One passage in 32 of a window, 256, is the first that makes a bitmap."""
    rng = np.random.default_rng(count)
    rows = np.zeros(((window + 1) * WINDOW, 1), np.int64)
    rows[window * WINDOW + rng.choice(WINDOW, count, replace=False), 0] = rng.integers(1, 256, count)
    corpus = corpus_of_matrix(rows, [5], [1] * len(rows))
    block, local = divmod(window, 8)
    expected = (block, 0, [local]) if count >= 256 else (block, count, [])
    assert cells_of(corpus.postings, 5) == [expected]
    assert_decodes_to(corpus)


def test_a_window_that_ends_early_counts_as_a_whole_one(corpus_of_matrix):
    """Also where every passage of a short last window holds the term, 256 make a bitmap."""
    for extra, dense in ((255, []), (256, [1])):
        rows = np.zeros((WINDOW + extra, 1), np.int64)
        rows[WINDOW:] = 9
        corpus = corpus_of_matrix(rows, [5], [1] * len(rows))
        assert cells_of(corpus.postings, 5) == [(0, 0 if dense else extra, dense)]
        assert_decodes_to(corpus)


# --- rows -------------------------------------------------------------------------------------------------


def from_rows(rows, passage_offsets=None, threads=1):
    """Rows as lists of (term, impact), in the order given."""
    entries = [entry for row in rows for entry in row]
    return Postings.from_rows(
        np.cumsum([0, *map(len, rows)]).astype(np.uint64),
        np.array([term for term, _ in entries], np.uint32),
        np.array([impact for _, impact in entries], np.uint8),
        np.arange(len(rows) + 1, dtype=np.uint32) if passage_offsets is None else passage_offsets,
        threads,
    )


def test_nothing_gives_empty_postings():
    for rows in ([], [[]], [[], []], [[(3, 0)]]):
        postings = from_rows(rows)
        assert (len(postings.term_ids), postings.n_postings, postings.n_passages) == (0, 0, len(rows))
        assert postings.data.tolist() == [0] * 64
        postings.validate()
        passages, impacts = postings.decode(3)
        assert (passages.tolist(), impacts.tolist()) == ([], [])


@pytest.mark.parametrize("shift", [0, 2**24 - 3, 2**31, 2**32 - 9], ids=["table", "border", "above", "end"])
def test_impacts_of_zero_are_left_out_and_rows_need_no_order(shift):
    """Terms of 2**24 and more are ranked by sorting, smaller ones with a table."""
    postings = from_rows([[(4 + shift, 1), (shift, 2)], [(2 + shift, 0)], [(4 + shift, 0), (1 + shift, 255)]])
    assert postings.term_ids.tolist() == [shift, 1 + shift, 4 + shift]
    decoded = {term - shift: [array.tolist() for array in postings.decode(term)] for term in postings.term_ids.tolist()}
    assert decoded == {0: [[0], [2]], 1: [[2], [255]], 4: [[0], [1]]}
    assert postings.frequencies.tolist() == [1, 1, 1]
    assert postings.decode(2 + shift)[0].tolist() == []
    postings.validate()


@pytest.mark.parametrize("largest_id", [200_000, 2**32 - 1])
def test_any_number_of_threads_gives_equal_bytes(random_corpus, corpus_of_matrix, largest_id):
    densities = np.random.default_rng(0).choice([0, 0.001, 0.03, 0.4], (20, 12))
    corpus = random_corpus(1, 2 * BLOCK + 4_000, densities, grouped=True, largest_id=largest_id)
    assert {block for term in corpus.postings.term_ids.tolist() for block, _, _ in cells_of(corpus.postings, term)} == {
        0, 1, 2}  # fmt: skip
    for threads in (2, 8):
        again = corpus_of_matrix(corpus.rows, corpus.term_ids, corpus.lengths, threads).postings
        for name in ARRAYS:
            assert getattr(again, name).tobytes() == getattr(corpus.postings, name).tobytes(), name
    assert_decodes_to(corpus)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_passages=st.sampled_from([1, 63, 64, 65, 500, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW, BLOCK - 1, BLOCK + 1]),
    densities=st.lists(st.lists(st.sampled_from([0, 0.001, 0.02, 0.031, 0.033, 0.5, 1]), min_size=3, max_size=3),
                       min_size=1, max_size=9),
    largest_id=st.sampled_from([3, 70_000, 2**24, 2**32 - 1]),
)  # fmt: skip
def test_both_decoders_return_the_rows(random_corpus, seed, n_passages, densities, largest_id):
    assert_decodes_to(random_corpus(seed, n_passages, densities, grouped=False, largest_id=largest_id))


# --- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 65, 300])
@pytest.mark.parametrize("term", [1, 2**25])
def test_a_row_that_repeats_a_term_is_refused(term, count):
    with pytest.raises(InvalidArgumentError):
        from_rows([[(9, 1)], [(term, 1)] * count])
    assert from_rows([[(term, 0)] * count + [(term, 3)]]).decode(term)[1].tolist() == [3]  # zeros do not count


def test_rows_that_do_not_fit_are_refused():
    terms, impacts, offsets = np.array([1, 2], np.uint32), np.array([1, 2], np.uint8), np.array([0, 2], np.uint32)
    Postings.from_rows(np.array([0, 1, 2], np.uint64), terms, impacts, offsets)
    for indptr in ([0, 2, 1, 2], [1, 1, 2], [0, 1, 1], []):
        with pytest.raises(ShapeError):
            Postings.from_rows(np.array(indptr, np.uint64), terms, impacts, offsets)
    with pytest.raises(ShapeError):
        Postings.from_rows(np.array([0, 1, 2], np.uint64), terms, impacts[:1], offsets)
    with pytest.raises(ShapeError):
        Postings.from_rows(np.array([0, 1, 2], np.uint64), terms.astype(np.int32), impacts, offsets)


# --- damage that validate() and the decoders find ----------------------------------------------------------


def damaged(postings, **changes):
    return Postings(**{name: changes.get(name, getattr(postings, name)) for name in ARRAYS})


def changed(array, at, value):
    copy = array.copy()
    copy[at] = value
    return copy


@pytest.fixture(scope="module")
def mixed(corpus_of_matrix):
    """A term with a list of three (bytes 0 to 12), and one with a bitmap of 300."""
    rows = np.zeros((400, 2), np.int64)
    rows[[0, 1, 64], 0] = 5, 7, 9
    rows[:300, 1] = 1
    return corpus_of_matrix(rows, [3, 8], [4] * 100).postings


BITMAP = 13 + 4 + 2 + 32  # first byte of the bitmap's masks


@pytest.mark.parametrize(
    ("name", "at", "value", "field"),
    [
        ("term_ids", 1, 3, "postings.term_ids"),
        ("frequencies", 0, 4, "postings.frequencies"),
        ("max_impacts", 0, 8, "postings.frequencies"),
        ("passage_offsets", 5, 30, "postings.passage_offsets"),
        ("data", 10, 0, "postings.data"),  # an impact of 0 (the largest is at 12)
        ("data", 6, 0, "postings.data"),  # slots 0, 0, 64
    ],
)
def test_validate_names_the_array(mixed, name, at, value, field):
    mixed.validate()
    with pytest.raises(CorruptIndexError) as raised:
        damaged(mixed, **{name: changed(getattr(mixed, name), at, value)}).validate()
    assert raised.value.field == field
    assert "position" in raised.value.details


def test_validate_counts_the_terms_of_passages(mixed):
    replace(mixed, most_terms=2**32 - 1).validate()
    with pytest.raises(CorruptIndexError, match="expected at most 1 in a passage"):
        replace(mixed, most_terms=1).validate()


@pytest.mark.parametrize(
    ("name", "at", "value", "term"),
    [
        ("cell_offsets", 1, 3, 3),  # more cells than there are
        ("cell_offsets", 1, 2**32 - 1, 3),
        ("byte_offsets", 1, 12, 3),  # the list's last impact lies beyond its bytes
        ("byte_offsets", 1, 2**64 - 1, 3),
        ("byte_offsets", 1, 2**64 - 1, 8),
        ("cell_bytes", 0, 10, 3),
        ("cell_bytes", 1, 2**32 - 1, 8),
        ("cell_blocks", 0, 1, 3),  # beyond the last passage
        ("data", 0, 200, 3),  # a longer list than the bytes hold
        ("data", 2, 1, 3),  # a bitmap that is not there
        ("data", 17, 0, 8),  # a bitmap of 256 postings, not 300
        ("data", BITMAP + 100, 1, 8),  # a further bit in its masks
    ],
)
def test_both_decoders_refuse(mixed, name, at, value, term):
    postings = damaged(mixed, **{name: changed(getattr(mixed, name), at, value)})
    with pytest.raises(CorruptIndexError):
        postings.decode(term)
    with pytest.raises(CorruptIndexError):
        decode_term(postings, mixed.term_ids.tolist().index(term))
    with pytest.raises(CorruptIndexError):
        postings.validate()
