"""What a filter means, document by document: the reference that the metadata columns are tested against."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sparsight.index.filters.tree import (
    And,
    Comparison,
    Exists,
    In,
    Node,
    Not,
    Or,
    Path,
)

__all__ = ["fields", "matches", "values"]


_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "!=": operator.eq, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


def values(metadata: Mapping[str, Any], path: Path) -> Iterator[Any]:
    """Every value of a field that is not null: scalars and objects, with lists opened at every level."""
    return _values(metadata, path, 0)


def _values(value: Any, path: Path, depth: int) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _values(item, path, depth)
    elif depth == len(path):
        if value is not None:
            yield value
    elif isinstance(value, Mapping) and path[depth] in value:
        yield from _values(value[path[depth]], path, depth + 1)


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    return "string" if isinstance(value, str) else "number" if isinstance(value, int | float) else "object"


def matches(node: Node, metadata: Mapping[str, Any]) -> bool:
    """Whether one document's metadata satisfies a filter: the reference for every faster evaluation.

    O(clauses x values of their fields). Metadata as ``validate_metadata`` admits it.
    """
    match node:
        case And(children):
            return all(matches(child, metadata) for child in children)
        case Or(children):
            return any(matches(child, metadata) for child in children)
        case Not(child):
            return not matches(child, metadata)
        case Exists(path):
            return any(True for _ in values(metadata, path))
        case In(path, constants, negated):
            wanted = {(c.kind, c.value) for c in constants}
            found = any(not isinstance(v, Mapping) and (_kind(v), v) in wanted for v in values(metadata, path))
            return found != negated
        case Comparison(path, symbol, constant):
            holds, kind = _ORDER[symbol], constant.kind
            found = any(_kind(v) == kind and holds(v, constant.value) for v in values(metadata, path))
            return found != (symbol == "!=")


def fields(node: Node) -> frozenset[Path]:
    """The paths that a filter looks at."""
    match node:
        case And(children) | Or(children):
            return frozenset().union(*(fields(child) for child in children))
        case Not(child):
            return fields(child)
        case _:
            return frozenset((node.path,))
