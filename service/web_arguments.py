"""Arguments of the web page's API, taken from JSON by name and type; what is wrong is said with its path."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from sparsight.errors import InvalidArgumentError

__all__ = ["Arguments", "read_json_object"]

_INTEGER = re.compile(r"-?[0-9]{1,18}")
_LARGEST = 2**53  # beyond it, JavaScript's numbers are no longer whole


class Arguments:
    """A JSON object, or a query string, of which each value is taken once.

    Parameters
    ----------
    values : mapping
    place : str
        Path of the object, put before the names in errors.
    from_text : bool
        The values are strings, as in a query string: numbers are read from their digits.
    """

    def __init__(self, values: Mapping[str, Any], place: str = "", *, from_text: bool = False) -> None:
        self._values = dict(values)
        self._place = place
        self._from_text = from_text

    def path(self, name: str) -> str:
        """The full path of an argument of this object."""
        return f"{self._place}.{name}" if self._place else name

    def text(self, name: str, default: str = "") -> str:
        """A string."""
        value = self._values.pop(name, default)
        if not isinstance(value, str):
            raise self._wrong(name, "a string", value)
        return value

    def integer(self, name: str, default: int | None = None, *, least: int = 0, most: int = _LARGEST) -> int:
        """A whole number in ``[least, most]``; without a default it must be there."""
        value = self._take(name, default)
        if self._from_text and isinstance(value, str) and _INTEGER.fullmatch(value):
            value = int(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # JavaScript has one kind of number only
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self._wrong(name, f"a whole number from {least:,} to {most:,}", value)
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number."""
        value = self._take(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > _LARGEST:
            raise self._wrong(name, "a number", value)
        if not math.isfinite(value):
            raise self._wrong(name, "a finite number", value)
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """true or false."""
        value = self._values.pop(name, default)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false", value)
        return value

    def texts(self, name: str) -> list[str]:
        """A list of strings; empty when it is not there."""
        for position, value in enumerate(found := self._list(name)):
            if not isinstance(value, str):
                raise self._wrong(f"{name}[{position}]", "a string", value)
        return found

    def objects(self, name: str) -> Iterator[Arguments]:
        """The objects of a list; none when it is not there. Each must be taken up to its end."""
        for position, value in enumerate(self._list(name)):
            if not isinstance(value, dict):
                raise self._wrong(f"{name}[{position}]", "an object", value)
            item = Arguments(value, self.path(f"{name}[{position}]"))
            yield item
            item.end()

    def end(self) -> None:
        """Nothing may be left: a misspelt argument would otherwise be ignored without a word.

        Raises
        ------
        InvalidArgumentError
        """
        for name in self._values:
            raise InvalidArgumentError(f"unknown argument {name!r:.80}", field=self.path(name[:80]))

    def _list(self, name: str) -> list[Any]:
        value = self._values.pop(name, [])
        if not isinstance(value, list):
            raise self._wrong(name, "a list", value)
        return value

    def _take(self, name: str, default: Any) -> Any:
        if name not in self._values and default is None:
            raise InvalidArgumentError("the argument is missing", field=self.path(name))
        return self._values.pop(name, default)

    def _wrong(self, name: str, expected: str, value: Any) -> InvalidArgumentError:
        shown = f"{value!r:.80}" if isinstance(value, str | int | float | bool | None) else type(value).__name__
        return InvalidArgumentError(f"expected {expected}, got {shown}", field=self.path(name))


def read_json_object(raw: bytes) -> dict[str, Any]:
    """The JSON object that a request's body is.

    Raises
    ------
    InvalidArgumentError
        For bytes that are no JSON, JSON that is no object, and the NaN and Infinity that Python's parser lets pass.
    """
    try:
        value = json.loads(raw.decode("utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        what = "nested too deeply" if isinstance(error, RecursionError) else f"{error}"
        raise InvalidArgumentError(f"the body is no JSON: {what:.200}", field="body", reason="MALFORMED_JSON") from None
    if not isinstance(value, dict):
        raise InvalidArgumentError(f"expected a JSON object, got {type(value).__name__}", field="body",
                                   reason="MALFORMED_JSON")
    return value


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
