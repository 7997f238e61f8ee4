"""A collection's features and steering profiles as its user has them: a part of :class:`Collection`."""

from __future__ import annotations

from collections.abc import Sequence

from sparsight.errors import InvalidArgumentError
from sparsight.index.generation import Generation
from sparsight.index.store import CollectionStore
from sparsight.retrieval import examples, profiles, renaming
from sparsight.retrieval import features as feature_search
from sparsight.retrieval.arguments import make_token, page_size_of, read_token
from sparsight.retrieval.clusters import ClusterCache
from sparsight.retrieval.families import FamilyCache
from sparsight.retrieval.maps import MapCache
from sparsight.retrieval.planning import MAX_QUERY_TEXT
from sparsight.retrieval.preparation import check_text
from sparsight.retrieval.words import words_of
from sparsight.types import (
    Edit,
    Feature,
    FeatureCluster,
    FeatureDifference,
    FeatureFamily,
    FeatureMap,
    FeaturePage,
    FeatureWeight,
    FeatureWords,
    Profile,
    RelatedFeatures,
)

__all__ = ["FeatureMethods"]


class FeatureMethods:
    """Find features, compare by them, name them, and keep edits of them under a name."""

    _store: CollectionStore
    _threads: int

    def __init__(self) -> None:
        self._clusters, self._families, self._maps = ClusterCache(), FamilyCache(), MapCache()

    def _generation(self) -> Generation:
        self._store.refresh()
        return self._store.generation

    # --- features ------------------------------------------------------------------------------------------

    def features(self, words: str = "", *, field: str = "", page_size: int = 50, page_token: str = "") -> FeaturePage:
        """Features of an SAE field: the most frequent first, or the best matches for some words.

        Words match a feature's label and what the words themselves activate; ``cosines`` tell how well.
        """
        generation = self._generation()
        check_text(words, "words", MAX_QUERY_TEXT)
        size, after = page_size_of(page_size, 50), read_token(page_token, words)
        found, cosines, count = feature_search.find(generation, words, field, slice(after, after + size))
        token = make_token(after + size, words) if count > after + size else ""
        return FeaturePage(tuple(found), token, tuple(cosines))

    def feature(self, index: int, *, field: str = "") -> Feature:
        """One feature; UnknownFeatureError if there is none of that index."""
        return feature_search.describe(self._generation(), index, field)

    def find_features(
        self,
        positives: Sequence[str] = (),
        negatives: Sequence[str] = (),
        *,
        positive_texts: Sequence[str] = (),
        negative_texts: Sequence[str] = (),
        words: str = "",
        field: str = "",
        count: int = 12,
    ) -> tuple[FeatureWeight, ...]:
        """Features that tell some examples from others, or that words describe, the most telling first.

        From 1,000 passages on, those of the collection that lie furthest that way count as further examples.

        Parameters
        ----------
        positives, negatives : sequences of str
            Ids of documents of the collection.
        positive_texts, negative_texts : sequences of str
            Other texts; of both kinds together at most 1,000 of each. Without negatives the data that the SAE was
            trained on stand for them. With words and no positives they are what the words lead away from.
        words : str
            What is looked for, in words: "audio and music". Counts as much as all examples; needed where there are no
            positives.
        field : str
            The SAE field; "" is the only one.
        count : int
            At most so many, 1 to 256.

        Raises
        ------
        UnknownDocumentError, InvalidArgumentError, UnknownFieldError

        Examples
        --------
        >>> found = papers.find_features(["p1", "p7"], ["p3"])  # doctest: +SKIP
        >>> papers.search("sampling", edits=[item.edit(0.4) for item in found])  # doctest: +SKIP
        """
        feature_search.check_count(count)
        generation = self._generation()
        wanted, unwanted = (
            examples.vectors_of(self._store, generation, field, ids, texts, name)
            for name, ids, texts in (
                ("positives", positives, positive_texts),
                ("negatives", negatives, negative_texts),
            )
        )
        described = examples.described(generation, field, words)
        if not len(wanted) and described is None:
            raise InvalidArgumentError("expected at least one positive example, or words; got neither",
                                       field="positives")
        return feature_search.from_examples(generation, wanted, unwanted, field, count, described, self._threads)

    def related_features(self, index: int, *, field: str = "", count: int = 10) -> RelatedFeatures:
        """Features that look most the way of one, and most the other way; at most 256 of each."""
        return feature_search.related(self._generation(), index, field, count)

    def compare(self, a: str = "", b: str = "", *, a_text: str = "", b_text: str = "", field: str = "",
                count: int = 64) -> tuple[FeatureDifference, ...]:  # fmt: skip
        """How strong features are in two documents or texts, the largest differences first.

        Parameters
        ----------
        a, b : str
            Ids of documents.
        a_text, b_text : str
            Texts in their place, such as a query. A side with neither has no features, so that the other's are listed.
        field : str
            The SAE field; "" is the only one.
        count : int
            At most so many, 1 to 256.

        Raises
        ------
        UnknownDocumentError, InvalidArgumentError, UnknownFieldError, FailedPreconditionError
            No such document, both a document and a text on a side or nothing on either, or a text where the field takes
            ready vectors.

        Examples
        --------
        >>> papers.compare(a_text="sparse coding of natural images")  # doctest: +SKIP
        """
        generation = self._generation()
        if not (a or a_text or b or b_text):
            raise InvalidArgumentError("expected a document or a text to compare, got neither", field="a")
        for name, id, text in (("a", a, a_text), ("b", b, b_text)):
            if id and text:
                raise InvalidArgumentError("expected a document or a text, got both", field=f"{name}_text")
        x, y = (
            examples.side(self._store, generation, field, id, text, name)
            for name, id, text in (("a", a, a_text), ("b", b, b_text))
        )
        return feature_search.compare(generation, x, y, field, count)

    def families(
        self, feature: int | None = None, *, field: str = "", count: int = 20
    ) -> tuple[FeatureFamily, ...]:
        """The largest families of features, or those that a feature is in; at most 256.

        Found from the collection's codes when they are first asked for, in some seconds, and again once it has changed
        by a tenth.
        """
        return self._families.families(self._generation(), feature, field, count)

    def clusters(self, *, field: str = "", count: int = 20) -> tuple[FeatureCluster, ...]:
        """Features near each other that may together be one of several dimensions; at most 60, by falling score.

        Found from the codes of the collection's passages when they are first asked for, in some seconds, and again once
        it has changed by a tenth.
        """
        return self._clusters.clusters(self._generation(), field, count)

    def feature_map(self, *, field: str = "") -> FeatureMap:
        """A map of the features that ever fired, at most the 8,192 most frequent: near ones point alike, those of one
        lobe fire together.

        Drawn when it is first asked for, in some seconds, and again once the collection has changed by a tenth.
        """
        return self._maps.feature_map(self._generation(), field)

    def words(
        self, id: str, features: Sequence[int], *, passage: int = 0, field: str = "", count: int = 10
    ) -> tuple[FeatureWords, ...]:
        """Which words of a document's passage fired features, the most telling first; at most 64 features.

        Raises
        ------
        UnknownDocumentError, UnknownFeatureError, InvalidArgumentError
        FailedPreconditionError
            The field takes ready vectors.
        """
        return words_of(self._store, self._generation(), id, features, passage, field, count)

    def rename_feature(self, index: int, label: str, *, field: str = "") -> Feature:
        """Call a feature something else; "" gives it the label back that it came with. What it was called is kept.

        Raises
        ------
        InvalidArgumentError, UnknownFeatureError
        """
        self._store.check_writable()
        renaming.rename(self._store, self._generation(), field, index, label)
        return self.feature(index, field=field)

    # --- profiles ------------------------------------------------------------------------------------------

    def save_profile(self, name: str, edits: Sequence[Edit], *, note: str = "") -> Profile:
        """Keep edits under a name, as a new version of it if there is one; queries use it as ``profile="NAME"``.

        Raises
        ------
        InvalidArgumentError, UnknownFeatureError, UnknownFieldError
            With the path of what is wrong.
        """
        self._store.check_writable()
        return profiles.save(self._store, self._generation(), name, edits, note)

    def profile(self, name: str, version: int = 0) -> Profile:
        """A version of a profile, the latest if none is given; UnknownProfileError if it is not there."""
        return profiles.get(self._generation(), name, version)

    def profiles(self) -> list[Profile]:
        """The latest version of every profile, by name."""
        return profiles.list_all(self._generation())

    def drop_profile(self, name: str) -> None:
        """Forget a profile with all its versions; UnknownProfileError if it is not there."""
        self._store.check_writable()
        profiles.drop(self._store, name)
