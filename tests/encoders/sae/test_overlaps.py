from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from sparsight.encoders.sae.overlaps import overlap_rate
from sparsight.errors import InvalidArgumentError


def test_by_hand() -> None:
    codes = csr_matrix(np.array([[1, 1, 0], [1, 0, 0], [0, 0, 2], [0, 0, 0]], np.float32))
    found = overlap_rate(codes, [0, 1], 2)
    assert found.sampled == 0.25
    assert found.independent == pytest.approx(0.5 * 0.25)
    # numbers 2, 1, 0, 0: variance 11/12; mean rate 3/8, alone 2 * 3/8 * 5/8 = 15/32: (11/12) / (15/32) - 1 = 43/45
    assert found.correlation == pytest.approx(43 / 45)
    size = 45 / 43 - 1
    a, b = 3 / 8 * size, 5 / 8 * size
    assert found.predicted == pytest.approx(a * (a + 1) / ((a + b) * (a + b + 1)))
    assert overlap_rate(codes, [0, 1], 1).sampled == 0.5


def test_features_that_fire_together_and_apart() -> None:
    rng = np.random.default_rng(0)
    subject = rng.random(40_000) < 0.05
    together = (rng.random((40_000, 8)) < np.where(subject, 0.4, 0.005)[:, None]).astype(np.float32)
    apart = (rng.random((40_000, 8)) < together.mean()).astype(np.float32)
    for codes, tolerance in ((together, 2.0), (apart, 1.4)):
        rest = csr_matrix(codes[4000:])
        for at_least in (2, 3):
            told = overlap_rate(csr_matrix(codes[:4000]), range(8), at_least)
            truth = overlap_rate(rest, range(8), at_least).sampled
            assert truth / tolerance < told.predicted < truth * tolerance
    assert overlap_rate(csr_matrix(together), range(8), 3).independent < overlap_rate(rest, range(8), 2).sampled / 2
    assert overlap_rate(csr_matrix(apart), range(8), 2).correlation < 0.01


def test_nothing_and_everything() -> None:
    silent = csr_matrix((5, 3), dtype=np.float32)
    assert overlap_rate(silent, [0, 2], 1).predicted == 0.0
    always = csr_matrix(np.ones((5, 3), np.float32))
    assert overlap_rate(always, [0, 2], 2).predicted == 1.0
    assert overlap_rate(always[:, :1], [0], 1).sampled == 1.0


def test_what_is_wrong_is_named() -> None:
    codes = csr_matrix(np.ones((5, 3), np.float32))
    for features, at_least, field in (([], 1, "features"), ([0, 0], 1, "features"), ([3], 1, "features"),
                                      ([-1], 1, "features"), ([0, 1], 3, "at_least"), ([0], 0, "at_least")):
        with pytest.raises(InvalidArgumentError) as caught:
            overlap_rate(codes, features, at_least)
        assert caught.value.field == field
    with pytest.raises(InvalidArgumentError, match="at least 2 texts"):
        overlap_rate(codes[:1], [0], 1)
