"""The hot loops: top-k search over postings, dot products, the codes of a sparse autoencoder.

Each kernel exists twice under one name: in :mod:`sparsight.kernels.reference` (numpy, the specification) and in
``cpu/`` (C++, for AVX-512, AVX2 or any processor, chosen when it runs). The functions here check their arguments and
pick one; ``path=`` names one, and so does the environment variable SPARSIGHT_KERNEL_PATH.
"""

from __future__ import annotations

from sparsight.kernels.dots import score_passages, sparse_dot_dense, sparse_dot_sparse
from sparsight.kernels.effort import EXACT, CancelFlag, Effort, TopK, Work
from sparsight.kernels.encode import threshold_encode, topk_encode
from sparsight.kernels.paths import available_paths, default_path
from sparsight.kernels.postings import Forward, Postings
from sparsight.kernels.pursuit import pursue
from sparsight.kernels.search import quantise_weights, score_postings, topk_documents, topk_documents_batch
from sparsight.kernels.wordpiece import WordPiece

__all__ = [
    "EXACT",
    "CancelFlag",
    "Effort",
    "Forward",
    "Postings",
    "TopK",
    "WordPiece",
    "Work",
    "available_paths",
    "default_path",
    "pursue",
    "quantise_weights",
    "score_passages",
    "score_postings",
    "sparse_dot_dense",
    "sparse_dot_sparse",
    "threshold_encode",
    "topk_documents",
    "topk_documents_batch",
    "topk_encode",
]
