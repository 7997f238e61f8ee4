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

from sparsight.index.filters.meaning import fields, matches, values
from sparsight.index.filters.normal_form import path_to_string, to_string
from sparsight.index.filters.parser import parse
from sparsight.index.filters.tree import And, Comparison, Constant, Exists, In, Node, Not, Operator, Or, Path

__all__ = [
    "And",
    "Comparison",
    "Constant",
    "Exists",
    "In",
    "Node",
    "Not",
    "Operator",
    "Or",
    "Path",
    "fields",
    "matches",
    "parse",
    "path_to_string",
    "to_string",
    "values",
]
