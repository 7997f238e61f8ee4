"""Configurations: TOML files, changes from a command line, and checks whose errors name the key."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from sparsight.errors import InvalidArgumentError

__all__ = ["check_known", "check_value", "naming", "read_toml", "split_change", "wrong"]

_EXPECTED = {bool: "true or false", int: "a whole number", float: "a number", str: "a string", tuple: "whole numbers"}


def wrong(key: str, expected: str, received: Any, *, field: str = "") -> InvalidArgumentError:
    """The error of a value: "key: expected this, got that". ``field`` is the key where nothing else is said."""
    return InvalidArgumentError(f"{key}: expected {expected}, got {received}", field=field or key, expected=expected,
                                received=received)


def check_known(key: str, name: str, known: Collection[str]) -> None:
    """Raise InvalidArgumentError unless ``name`` is one of those."""
    if name not in known:
        raise InvalidArgumentError(f"unknown key {key}; expected one of: {', '.join(known)}", field=key, received=name)


def check_value(key: str, value: Any, default: Any, *, least: float | None = None, most: float | None = None,
                choices: tuple[str, ...] = (), field: str = "") -> Any:
    """The value as its default's type; InvalidArgumentError unless it is of that type and in range.

    A whole number will do where the default is a float, and a number of numpy where it is a number. Of a tuple, which
    is one of whole numbers, the entries are in range. NaN never is.
    """
    kind = type(default)
    expected = _EXPECTED.get(kind, kind.__name__)
    entries = value if isinstance(value, tuple) else (value,)
    allowed: Any = {int: Integral, float: Real, tuple: Integral}.get(kind, kind)
    fits = (isinstance(entry, allowed) and isinstance(entry, bool) == (kind is bool) for entry in entries)
    if isinstance(value, tuple) != (kind is tuple) or not all(fits):
        raise wrong(key, expected, repr(value), field=field)
    if choices and value not in choices:
        raise wrong(key, "one of " + ", ".join(f'"{choice}"' for choice in choices), f'"{value}"', field=field)
    if least is not None and most is not None and not all(least <= entry <= most for entry in entries):
        raise wrong(key, f"{expected} in [{least:g}, {most:g}]", value, field=field)
    return tuple(map(int, value)) if kind is tuple else kind(value) if kind in (int, float) else value


def read_toml(path: Path) -> dict[str, Any]:
    """What a file holds; InvalidArgumentError if it is not there or not TOML, for :func:`naming` to name it in."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise InvalidArgumentError("no such file", field="path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidArgumentError(f"not TOML: {error}", field="path") from None


def split_change(change: str, form: str) -> tuple[str, Any]:
    """Key and value of "key=value", the value as in TOML; a string may go without quotation marks.

    ``form`` is how the message says what a change looks like, where there is no "=" in it.
    """
    key, equals, text = (part.strip() for part in change.partition("="))
    if not (key and equals):
        raise wrong("changes", form, repr(change))
    try:
        return key, tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return key, text


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """InvalidArgumentErrors from here on start with the file's name, which is their detail ``file``."""
    try:
        yield
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"{path}: {error.message}", field=error.field, file=path, **error.details) from None
