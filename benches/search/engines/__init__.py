"""The engines by name, in the order in which they are first measured."""

from __future__ import annotations

from benches.search.engines.base import Engine, Found, Setting
from benches.search.engines.bmp import Bmp
from benches.search.engines.kannolo import Kannolo
from benches.search.engines.lucene import Lucene
from benches.search.engines.pisa import Pisa, PisaBmw
from benches.search.engines.qdrant import Qdrant
from benches.search.engines.seismic import Seismic
from benches.search.engines.sindi import Sindi
from benches.search.engines.sparsight import Sparsight
from benches.search.engines.splade_index import SpladeIndex

__all__ = ["ENGINES", "Engine", "Found", "Setting"]

ENGINES: dict[str, type[Engine]] = {
    "sparsight": Sparsight,
    "seismic": Seismic,
    "sindi": Sindi,
    "bmp": Bmp,
    "kannolo": Kannolo,
    "splade-index": SpladeIndex,
    "qdrant": Qdrant,
    "pisa-maxscore": Pisa,
    "pisa-bmw": PisaBmw,
    "lucene": Lucene,
}
