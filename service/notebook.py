"""Searching and steering step by step, in a notebook: every step gives a view, and a view shows itself.

::

    papers = sparsight.explore(db["papers"])          # of any door: embedded or a server
    view = papers.search("recurrent networks")
    view.steer("music", +2)                           # by words, or by number
    view.steer(3966, +2).exclude(12).why(0)
    papers.like(["1802.05162", "1610.06540"])         # features of some documents
    papers.compare("1802.05162", "1610.06540")

A view is a query and its answer; steering makes another view and leaves the first as it was.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from sparsight.errors import InvalidArgumentError, UnknownFeatureError
from sparsight.types import (
    Edit,
    Explanation,
    Feature,
    FeatureWeight,
    Hit,
    Query,
    SearchResult,
)

if TYPE_CHECKING:
    import pyarrow

__all__ = ["Explorer", "Table", "View"]

Op = Literal["boost", "suppress", "set", "clamp", "require", "exclude"]
_BAR = 24  # characters of the longest bar
_TOLD = 8  # edits of a view that are listed


class Explorer:
    """A collection, to be looked at.

    Parameters
    ----------
    collection : Collection
        Of :func:`sparsight.open` or :func:`sparsight.connect`.
    **options
        Attributes of every search's :class:`sparsight.types.Query`, as ``retrievers=["dense"], k=20``.
    """

    def __init__(self, collection: Any, **options: Any) -> None:
        self.collection, self.options = collection, {"explain": True} | options
        self._names: dict[tuple[str, int], str] = {}

    def __repr__(self) -> str:
        return f"<Explorer of {self.collection!r}>"

    def search(self, query: Query | str, **options: Any) -> View:
        """The view of a query."""
        return self.view(replace(query if isinstance(query, Query) else Query(query), **(self.options | options)))

    def view(self, query: Query) -> View:
        """The view of a query as it is, without the options of the explorer."""
        return View(self, query, self.collection.search(query))

    def features(self, words: str = "", count: int = 20) -> Table:
        """Features by words, or the most frequent ones."""
        found = self.collection.features(words, page_size=count).features
        return Table("feature", [(_named(item), item.density) for item in found], "share of passages", found)

    def like(self, documents: Sequence[str], unlike: Sequence[str] = (), count: int = 20) -> Table:
        """Features that documents, by id, have and others have not; ``.edits(0.4)`` steers towards them."""
        found = self.collection.find_features(documents, unlike, count=count)
        return Table("feature", [(_named(item.feature), item.weight) for item in found], "weight", found)

    def compare(self, a: str, b: str, count: int = 20) -> Table:
        """What features two documents differ in: above 0 what the first has more of."""
        found = self.collection.compare(a, b, count=count)
        return Table("feature", [(_named(item.feature), item.a - item.b) for item in found], f"{a} less {b}", found)

    def name_of(self, index: int, field: str = "") -> str:
        """Number and label of a feature, asked for once."""
        if (field, index) not in self._names:
            self._names[field, index] = _named(self.collection.feature(index, field=field))
        return self._names[field, index]

    def feature(self, which: int | str | Feature) -> Feature:
        """A feature by number or by words: the best match.

        Raises
        ------
        UnknownFeatureError
            If nothing matches.
        """
        if isinstance(which, Feature):
            return which
        if not isinstance(which, str):
            found: Feature = self.collection.feature(which)
            return found
        page = self.collection.features(which, page_size=1).features
        if not page:
            raise UnknownFeatureError(f"no feature matches {which!r:.80}", field="feature")
        first: Feature = page[0]
        return first


@dataclass(frozen=True, eq=False)
class View:
    """A query and what it found."""

    explorer: Explorer
    query: Query
    result: SearchResult

    def steer(self, feature: int | str | Feature, strength: float = 1.0, op: Op = "boost", *,
              when: int | str | Feature | None = None) -> View:
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

    def require(self, feature: int | str | Feature, strength: float = 0.0) -> View:
        """Only documents that have the feature."""
        return self.steer(feature, strength, "require")

    def exclude(self, feature: int | str | Feature, strength: float = 0.0) -> View:
        """No documents that have the feature."""
        return self.steer(feature, strength, "exclude")

    def edited(self, edits: Iterable[Edit]) -> View:
        """The same search with more edits."""
        return self.explorer.view(replace(self.query, edits=(*self.query.edits, *edits)))

    def unsteered(self) -> View:
        """The same search without edits and profile."""
        return self.explorer.view(replace(self.query, edits=(), profile=""))

    def why(self, hit: int | str | Hit) -> Table:
        """What the score of a hit is made of: its place in the list (from 0), its id, or the hit."""
        found = self._hit(hit)
        if found.explanation is None:
            raise InvalidArgumentError("this view has no explanations: search with explain=True", field="explain")
        return Table("part", _parts(found.explanation), f"score {found.score:.4f}", (found,))

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
        import pyarrow

        return pyarrow.Table.from_pylist(self.rows())

    def __repr__(self) -> str:
        return "\n".join([repr(self.query.text), *self._edits(),
                          *(f"{hit.rank:3} {_movement(hit):>7} {hit.score:8.4f}  {hit.title or hit.id}"
                            for hit in self.result)])  # fmt: skip

    def _repr_html_(self) -> str:
        top = max((abs(hit.score) for hit in self.result), default=1.0) or 1.0
        body = "".join(
            f"<tr><td>{hit.rank}</td><td>{html.escape(_movement(hit))}</td><td>{_html_bar(hit.score, top)}</td>"
            f"<td>{hit.score:.4f}</td><td style='text-align:left'>{html.escape(hit.title or hit.id)}</td></tr>"
            for hit in self.result)  # fmt: skip
        said = "; ".join(map(html.escape, self._edits()))
        return f"<b>{html.escape(self.query.text)}</b> {said}<table>{body}</table>"

    def _edits(self) -> list[str]:
        told = [f"{edit.op} {self.explorer.name_of(edit.feature, edit.field)} {edit.strength:+g}"
                for edit in self.query.edits[:_TOLD]]
        more = len(self.query.edits) - len(told)
        return [*told, f"and {more} more edits"] if more else told


@dataclass(frozen=True, eq=False)
class Table:
    """Named numbers with bars. ``of`` are the features, weights or differences that they are of."""

    what: str
    entries: Sequence[tuple[str, float]]
    unit: str
    of: Sequence[Any] = ()

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, at: int) -> Any:
        return self.of[at]

    def edits(self, step: float = 0.4) -> list[Edit]:
        """Of features found from examples: the edits that make a step of that length towards them."""
        if not all(isinstance(item, FeatureWeight) for item in self.of):
            raise InvalidArgumentError("only features found from examples make a step", field="edits")
        return [item.edit(step) for item in self.of]

    def to_arrow(self) -> pyarrow.Table:
        """A row for each, as :meth:`View.to_arrow`."""
        import pyarrow

        return pyarrow.Table.from_pylist([{self.what: name, self.unit: value} for name, value in self.entries])

    def __repr__(self) -> str:
        top = max((abs(value) for _, value in self.entries), default=1.0) or 1.0
        lines = (f"{value:+9.4f} {_bar(value, top):{_BAR}} {name}" for name, value in self.entries)
        return "\n".join([self.unit, *lines])

    def _repr_html_(self) -> str:
        top = max((abs(value) for _, value in self.entries), default=1.0) or 1.0
        body = "".join(f"<tr><td style='text-align:left'>{html.escape(name)}</td><td>{_html_bar(value, top)}</td>"
                       f"<td>{value:+.4f}</td></tr>" for name, value in self.entries)
        return f"<b>{html.escape(self.unit)}</b><table>{body}</table>"


def _named(feature: Feature) -> str:
    return f"{feature.index} {feature.label}".strip()


def _parts(explanation: Explanation) -> list[tuple[str, float]]:
    out: list[tuple[str, float]] = []
    for of in explanation.retrievers:
        out += [(f"{of.field}: {item.index} {item.label}", item.score) for item in of.contributions]
        if left := of.rest + of.dense:
            out.append((f"{of.field}: what no feature carries", left))
    if explanation.movement is not None:
        out += [(f"moved by {item.index} {item.label}", item.score) for item in explanation.movement.by_feature]
    return out


def _movement(hit: Hit) -> str:
    moved = hit.explanation.movement if hit.explanation else None
    if moved is None:
        return ""
    return f"was {moved.rank_before}" if moved.rank_before else "new"


def _bar(value: float, top: float) -> str:
    return ("█" if value >= 0 else "░") * max(round(_BAR * abs(value) / top), 1 if value else 0)


def _html_bar(value: float, top: float) -> str:
    colour = "#2a7f7a" if value >= 0 else "#b5532d"
    return f"<div style='width:{100 * abs(value) / top:.0f}px;height:.7em;background:{colour}'></div>"
