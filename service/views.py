"""What a search in a notebook gives: a query with its answer, which shows itself, tells why, and can be steered.

Steering makes another view and leaves the first as it was. An :class:`sparsight.service.notebook.Explorer` makes views.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from sparsight.errors import InvalidArgumentError
from sparsight.service.tables import Table, arrow_of, html_bar
from sparsight.types import Contribution, Edit, Explanation, Feature, Hit, Profile, Query, RetrieverScore, SearchResult

if TYPE_CHECKING:
    import pyarrow

    from sparsight.service.notebook import Explorer

__all__ = ["Op", "View", "Which"]

Op: TypeAlias = Literal["boost", "suppress", "set", "clamp", "require", "exclude"]
Which: TypeAlias = int | str | Feature
"""A feature by number, by words, or as it was found."""
_TOLD = 8  # edits of a view that are listed
_TITLE = 100  # characters of a text that stands for a title


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


def _before(hit: Hit) -> str:
    moved = hit.explanation.movement if hit.explanation else None
    if moved is None:
        return ""
    return str(moved.rank_before) if moved.rank_before else "new"


def _title(hit: Hit) -> str:
    return hit.title or " ".join(hit.passage_text.split())[:_TITLE]
