"""The filter language's tree: frozen dataclasses, as the parser makes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

MAX_INTEGER: Final = 2**53  # every integer up to here is a float64

Path: TypeAlias = tuple[str, ...]
Operator: TypeAlias = Literal["=", "!=", "<", "<=", ">", ">="]


@dataclass(frozen=True, slots=True)
class Constant:
    """A literal. The kind is stored because Python takes ``True`` and ``1.0`` for equal, and the language does not."""

    kind: Literal["string", "number", "boolean"]
    value: str | float | bool

    @classmethod
    def of(cls, value: str | float | bool) -> Constant:
        """The constant of a Python value; integers become floats."""
        if isinstance(value, bool):
            return cls("boolean", value)
        return cls("string", value) if isinstance(value, str) else cls("number", float(value))


@dataclass(frozen=True, slots=True)
class Comparison:
    """``path operator constant``."""

    path: Path
    operator: Operator
    constant: Constant


@dataclass(frozen=True, slots=True)
class In:
    """``path in [constants]``, or ``path not in [constants]`` when negated."""

    path: Path
    constants: tuple[Constant, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Exists:
    """``exists path``."""

    path: Path


@dataclass(frozen=True, slots=True)
class Not:
    """``not child``."""

    child: Node


@dataclass(frozen=True, slots=True)
class And:
    """Two children or more, all of which must hold."""

    children: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Two children or more, one of which must hold."""

    children: tuple[Node, ...]


Node: TypeAlias = And | Or | Not | Comparison | In | Exists
