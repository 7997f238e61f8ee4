"""A filter's tree as text that parses to the same tree."""

from __future__ import annotations

import json
import re

from sparsight.index.filters.parser import KEYWORDS
from sparsight.index.filters.tree import (
    MAX_INTEGER,
    And,
    Comparison,
    Constant,
    Exists,
    In,
    Node,
    Not,
    Or,
    Path,
)

__all__ = ["path_to_string", "to_string"]


def path_to_string(path: Path) -> str:
    """A path as it is written in a filter: ``a.b``, with backquotes where a key needs them."""
    return ".".join(
        key if re.fullmatch(r"[^\W\d]\w*", key) and key.lower() not in KEYWORDS else f"`{key.replace('`', '``')}`"
        for key in path
    )


def to_string(node: Node) -> str:
    """Normal form: one spacing, lower-case keywords, double quotes, parentheses only where the tree needs them.

    ``parse(to_string(node)) == node`` as long as the normal form is within the limits of ``parse``.
    """
    match node:
        case Or(children):
            return " or ".join(_group(child, Or) for child in children)
        case And(children):
            return " and ".join(_group(child, And, Or) for child in children)
        case Not(child):
            return f"not {_group(child, And, Or)}"
        case Exists(path):
            return f"exists {path_to_string(path)}"
        case In(path, constants, negated):
            listed = ", ".join(_constant_to_string(constant) for constant in constants)
            return f"{path_to_string(path)} {'not in' if negated else 'in'} [{listed}]"
        case Comparison(path, symbol, constant):
            return f"{path_to_string(path)} {symbol} {_constant_to_string(constant)}"


def _group(child: Node, *looser: type) -> str:
    text = to_string(child)
    return f"({text})" if isinstance(child, looser) else text


def _constant_to_string(constant: Constant) -> str:
    value = constant.value
    if constant.kind == "string":
        return json.dumps(value, ensure_ascii=False)
    if constant.kind == "boolean":
        return "true" if value else "false"
    number = float(value)
    return str(int(number)) if number.is_integer() and abs(number) <= MAX_INTEGER else repr(number)
