from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsight.errors import CorruptIndexError
from sparsight.index.columns import Columns, build
from sparsight.index.filters import And, Comparison, Constant, Exists, In, Node, Not, Or, matches, parse

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, 2, -1, 0.5, -0.0, 2**53, 1e300]),
    st.sampled_from(["", "a", "b", "ab", "\uff5e", "\U0001f600", "\0", "1"]),
)
keys = st.sampled_from(["a", "b", "a.b", "é"])
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=2), max_leaves=4
)
metadatas = st.lists(st.dictionaries(keys, values, max_size=3), max_size=12)

paths = st.lists(keys, min_size=1, max_size=2).map(tuple)
constants = scalars.filter(lambda value: value is not None).map(Constant.of)
nodes: st.SearchStrategy[Node] = st.recursive(
    st.one_of(
        st.builds(Exists, paths),
        st.builds(In, paths, st.lists(constants, max_size=3).map(tuple), st.booleans()),
        st.builds(Comparison, paths, st.sampled_from(["=", "!="]), constants),
        st.builds(
            Comparison, paths, st.sampled_from(["<", "<=", ">", ">="]), constants.filter(lambda c: c.kind != "boolean")
        ),
    ),
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(And, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, min_size=2, max_size=3).map(tuple)),
    ),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None)
@given(metadatas, st.lists(nodes, min_size=1, max_size=4))
def test_evaluate_equals_the_reference(documents: list[dict[str, Any]], filters: list[Node]) -> None:
    columns = Columns.from_arrays(build(documents).to_arrays())
    for node in filters:
        assert set(columns.evaluate(node)) == {i for i, document in enumerate(documents) if matches(node, document)}


def test_by_hand() -> None:
    columns = build([
        {"year": 2017, "cat": ["cs.CL", "cs.LG"], "open": True},
        {"year": 1992, "cat": "cs.IR", "open": False, "venue": {"name": "TREC"}},
        {},
        {"year": [2017, 2018], "cat": [], "venue": None},
    ])  # fmt: skip

    def rows(text: str) -> list[int]:
        return list(columns.evaluate(parse(text)))

    assert rows("year >= 2017") == [0, 3]
    assert rows("year != 2017") == [1, 2]
    assert rows('cat in ["cs.IR", "cs.LG"]') == [0, 1]
    assert rows('cat >= "cs.IR"') == [0, 1]
    assert rows('cat > "cs.IR"') == [0]
    assert rows("open = false") == [1]
    assert rows("not exists cat") == [2, 3]
    assert rows("exists venue") == [1]
    assert rows('venue.name = "TREC" or year > 2017') == [1, 3]
    assert rows("exists nowhere and year > 0") == []
    assert list(columns.paths()) == [("cat",), ("open",), ("venue",), ("venue", "name"), ("year",)]


def test_no_documents_and_no_metadata() -> None:
    assert not build([]).evaluate(parse("not a = 1"))
    assert list(build([{}, {}]).evaluate(parse("not a = 1"))) == [0, 1]


def test_memory_mapped_arrays_are_used_as_they_lie(tmp_path: Path) -> None:
    documents = [{"n": i % 7, "s": f"value {i % 11}", f"key {i}": {"x": [i, True]}} for i in range(500)]
    arrays = build(documents).to_arrays()
    assert len(arrays) == 12  # however many paths there are
    mapped = {}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
        mapped[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    columns = Columns.from_arrays(mapped)
    for name, array in columns.to_arrays().items():
        assert not array.size or np.shares_memory(array, mapped[name])
    for text in ('n = 3 and s >= "value 5"', "`key 17`.x = 17", "exists `key 3`.x and not n = 2", 's in ["value 10"]'):
        node = parse(text)
        assert list(columns.evaluate(node)) == [i for i, document in enumerate(documents) if matches(node, document)]


def test_damaged_arrays() -> None:
    arrays = build([{"a": "x", "b": 1, "c": True}, {"a": ["x", "y"]}]).to_arrays()
    for name in arrays:
        with pytest.raises(CorruptIndexError):
            Columns.from_arrays({n: a for n, a in arrays.items() if n != name})
        with pytest.raises(CorruptIndexError):
            Columns.from_arrays(arrays | {name: arrays[name].astype(np.float32)})
        if arrays[name].size:
            with pytest.raises(CorruptIndexError):
                Columns.from_arrays(arrays | {name: arrays[name][:-1]})
    newer = np.frombuffer(b'{"version": 2, "rows": 2}', np.uint8)
    with pytest.raises(CorruptIndexError, match="version 2"):
        Columns.from_arrays(arrays | {"header": newer})
