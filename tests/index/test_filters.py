from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsight.errors import InvalidArgumentError, InvalidFilterError
from sparsight.index.filters import (
    And,
    Comparison,
    Constant,
    Exists,
    In,
    Node,
    Not,
    Or,
    fields,
    matches,
    parse,
    path_to_string,
    to_string,
)
from sparsight.index.metadata import validate_metadata

PAPER = {
    "year": 2017,
    "cat": ["cs.CL", "cs.LG"],
    "open": True,
    "score": 0.5,
    "venue": {"name": "NeurIPS", "rank": None},
    "authors": [{"name": "Ashish"}, {"name": "Noam", "email": "n@x"}],
    "empty": [],
    "nothing": None,
    "strange key": "yes",
    "grid": [[1, 2], [3]],
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("year = 2017", True),
        ("year = 2017.0", True),
        ('year = "2017"', False),
        ("year != 2018", True),
        ('year != "2017"', True),
        ("year >= 2017 and year < 2018", True),
        ("year > 2017", False),
        ("year <= +2.017e3", True),
        ("year < 9007199254740992 and year > -1e300", True),
        ('cat = "cs.LG"', True),
        ('cat != "cs.LG"', False),
        ('cat = "cs.IR"', False),
        ('cat > "cs.K"', True),
        ('cat < "cs.CM"', True),
        ('cat in ["cs.IR", "cs.CL"]', True),
        ('cat not in ["cs.IR", "cs.CL"]', False),
        ("cat in []", False),
        ("missing not in []", True),
        ("missing = 1", False),
        ("missing != 1", True),
        ("missing not in [1]", True),
        ("open = true", True),
        ("open = TRUE", True),
        ("open = 1", False),
        ("open in [1, 2]", False),
        ("score = 0.5", True),
        ("score < 1", True),
        ('score < "1"', False),
        ("exists year", True),
        ("exists venue", True),
        ("exists venue.name", True),
        ("exists venue.rank", False),
        ("exists empty", False),
        ("exists nothing", False),
        ("not exists missing", True),
        ("exists year.month", False),
        ('venue.name = "NeurIPS"', True),
        ('authors.name = "Noam"', True),
        ('authors.name = "Noam" and authors.name = "Ashish"', True),
        ("exists authors.email", True),
        ('`strange key` = "yes"', True),
        ("grid = 3", True),
        ("grid > 3", False),
        ("venue = 1 or venue != 1", True),
        ("year = 1 or year = 2017 and open = false", False),
        ("(year = 1 or year = 2017) and open = true", True),
        ("NOT year = 1 AND Exists cat", True),
        ("not (year = 2017 or open = true)", False),
    ],
)
def test_meaning(text: str, expected: bool) -> None:
    assert matches(parse(text), PAPER) is expected


def test_precedence() -> None:
    a, b, c = (Comparison((name,), "=", Constant.of(1)) for name in "abc")
    assert parse("a=1 or b=1 and not c=1") == Or((a, And((b, Not(c)))))
    assert parse("a=1 and b=1 and c=1") == And((a, b, c))
    assert parse("(a=1 and b=1) and c=1") == And((And((a, b)), c))


def test_strings() -> None:
    def value(text: str) -> Any:
        node = parse(f"a = {text}")
        assert isinstance(node, Comparison)
        return node.constant.value

    assert value(r'"a\"b\\c\n\t\/é"') == 'a"b\\c\n\t/é'
    assert value(r"'it\'s \"so\"'") == 'it\'s "so"'
    assert value(r'"\ud83d\ude00"') == "\U0001f600"
    assert value('"😀 é"') == "😀 é"
    assert value("''") == ""
    for text in (r'"\ud83d"', r'"\q"', r'"\u12"', '"open', "'open\""):
        with pytest.raises(InvalidFilterError):
            value(text)


def test_strings_are_ordered_by_code_point_not_by_utf16() -> None:
    # U+FF5E sorts before U+1F600 by code point, after it in UTF-16.
    assert matches(parse('a < "\U0001f600"'), {"a": "\uff5e"})


def test_paths() -> None:
    assert parse("exists a.b.c") == Exists(("a", "b", "c"))
    assert parse("exists `a.b`.`x``y`.in") == Exists(("a.b", "x`y", "in"))
    assert parse("exists größe_2") == Exists(("größe_2",))
    assert path_to_string(("a.b", "x`y", "in", "plain")) == "`a.b`.`x``y`.`in`.plain"


def test_booleans_are_not_numbers_in_the_tree() -> None:
    assert parse("a = true") != parse("a = 1")
    assert hash(parse("a = true")) != hash(parse("a = 1"))


@pytest.mark.parametrize(
    ("text", "position", "expected"),
    [
        ("", 0, "a field"),
        ("   ", 3, "a field"),
        ("year", 4, "one of"),
        ("year >", 6, "a string"),
        ("year >= 2015 cat = 1", 13, '"and"'),
        ("year == 2015", 5, '"="'),
        ("year <> 2015", 5, '"!="'),
        ("a = 1 && b = 2", 6, '"and"'),
        ("!a = 1", 0, '"not"'),
        ("(a = 1", 6, '")"'),
        ("a = 1)", 5, '"and"'),
        ("a in 1", 5, '"["'),
        ("a in [1 2]", 8, '","'),
        ("a in [1,]", 8, "a string"),
        ("a not 1", 6, '"in"'),
        ("a = b", 4, "a string"),
        ("open < true", 7, "a string or a number"),
        ("and = 1", 0, "a field"),
        ("a. = 1", 3, "a field"),
        ("`` = 1", 0, "a key"),
        ("a = 12x", 4, "a field, a constant"),
        ("a = 1e999", 4, "float64"),
        ("a = 9007199254740993", 4, "float64"),
        ("a = -9007199254740994", 4, "float64"),
        ("a = " + "9" * 5000, 4, "float64"),
        ("a = #", 4, "a field, a constant"),
        ('a = "open', 4, 'a closing "'),
        ("2015 < year", 0, "a field"),
        ("exists", 6, "a field"),
        ('a = "\ud800"', 5, "whole characters"),
    ],
)
def test_errors_say_where(text: str, position: int, expected: str) -> None:
    with pytest.raises(InvalidFilterError) as caught:
        parse(text)
    error = caught.value
    assert error.field == "filter"
    assert error.details["position"] == str(position), error.message
    assert expected in error.details["expected"]
    excerpt, caret = error.message.split("\n")[1:]
    assert caret.index("^") <= len(excerpt)


def test_caret_points_at_the_place_in_a_long_text() -> None:
    text = " or ".join(f"a = {i}" for i in range(50)) + " or b ~ 1 or " + " or ".join(["c = 1"] * 50)
    with pytest.raises(InvalidFilterError) as caught:
        parse(text)
    _, excerpt, caret = caught.value.message.split("\n")
    assert excerpt[caret.index("^")] == "~"
    assert len(excerpt) < 100


def test_limits() -> None:
    assert parse("(" * 32 + "a = 1" + ")" * 32) == parse("a = 1")
    with pytest.raises(InvalidFilterError, match="nested"):
        parse("(" * 33 + "a = 1" + ")" * 33)
    with pytest.raises(InvalidFilterError, match="nested"):
        parse("not " * 4000 + "a = 1")
    parse(" or ".join(["a = 1"] * 1024))
    with pytest.raises(InvalidFilterError, match="clauses"):
        parse(" or ".join(["a = 1"] * 1025))
    parse("a = '" + "x" * (16 * 1024 - 6) + "'")
    with pytest.raises(InvalidFilterError, match="16384 bytes"):
        parse("a = '" + "x" * (16 * 1024 - 5) + "'")
    with pytest.raises(InvalidFilterError, match="16384 bytes"):
        parse("a = '" + "é" * 8192 + "'")


# --- normal form

keys = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=8),
    st.sampled_from(["a", "b", "in", "NOT", "true", "a.b", "`", "ünï"]),
)
paths = st.lists(keys, min_size=1, max_size=3).map(tuple)
constants = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(2**53), 2**53),
    st.booleans(),
).map(Constant.of)
ordered = constants.filter(lambda c: c.kind != "boolean")
clauses: st.SearchStrategy[Node] = st.one_of(
    st.builds(Exists, paths),
    st.builds(In, paths, st.lists(constants, max_size=3).map(tuple), st.booleans()),
    st.builds(Comparison, paths, st.sampled_from(["=", "!="]), constants),
    st.builds(Comparison, paths, st.sampled_from(["<", "<=", ">", ">="]), ordered),
)
nodes: st.SearchStrategy[Node] = st.recursive(
    clauses,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(And, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, min_size=2, max_size=3).map(tuple)),
    ),
    max_leaves=8,
)


@given(nodes)
def test_normal_form_parses_back(node: Node) -> None:
    assert parse(to_string(node)) == node


def test_normal_form() -> None:
    text = "NOT (a=1 OR b>'x\"y') And  c  Not In [1.50,TRUE]AND Exists`d`"
    assert to_string(parse(text)) == 'not (a = 1 or b > "x\\"y") and c not in [1.5, true] and exists d'


@given(st.text(max_size=60) | st.lists(st.sampled_from(
    ["a", "and", "or", "not", "(", ")", "=", "<", "in", "[", "]", ",", "1", "'x'", "true", "exists", "`", ".", " "]
), max_size=20).map(" ".join))  # fmt: skip
def test_any_text_parses_or_raises_our_error(text: str) -> None:
    try:
        node = parse(text)
    except InvalidFilterError as error:
        assert 0 <= int(error.details["position"]) <= len(text)
    else:
        assert parse(to_string(node)) == node


def test_fields() -> None:
    assert fields(parse("a = 1 or not (b.c in [1] and exists a)")) == {("a",), ("b", "c")}


# --- metadata


def test_valid_metadata() -> None:
    validate_metadata(PAPER)
    validate_metadata({})
    validate_metadata({"k" * 256: 2**53, "n": -(2**53), "t": "\0\n"})
    deep: Any = 1
    for _ in range(7):
        deep = [deep]
    validate_metadata({"a": deep})
    validate_metadata({"a": "x" * (64 * 1024 - 8)})


@pytest.mark.parametrize(
    ("metadata", "field", "message"),
    [
        ([], "documents[3].metadata", "an object"),
        ({1: 2}, "documents[3].metadata", "type int"),
        ({"": 2}, "documents[3].metadata", "empty"),
        ({"k" * 257: 2}, "documents[3].metadata", "257 bytes"),
        ({"é" * 129: 2}, "documents[3].metadata", "258 bytes"),
        ({"a\0": 2}, "documents[3].metadata", "NUL"),
        ({"\ud800": 2}, "documents[3].metadata", "surrogate"),
        ({"a": "\udfff"}, 'documents[3].metadata["a"]', "surrogate"),
        ({"a": [1, math.nan]}, 'documents[3].metadata["a"][1]', "nan"),
        ({"a": {"b": -math.inf}}, 'documents[3].metadata["a"]["b"]', "inf"),
        ({"a": 2**53 + 1}, 'documents[3].metadata["a"]', "2**53"),
        ({"a": b"x"}, 'documents[3].metadata["a"]', "bytes"),
        ({"a": {1, 2}}, 'documents[3].metadata["a"]', "set"),
        ({"a": [[[[[[[[1]]]]]]]]}, 'documents[3].metadata["a"]' + "[0]" * 7, "8 deep"),
        ({"a": "x" * (64 * 1024 - 7)}, "documents[3].metadata", "65537"),
    ],
)
def test_invalid_metadata(metadata: Any, field: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message.replace("*", r"\*")) as caught:
        validate_metadata(metadata, "documents[3].metadata")
    assert caught.value.field == field
    json.dumps(caught.value.details)
    caught.value.message.encode()  # a message must be sendable
