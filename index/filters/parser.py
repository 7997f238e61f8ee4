"""From a filter's text to its tree: tokens, then recursive descent. The grammar is in the package's docstring."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NoReturn, cast

from sparsight.errors import InvalidFilterError
from sparsight.index.filters.tree import (
    MAX_INTEGER,
    And,
    Comparison,
    Constant,
    Exists,
    In,
    Node,
    Not,
    Operator,
    Or,
    Path,
)

__all__ = ["parse"]


MAX_TEXT_BYTES: Final = 16 * 1024
MAX_DEPTH: Final = 32
MAX_CLAUSES: Final = 1024


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
KEYWORDS = frozenset({"and", "or", "not", "in", "exists", "true", "false"})
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
        return lowered if self.kind == "word" and lowered in KEYWORDS else ""

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
