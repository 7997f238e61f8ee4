"""Searching and steering step by step, in a notebook: every step gives a view, and a view shows itself.

::

    papers = sparsight.explore(db["papers"])          # of any door: embedded or a server
    view = papers.search("recurrent networks")
    view.steer("music", +2)                           # by words, or by number
    view.steer(3966, +2).exclude(12).why(0)
    papers.like(["1802.05162", "1610.06540"])         # features of some documents; words="..." of a description
    papers.compare("1802.05162", "1610.06540")
    papers.words("1802.05162", "music")               # which of its words fired a feature
    papers.draw(papers.clusters()[0])                 # passages in the plane of a cluster of features

A search gives a :class:`sparsight.service.views.View`, and all else a table. All of it step by step, with what it
shows, is in ``steering_tutorial.ipynb`` beside this module.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, Unpack

from sparsight.errors import UnknownFeatureError
from sparsight.service.clouds import Cloud
from sparsight.service.tables import STEP, Table, named
from sparsight.service.views import View, Which
from sparsight.types import (
    Edit,
    Effort,
    Feature,
    FeatureCluster,
    FeatureDifference,
    FeatureFamily,
    FeatureWeight,
    Fusion,
    Hit,
    Overlap,
    Query,
    Retriever,
    WordShare,
)

if TYPE_CHECKING:
    from sparsight.retrieval.collection import Collection as EmbeddedCollection
    from sparsight.service.client import Collection as RemoteCollection

    AnyCollection: TypeAlias = EmbeddedCollection | RemoteCollection

__all__ = ["Explorer", "QueryOptions"]


class QueryOptions(TypedDict, total=False):
    """Attributes of a :class:`sparsight.types.Query` by name, all but its text; named here for editors to complete."""

    retrievers: Sequence[Retriever | str]
    filter: str
    edits: Sequence[Edit]
    fusion: Fusion
    k: int
    min_score: float | None
    explain: bool
    include: Sequence[str]
    effort: Effort
    overlaps: Sequence[Overlap]
    profile: str


class Explorer:
    """A collection, to be looked at.

    Parameters
    ----------
    collection : Collection
        Of :func:`sparsight.open` or :func:`sparsight.connect`.
    **options
        Attributes of every search's :class:`sparsight.types.Query`, as ``retrievers=["dense"], k=20``.
    """

    def __init__(self, collection: AnyCollection, **options: Unpack[QueryOptions]) -> None:
        self.collection = collection
        self.options: dict[str, Any] = {"explain": True, **options}
        self._names: dict[tuple[str, int], str] = {}

    def __repr__(self) -> str:
        return f"<Explorer of {self.collection!r}>"

    def search(self, query: Query | str, **options: Unpack[QueryOptions]) -> View:
        """The view of a query."""
        asked: dict[str, Any] = {**self.options, **options}
        return self.view(replace(query if isinstance(query, Query) else Query(query), **asked))

    def view(self, query: Query) -> View:
        """The view of a query as it is, without the options of the explorer."""
        return View(self, query, self.collection.search(query))

    # --- features -------------------------------------------------------------------------------------------

    def features(self, words: str = "", count: int = 20) -> Table[Feature]:
        """Features by words, the best matches first with their cosines, or the most frequent ones."""
        page = self.collection.features(words, page_size=count)
        numbers = page.cosines or [item.density for item in page.features]
        return Table("feature", list(zip(map(named, page.features), numbers, strict=True)),
                     "cosine with the words" if page.cosines else "share of passages", page.features)

    def like(self, documents: Sequence[str] = (), unlike: Sequence[str] = (), count: int = 12, *,
             texts: Sequence[str] = (), unlike_texts: Sequence[str] = (), words: str = "") -> Table[FeatureWeight]:
        """Features that documents, by id, and other texts have and others have not, or that words describe.

        ``.edits(0.4)`` steers there.
        """
        found = self.collection.find_features(documents, unlike, positive_texts=texts, negative_texts=unlike_texts,
                                              words=words, count=count)
        return Table("feature", [(named(item.feature), item.weight) for item in found], STEP, found)

    def related(self, feature: Which, count: int = 10) -> Table[FeatureWeight]:
        """Features whose directions are most like that of one, then those most unlike it."""
        chosen = self.feature(feature)
        found = self.collection.related_features(chosen.index, field=chosen.field, count=count)
        both = (*found.nearest, *found.opposite)
        return Table("feature", [(named(item.feature), item.weight) for item in both], "cosine", both,
                     f"cosine with {named(chosen)}")

    def clusters(self, count: int = 10) -> Table[FeatureCluster]:
        """Clusters of features that may together be one of several dimensions; ``draw(table[0])`` shows one.

        The number is the score over that of shuffled activations: from 2 on it is worth a look.
        """
        found = self.collection.clusters(count=count)
        return Table("cluster", [("; ".join(map(named, item.features[:3])), item.score / max(item.null_score, 1e-9))
                                 for item in found], "times the shuffled score", found)

    def draw(self, cluster: FeatureCluster) -> Cloud:
        """The passages of a cluster as points in its plane."""
        return Cloud(cluster)

    def families(self, feature: Which | None = None, count: int = 5) -> Table[Feature]:
        """The largest families of features, or those that one is in, each below the feature that is above it.

        The number is the share of a feature's passages on which the one above fires; 1 for the first of a family.
        """
        if feature is None:
            found = self.collection.families(count=count)
        else:
            chosen = self.feature(feature)
            found = self.collection.families(chosen.index, field=chosen.field, count=count)
        members = [member for family in found for member in _members(family)]
        entries = [(4 * depth * " " + named(feature), strength) for feature, strength, depth in members]
        return Table("feature", entries, "share with the one above", [feature for feature, _, _ in members])

    def compare(self, a: str, b: str, count: int = 20, *, texts: bool = False) -> Table[FeatureDifference]:
        """What features two documents, or two texts, differ in: above 0 what the first has more of."""
        compared = self.collection.compare
        found = compared(a_text=a, b_text=b, count=count) if texts else compared(a, b, count=count)
        entries = [(named(item.feature), item.a - item.b) for item in found]
        return Table("feature", entries, f"{a:.40} less {b:.40}", found)

    def about(self, text: str, count: int = 20) -> Table[FeatureDifference]:
        """Features of a text, such as a query, the strongest first: what it can be steered by."""
        found = self.collection.compare(a_text=text, count=count)
        return Table("feature", [(named(item.feature), item.a) for item in found], "strength", found, f"{text:.80}")

    def words(self, document: str | Hit, feature: Which, count: int = 10) -> Table[WordShare]:
        """Which words of a document's first passage, or of a hit's best one, fired a feature."""
        chosen = self.feature(feature)
        id, passage = (document.id, document.passage) if isinstance(document, Hit) else (document, 0)
        (found,) = self.collection.words(id, [chosen.index], passage=passage, field=chosen.field, count=count)
        return Table("word", [(item.word, item.share) for item in found.words], "share", found.words,
                     f"parts of {found.total:.4f} for {named(chosen)}, in {id}")

    def rename(self, feature: Which, label: str) -> Feature:
        """Call a feature something else, everywhere; "" gives it the label back that it came with."""
        chosen = self.feature(feature)
        self._names.clear()
        return self.collection.rename_feature(chosen.index, label, field=chosen.field)

    def name_of(self, index: int, field: str = "") -> str:
        """Number and label of a feature, asked for once."""
        if (field, index) not in self._names:
            self._names[field, index] = named(self.collection.feature(index, field=field))
        return self._names[field, index]

    def feature(self, which: Which) -> Feature:
        """A feature by number or by words: the best match.

        Raises
        ------
        UnknownFeatureError
            If nothing matches.
        """
        if isinstance(which, Feature):
            return which
        if not isinstance(which, str):
            return self.collection.feature(which)
        page = self.collection.features(which, page_size=1).features
        if not page:
            raise UnknownFeatureError(f"no feature matches {which!r:.80}", field="feature")
        return page[0]


def _members(family: FeatureFamily) -> Iterator[tuple[Feature, float, int]]:
    """Feature, strength and depth, each feature before those below it."""
    below: dict[int, list[tuple[Feature, float]]] = {}
    for child, above, strength in zip(family.children, family.above, family.strength, strict=True):
        below.setdefault(above, []).append((child, strength))
    left = [(family.parent, 1.0, 0)]
    while left:
        feature, strength, depth = left.pop()
        yield feature, strength, depth
        left += [(child, part, depth + 1) for child, part in reversed(below.get(feature.index, []))]
