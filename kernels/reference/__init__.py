"""The kernels' specification in numpy: what the compiled ones must return, written to be read, not to be fast."""

from __future__ import annotations

from sparsight.kernels.reference.dots import score_passages, sparse_dot_dense, sparse_dot_sparse
from sparsight.kernels.reference.pursue import pursue
from sparsight.kernels.reference.threshold_encode import threshold_encode
from sparsight.kernels.reference.topk_documents import topk_documents
from sparsight.kernels.reference.topk_encode import topk_encode
from sparsight.kernels.reference.wordpiece import bert_spelling, encode_text, encode_word

__all__ = [
    "bert_spelling",
    "encode_text",
    "encode_word",
    "pursue",
    "score_passages",
    "sparse_dot_dense",
    "sparse_dot_sparse",
    "threshold_encode",
    "topk_documents",
    "topk_encode",
]
