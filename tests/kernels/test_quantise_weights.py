"""Query weights to 16-bit levels: the formula by numpy, and the edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsight.errors import ShapeError
from sparsight.kernels import quantise_weights
from sparsight.kernels.search import check_query


@given(st.lists(st.floats(-1e6, 1e6).filter(lambda x: x == 0 or abs(x) > 1e-9), max_size=600))
def test_levels_by_the_formula(weights):
    terms = np.arange(0, 3 * len(weights), 3, dtype=np.uint32)
    given_weights = np.array(weights, np.float64)
    kept, levels, unit = quantise_weights(terms, given_weights)
    check_query(kept, levels)
    if not given_weights.any():
        assert (len(kept), len(levels), unit) == (0, 0, 0.0)
        return
    room = (2**31 - 1) / 255 - len(weights)
    size = np.abs(given_weights)
    assert unit == pytest.approx(max(size.max() / 32_767, size.sum() / room), rel=1e-12)
    expected = np.rint(given_weights / unit)
    assert levels.tolist() == expected[expected != 0].tolist()
    assert kept.tolist() == terms[expected != 0].tolist()


def test_the_largest_becomes_32767_and_halves_go_to_even():
    # unit is 1: 0.5 rounds to 0 and leaves, 1.5 to 2, -2.5 to -2
    kept, levels, unit = quantise_weights(np.arange(4, dtype=np.uint32), np.array([32_767.0, 0.5, 1.5, -2.5]))
    assert (kept.tolist(), levels.tolist(), unit) == ([0, 2, 3], [32_767, 2, -2], 1.0)


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError):
        quantise_weights(np.arange(2, dtype=np.uint32), np.ones(3))
    with pytest.raises(ShapeError):
        quantise_weights(np.arange(2, dtype=np.int32), np.ones(2))
