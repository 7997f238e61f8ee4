"""The plane of a cluster of features, drawn: a passage is a point, in the colour of its strongest feature."""

from __future__ import annotations

import html
from collections import Counter
from dataclasses import dataclass

from sparsight.service.tables import named
from sparsight.types import FeatureCluster

__all__ = ["Cloud"]

_COLOURS = ("#2a7f7a", "#c2571a", "#5b4fa2", "#a88500", "#b03a6b", "#3f7fbf", "#5c8a2f", "#777777")  # the last: others
_SIDE, _EDGE, _RADIUS = 360, 8, 2.5  # pixels


@dataclass(frozen=True, eq=False)
class Cloud:
    """A cluster to look at, in a notebook as a picture."""

    cluster: FeatureCluster

    def __repr__(self) -> str:
        head = (f"{self.cluster.passages:,} passages, score {self.cluster.score:.3f}, shuffled "
                f"{self.cluster.null_score:.3f}")
        return "\n".join([head, *(f"{count:5} {name}" for name, _, count in self._legend())])

    def _repr_html_(self) -> str:
        colour = {index: colour for (_, index, _), colour in zip(self._legend(), _COLOURS, strict=False)}
        dots = "".join(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='{_RADIUS}' fill='{colour.get(feature, _COLOURS[-1])}'>"
                       f"<title>{html.escape(id)}</title></circle>" for id, x, y, feature in self._places())
        keys = "".join(f"<li><span style='color:{colour.get(index, _COLOURS[-1])}'>\u25cf</span> {html.escape(name)} "
                       f"({count})</li>" for name, index, count in self._legend())
        head = html.escape(repr(self).split("\n")[0])
        return (f"<b>{head}</b><br><svg width='{_SIDE}' height='{_SIDE}' role='img' aria-label='{head}'>{dots}</svg>"
                f"<ul style='list-style:none;padding:0'>{keys}</ul>")

    def _legend(self) -> list[tuple[str, int, int]]:
        """Name, index, and number of points on which it is the strongest, of each feature; the most points first."""
        counts = Counter(point.feature for point in self.cluster.points)
        return sorted(((named(item), item.index, counts[item.index]) for item in self.cluster.features),
                      key=lambda entry: (-entry[2], entry[1]))

    def _places(self) -> list[tuple[str, float, float, int]]:
        """Points in pixels, with one scale for both directions."""
        points = self.cluster.points
        size = max((max(abs(point.x), abs(point.y)) for point in points), default=0.0) or 1.0
        half = _SIDE / 2
        scale = (half - _EDGE) / size
        return [(point.id, half + scale * point.x, half - scale * point.y, point.feature) for point in points]
