"""What the web page can ask for: one row in :data:`ENDPOINTS` per question, one function per answer.

A function gets the database and a :class:`WebCall`, and gives plain values. Checks, errors, threads and limits are the
same for all rows and stand elsewhere; a new endpoint is a function here and its row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from sparsight import __version__
from sparsight.kernels import CancelFlag
from sparsight.service.web_arguments import Arguments
from sparsight.types import (
    BM25Field,
    CollectionInfo,
    Contribution,
    DenseField,
    Edit,
    Feature,
    Field,
    Hit,
    Movement,
    Query,
    RetrieverScore,
    SAEField,
    SparseField,
)

if TYPE_CHECKING:
    from sparsight.retrieval.engine import Collection, Database

__all__ = ["ENDPOINTS", "MAX_K", "SEARCH_TIMEOUT_S", "WebCall", "WebEndpoint"]

MAX_K = 100
"""Hits of one search: each is explained, and more than that nobody reads on a page."""

SEARCH_TIMEOUT_S = 30.0
MAX_PAGE = 200

_MAX_CONTRIBUTIONS = 24
_MAX_PASSAGE = 2_000
_MAX_TITLE = 500
_MAX_FAMILIES, _MAX_CHILDREN = 3, 8  # of a feature that are shown
_EXAMPLE_STEP = 0.4  # length of the step towards examples that their features are offered at
_MAX_WORDS = 20  # marked in a passage for a feature


@dataclass(slots=True)
class WebCall:
    """One request: the parts of its path by name, its arguments, and the flag that is set when nobody waits for it."""

    path: Mapping[str, str]
    arguments: Arguments
    cancel: CancelFlag


@dataclass(frozen=True, slots=True)
class WebEndpoint:
    """A question: how it is asked, its class of limits (:mod:`sparsight.service.limits`), and what answers it."""

    method: Literal["GET", "POST"]
    path: str
    kind: str
    work: Callable[[Database, WebCall], Mapping[str, Any]]


# --- collections ------------------------------------------------------------------------------------------


def list_collections(database: Database, call: WebCall) -> Mapping[str, Any]:
    """All collections with their fields."""
    call.arguments.end()
    return {"version": __version__, "collections": [_collection(info) for info in database.list_collections()]}


def _collection(info: CollectionInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "documents": info.documents,
        "passages": info.passage_count,
        "fields": [{"name": spec.name, "kind": spec.kind, "takes_text": _takes_text(spec, info)}
                   for spec in info.fields],
        "feature_fields": [spec.name for spec in info.fields if isinstance(spec, SAEField)],
    }


def _takes_text(spec: Field, info: CollectionInfo) -> bool:
    """Whether a query's text can be searched for in a field: words count themselves, vectors need an encoder."""
    if isinstance(spec, SAEField):
        return any(other.name == spec.source and _takes_text(other, info) for other in info.fields)
    return isinstance(spec, BM25Field) or (isinstance(spec, SparseField | DenseField) and bool(spec.encoder))


# --- search -----------------------------------------------------------------------------------------------


def search(database: Database, call: WebCall) -> Mapping[str, Any]:
    """Hits of a query, explained and steered."""
    collection, asked = _collection_of(database, call), call.arguments
    query = Query(
        text=asked.text("text"),
        retrievers=asked.texts("fields"),
        filter=asked.text("filter"),
        edits=[_edit(item) for item in asked.objects("edits")],
        profile=asked.text("profile"),
        k=asked.integer("k", 10, least=1, most=MAX_K),
        explain=asked.flag("explain", True),
        include=("title", "metadata", "passage"),
    )
    asked.end()
    result = collection.search(query, timeout=SEARCH_TIMEOUT_S, cancel=call.cancel)
    origins = _feature_origins(collection.info().fields) if query.explain else {}
    return {
        "hits": [_hit(hit, origins) for hit in result.hits],
        "steered": any(hit.explanation is not None and hit.explanation.movement is not None for hit in result.hits),
        "exact": result.exact,
        "warnings": list(result.warnings),
        "milliseconds": round(result.timings.server_ms, 3),
    }


def _edit(item: Arguments) -> Edit:
    # Its operation and its range are the engine's to judge, with the path that it gives.
    operation = cast(Literal["boost", "suppress", "set", "clamp", "require", "exclude"], item.text("op", "boost"))
    return Edit(item.integer("feature"), operation, item.number("strength", 1.0), item.text("field"))


def _feature_origins(fields: Sequence[Field]) -> dict[str, str]:
    """The SAE field whose features the contributions of a retriever are, by the retriever's field.

    A dense field is explained by the first SAE field over it, as the engine does.
    """
    origins: dict[str, str] = {}
    for spec in fields:
        if isinstance(spec, SAEField):
            origins[spec.name] = spec.name
            origins.setdefault(spec.source, spec.name)
    return origins


def _hit(hit: Hit, origins: Mapping[str, str]) -> dict[str, Any]:
    explanation = hit.explanation
    return {
        "id": hit.id,
        "rank": hit.rank,
        "score": hit.score,
        "title": _cut(hit.title, _MAX_TITLE),
        "passage": _cut(hit.passage_text, _MAX_PASSAGE),
        "passage_number": hit.passage,
        "metadata": hit.metadata,
        "retrievers": [_retriever(part, origins) for part in explanation.retrievers] if explanation else [],
        "movement": _movement(explanation.movement) if explanation and explanation.movement else None,
    }


def _retriever(part: RetrieverScore, origins: Mapping[str, str]) -> dict[str, Any]:
    listed, omitted = part.contributions[:_MAX_CONTRIBUTIONS], part.contributions[_MAX_CONTRIBUTIONS:]
    return {
        "field": part.field,
        "feature_field": origins.get(part.field, ""),  # "": the contributions are of words
        "score": part.score,
        "rank": part.rank or None,
        "share": part.share,
        "contributions": [_contribution(item) for item in listed],
        "rest": part.rest + part.dense + sum(item.score for item in omitted),
    }


def _contribution(item: Contribution) -> dict[str, Any]:
    return {"index": item.index, "label": item.label, "score": item.score}


def _movement(movement: Movement) -> dict[str, Any]:
    known = movement.rank_before > 0 or movement.score_before != 0.0  # of several retrievers, ranks beyond have none
    return {
        "rank_before": movement.rank_before or None,
        "rank_after": movement.rank_after,
        "score_before": movement.score_before if known else None,
        "score_after": movement.score_after,
        "by_feature": [_contribution(item) for item in movement.by_feature],
    }


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


# --- features ---------------------------------------------------------------------------------------------


def find_features(database: Database, call: WebCall) -> Mapping[str, Any]:
    """A page of features: the best matches for some words, or the most frequent ones."""
    collection, asked = _collection_of(database, call), call.arguments
    words, field, token = asked.text("words"), asked.text("field"), asked.text("page")
    size = asked.integer("size", 20, least=1, most=MAX_PAGE)
    asked.end()
    page = collection.features(words, field=field, page_size=size, page_token=token)
    cosines = page.cosines or [None] * len(page.features)
    return {"features": [{**_feature(item), "cosine": cosine}
                         for item, cosine in zip(page.features, cosines, strict=True)],
            "next_page": page.next_page_token}


def get_feature(database: Database, call: WebCall) -> Mapping[str, Any]:
    """One feature with how good its label is, how it fires, and titles of the documents it is strongest on."""
    collection, asked = _collection_of(database, call), call.arguments
    index = Arguments(call.path, from_text=True).integer("feature")
    field = asked.text("field")
    asked.end()
    feature = collection.feature(index, field=field)
    documents = collection.get_many(feature.examples, include=("title",))
    return {**_feature(feature), "label_source": feature.label_source,
            "detection": feature.quality.detection if feature.quality else None,
            "histogram": list(feature.histogram), "stability": feature.stability,
            "examples": [{"id": item.id, "title": _cut(item.title, _MAX_TITLE)} for item in documents]}


def feature_families(database: Database, call: WebCall) -> Mapping[str, Any]:
    """The families that a feature is in. The first question of a collection takes some seconds."""
    collection, asked = _collection_of(database, call), call.arguments
    index = Arguments(call.path, from_text=True).integer("feature")
    field = asked.text("field")
    asked.end()
    return {"families": [{"parent": _feature(family.parent),
                          "children": [_feature(child) for child in family.children[:_MAX_CHILDREN]],
                          "more": max(len(family.children) - _MAX_CHILDREN, 0)}
                         for family in collection.families(index, field=field, count=_MAX_FAMILIES)]}


def features_from_examples(database: Database, call: WebCall) -> Mapping[str, Any]:
    """Features that tell some documents from others, or that words describe, each with its strength in a step there."""
    collection, asked = _collection_of(database, call), call.arguments
    positives, negatives, field = asked.texts("positives"), asked.texts("negatives"), asked.text("field")
    words, count = asked.text("words"), asked.integer("count", 12, least=1, most=MAX_PAGE)
    asked.end()
    found = collection.find_features(positives, negatives, words=words, field=field, count=count)
    return {"features": [{**_feature(item.feature), "share": item.share, "strength": item.edit(_EXAMPLE_STEP).strength}
                         for item in found]}


def feature_map(database: Database, call: WebCall) -> Mapping[str, Any]:
    """All features as points of a map. The first question of a collection takes some seconds."""
    collection, asked = _collection_of(database, call), call.arguments
    field = asked.text("field")
    asked.end()
    found = collection.feature_map(field=field)
    return {"field": found.field,
            "lobes": [{"label": lobe.label, "size": lobe.size} for lobe in found.lobes],
            "points": [{"index": point.index, "x": round(point.x, 4), "y": round(point.y, 4), "lobe": point.lobe,
                        "label": point.label, "density": point.density} for point in found.points]}


def feature_words(database: Database, call: WebCall) -> Mapping[str, Any]:
    """Which words of a hit's passage fired a feature: places in the passage, the most telling first."""
    collection, asked = _collection_of(database, call), call.arguments
    id, index, field = asked.text("id"), asked.integer("feature"), asked.text("field")
    passage = asked.integer("passage", 0)
    asked.end()
    (told,) = collection.words(id, [index], passage=passage, field=field, count=_MAX_WORDS)
    return {"words": [{"start": word.start - told.begins, "end": word.end - told.begins, "share": word.share}
                      for word in told.words if word.start >= told.begins]}  # not those of the title


def _feature(feature: Feature) -> dict[str, Any]:
    return {"index": feature.index, "label": feature.label, "density": feature.density, "scale": feature.scale,
            "field": feature.field}


# --- profiles ---------------------------------------------------------------------------------------------


def list_profiles(database: Database, call: WebCall) -> Mapping[str, Any]:
    """The saved profiles, by name."""
    collection = _collection_of(database, call)
    call.arguments.end()
    return {"profiles": [{"name": item.name, "version": item.version, "note": _cut(item.note, _MAX_TITLE),
                          "edits": len(item.edits)} for item in collection.profiles()]}


def _collection_of(database: Database, call: WebCall) -> Collection:
    return database.collection(call.path["collection"])


ENDPOINTS: tuple[WebEndpoint, ...] = (
    WebEndpoint("GET", "/api/collections", "read", list_collections),
    WebEndpoint("POST", "/api/collections/{collection}/search", "search", search),
    WebEndpoint("GET", "/api/collections/{collection}/features", "read", find_features),
    WebEndpoint("GET", "/api/collections/{collection}/features/{feature}", "read", get_feature),
    WebEndpoint("GET", "/api/collections/{collection}/features/{feature}/families", "encode", feature_families),
    WebEndpoint("POST", "/api/collections/{collection}/examples", "encode", features_from_examples),
    WebEndpoint("GET", "/api/collections/{collection}/profiles", "read", list_profiles),
    WebEndpoint("GET", "/api/collections/{collection}/map", "encode", feature_map),
    WebEndpoint("GET", "/api/collections/{collection}/words", "encode", feature_words),
)
