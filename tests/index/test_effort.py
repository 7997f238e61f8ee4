"""How an effort is given out to the parts of a generation, and conditions over their passages."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from sparsight.index import maintenance
from sparsight.index.effort import NO_WORK, shared_out, total_work
from sparsight.index.generation import Condition
from sparsight.index.parts import ImpactQuery
from sparsight.index.rows import Row
from sparsight.index.store import CollectionStore
from sparsight.kernels import EXACT, Work
from sparsight.kernels import Effort as KernelEffort
from sparsight.types import Effort

Make = Callable[..., Row]


def test_without_a_budget_every_part_tries_as_hard() -> None:
    assert shared_out(Effort(), 10, [5, 0, 900]) == [EXACT] * 3
    assert shared_out(Effort(0.95), 10, [5, 0, 900]) == [KernelEffort.for_recall(0.95, 10)] * 3
    assert shared_out(Effort(0.95), 10, []) == []


def test_budgets_are_cut_by_size() -> None:
    timed = shared_out(Effort(seconds=0.01), 10, [750, 0, 250])
    assert [share.budget_ns for share in timed] == [7_500_000, 1, 2_500_000]  # 0 would be no budget
    assert all(share.mass == 1.0 and share.deviations < 0 and share.pool >= 10 for share in timed)
    counted = shared_out(Effort(documents=1000), 10, [750, 0, 250])
    assert [share.pool for share in counted] == [750, 0, 250]
    assert all(share.mass < 1.0 and share.deviations < 0 and share.budget_ns == 0 for share in counted)


def test_a_budget_beside_a_recall() -> None:
    wanted = KernelEffort.for_recall(0.95, 10)
    (timed,) = shared_out(Effort(0.95, seconds=1.0), 10, [100])
    assert timed == KernelEffort(wanted.mass, wanted.pool, wanted.deviations, 10**9)
    (counted,) = shared_out(Effort(0.95, documents=200), 10, [100])
    assert counted == KernelEffort(wanted.mass, 200, -1.0)


@pytest.mark.parametrize(
    "modes, mode",
    [
        (["exact", "chosen", "exact-32"], "exact"),
        (["exact", "approximate"], "approximate"),
        (["cut", "approximate", "exact"], "cut"),
        ([], "exact"),
    ],
)
def test_work_is_summed_and_the_least_exact_mode_counts(modes: list[str], mode: str) -> None:
    total = total_work([Work(each, 3 + n, 10, 100, 1) for n, each in enumerate(modes)])
    n = len(modes)
    assert total == Work(mode, 2 + n if n else 0, 10 * n, 100 * n, n)


def _holds(row: Row, condition: Condition) -> bool:
    held = 0
    for term, level in zip(condition.terms, condition.levels, strict=True):
        for entry in row.sparse["terms"]:
            weights = dict(zip(entry.term_ids.tolist(), entry.values.tolist(), strict=True))
            if round(weights.get(term, 0.0) * 255 / 4) >= level:
                held += 1
                break
    return (held >= condition.at_least) == condition.wanted


def test_conditions_count_terms_over_the_passages_of_a_document(store: CollectionStore, make_row: Make) -> None:
    rows = [make_row(f"d{n}", n, passages=1 + n % 3) for n in range(120)]
    store.write(rows[:50])
    maintenance.flush(store)
    store.write(rows[50:80])
    maintenance.flush(store)
    store.write(rows[80:])
    generation = store.generation
    assert len(generation.parts) == 3
    rng = np.random.default_rng(1)
    sizes = set()
    for at_least in (1, 2, 4, 8):
        for wanted in (True, False):
            terms = tuple(rng.choice(40, 8, replace=False).tolist())
            condition = Condition("terms", terms, tuple(rng.integers(1, 200, 8).tolist()), at_least, wanted)
            mask = generation.mask(None, [condition])
            found = [generation.document(reference).id for _, reference in generation.scan(mask)]
            assert found == [row.id for row in rows if _holds(row, condition)]
            sizes.add(len(found))
    assert len(sizes) > 3 and max(sizes) > 100


def test_the_work_of_a_search_is_that_of_its_parts(store: CollectionStore, make_row: Make) -> None:
    query = ImpactQuery(np.arange(0, 40, 2, dtype=np.uint32), np.arange(1, 21, dtype=np.int16), 0.5)
    assert store.generation.search_impacts("terms", [query], 5, [store.generation.mask(None)], [0.0])[0].work == NO_WORK
    rows = [make_row(f"d{n}", n) for n in range(90)]
    for start in (0, 40, 80):
        maintenance.flush(store)
        store.write(rows[start : start + 40])
    generation = store.generation
    every = [generation.mask(None)]
    (found,) = generation.search_impacts("terms", [query], 5, every, [0.0])
    each = [part.search_impacts("terms", [query], 5, [None], [0], None, 1)[0].work for part in generation.parts]
    assert len(each) == 3 and found.work == total_work(each)
    assert each[-1] == Work("exact", 0, 0, 10, 10)  # the tail's
    entries = sum(int((entry.term_ids % 2 == 0).sum()) for row in rows[:80] for entry in row.sparse["terms"])
    assert found.work.postings == entries and found.work.passages == 90
    (bounded,) = generation.search_impacts("terms", [query], 5, every, [0.0], effort=Effort(documents=20))
    assert bounded.work.mode == "approximate" and bounded.work.postings < entries
    (dense,) = generation.search_dense("vec", np.ones((1, 3), np.float32), 5, every)
    assert dense.work == Work("exact", 0, 0, 90, 0)
