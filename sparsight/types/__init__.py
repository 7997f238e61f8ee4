"""The values that both doors take and give: documents, fields, queries, hits.

Plain frozen dataclasses over the standard library and numpy, so that the embedded database, the gRPC
server and the client speak of the same things without importing each other.
"""

from __future__ import annotations

from sparsight.types.documents import (
    Document,
    Page,
    Passage,
    SparseVector,
    Vector,
    WriteResult,
)
from sparsight.types.features import (
    ClusterPoint,
    Feature,
    FeatureCluster,
    FeatureDifference,
    FeatureFamily,
    FeatureMap,
    FeaturePage,
    FeatureWeight,
    FeatureWords,
    LabelQuality,
    MapLobe,
    MapPoint,
    RelatedFeatures,
    WordShare,
)
from sparsight.types.fields import (
    DEFAULT_FIELDS,
    BM25Field,
    CollectionInfo,
    DenseField,
    Field,
    PassageSpec,
    SAEField,
    SparseField,
)
from sparsight.types.operations import (
    Operation,
    VerifyReport,
)
from sparsight.types.queries import (
    Edit,
    Effort,
    Fusion,
    Overlap,
    Profile,
    Query,
    Retriever,
)
from sparsight.types.results import (
    Contribution,
    Explanation,
    Hit,
    Movement,
    RetrieverScore,
    RetrieverWork,
    SearchResult,
    Timings,
)

__all__ = [
    "DEFAULT_FIELDS",
    "BM25Field",
    "ClusterPoint",
    "CollectionInfo",
    "Contribution",
    "DenseField",
    "Document",
    "Edit",
    "Effort",
    "Explanation",
    "Feature",
    "FeatureCluster",
    "FeatureDifference",
    "FeatureFamily",
    "FeatureMap",
    "FeaturePage",
    "FeatureWeight",
    "FeatureWords",
    "Field",
    "Fusion",
    "Hit",
    "LabelQuality",
    "MapLobe",
    "MapPoint",
    "Movement",
    "Operation",
    "Overlap",
    "Page",
    "Passage",
    "PassageSpec",
    "Profile",
    "Query",
    "RelatedFeatures",
    "Retriever",
    "RetrieverScore",
    "RetrieverWork",
    "SAEField",
    "SearchResult",
    "SparseField",
    "SparseVector",
    "Timings",
    "Vector",
    "VerifyReport",
    "WordShare",
    "WriteResult",
]
