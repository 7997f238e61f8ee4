"""Named numbers that show themselves with bars, in a notebook and in a terminal."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sparsight.errors import InvalidArgumentError
from sparsight.types import Contribution, Edit, Feature, FeatureWeight

if TYPE_CHECKING:
    import pyarrow

__all__ = ["STEP", "Table", "arrow_of", "bar", "html_bar", "named"]

T = TypeVar("T")
STEP = "strength in a step of 1"
"""The unit of features found from examples, the only ones that make a step."""
_BAR = 24  # characters of the longest bar


@dataclass(frozen=True, eq=False)
class Table(Generic[T]):
    """Named numbers with bars.

    Attributes
    ----------
    what, unit : str
        What the names and the numbers are of.
    entries : sequence of (str, float)
    of : sequence
        What each entry is of, a feature say: ``table[0]``, and what a loop over the table gives.
    heading : str
        Shown above; "" shows the unit.
    """

    what: str
    entries: Sequence[tuple[str, float]]
    unit: str
    of: Sequence[T] = ()
    heading: str = ""

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, at: int) -> T:
        return self.of[at]

    @property
    def total(self) -> float:
        """Sum of the numbers."""
        return sum((value for _, value in self.entries), 0.0)

    def edits(self, step: float = 0.4) -> list[Edit]:
        """Of features found from examples: the edits that make a step of that length towards them."""
        made = [item.edit(step) for item in self.of if isinstance(item, FeatureWeight)] if self.unit == STEP else []
        if len(made) < len(self.entries) or self.unit != STEP:
            raise InvalidArgumentError("only features found from examples make a step", field="edits")
        return made

    def rows(self) -> list[dict[str, Any]]:
        """A plain row for each: name and number, and of features their index."""
        indices = [_index_of(item) for item in self.of]
        known = any(index is not None for index in indices)
        return [({"index": indices[at]} if known else {}) | {self.what: name, self.unit: value}
                for at, (name, value) in enumerate(self.entries)]

    def to_arrow(self) -> pyarrow.Table:
        """The :meth:`rows` as a table of Arrow, whose ``to_pandas()`` is a data frame where pandas is installed."""
        return arrow_of(self.rows())

    def __repr__(self) -> str:
        top, shown = self._top(), self._format()
        lines = (f"{value:{shown}} {bar(value, top):{_BAR}} {name}" for name, value in self.entries)
        return "\n".join([self.heading or self.unit, *lines])

    def _repr_html_(self) -> str:
        top, shown, left = self._top(), self._format(), "<td style='text-align:left'>"
        body = "".join(f"<tr><td>{value:{shown}}</td>{left}{html_bar(value, top)}</td>{left}{_spaced(name)}</td></tr>"
                       for name, value in self.entries)
        return f"<b>{html.escape(self.heading or self.unit)}</b><table>{body}</table>"

    def _top(self) -> float:
        return max((abs(value) for _, value in self.entries), default=1.0) or 1.0

    def _format(self) -> str:
        return "+9.4f" if any(value < 0 for _, value in self.entries) else "9.4f"


def named(feature: Feature) -> str:
    """Number and label of a feature."""
    return f"{feature.index} {feature.label}".strip()


def bar(value: float, top: float) -> str:
    """A bar of blocks, as long as the value is of ``top``; of values below 0 a lighter one."""
    return ("█" if value >= 0 else "░") * max(round(_BAR * abs(value) / top), 1 if value else 0)


def html_bar(value: float, top: float) -> str:
    """The same in colour. Text, because pages that show stored notebooks leave out styles, and a box would be gone."""
    return f"<span style='color:{'#2a7f7a' if value >= 0 else '#b5532d'}'>{bar(value, top)}</span>"


def arrow_of(rows: Sequence[dict[str, Any]]) -> pyarrow.Table:
    """Rows as a table of Arrow with every column that one of them has; null where a row has it not."""
    import pyarrow

    names = dict.fromkeys(name for row in rows for name in row)
    return pyarrow.table({name: [row.get(name) for row in rows] for name in names})


def _index_of(item: object) -> int | None:
    feature = getattr(item, "feature", item)
    return feature.index if isinstance(feature, Feature | Contribution) else None


def _spaced(name: str) -> str:
    deep = len(name) - len(name.lstrip())
    return "&nbsp;" * deep + html.escape(name[deep:])
