"""Sparse autoencoder over dense embeddings: codes, reconstruction, and weights to search with.

Of the pre-activations ``a = x W_enc^T + b_enc`` a code keeps the k largest where they are above 0 (TopK: Makhzani and
Frey 2013; Gao et al. 2024), or, if the model has thresholds, those above ``max(threshold_i, 0)``: one threshold for all
latents is how BatchTopK encodes once it is trained (Bussmann et al. 2024), one a latent is JumpReLU (Rajamanoharan et
al. 2024). A text that says much then gets more latents than one that says little, k of them on average. Or the encoder
is left out, and the k latents and values are sought that rebuild ``x`` best, by pursuit: it takes several times as long
and leaves half the error. Every way ``xhat = z W_dec + b_dec``.

How documents and queries become sparse vectors was chosen by measurement: SciFact (test queries), all-MiniLM-L6-v2,
mean of nine trainings with 1024 latents and k = 32 (standard deviation about 0.015), nDCG@10 relative to that of the
dense vectors themselves.

===================================  ==========  ==============  ===================  ============
query weights                        documents:  ``z / |xhat|``  ``z / |xhat-b_dec|``  ``z / |z|``
                                     ``z``
===================================  ==========  ==============  ===================  ============
``w_i . x`` (decode), all latents    0.921       **0.945**       0.942                0.910
``w_i . x``, 512 largest                         0.930           0.929
``w_i . x``, 256 largest                         0.892           0.891
``w_i . x``, 128 largest                         0.844           0.842
``w_i . (x - b_dec)``, all latents   0.869       0.888           0.929                0.902
``w_i . (x - b_dec)``, 256 largest               0.850           0.885
``z_q`` (symmetric), k latents       0.720       0.724           0.752                0.769
===================================  ==========  ==============  ===================  ============

The cosine with the whole reconstruction, which needs one more number per document than the postings hold, keeps 0.953.
Rounding document weights to 8 bits and query weights to 12 costs 0.001.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from sparsight.encoders.fingerprint import digest_json
from sparsight.encoders.sae.latent_notes import LatentNotes, activation_histogram
from sparsight.encoders.sae.weighting import importance
from sparsight.errors import InvalidArgumentError, InvalidVectorError, ShapeError
from sparsight.types import SparseVector

__all__ = ["SAE", "as_codes", "describe_latents"]

F32 = NDArray[np.float32]
Mode: TypeAlias = Literal["topk", "threshold", "pursuit"]
DocumentMode: TypeAlias = Literal["encoder", "pursuit"]
_WEIGHTS = ("W_enc", "b_enc", "W_dec", "b_dec")
_AT_ONCE = 8192  # rows decoded at a time where only their norms are wanted


@dataclass(frozen=True, eq=False)
class SAE:
    """A trained autoencoder. Arrays are float32 and not to be changed.

    Attributes
    ----------
    k : int
        Most latents active in a code; where there are thresholds, the mean number that they aim at.
    W_enc : shape (N, D)
    b_enc : shape (N,)
        The encoder's centring is folded in: pre-activations are ``x W_enc^T + b_enc``.
    W_dec : shape (N, D)
        Rows of length 1.
    b_dec : shape (D,)
    threshold : shape (N,) or empty
        What a latent's pre-activation must exceed, beside 0; inf silences it. Empty: TopK.
        :func:`sparsight.encoders.sae.thresholds.calibrated` fits it.
    density : shape (N,)
        Share of the training rows, as documents, that a latent fires on.
    scale : shape (N,)
        90 % quantile of its weights in documents, :meth:`document_weights`; 0 for one that never fired.
    impact_scale : shape (N,)
        Largest value of :meth:`document_weights` that 8 bits shall hold, per latent; > 0.
    document_mode : "encoder" or "pursuit"
        How documents are coded: as :meth:`encode` does by itself, or by pursuit. Queries' own codes are the encoder's
        either way. :func:`describe_latents` makes the statistics fit.
    pool : int
        By pursuit, a document's latents are chosen among that many, and at least k: those whose decoder rows have the
        largest products with it, as a query like it has its weights. 0: among all, which leaves a smaller error, but
        latents that a query of few weights does not ask for.
    embedder : str
        Fingerprint of the encoder whose embeddings it was trained on, or "": those of others mean something else.
    labels : tuple of str
        What a latent stands for, or "".
    examples : tuple of tuples of str
        Ids of texts that it is strongest on, best first.
    notes : LatentNotes
        How good labels are, and how latents fire.
    """

    k: int
    W_enc: F32
    b_enc: F32
    W_dec: F32
    b_dec: F32
    threshold: F32 = field(default_factory=lambda: np.zeros(0, np.float32))
    density: F32 = field(default_factory=lambda: np.zeros(0, np.float32))
    scale: F32 = field(default_factory=lambda: np.zeros(0, np.float32))
    impact_scale: F32 = field(default_factory=lambda: np.zeros(0, np.float32))
    document_mode: DocumentMode = "encoder"
    pool: int = 0
    embedder: str = ""
    labels: Sequence[str] = ()
    examples: Sequence[Sequence[str]] = ()
    notes: LatentNotes = field(default_factory=LatentNotes)

    def __post_init__(self) -> None:
        if self.W_enc.ndim != 2:
            raise ShapeError(f"expected W_enc (N, D), got {self.W_enc.shape}", field="W_enc")
        n, d = self.W_enc.shape
        defaults = {"density": 0.0, "scale": 0.0, "impact_scale": 1.0}
        for name, value in defaults.items():
            if not len(getattr(self, name)):
                object.__setattr__(self, name, np.full(n, value, np.float32))
        shapes = {"W_enc": (n, d), "b_enc": (n,), "W_dec": (n, d), "b_dec": (d,), "density": (n,), "scale": (n,),
                  "impact_scale": (n,), "threshold": (n,) if self.threshold.size else (0,)}
        for name, shape in shapes.items():
            array = getattr(self, name)
            if array.shape != shape or array.dtype != np.float32:
                raise ShapeError(f"expected {name} float32 {shape}, got {array.dtype} {array.shape}", field=name)
            if not (np.isfinite(array) | (np.isinf(array) & (name == "threshold"))).all():
                raise InvalidVectorError(f"expected finite {name}, got NaN or infinity", field=name)
            object.__setattr__(self, name, np.ascontiguousarray(array))
        if np.abs(np.linalg.norm(self.W_dec, axis=1) - 1).max(initial=0.0) > 1e-3:
            raise InvalidVectorError("expected rows of W_dec of length 1", field="W_dec")
        if not 1 <= self.k <= n:
            raise InvalidArgumentError(f"expected k in [1, {n}], got {self.k}", field="k")
        if self.document_mode not in get_args(DocumentMode):
            raise InvalidArgumentError(f"expected document_mode 'encoder' or 'pursuit', got {self.document_mode!r}",
                                       field="document_mode")
        if self.pool < 0:
            raise InvalidArgumentError(f"expected a pool of at least 0, got {self.pool}", field="pool")
        object.__setattr__(self, "labels", tuple(self.labels) or ("",) * n)
        object.__setattr__(self, "examples", tuple(tuple(ids) for ids in self.examples) or ((),) * n)
        if len(self.labels) != n or len(self.examples) != n:
            raise ShapeError(f"expected {n} labels and lists of examples, got {len(self.labels)} and "
                             f"{len(self.examples)}", field="labels")
        self.notes.check(n)

    @property
    def n_latents(self) -> int:
        """Number of latents N."""
        return self.W_enc.shape[0]

    @property
    def d_in(self) -> int:
        """Dimension D of the embeddings."""
        return self.W_enc.shape[1]

    @property
    def mode(self) -> Mode:
        """How :meth:`encode` chooses latents: "threshold" where the model has thresholds, else "topk"."""
        return "threshold" if self.threshold.size else "topk"

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal SHA-256 of what decides the codes: weights, thresholds, k, and whether documents are pursued.

        Labels and statistics do not count.
        """
        digests = {name: hashlib.sha256(array.astype("<f4").tobytes()).hexdigest()
                   for name, array in self._weights().items()}
        pursuit: dict[str, Any] = {}
        if self.document_mode == "pursuit":
            pursuit = {"document_mode": "pursuit"} | ({"pool": self.pool} if self.pool else {})
        return digest_json({"format": 1, "k": self.k, "shape": list(self.W_enc.shape)} | pursuit | digests)

    def encode(self, x: F32, k: int = 0, *, mode: Mode | None = None) -> csr_matrix:
        """Codes of embeddings.

        Parameters
        ----------
        x : float32, shape (B, D)
        k : int
            Most active latents per row, where thresholds do not decide; 0 takes the model's.
        mode : "topk", "threshold", "pursuit" or None
            Keep the k largest pre-activations, or however many exceed their thresholds; or leave the encoder out, and
            choose latents and values by :func:`sparsight.kernels.pursue`, in the model's :attr:`pool`. None takes TopK
            if ``k`` is given, else the model's :attr:`mode`.

        Returns
        -------
        csr_matrix, float32, shape (B, N)
            int32 indices sorted in each row, all values > 0; for TopK fewer than k where fewer pre-activations are
            positive, by pursuit where no more latents help. A row's code is the same, bit for bit, whatever rows are
            beside it.

        Raises
        ------
        ShapeError, InvalidArgumentError
            If ``x`` has another width or dtype, ``k`` is negative, the mode is unknown, or it is "threshold" and ``k``
            is given or the model has no thresholds.

        Notes
        -----
        Thresholds have no limit of k: memory grows with what they keep, about 20 bytes a value while encoding. Pursuit
        takes four to eight times as long as TopK for many rows together.
        """
        from sparsight.kernels import pursue, threshold_encode, topk_encode

        self._check(x)
        if k < 0:
            raise InvalidArgumentError(f"expected k of at least 0, got {k}", field="k")
        mode = mode or ("topk" if k else self.mode)
        most = min(k or self.k, self.n_latents)
        if mode == "topk":
            return as_codes(*topk_encode(np.ascontiguousarray(x), self.W_enc, self.b_enc, most), self.n_latents)
        if mode == "pursuit":
            among: dict[str, Any] = {"candidates": max(self.pool, most), "once": True} if self.pool else {}
            return as_codes(*pursue(np.ascontiguousarray(x - self.b_dec), self.W_dec, most, **among), self.n_latents)
        if mode != "threshold" or k or not self.threshold.size:
            raise InvalidArgumentError("expected mode 'topk', 'pursuit', or 'threshold' without k and with a model "
                                       f"that has some, got {mode!r}, k {k} and {self.threshold.size} thresholds",
                                       field="mode")
        indptr, latents, values = threshold_encode(np.ascontiguousarray(x), self.W_enc, self.b_enc, self.threshold)
        return csr_matrix((values, latents, indptr), shape=(len(x), self.n_latents))

    def decode(self, codes: csr_matrix) -> F32:
        """Reconstructions ``codes W_dec + b_dec``, float32 (B, D)."""
        if codes.shape[1] != self.n_latents:
            raise ShapeError(f"expected codes of {self.n_latents} latents, got {codes.shape[1]}", field="codes")
        return np.asarray(codes @ self.W_dec, np.float32) + self.b_dec

    def document_codes(self, x: F32, *, device: str = "cpu") -> csr_matrix:
        """Codes of documents, by :attr:`document_mode`.

        Parameters
        ----------
        x : float32, shape (B, D)
        device : str
            A torch device, for large B and N: see :func:`sparsight.encoders.sae.blocks.document_codes`.

        Returns
        -------
        csr_matrix as :meth:`encode`
        """
        if device != "cpu":
            from sparsight.encoders.sae.blocks import document_codes

            return document_codes(self, x, device=device)
        return self.encode(x, mode="pursuit" if self.document_mode == "pursuit" else None)

    def document_weights(self, x: F32, *, device: str = "cpu") -> csr_matrix:
        """Codes of documents divided by the norm of their reconstruction: what the index stores for them.

        With query weights ``w_i . q`` for all i, ``sum_i q_i z_i / |xhat| = q . (xhat - b_dec) / |xhat|``: the cosine
        with the reconstruction but for the share of ``b_dec``.

        Parameters
        ----------
        x, device
            As :meth:`document_codes`.

        Returns
        -------
        csr_matrix as :meth:`encode`
        """
        return self.weights_of(self.document_codes(x, device=device))

    def weights_of(self, codes: csr_matrix) -> csr_matrix:
        """:meth:`document_weights` of documents by their codes (B, N), which are left as they are."""
        norms = np.empty(codes.shape[0], np.float32)
        for start in range(0, len(norms), _AT_ONCE):
            norms[start:start + _AT_ONCE] = np.linalg.norm(self.decode(codes[start:start + _AT_ONCE]), axis=1)
        weights = codes.copy()
        weights.data /= np.repeat(np.maximum(norms, 1e-12), np.diff(codes.indptr))
        return weights

    def query_weights(self, x: F32, *, scorer: Literal["decode", "symmetric"] = "decode",
                      max_terms: int = 512) -> list[SparseVector]:
        """Weights of latents for queries, to be multiplied with :meth:`document_weights`.

        Parameters
        ----------
        x : float32, shape (B, D)
        scorer : "decode" or "symmetric"
            ``w_i . x`` for every latent (signed), or the query's own code.
        max_terms : int
            Keep that many, by :func:`~sparsight.encoders.sae.weighting.importance`, equal ones by lower latent; 0 keeps
            all.

        Returns
        -------
        list of SparseVector
            Sorted indices, no zeros; for "decode" with both signs.

        Raises
        ------
        ShapeError, InvalidArgumentError
            If ``x`` has another width or dtype, or an option is unknown or negative.
        """
        self._check(x)
        if max_terms < 0:
            raise InvalidArgumentError(f"expected max_terms of at least 0, got {max_terms}", field="max_terms")
        if scorer == "symmetric":
            weights = self.encode(x).toarray()
        elif scorer == "decode":
            weights = x @ self.W_dec.T
        else:
            raise InvalidArgumentError(f"expected scorer 'decode' or 'symmetric', got {scorer!r}", field="scorer")
        return [_largest(row, max_terms) for row in weights]

    def with_names(self, labels: Sequence[str], examples: Sequence[Sequence[str]] = (), *,
                   sources: Sequence[str] = (), scores: F32 | None = None) -> SAE:
        """A copy with these labels, what they are from and their scores (N, 4), and, if given, examples."""
        scores = LatentNotes().scores if scores is None else scores
        return replace(self, labels=tuple(labels), examples=examples or self.examples,
                       notes=replace(self.notes, sources=tuple(sources), scores=scores))

    def save(self, folder: str | Path) -> None:
        """Write ``sae.safetensors`` and ``sae.json`` into a folder, which is made if it is not there.

        The first holds the arrays under their names, as float16 where that is exact and else as float32; ``threshold``
        only where the model has some. The second holds all else, N, D, the fingerprint, and the SHA-256 of the first.
        Each file is written beside its place and renamed; :meth:`load` notices a pair that does not belong together.
        """
        from sparsight.encoders.sae.files import save

        save(self, folder)

    @classmethod
    def load(cls, folder: str | Path) -> SAE:
        """Read a saved autoencoder.

        Raises
        ------
        CheckpointError
            If files are missing or damaged, or do not have the fingerprint and digest they say.
        """
        from sparsight.encoders.sae.files import load

        return load(folder)

    def _weights(self) -> dict[str, F32]:
        names = (*_WEIGHTS, "threshold") if self.threshold.size else _WEIGHTS
        return {name: getattr(self, name) for name in names}

    def _check(self, x: F32) -> None:
        if x.ndim != 2 or x.shape[1] != self.d_in or x.dtype != np.float32:
            raise ShapeError(f"expected float32 (B, {self.d_in}), got {x.dtype} {x.shape}", field="x")


def as_codes(latents: NDArray[np.integer[Any]], values: F32, n_latents: int) -> csr_matrix:
    """Codes from K slots a row: those with values above 0, their latents sorted.

    Parameters
    ----------
    latents : integers, shape (B, K)
        Different ones in a row, in any order; where the value is not above 0 they do not matter.
    values : float32, shape (B, K)
    n_latents : int

    Returns
    -------
    csr_matrix as :meth:`SAE.encode`
    """
    active = values > 0
    order = np.argsort(np.where(active, latents, n_latents), axis=1, kind="stable")
    latents, values = np.take_along_axis(latents, order, 1), np.take_along_axis(values, order, 1)
    active = values > 0
    indptr = np.zeros(len(values) + 1, np.int32 if values.size < 2**31 else np.int64)
    np.cumsum(active.sum(1), out=indptr[1:])
    return csr_matrix((values[active], latents[active].astype(np.int32), indptr), shape=(len(values), n_latents))


def describe_latents(sae: SAE, x: F32, *, device: str = "cpu") -> SAE:
    """The autoencoder with what describes its latents, but for names, taken from embeddings, float32 (B, D).

    ``density`` is the share of them that it fires on, ``scale`` the 90 % quantile of its document weights there,
    ``impact_scale`` the largest of them, which are also counted by size in the notes' histogram; for one that never
    fires ``scale`` is 0 and ``impact_scale`` the median of the others. On a ``device`` of torch other than "cpu"
    they are coded in other sums: :meth:`SAE.document_codes`.
    """
    weights = sae.document_weights(x, device=device).tocsc()
    counts = np.diff(weights.indptr)
    scale = np.zeros(sae.n_latents, np.float32)
    largest = np.zeros(sae.n_latents, np.float32)
    for latent in np.flatnonzero(counts):
        part = slice(weights.indptr[latent], weights.indptr[latent + 1])
        scale[latent] = np.quantile(weights.data[part], 0.9)
        largest[latent] = weights.data[part].max()
    usual = np.median(largest[counts > 0]) if counts.any() else 1.0
    return replace(sae, density=(counts / max(len(x), 1)).astype(np.float32), scale=scale,
                   impact_scale=np.where(counts > 0, largest, usual).astype(np.float32),
                   notes=replace(sae.notes, histogram=activation_histogram(weights)))


def _largest(weights: F32, max_terms: int) -> SparseVector:
    latents = np.flatnonzero(weights)
    if 0 < max_terms < len(latents):
        latents = np.sort(latents[np.argsort(-importance(weights[latents]), kind="stable")[:max_terms]])
    return SparseVector(latents.astype(np.uint32), weights[latents].astype(np.float32))
