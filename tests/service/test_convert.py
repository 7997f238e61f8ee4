"""Values become messages and come back the same; what cannot cross is refused with the path of the element."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparsight.errors import InvalidArgumentError, InvalidQueryError, InvalidVectorError
from sparsight.service import (
    convert,
    convert_collections,
    convert_documents,
    convert_features,
    convert_queries,
    convert_results,
)
from sparsight.types import (
    BM25Field,
    CollectionInfo,
    Contribution,
    DenseField,
    Document,
    Edit,
    Effort,
    Explanation,
    Feature,
    FeatureMap,
    Fusion,
    Hit,
    MapLobe,
    MapPoint,
    Movement,
    Operation,
    Overlap,
    Passage,
    PassageSpec,
    Profile,
    Query,
    Retriever,
    RetrieverScore,
    RetrieverWork,
    SAEField,
    SearchResult,
    SparseField,
    SparseVector,
    Timings,
    WriteResult,
)
from sparsight.v1 import collections_pb2, documents_pb2, features_pb2, search_pb2, vectors_pb2

WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)
SPARSE = st.dictionaries(
    st.integers(0, 2**32 - 2), st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=20
).map(SparseVector.from_dict)
DENSE = hnp.arrays(np.float32, st.integers(1, 20), elements=st.floats(width=32, allow_nan=False, allow_infinity=False))
VECTORS = st.dictionaries(WORDS, SPARSE | DENSE, max_size=3)


def plain(value: Any) -> Any:
    """``value`` with arrays as tuples, so that == compares all of it."""
    if isinstance(value, SparseVector):
        return (value.indices.dtype, value.indices.tolist(), value.values.dtype, value.values.tolist())
    if isinstance(value, np.ndarray):
        return (value.dtype, value.tolist())
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return value


# --- there and back ---------------------------------------------------------------------------------------


@given(SPARSE)
def test_sparse_round_trip(vector: SparseVector) -> None:
    message = vectors_pb2.SparseVector.FromString(convert.sparse_to_proto(vector).SerializeToString())
    assert plain(convert.sparse_from_proto(message)) == plain(vector)


@given(DENSE)
def test_dense_round_trip(vector: np.ndarray) -> None:
    message = vectors_pb2.DenseVector.FromString(convert.dense_to_proto(vector).SerializeToString())
    assert plain(convert.dense_from_proto(message)) == plain(vector)


@given(st.dictionaries(WORDS, JSON, max_size=4))
def test_metadata_round_trip(metadata: dict[str, Any]) -> None:
    assert convert.metadata_from_proto(convert.metadata_to_proto(metadata)) == metadata


def test_whole_numbers_stay_whole() -> None:
    metadata = {"a": 2**53, "b": -(2**53), "c": 0, "d": 1.5, "e": True, "f": [1, 2.5], "g": 1e300}
    back = convert.metadata_from_proto(convert.metadata_to_proto(metadata))
    assert back == metadata
    assert {key: type(value) for key, value in back.items()} == {
        "a": int,
        "b": int,
        "c": int,
        "d": float,
        "e": bool,
        "f": list,
        "g": float,
    }


@settings(max_examples=50)
@given(
    st.builds(
        Document,
        id=WORDS,
        text=WORDS,
        title=WORDS,
        metadata=st.dictionaries(WORDS, JSON, max_size=3),
        vectors=VECTORS,
        passages=st.lists(st.builds(Passage, WORDS, VECTORS), max_size=2).map(tuple),
        version=st.integers(0, 2**62),
    )
)
def test_document_round_trip(document: Document) -> None:
    message = convert_documents.document_to_proto(document)
    message = documents_pb2.Document.FromString(message.SerializeToString())
    assert plain(convert_documents.document_from_proto(message)) == plain(document)


@settings(max_examples=50)
@given(
    st.builds(
        Query,
        text=WORDS,
        retrievers=st.lists(
            st.builds(Retriever, WORDS, st.just(""))
            | st.builds(Retriever, WORDS, sparse=SPARSE)
            | st.builds(
                Retriever,
                WORDS,
                dense=DENSE,
                weight=st.floats(allow_nan=False),
                scorer=st.sampled_from(["", "decode", "symmetric"]),
                max_query_terms=st.none() | st.integers(-(2**63), 2**63 - 1),
                rerank=st.integers(-(2**63), 2**63 - 1),
            ),
            max_size=3,
        ).map(tuple),
        filter=WORDS,
        edits=st.lists(
            st.builds(
                Edit,
                st.integers(-5, 2**40),
                st.sampled_from(["boost", "suppress", "set", "require", "exclude"]),
                st.floats(allow_nan=False),
                WORDS,
            ),
            max_size=3,
        ).map(tuple),
        fusion=st.builds(Fusion, st.sampled_from(["convex", "rrf"]), st.integers(-1, 100), st.integers(-1, 100)),
        k=st.integers(-(2**63), 2**63 - 1),
        min_score=st.none() | st.floats(allow_nan=False),
        explain=st.booleans(),
        include=st.lists(st.sampled_from(["title", "text", "metadata", "passage", "vectors"])).map(tuple),
        effort=st.builds(
            Effort, st.floats(allow_nan=False), st.floats(allow_nan=False), st.integers(-(2**63), 2**63 - 1)
        ),
        overlaps=st.lists(
            st.builds(
                Overlap,
                st.lists(st.integers(-5, 2**40), max_size=3).map(tuple),
                st.integers(-(2**63), 2**63 - 1),
                st.floats(allow_nan=False),
                WORDS,
            ),
            max_size=3,
        ).map(tuple),
    )
)
def test_query_round_trip(query: Query) -> None:
    message = search_pb2.Query.FromString(convert_queries.query_to_proto(query).SerializeToString())
    assert plain(convert_queries.query_from_proto(message)) == plain(query)


def test_an_empty_query_message_is_the_default_query() -> None:
    assert convert_queries.query_from_proto(search_pb2.Query()) == Query()
    bare = search_pb2.Query(
        retrievers=[search_pb2.Retriever(field="a")],
        edits=[search_pb2.Edit(feature=3)],
        effort=search_pb2.Effort(documents=5),
        overlaps=[search_pb2.Overlap(features=[3])],
    )
    assert convert_queries.query_from_proto(bare) == Query(
        retrievers=(Retriever("a"),), edits=(Edit(3),), effort=Effort(documents=5), overlaps=(Overlap((3,)),)
    )


def test_names_stand_for_retrievers() -> None:
    message = convert_queries.query_to_proto(Query(retrievers=["a", Retriever("b")]))
    assert convert_queries.query_from_proto(message).retrievers == (Retriever("a"), Retriever("b"))


def test_no_included_part_differs_from_the_default() -> None:
    assert convert_queries.query_from_proto(convert_queries.query_to_proto(Query(include=()))).include == ()
    assert convert_documents.include_from_proto(documents_pb2.GetDocumentRequest()) == ("title", "text", "metadata")


def test_result_round_trip() -> None:
    parts = tuple(Contribution(i, f"word {i}", 0.1 * i, 2.0, 0.2 * i) for i in range(3))
    hit = Hit(
        "a/b",
        1 / 3,
        1,
        2,
        "title",
        "text",
        "passage",
        {"year": 2015},
        {"terms": SparseVector.from_dict({1: 0.5}), "vec": np.arange(3, dtype=np.float32)},
        Explanation(
            (RetrieverScore("terms", 0.7, 1, 0.3, 2, parts, 0.01, -0.2), RetrieverScore("vec", 2.0, 0, 0.0, -1)),
            Movement(14, 1, 0.2, 1 / 3, parts),
        ),
        7,
    )
    work = (RetrieverWork("terms", "cut", 3, 400, 50, 6, 7), RetrieverWork("vec", "approximate"), RetrieverWork("bm25"))
    result = SearchResult((hit, Hit("c", 0.0, 2)), 42, False, Timings(1.5, 2.5, 0.25, 5.0), ("careful",), work)
    message = search_pb2.SearchResult.FromString(convert_results.result_to_proto(result).SerializeToString())
    back = convert_results.result_from_proto(message, total_ms=9.0)
    assert back.timings == Timings(1.5, 2.5, 0.25, 5.0, 9.0)
    assert plain(back.hits) == plain(result.hits)
    assert (back.generation, back.exact, back.warnings, back.work) == (42, False, ("careful",), work)


def test_a_mode_that_is_not_known_promises_nothing() -> None:
    message = search_pb2.SearchResult(work=[search_pb2.RetrieverWork(field="a", mode=9)])
    assert convert_results.result_from_proto(message).work == (RetrieverWork("a", "approximate"),)


@pytest.mark.parametrize(
    "field",
    [
        SparseField("a"),
        SparseField("a", "enc", 30522, 3.5, 100, 10),
        BM25Field(),
        BM25Field("b", 0.0, 0.0, "none"),
        DenseField("c", "", 8, "hnsw"),
        DenseField(),
        SAEField(),
        SAEField("s", "c", "m", "symmetric", 0),
        SAEField("s", weighting="idf", k1=0.0),
        SAEField("s", weighting="bm25", k1=0.9),
    ],
)
def test_field_round_trip(field) -> None:
    message = collections_pb2.Field.FromString(convert_collections.field_to_proto(field).SerializeToString())
    assert convert_collections.field_from_proto(message) == field


@pytest.mark.parametrize("spec", [PassageSpec(), PassageSpec(64, 0, 1)])
def test_info_round_trip(spec: PassageSpec) -> None:
    info = CollectionInfo(
        "papers",
        (SparseField("a", dimension=9), BM25Field()),
        spec,
        1,
        2,
        3,
        4,
        5,
        6,
        {"a": "ff"},
        {"a": 7},
        "2026-01-01T00:00:00Z",
    )
    assert convert_collections.info_from_proto(convert_collections.info_to_proto(info)) == info


def test_absent_passages_are_the_defaults() -> None:
    assert convert_collections.passages_from_proto(collections_pb2.PassageSpec()) == PassageSpec()


@pytest.mark.parametrize(
    "operation",
    [
        Operation("operations/a", "compact", False, 0.25, "merging"),
        Operation("operations/a", "compact", True, 1.0, "", "", {"segments": 1, "loss": 0.5, "names": ["x"]}),
        Operation("operations/a", "train_sae", True, 0.5, "", "no vectors"),
    ],
)
def test_operation_round_trip(operation: Operation) -> None:
    assert convert_collections.operation_from_proto(convert_collections.operation_to_proto(operation)) == operation


def test_profiles_and_conditions_round_trip() -> None:
    edits = (Edit(0, "clamp", 0.0, "sae", when=0, when_strength=0.25), Edit(3, "require", 1.5, "sae"))
    profile = Profile("market", 3, edits, "up with markets", 1764287411.25)
    assert convert_features.profile_from_proto(convert_features.profile_to_proto(profile, "papers")) == profile
    query = Query("x", edits=edits, profile="market@3")
    assert convert_queries.query_from_proto(convert_queries.query_to_proto(query)).edits == edits
    assert convert_queries.query_from_proto(convert_queries.query_to_proto(query)).profile == "market@3"


def test_feature_and_write_round_trip() -> None:
    feature = Feature(12, "sparse codes", 0.01, 0.5, ("one", "two"), "sae")
    message = convert_features.feature_to_proto(feature, "papers")
    assert message.name == "collections/papers/fields/sae/features/12"
    assert convert_features.feature_from_proto(message) == feature
    points = (MapPoint(0, -1.0, 0.5, 0, "a, b", 0.25), MapPoint(7, 0.0, 0.0, -1))
    drawn = FeatureMap(points, (MapLobe("a", 1),), "codes")
    assert convert_features.map_from_proto(convert_features.map_to_proto(drawn)) == drawn
    assert convert_features.map_from_proto(features_pb2.GetFeatureMapResponse(field="sae")) == FeatureMap((), ())
    written = WriteResult(1, 2, 3, 4, 5, 6)
    assert convert_documents.write_from_proto(convert_documents.write_to_proto(written)) == written


def test_absent_options_of_an_sae_field_are_the_defaults() -> None:
    assert SAEField(**convert_collections.sae_options_from_proto(collections_pb2.SaeField())) == SAEField()
    assert SAEField(**convert_collections.sae_options_from_proto(features_pb2.TrainSaeRequest())) == SAEField()
    zero = features_pb2.TrainSaeRequest(max_query_terms=0, k1=0)
    assert SAEField(**convert_collections.sae_options_from_proto(zero)) == SAEField(max_query_terms=0, k1=0.0)


# --- what cannot cross ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("indices", "path"),
    [
        ([1, -1], "v.indices[1]"),
        ([2**32 - 1], "v.indices[0]"),
        ([0, 2**40], "v.indices[1]"),
        ([0.5], "v.indices"),
        (["a"], "v.indices"),
        ([[1]], "v.indices"),
        ([math.nan], "v.indices"),
        ([math.inf], "v.indices[0]"),
        ([1e300], "v.indices[0]"),
    ],
)
def test_indices_that_are_none(indices: list, path: str) -> None:
    with pytest.raises(InvalidVectorError) as caught:
        convert.sparse_to_proto(SparseVector(indices, [1.0] * len(indices)), "v")
    assert caught.value.field == path


def test_mappings_and_lists_are_vectors_too() -> None:
    made = convert.vectors_to_proto({"a": {3: 1.5}, "b": [1, 2]}, "vectors")  # type: ignore[dict-item]
    assert list(made["a"].sparse.indices) == [3] and list(made["b"].dense.values) == [1.0, 2.0]


@pytest.mark.parametrize("values", [["a"], [[1.0]], [None], "abc", object()])
def test_values_that_are_none(values: Any) -> None:
    with pytest.raises(InvalidVectorError) as caught:
        convert.dense_to_proto(values, "retrievers[0].dense")
    assert caught.value.field == "retrievers[0].dense"


def test_a_vector_of_no_kind() -> None:
    with pytest.raises(InvalidVectorError) as caught:
        convert.vectors_from_proto({"a": vectors_pb2.Vector()}, "documents[3].vectors")
    assert caught.value.field == 'documents[3].vectors["a"]'


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (2**53 + 1, ""),
        (-(2**53) - 1, ""),
        (math.nan, ""),
        (math.inf, ""),
        ([1, math.nan], "[1]"),
        ({"x": [object()]}, '["x"][0]'),
        (b"bytes", ""),
        ({1: 2}, ""),
        ("\ud800", ""),
        ({"\ud800": 1}, ""),
        ({1, 2}, ""),
    ],
)
def test_metadata_that_is_no_json(value: Any, place: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        convert.metadata_to_proto({"m": value}, "metadata")
    assert caught.value.field == f'metadata["m"]{place}'


def test_metadata_nested_too_deeply() -> None:
    with pytest.raises(InvalidArgumentError):
        convert.metadata_to_proto(nested(50))
    convert.metadata_to_proto(nested(15))


def test_numpy_scalars_are_numbers() -> None:
    metadata = {"a": np.int64(3), "b": np.float32(0.5), "c": np.bool_(True)}
    assert convert.metadata_from_proto(convert.metadata_to_proto(metadata)) == {"a": 3, "b": 0.5, "c": True}


@pytest.mark.parametrize(
    ("query", "path"),
    [
        (Query(text="\ud800"), "text"),
        (Query(filter=3), "filter"),
        (Query(k="ten"), "k"),
        (Query(k=2**63), "k"),
        (Query(k=True), "k"),
        (Query(k=1.5), "k"),
        (Query(min_score="high"), "min_score"),
        (Query(fusion=Fusion("best")), "fusion.method"),
        (Query(fusion=Fusion(depth=2**70)), "fusion.depth"),
        (Query(edits=[Edit(1, "explode")]), "edits[0].op"),
        (Query(edits=["x"]), "edits[0]"),
        (Query(edits=[Edit(1), Edit(0.5)]), "edits[1].feature"),
        (Query(edits=[Edit(1, strength=None)]), "edits[0].strength"),
        (Query(edits=[Edit(1, when="x")]), "edits[0].when"),
        (Query(profile=3), "profile"),
        (Query(retrievers=[3]), "retrievers[0]"),
        (Query(retrievers=[Retriever("a", weight="x")]), "retrievers[0].weight"),
        (Query(include=("title", "all")), "include"),
    ],
)
def test_queries_that_cannot_be_sent(query: Query, path: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        convert_queries.query_to_proto(query)
    assert caught.value.field == path


def test_two_contents_in_one_retriever() -> None:
    message = search_pb2.Query(
        retrievers=[search_pb2.Retriever(field="a", text="x", dense=vectors_pb2.DenseVector(values=[1.0]))]
    )
    with pytest.raises(InvalidQueryError) as caught:
        convert_queries.query_from_proto(message, "queries[2].")
    assert caught.value.field == "queries[2].retrievers[0]"


@pytest.mark.parametrize(
    "resource",
    [
        "",
        "papers",
        "collections/",
        "collections/Papers",
        "collections/../etc",
        "collections/a/b",
        "collections/a\n",
        "collections/%70apers",
        "/collections/a",
        "collections/" + "a" * 64,
        "collections/-a",
        "collections/ä",
    ],
)
def test_resource_names_that_are_none(resource: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        convert_collections.collection_name(resource)
    assert caught.value.field == "parent"


def test_resource_names() -> None:
    assert convert_collections.collection_name("collections/a-b_9") == "a-b_9"
    assert convert_collections.field_name("collections/a/fields/-") == ("a", "")
    assert convert_collections.feature_name("collections/a/fields/sae/features/12") == ("a", "sae", 12)
