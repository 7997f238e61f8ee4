"""PISA (pyterrier-pisa): MaxScore and block-max WAND over 8-bit impacts, SIMD-BP128 blocks; exact on those integers.

PISA's own inverted files are written here (the package's indexer takes a dict a document), and its extension module is
called without the package's data frames. Block-max WAND gets documents in cluster order, which its blocks need.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from benches.search.engines.base import Engine, Found, Setting

_INPUTS = ("inv.docs", "inv.freqs", "inv.sizes", "fwd.documents", "fwd.terms")


class Pisa(Engine):
    """One query a call; a query's levels are repeated terms, which is how the package weighs them."""

    distribution = "pyterrier-pisa"
    integers = "levels"
    algorithm = "maxscore"

    def settings(self, build: str, k: int) -> dict[str, list[Setting]]:
        return {"exact": [{"algorithm": self.algorithm}]}

    def start(self) -> None:
        # Where the tbb package puts it the loader does not look.
        ctypes.CDLL(str(Path(sys.prefix) / "lib/libtbb.so.2"), ctypes.RTLD_GLOBAL)
        package = importlib.util.find_spec("pyterrier_pisa")
        assert package is not None and package.submodule_search_locations
        library = next(Path(package.submodule_search_locations[0]).glob("_pisathon*.so"))
        spec = importlib.util.spec_from_file_location("_pisathon", library)
        assert spec is not None and spec.loader is not None
        self._module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self._module)

    def build(self, documents: csr_matrix, folder: Path, threads: int, order: NDArray[np.int64] | None,
              parameters: Setting) -> None:  # fmt: skip
        if order is not None:
            documents = documents[order]
            np.save(folder / "order.npy", order)
        n = documents.shape[0]
        columns = documents.tocsc()
        terms = sorted((str(term), term) for term in np.flatnonzero(np.diff(columns.indptr)).tolist())
        with (folder / "inv.docs").open("wb") as ids, (folder / "inv.freqs").open("wb") as levels:
            ids.write(np.array([1, n], np.uint32).tobytes())
            for _, term in terms:
                part = slice(columns.indptr[term], columns.indptr[term + 1])
                length = np.uint32(part.stop - part.start).tobytes()
                ids.write(length + columns.indices[part].astype(np.uint32).tobytes())
                levels.write(length + columns.data[part].astype(np.uint32).tobytes())
        lengths = np.asarray(documents.sum(axis=1)).ravel()
        (folder / "inv.sizes").write_bytes(np.concatenate([[n], lengths]).astype(np.uint32).tobytes())
        (folder / "fwd.documents").write_text("".join(f"{row}\n" for row in range(n)))
        (folder / "fwd.terms").write_text("".join(f"{name}\n" for name, _ in terms))
        for plain, lexicon in (("fwd.documents", "fwd.doclex"), ("fwd.terms", "fwd.termlex")):
            self._module.build_binlex(str(folder / plain), str(folder / lexicon))
        (folder / "pt_meta.json").write_text(json.dumps({"type": "sparse_index", "format": "pisa", "stemmer": "none"}))
        self._prepare(folder)  # opening writes the compressed index and the block maxima
        for name in _INPUTS:
            (folder / name).unlink()

    def open(self, folder: Path, parameters: Setting) -> None:
        self._prepare(folder)
        self._order = np.load(folder / "order.npy") if self.ordered else None

    def query(self, terms: NDArray[np.uint32], weights: NDArray[np.float32]) -> Any:
        return [(0, {str(term): float(weight) for term, weight in zip(terms, weights, strict=True)})]

    def search(self, query: Any, k: int, **setting: Any) -> Found:
        names, scores = np.empty(k, object), np.empty(k, np.float32)
        found = self._module.retrieve(
            self._context, setting["algorithm"], query, k=k, threads=1, query_weighted=1, pretokenised=True,
            result_qidxs=np.empty(k, np.int32), result_docnos=names, result_ranks=np.empty(k, np.int32),
            result_scores=scores,
        )  # fmt: skip
        numbers: Found = names[:found].astype(np.int64)
        return numbers if self._order is None else self._order[numbers]

    def _prepare(self, folder: Path) -> None:
        self._context = self._module.RetrievalContext()
        self._module.prepare_index(self._context, str(folder), "block_simdbp", "quantized", "", quantize=0)


class PisaBmw(Pisa):
    """Block-max WAND, documents in cluster order."""

    ordered = True
    algorithm = "block_max_wand"
