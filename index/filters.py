"""A small boolean language over documents' metadata.

::

    filter     = or ;
    or         = and , { "or" , and } ;
    and        = not , { "and" , not } ;
    not        = "not" , not | "(" , or , ")" | clause ;
    clause     = "exists" , path
               | path , ( "=" | "!=" ) , constant
               | path , ( "<" | "<=" | ">" | ">=" ) , ( string | number )
               | path , [ "not" ] , "in" , "[" , [ constant , { "," , constant } ] , "]" ;
    path       = key , { "." , key } ;
    key        = name | "`" , { any character but "`" | "``" } , "`" ;
    name       = ( letter | "_" ) , { letter | digit | "_" } ;
    constant   = string | number | "true" | "false" ;
    string     = '"' , { character | escape } , '"' | "'" , { character | escape } , "'" ;
    escape     = "\\" , ( '"' | "'" | "\\" | "/" | "b" | "f" | "n" | "r" | "t" | "u" , 4 * hex ) ;
    number     = [ "+" | "-" ] , digits , [ "." , digits ] , [ ( "e" | "E" ) , [ "+" | "-" ] , digits ] ;

Keywords are case-insensitive and, as a path's first key, need backquotes; field names are case-sensitive.

Meaning. A path walks nested objects; lists are transparent at every level, so a field has any number of
values. A comparison holds if any value has the constant's type and satisfies it: numbers never equal
strings, and ``true`` is not 1. ``!=`` and ``not in`` are the negation of ``=`` and ``in``, so they hold for
documents without the field. ``exists`` holds if the path leads to a value other than null (an object is a
value; an empty list has none). Strings are ordered by code point, numbers as float64.

Limits: 16 KiB of UTF-8, 1,024 clauses, 32 levels of parentheses and ``not``.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NoReturn, TypeAlias, cast

from sparsight.errors import InvalidArgumentError, InvalidFilterError

__all__ = [
    "And",
    "Comparison",
    "Constant",
    "Exists",
    "In",
    "Node",
    "Not",
    "Or",
    "Path",
    "fields",
    "matches",
    "parse",
    "path_to_string",
    "to_string",
    "validate_metadata",
    "values",
]

MAX_TEXT_BYTES: Final = 16 * 1024
MAX_DEPTH: Final = 32
MAX_CLAUSES: Final = 1024

MAX_KEY_BYTES: Final = 256
MAX_METADATA_BYTES: Final = 64 * 1024
MAX_METADATA_DEPTH: Final = 8
MAX_INTEGER: Final = 2**53  # every integer up to here is a float64

# --- the tree ---------------------------------------------------------------------------------------------

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

# --- tokens -----------------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<number>[+-]?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?!\w))
    | (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<quoted>`(?:[^`]|``)*`)
    | (?P<word>[^\W\d]\w*)
    | (?P<symbol><=|>=|!=|[=<>()\[\],.])
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "/": "/", "\\": "\\", '"': '"', "'": "'"}
_KEYWORDS = frozenset({"and", "or", "not", "in", "exists", "true", "false"})
_FOREIGN = {"==": "=", "<>": "!=", "&&": "and", "||": "or", "&": "and", "|": "or", "!": "not"}


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # "number", "string", "quoted", "word", "symbol", "end"
    text: str
    position: int

    @property
    def keyword(self) -> str:
        """The keyword or symbol that the token is, in lower case; "" for others."""
        if self.kind == "symbol":
            return self.text
        lowered = self.text.lower()
        return lowered if self.kind == "word" and lowered in _KEYWORDS else ""

    def __str__(self) -> str:
        if self.kind == "end":
            return "the end"
        return self.text if len(self.text) <= 40 else self.text[:37] + "..."


def _fail(text: str, position: int, expected: str, received: str) -> NoReturn:
    start = max(0, position - 40)
    excerpt = "".join(c if c.isprintable() else " " for c in text[start : position + 40])
    raise InvalidFilterError(
        f"expected {expected}, got {received} at offset {position}\n  {excerpt}\n  {' ' * (position - start)}^",
        field="filter", position=position, expected=expected, received=received,
    )  # fmt: skip


def _tokens(text: str) -> Iterator[_Token]:
    position = 0
    while position < len(text):
        for foreign, ours in _FOREIGN.items():
            if text.startswith(foreign, position) and not text.startswith("!=", position):
                _fail(text, position, f'"{ours}"', f'"{foreign}"')
        found = _TOKEN.match(text, position)
        if found is None:
            quote = {'"': "string", "'": "string", "`": "key"}.get(text[position])
            if quote:
                _fail(text, position, f"a closing {text[position]}", f"an unterminated {quote}")
            shown = re.match(r"[+-]?\w+|.", text[position:], re.DOTALL)
            _fail(text, position, "a field, a constant or an operator", repr(shown.group()[:40] if shown else ""))
        if found.lastgroup != "space":
            yield _Token(cast(str, found.lastgroup), found.group(), position)
        position = found.end()
    yield _Token("end", "", position)


def _unescape(text: str, token: _Token) -> str:
    def replace(escape: re.Match[str]) -> str:
        code = escape.group(1)
        if len(code) == 5:
            return chr(int(code[1:], 16))
        if code not in _ESCAPES:
            at = token.position + 1 + escape.start()
            _fail(text, at, r"one of \" \' \\ \/ \b \f \n \r \t \uXXXX", escape.group())
        return _ESCAPES[code]

    # Pairs of \u escapes are UTF-16 surrogates, as in JSON; one that is left alone is no character.
    value = _ESCAPE.sub(replace, token.text[1:-1])
    try:
        return value.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        _fail(text, token.position, "whole characters", "a lone surrogate")


# --- parser -----------------------------------------------------------------------------------------------


def parse(text: str) -> Node:
    """Syntax tree of a filter.

    Raises
    ------
    InvalidFilterError
        If the text does not parse, orders booleans, or is over a limit. The message has an excerpt with a
        caret; ``details`` hold ``position`` (offset in characters), ``expected`` and ``received``.

    Notes
    -----
    O(length). An empty text is an error here: callers take "" for "no filter".

    Examples
    --------
    >>> parse("year >= 2015")
    Comparison(path=('year',), operator='>=', constant=Constant(kind='number', value=2015.0))
    """
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        _fail(text, error.start, "whole characters", "a lone surrogate")
    if size > MAX_TEXT_BYTES:
        _fail(text, 0, f"at most {MAX_TEXT_BYTES} bytes", f"{size} bytes")
    return _Parser(text).parse()


class _Parser:
    """Recursive descent over the tokens, one method a rule of the grammar."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(_tokens(text))
        self.next = 0
        self.depth = 0
        self.clauses = 0

    @property
    def token(self) -> _Token:
        return self.tokens[self.next]

    def take(self) -> _Token:
        token = self.tokens[self.next]
        self.next += token.kind != "end"
        return token

    def accept(self, keyword: str) -> bool:
        if self.token.keyword == keyword:
            self.next += 1
            return True
        return False

    def expect(self, keyword: str, expected: str = "") -> None:
        if not self.accept(keyword):
            self.fail(expected or f'"{keyword}"')

    def fail(self, expected: str) -> NoReturn:
        _fail(self.text, self.token.position, expected, str(self.token))

    def parse(self) -> Node:
        node = self.parse_or()
        if self.token.kind != "end":
            self.fail('"and", "or" or the end')
        return node

    def parse_or(self) -> Node:
        children = [self.parse_and()]
        while self.accept("or"):
            children.append(self.parse_and())
        return children[0] if len(children) == 1 else Or(tuple(children))

    def parse_and(self) -> Node:
        children = [self.parse_not()]
        while self.accept("and"):
            children.append(self.parse_not())
        return children[0] if len(children) == 1 else And(tuple(children))

    def parse_not(self) -> Node:
        position = self.token.position
        if self.token.keyword not in ("not", "("):
            return self.parse_clause()
        self.depth += 1
        if self.depth > MAX_DEPTH:
            _fail(self.text, position, f"at most {MAX_DEPTH} nested parentheses and nots", f"{self.depth}")
        node: Node
        if self.accept("not"):
            node = Not(self.parse_not())
        else:
            self.expect("(")
            node = self.parse_or()
            self.expect(")", '")", "and" or "or"')
        self.depth -= 1
        return node

    def parse_clause(self) -> Node:
        self.clauses += 1
        if self.clauses > MAX_CLAUSES:
            _fail(self.text, self.token.position, f"at most {MAX_CLAUSES} clauses", "more")
        if self.accept("exists"):
            return Exists(self.parse_path())
        path = self.parse_path()
        negated = self.accept("not")
        if self.accept("in"):
            return In(path, self.parse_list(), negated)
        if negated:
            self.fail('"in"')
        if self.token.keyword not in ("=", "!=", "<", "<=", ">", ">="):
            self.fail('one of = != < <= > >=, "in" or "not in"')
        symbol = cast(Operator, self.take().text)
        if symbol not in ("=", "!=") and self.token.keyword in ("true", "false"):
            self.fail(f'a string or a number after "{symbol}" (booleans have no order)')
        return Comparison(path, symbol, self.parse_constant())

    def parse_path(self) -> Path:
        if self.token.keyword:
            self.fail("a field")  # a keyword as the first key needs backquotes
        keys = [self.parse_key()]
        while self.accept("."):
            keys.append(self.parse_key())
        return tuple(keys)

    def parse_key(self) -> str:
        if self.token.kind not in ("word", "quoted"):
            self.fail("a field")
        token = self.take()
        if token.kind == "word":
            return token.text
        key = token.text[1:-1].replace("``", "`")
        if not key or "\0" in key:
            _fail(self.text, token.position, "a key without NUL", token.text if key else "an empty key")
        return key

    def parse_list(self) -> tuple[Constant, ...]:
        self.expect("[")
        constants: list[Constant] = []
        if self.accept("]"):
            return ()
        while True:
            constants.append(self.parse_constant())
            if self.accept("]"):
                return tuple(constants)
            self.expect(",", '"," or "]"')

    def parse_constant(self) -> Constant:
        token = self.token
        if token.kind not in ("string", "number") and token.keyword not in ("true", "false"):
            self.fail("a string, a number, true or false")
        self.take()
        if token.kind == "string":
            return Constant("string", _unescape(self.text, token))
        if token.kind == "word":
            return Constant("boolean", token.keyword == "true")
        value = float(token.text)
        exact = math.isfinite(value)
        if exact and abs(value) >= MAX_INTEGER and token.text.lstrip("+-").isdigit():
            exact = abs(int(token.text)) == MAX_INTEGER
        if not exact:
            _fail(self.text, token.position, "a number that float64 can hold (integers: up to 2**53)", str(token))
        return Constant("number", value)


# --- meaning ----------------------------------------------------------------------------------------------

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


# --- normal form ------------------------------------------------------------------------------------------


def path_to_string(path: Path) -> str:
    """A path as it is written in a filter: ``a.b``, with backquotes where a key needs them."""
    return ".".join(
        key if re.fullmatch(r"[^\W\d]\w*", key) and key.lower() not in _KEYWORDS else f"`{key.replace('`', '``')}`"
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


# --- metadata ---------------------------------------------------------------------------------------------


def validate_metadata(metadata: Mapping[str, Any], field: str = "metadata") -> None:
    """Check a document's metadata on entry.

    Values are null, booleans, integers up to 2**53 in size, finite floats, strings, lists and objects of
    these. Keys are strings of 1 to 256 bytes without NUL. At most 8 levels of lists and objects (the
    metadata object is the first) and 64 KiB as compact JSON.

    Raises
    ------
    InvalidArgumentError
        With ``field`` naming the place, such as ``metadata["authors"][2]``.
    """
    if not isinstance(metadata, Mapping):
        raise InvalidArgumentError(f"expected an object, got {type(metadata).__name__}", field=field)
    _validate(metadata, field, 0)
    size = len(json.dumps(metadata, ensure_ascii=False, separators=(",", ":"), default=dict).encode())
    if size > MAX_METADATA_BYTES:
        raise InvalidArgumentError(f"expected at most {MAX_METADATA_BYTES} bytes of JSON, got {size}", field=field,
                                   limit=MAX_METADATA_BYTES, received=size)  # fmt: skip


def _validate(value: Any, where: str, depth: int) -> None:
    problem = ""
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        problem = "" if _encodable(value) else "a string with a lone surrogate"
    elif isinstance(value, int):
        problem = "" if abs(value) <= MAX_INTEGER else "an integer beyond 2**53"
    elif isinstance(value, float):
        problem = "" if math.isfinite(value) else f"the number {value}"
    elif isinstance(value, Mapping | list | tuple):
        if depth == MAX_METADATA_DEPTH:
            problem = f"lists and objects nested more than {MAX_METADATA_DEPTH} deep"
        elif isinstance(value, Mapping):
            for key, item in value.items():
                _validate_key(key, where)
                _validate(item, f"{where}[{json.dumps(key)}]", depth + 1)
        else:
            for i, item in enumerate(value):
                _validate(item, f"{where}[{i}]", depth + 1)
    else:
        problem = f"a value of type {type(value).__name__}"
    if problem:
        raise InvalidArgumentError(f"expected a JSON value, got {problem} at {where}", field=where, received=problem)


def _validate_key(key: object, where: str) -> None:
    if not isinstance(key, str):
        problem = f"a key of type {type(key).__name__}"
    elif not key:
        problem = "an empty key"
    elif not _encodable(key):
        problem = "a key with a lone surrogate"
    elif "\0" in key:
        problem = "a key with NUL"
    elif len(key.encode()) > MAX_KEY_BYTES:
        problem = f"a key of {len(key.encode())} bytes"
    else:
        return
    raise InvalidArgumentError(f"expected keys of 1 to {MAX_KEY_BYTES} bytes of UTF-8, got {problem} in {where}",
                               field=where, received=problem)  # fmt: skip


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
