"""``sparsight search`` and ``sparsight features``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer
from rich.markup import escape

from sparsight.errors import InvalidQueryError, UnknownFeatureError
from sparsight.service.commands.common import (
    CollectionOption,
    DataOption,
    JsonOption,
    Output,
    ServerOption,
    open_collection,
    open_store,
)
from sparsight.service.commands.rendering import print_features, print_hits
from sparsight.types import Edit, Effort, Feature, Fusion, Query, Retriever

if TYPE_CHECKING:
    from sparsight.service.commands.common import AnyCollection

__all__ = ["features", "find_feature", "parse_retriever", "search"]

_EDITS = "FEATURE[:STRENGTH]; a feature is a number, or words that its name is found by."
_PAGE = 100

Op = Literal["boost", "suppress", "set", "require", "exclude"]


def search(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What to look for.")],
    collection: CollectionOption = "",
    data: DataOption = "",
    server: ServerOption = "",
    k: Annotated[int, typer.Option("-k", "--k", min=1, max=10_000, help="Hits wanted.")] = 10,
    field: Annotated[list[str] | None, typer.Option("--field", "-f", metavar="FIELD[:WEIGHT][;OPTION=VALUE]", help=(
        "Field to search (again for more); all text fields when left out. SAE fields take scorer=decode|symmetric, "
        "max_query_terms=N, rescore=N and rerank=N."))] = None,
    fusion: Annotated[str, typer.Option(metavar="convex|rrf", help="How several fields become one score.")] = "convex",
    filter: Annotated[str, typer.Option(metavar="EXPRESSION", help='Over metadata: year >= 2015 and cat in '
                                        '["cs.CL"].')] = "",
    boost: Annotated[list[str] | None, typer.Option(metavar="FEATURE", help=f"Steer towards. {_EDITS}")] = None,
    suppress: Annotated[list[str] | None, typer.Option(metavar="FEATURE", help="Steer away.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="FEATURE", help="Replace its activation.")] = None,
    require: Annotated[list[str] | None, typer.Option(metavar="FEATURE", help="Only documents that have it.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(metavar="FEATURE", help="Only documents without it.")] = None,
    recall: Annotated[float, typer.Option(metavar="SHARE", help="Share of the exact hits to find on average, above "
                                          "0.5; 1 is exact.")] = 1.0,
    seconds: Annotated[float, typer.Option(metavar="SECONDS", help="Time budget of each field's scan; 0 is "
                                           "none.")] = 0.0,
    documents: Annotated[int, typer.Option(metavar="COUNT", help="Budget of documents to score with all terms; 0 is "
                                           "none.")] = 0,
    explain: Annotated[bool, typer.Option("--explain", help="Show what every score is made of.")] = False,
    timeout: Annotated[float, typer.Option(min=0.0, help="Seconds; 0 is no limit.")] = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Search a collection."""
    if fusion not in ("convex", "rrf"):
        raise InvalidQueryError(f"expected convex or rrf, got {fusion!r}", field="fusion.method", fusion=fusion)
    with Output.of(as_json) as output, open_store(data, server) as store:
        target = open_collection(store, collection)
        wanted = {"boost": boost, "suppress": suppress, "set": set_, "require": require, "exclude": exclude}
        edits = [_edit(target, cast(Op, op), text, output) for op, texts in wanted.items() for text in texts or ()]
        result = target.search(Query(
            text=query, retrievers=[parse_retriever(text) for text in field or ()], filter=filter, edits=edits,
            fusion=Fusion(cast(Literal["convex", "rrf"], fusion)), k=k, explain=explain or bool(edits),
            effort=Effort(recall, seconds, documents),
        ), timeout=timeout or None)
        output.result({"collection": target.name, "query": query, "edits": edits, "hits": result.hits,
                       "generation": result.generation, "exact": result.exact, "timings": result.timings,
                       "work": result.work, "warnings": result.warnings})
        if not as_json:
            print_hits(output.console, result, explain=explain)


def parse_retriever(text: str) -> Retriever:
    """Retriever of a text like ``sae``, ``sae:0.5`` or ``sae:0.5;scorer=symmetric;rerank=100``.

    Raises
    ------
    InvalidQueryError
        If it is of another form, or an option is unknown or no number where one is needed.
    """
    head, *options = (part.strip() for part in text.split(";"))
    name, _, weight = (part.strip() for part in head.partition(":"))
    kinds: dict[str, type[Any]] = {"scorer": str, "max_query_terms": int, "rescore": int, "rerank": int}
    arguments: dict[str, Any] = {}
    try:
        for option in options:
            key, _, value = (part.strip() for part in option.partition("="))
            arguments[key] = kinds[key](value)
        return Retriever(name, weight=float(weight or 1.0), **arguments)
    except (KeyError, ValueError):
        raise InvalidQueryError(f"expected FIELD, FIELD:WEIGHT or FIELD:WEIGHT;option=value with the options "
                                f"{', '.join(kinds)}, got {text!r}", field="field", value=text) from None


def _edit(collection: AnyCollection, op: Op, text: str, output: Output) -> Edit:
    words, colon, strength = text.rpartition(":")
    if not colon:
        words, strength = text, "0" if op in ("require", "exclude") else "1"
    try:
        amount = float(strength)
    except ValueError:
        raise InvalidQueryError(f"expected FEATURE or FEATURE:STRENGTH, got {text!r}", field=op, value=text) from None
    if words.strip().isdecimal():
        return Edit(int(words), op, amount)
    feature = find_feature(collection, words)
    output.notes.print(f"{op} feature {feature.index}: {escape(feature.label)}")
    return Edit(feature.index, op, amount, feature.field)


def find_feature(collection: AnyCollection, words: str) -> Feature:
    """The feature that the words name best.

    Raises
    ------
    UnknownFeatureError
        If no feature's name has anything to do with them.
    """
    found = collection.features(words, page_size=1).features
    if not found:
        raise UnknownFeatureError(f"no feature is found by {words!r}", words=words)
    return found[0]


def features(
    words: Annotated[str, typer.Argument(metavar="[WORDS]", help="Words to find features by; all when left "
                                         "out.")] = "",
    collection: CollectionOption = "",
    data: DataOption = "",
    server: ServerOption = "",
    field: Annotated[str, typer.Option(metavar="FIELD", help="SAE field, when there are several.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Features to show.")] = 20,
    number: Annotated[int, typer.Option("--feature", metavar="NUMBER", min=-1, help="Show this feature and its "
                                        "examples.", show_default=False)] = -1,
    as_json: JsonOption = False,
) -> None:
    """List the features of a collection, or find them by words."""
    with Output.of(as_json) as output, open_store(data, server) as store:
        target = open_collection(store, collection)
        found, cosines = (([target.feature(number, field=field)], []) if number >= 0
                          else _features(target, words, field, limit))
        output.result({"collection": target.name, "words": words, "features": found, "cosines": cosines})
        if not as_json:
            print_features(output.console, found, cosines, examples=number >= 0)
            if not found:
                output.console.print("no features found")


def _features(collection: AnyCollection, words: str, field: str, limit: int) -> tuple[list[Feature], list[float]]:
    """Features, and the cosine of each with the words, where there are words and they have an embedding."""
    found: list[Feature] = []
    cosines: list[float] = []
    token = ""
    while len(found) < limit:
        page = collection.features(words, field=field, page_size=min(limit - len(found), _PAGE), page_token=token)
        found += page.features
        cosines += page.cosines
        token = page.next_page_token
        if not token:
            break
    return found, cosines
