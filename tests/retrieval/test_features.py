from __future__ import annotations

import numpy as np
import pytest

from sparsight.errors import InvalidArgumentError, InvalidQueryError, UnknownDocumentError, UnknownFeatureError
from sparsight.retrieval import Collection
from sparsight.types import Query, Retriever


def _of_topic(things: Collection, topic: str, count: int, skip: int = 0) -> list[str]:
    documents = things.scroll(f'topic = "{topic}"', page_size=1000).documents
    return [document.id for document in documents[skip:skip + count]]


def test_features_from_examples_bring_their_topic_up(things: Collection, dense_of: np.ndarray) -> None:
    positives, others = _of_topic(things, "market", 5), _of_topic(things, "galaxy", 5)
    found = things.find_features(positives, others, count=8)
    assert 1 <= len(found) <= 8 and all(item.weight > 0 for item in found)
    assert {item.feature.field for item in found} == {"sae"} and max(item.share for item in found) > 0.3
    edits = [item.edit(2.0) for item in found]
    for field in ("vec", "sae"):
        hits = things.search(Query(retrievers=[Retriever(field, dense=dense_of)], edits=edits, k=10))
        assert all(hit.metadata["topic"] == "market" for hit in hits)
    assert things.find_features(positives, count=1)[0].feature.index in {item.feature.index for item in found}


def test_a_step_has_the_length_that_is_asked_for(things: Collection, dense_of: np.ndarray) -> None:
    """Edits of weight ``step`` move the dense query by ``step``: what a hit gains is at most that."""
    found = things.find_features(_of_topic(things, "protein", 5), count=16)
    plain, steered = (
        things.search(Query(retrievers=[Retriever("vec", dense=dense_of)], edits=edits, k=200, min_score=-9.0))
        for edits in ((), [item.edit(0.5) for item in found]))
    before = {hit.id: hit.score for hit in plain}
    gains = [hit.score - before[hit.id] for hit in steered]
    assert len(gains) == 200 and 0.4 < max(gains) <= 0.5 + 1e-6 and min(gains) >= -0.5 - 1e-6


def test_what_is_wrong_with_examples_is_named(things: Collection) -> None:
    with pytest.raises(InvalidArgumentError, match="at least one positive") as none:
        things.find_features([], ["doc-1"])
    assert none.value.field == "positives"
    with pytest.raises(UnknownDocumentError) as unknown:
        things.find_features(["doc-0", "no such"])
    assert unknown.value.field == "positives[1]"
    with pytest.raises(InvalidArgumentError, match="got a string"):
        things.find_features("doc-0")
    with pytest.raises(InvalidArgumentError, match="1,001"):
        things.find_features(["doc-0"] * 1001)
    with pytest.raises(InvalidArgumentError, match="count is 1 to 256"):
        things.find_features(["doc-0"], count=257)
    with pytest.raises(InvalidQueryError, match="has no features"):
        things.find_features(["doc-0"], field="vec")
    with pytest.raises(LookupError):
        things.find_features(["doc-0"], field="none")


def test_related_features_are_by_cosine(things: Collection) -> None:
    some = things.features(page_size=5).features[0]
    found = things.related_features(some.index, count=256)
    near, far = ([item.weight for item in of] for of in (found.nearest, found.opposite))
    assert near == sorted(near, reverse=True) and far == sorted(far) and min(near) > 0 > max(far)
    indices = [item.feature.index for item in (*found.nearest, *found.opposite)]
    assert some.index not in indices and len(set(indices)) == len(indices)
    back = things.related_features(found.nearest[0].feature.index, count=256)
    assert {item.feature.index: item.weight for item in back.nearest}[some.index] == pytest.approx(near[0])
    assert len(things.related_features(some.index, count=2).nearest) == 2
    with pytest.raises(UnknownFeatureError, match="features 0 to 63"):
        things.related_features(64)


def test_documents_are_compared_by_features(things: Collection) -> None:
    found = things.compare("doc-0", "doc-3")
    assert found and [abs(item.a - item.b) for item in found] == sorted((abs(i.a - i.b) for i in found), reverse=True)
    back = {item.feature.index: (item.b, item.a) for item in things.compare("doc-3", "doc-0")}
    assert {item.feature.index: (item.a, item.b) for item in found} == back
    assert all(item.a == item.b for item in things.compare("doc-0", "doc-0"))
    assert len(things.compare("doc-0", "doc-3", count=1)) == 1
    with pytest.raises(UnknownDocumentError) as unknown:
        things.compare("doc-0", "no such")
    assert unknown.value.field == "b"
