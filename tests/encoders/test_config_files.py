"""Values of configurations, and the errors that name them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsight.encoders.config_files import check_known, check_value, naming, read_toml, split_change, wrong
from sparsight.errors import InvalidArgumentError


@pytest.mark.parametrize(("value", "default", "expected"), [
    (3, 1, 3), (3, 1.0, 3.0), (0.5, 1.0, 0.5), (np.int32(3), 1, 3), (np.float32(0.5), 1.0, 0.5), ("x", "", "x"),
    (True, False, True), ((), (1,), ()), ((np.int64(2), 3), (), (2, 3)), (Path("x"), Path("y"), Path("x"))])
def test_values_that_fit(value: Any, default: Any, expected: Any) -> None:
    found = check_value("a.b", value, default)
    assert found == expected and type(found) is type(expected)
    assert not isinstance(found, tuple) or all(type(entry) is int for entry in found)


@pytest.mark.parametrize(("value", "default", "message"), [
    (1.0, 1, "a.b: expected a whole number, got 1.0"), (True, 1, "a.b: expected a whole number, got True"),
    (True, 1.0, "a.b: expected a number, got True"), ("1", 1.0, "a.b: expected a number, got '1'"),
    (1, "", "a.b: expected a string, got 1"), (1, False, "a.b: expected true or false, got 1"),
    (None, 1, "a.b: expected a whole number, got None"), ([1], (), "a.b: expected whole numbers, got [1]"),
    (1, (), "a.b: expected whole numbers, got 1"), ((1,), 1, "a.b: expected a whole number, got (1,)"),
    ((1, 2.0), (), "a.b: expected whole numbers, got (1, 2.0)"),
    ((True,), (), "a.b: expected whole numbers, got (True,)")])
def test_values_of_another_type(value: Any, default: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        check_value("a.b", value, default)
    assert caught.value.message == message and caught.value.field == "a.b"


def test_ranges_and_choices() -> None:
    assert [check_value("k", value, 1, least=1, most=4) for value in (1, 4)] == [1, 4]
    for value in (0, 5):
        with pytest.raises(InvalidArgumentError, match=re.escape(f"k: expected a whole number in [1, 4], got {value}")):
            check_value("k", value, 1, least=1, most=4)
    for value in (float("nan"), float("inf"), -1e-9):
        with pytest.raises(InvalidArgumentError, match=re.escape(f"r: expected a number in [0, 1], got {value}")):
            check_value("r", value, 0.5, least=0.0, most=1.0)
    with pytest.raises(InvalidArgumentError, match=re.escape("ks: expected whole numbers in [1, 4], got (2, 5)")):
        check_value("ks", (2, 5), (), least=1, most=4)
    assert check_value("tie", "a", "b", choices=("a", "b")) == "a"
    with pytest.raises(InvalidArgumentError, match='tie: expected one of "a", "b", got "c"') as caught:
        check_value("tie", "c", "b", choices=("a", "b"), field="config.tie")
    assert caught.value.field == "config.tie" and caught.value.details == {
        "expected": 'one of "a", "b"', "received": '"c"'}


def test_keys() -> None:
    check_known("a.b", "b", ("b", "c"))
    with pytest.raises(InvalidArgumentError, match=r"unknown key a\.d; expected one of: b, c") as caught:
        check_known("a.d", "d", ("b", "c"))
    assert caught.value.field == "a.d"


@pytest.mark.parametrize(("change", "expected"), [
    ("k=3", ("k", 3)), (" a.b = 1e-3 ", ("a.b", 1e-3)), ("x=y=z", ("x", "y=z")), ('x="y"', ("x", "y")),
    ("x=[1, 2]", ("x", [1, 2])), ("x=true", ("x", True)), ("x=", ("x", "")), ("x=a b", ("x", "a b"))])
def test_changes(change: str, expected: tuple[str, Any]) -> None:
    assert split_change(change, "key=value") == expected


@pytest.mark.parametrize("change", ["", "k", "=3", "  =3"])
def test_what_is_no_change(change: str) -> None:
    with pytest.raises(InvalidArgumentError, match=re.escape(f"changes: expected key=value, got {change!r}")):
        split_change(change, "key=value")


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("k = 3\n[b]\nc = 'd'")
    assert read_toml(path) == {"k": 3, "b": {"c": "d"}}
    for wrong_path, text, message in ((tmp_path / "none.toml", None, "no such file"), (tmp_path, None, "no such file"),
                                      (path, b"[k", "not TOML: "), (path, b"k = '\xff'", "not TOML: ")):
        if text is not None:
            wrong_path.write_bytes(text)
        with pytest.raises(InvalidArgumentError, match=message), naming(wrong_path):
            read_toml(wrong_path)


def test_errors_name_the_file() -> None:
    with pytest.raises(InvalidArgumentError) as caught, naming(Path("run.toml")):
        raise wrong("k", "less", 3, field="config.k")
    assert caught.value.message == "run.toml: k: expected less, got 3" and caught.value.field == "config.k"
    assert caught.value.details == {"file": "run.toml", "expected": "less", "received": "3"}
