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

A view is a query and its answer; steering makes another view and leaves the first as it was. All of it step by step,
with what it shows, is in ``steering_tutorial.ipynb`` beside this module.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, Unpack

from sparsight.errors import InvalidArgumentError, UnknownFeatureError
from sparsight.service.clouds import Cloud
from sparsight.service.tables import STEP, Table, arrow_of, html_bar, named
from sparsight.types import (
    Contribution,
    Edit,
    Effort,
    Explanation,
    Feature,
    FeatureCluster,
    FeatureDifference,
    FeatureFamily,
    FeatureWeight,
    Fusion,
    Hit,
    Overlap,
    Profile,
    Query,
    Retriever,
    RetrieverScore,
    SearchResult,
    WordShare,
)

if TYPE_CHECKING:
    import pyarrow

    from sparsight.retrieval.collection import Collection as EmbeddedCollection
    from sparsight.service.client import Collection as RemoteCollection

    AnyCollection: TypeAlias = EmbeddedCollection | RemoteCollection

__all__ = ["Explorer", "QueryOptions", "Table", "View"]

Op: TypeAlias = Literal["boost", "suppress", "set", "clamp", "require", "exclude"]
Which: TypeAlias = int | str | Feature
"""A feature by number, by words, or as it was found."""
_TOLD = 8  # edits of a view that are listed
_TITLE = 100  # characters of a text that stands for a title


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


@dataclass(frozen=True, eq=False)
class View:
    """A query and what it found."""

    explorer: Explorer
    query: Query
    result: SearchResult

    def steer(self, feature: Which, strength: float = 1.0, op: Op = "boost", *, when: Which | None = None) -> View:
        """The same search with one edit more; ``strength`` below 0 pushes the feature's documents down.

        Parameters
        ----------
        feature, when : int, str or Feature
            By number, by words, or as it was found.
        strength, op
            As :class:`sparsight.types.Edit`.
        """
        chosen = self.explorer.feature(feature)
        condition = None if when is None else self.explorer.feature(when).index
        return self.edited([Edit(chosen.index, op, strength, chosen.field, condition)])

    def require(self, feature: Which, strength: float = 0.0) -> View:
        """Only documents that have the feature."""
        return self.steer(feature, strength, "require")

    def exclude(self, feature: Which, strength: float = 0.0) -> View:
        """No documents that have the feature."""
        return self.steer(feature, strength, "exclude")

    def edited(self, edits: Iterable[Edit]) -> View:
        """The same search with more edits."""
        return self.explorer.view(replace(self.query, edits=(*self.query.edits, *edits)))

    def unsteered(self) -> View:
        """The same search without edits and profile."""
        return self.explorer.view(replace(self.query, edits=(), profile=""))

    def save_profile(self, name: str, *, note: str = "") -> Profile:
        """Keep all edits under a name, those of the view's profile first; ``search(..., profile=name)`` does them."""
        used, _, version = self.query.profile.partition("@")
        first = self.explorer.collection.profile(used, int(version or 0)).edits if used else ()
        return self.explorer.collection.save_profile(name, [*first, *self.query.edits], note=note)

    # --- why ------------------------------------------------------------------------------------------------

    def why(self, hit: int | str | Hit, field: str = "", *, count: int = 12) -> Table[Any]:
        """What the score of a hit is made of; the numbers sum to it.

        Parameters
        ----------
        hit : int, str or Hit
            Its place in the list (from 0), its id, or the hit.
        field : str
            With several retrievers: the parts of this field's own score. "" is then each field's share of the whole.
        count : int
            Parts that are listed; the smaller ones are summed up in a line.
        """
        found = self._hit(hit)
        retrievers = _explanation(found).retrievers
        chosen = [of for of in retrievers if field in ("", of.field)]
        if not chosen:
            raise InvalidArgumentError(f"the view did not search {field!r:.80}", field="field")
        if len(chosen) > 1 and not field:  # scores of several fields have no common unit, shares have
            shares = [(of.field, of.share) for of in chosen]
            return Table("field", shares, "share", chosen, f"score {found.score:.4f} of {found.id}")
        parts = [part for of in chosen for part in _parts(of, count)]
        whose = f"{field} score {sum(of.score for of in chosen):.4f}" if field else f"score {found.score:.4f}"
        return Table("part", [part[:2] for part in parts], "score", [part[2] for part in parts],
                     f"{whose} of {found.id}")

    def moved(self, hit: int | str | Hit) -> Table[Contribution | None]:
        """What the edits did to a hit, as :meth:`why`; with one retriever the numbers sum to the change of its score.

        With several they are in the fields' own units, before fusion.
        """
        found = self._hit(hit)
        explanation = _explanation(found)
        moved = explanation.movement
        if moved is None:
            raise InvalidArgumentError("nothing moved: no edit was done", field="edits")
        entries: list[tuple[str, float]] = [(f"{of.index} {of.label}".strip(), of.score) for of in moved.by_feature]
        if moved.other_passage:
            entries.append(("another passage was best", moved.other_passage))
        left = moved.score_after - moved.score_before - sum(value for _, value in entries)
        if len(explanation.retrievers) == 1 and abs(left) > 1e-5:
            entries.append(("weights of the query that were left out", left))
        of = [*moved.by_feature, *[None] * (len(entries) - len(moved.by_feature))]
        heading = (f"rank {moved.rank_before or 'beyond those looked at'} to {moved.rank_after}, score "
                   f"{moved.score_before:.4f} to {moved.score_after:.4f} of {found.id}")
        return Table("feature", entries, "change", of, heading)

    def _hit(self, hit: int | str | Hit) -> Hit:
        if isinstance(hit, Hit):
            return hit
        if isinstance(hit, str):
            hit = self.result.ids.index(hit) if hit in self.result.ids else -1
        if not 0 <= hit < len(self.result):
            raise InvalidArgumentError(f"the view has {len(self.result)} hits, and not this one", field="hit")
        return self.result[hit]

    # --- out of here ------------------------------------------------------------------------------------------

    def rows(self) -> list[dict[str, Any]]:
        """A plain row for each hit: rank, id, title, score, of steered searches rank and score before, metadata."""
        out = []
        for hit in self.result:
            moved = hit.explanation.movement if hit.explanation else None
            before = {} if moved is None else {"rank_before": moved.rank_before, "score_before": moved.score_before}
            own = {"rank": hit.rank, "id": hit.id, "title": hit.title, "score": hit.score} | before
            out.append(own | {name: value for name, value in hit.metadata.items() if name not in own})
        return out

    def to_arrow(self) -> pyarrow.Table:
        """The :meth:`rows` as a table of Arrow, whose ``to_pandas()`` is a data frame where pandas is installed."""
        return arrow_of(self.rows())

    def __repr__(self) -> str:
        befores = [_before(hit) for hit in self.result]
        steered = any(befores)
        was, wide = max(map(len, ("was", *befores))), max(map(len, ("id", *self.result.ids)))
        lines = [f"{'#':>3} {'was' if steered else '':>{was}} {'score':>7}  {'id':{wide}}  title"]
        lines += [f"{hit.rank:3} {before:>{was}} {hit.score:7.4f}  {hit.id:{wide}}  {_title(hit)}"
                  for hit, before in zip(self.result, befores, strict=True)]
        return "\n".join([repr(self.query.text), *self._told(), *lines])

    def _repr_html_(self) -> str:
        top = max((abs(hit.score) for hit in self.result), default=1.0) or 1.0
        left = "<td style='text-align:left'>"
        body = "".join(
            f"<tr><td>{hit.rank}</td><td>{_before(hit)}</td><td>{hit.score:.4f}</td>"
            f"{left}{html_bar(hit.score, top)}</td>{left}{html.escape(hit.id)}</td>"
            f"{left}{html.escape(_title(hit))}</td></tr>"
            for hit in self.result)  # fmt: skip
        said = "".join(f"<br>{html.escape(line)}" for line in self._told())
        head = "".join(f"<th>{name}</th>" for name in ("#", "was", "score", "", "id", "title"))
        return f"<b>{html.escape(self.query.text)}</b>{said}<table><tr>{head}</tr>{body}</table>"

    def _told(self) -> list[str]:
        told = [f"{name} {value}" for name in ("filter", "profile") if (value := getattr(self.query, name))]
        told += [self._edit(edit) for edit in self.query.edits[:_TOLD]]
        more = len(self.query.edits) - _TOLD
        return [*told, f"and {more} more edits"] if more > 0 else told

    def _edit(self, edit: Edit) -> str:
        name_of = self.explorer.name_of
        whole = edit.op in ("require", "exclude") and not edit.strength  # active at all
        amount = "" if whole else f" {edit.strength:+.3g}" if edit.op == "boost" else f" {edit.strength:.3g}"
        told = f"{edit.op} {name_of(edit.feature, edit.field)}{amount}"
        if edit.when is not None:
            least = f" {edit.when_strength:.3g}" if edit.when_strength else ""
            told += f" when {name_of(edit.when, edit.field)}{least}"
        return told


def _explanation(hit: Hit) -> Explanation:
    if hit.explanation is None:
        raise InvalidArgumentError("this view has no explanations: search with explain=True", field="explain")
    return hit.explanation


def _parts(of: RetrieverScore, count: int) -> list[tuple[str, float, Contribution | None]]:
    out: list[tuple[str, float, Contribution | None]] = [
        (f"{of.field}: {item.index} {item.label}".rstrip(), item.score, item) for item in of.contributions[:count]]
    if more := of.contributions[count:]:
        out.append((f"{of.field}: {len(more)} smaller ones", sum(item.score for item in more), None))
    if left := of.rest + of.dense:
        out.append((f"{of.field}: what no feature carries", left, None))
    return out


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


def _before(hit: Hit) -> str:
    moved = hit.explanation.movement if hit.explanation else None
    if moved is None:
        return ""
    return str(moved.rank_before) if moved.rank_before else "new"


def _title(hit: Hit) -> str:
    return hit.title or " ".join(hit.passage_text.split())[:_TITLE]
