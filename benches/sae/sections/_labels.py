"""arXiv's categories: what a linear classifier and clusters make of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from benches.sae.lab import Lab
from sparsight.encoders.sae.probes import logistic_regression

if TYPE_CHECKING:
    import torch

__all__ = ["Labelled", "labelled", "share_right", "v_measure"]

I64 = NDArray[np.int64]
_CATEGORIES = 16
_TO_FIT = 30_000
_PENALTIES = (10.0, 100.0)
_KEPT = 0.8  # of the rows to fit, where the penalty is chosen by the others


@dataclass(frozen=True, eq=False)
class Labelled:
    """Rows to fit to and rows to test on, with labels 0 to ``count - 1``. Features are float32 rows, sparse or not."""

    train: Any
    train_labels: I64
    test: Any
    test_labels: I64
    count: int

    def of(self, train: Any, test: Any) -> Labelled:
        """Other features of the same rows."""
        return Labelled(train, self.train_labels, test, self.test_labels, self.count)


def labelled(lab: Lab) -> Labelled:
    """Embeddings of abstracts of the most frequent primary categories: some of ``x``, and all that are held out."""
    counts = Counter(category for category in lab.data.categories if category not in ("", "wiki"))
    names = {category: at for at, (category, _) in enumerate(counts.most_common(lab.scale(_CATEGORIES, 4)))}
    own, held = (np.array([names.get(category, -1) for category in categories])
                 for categories in (lab.data.categories, lab.data.held_categories))
    some = np.random.default_rng(0).permutation(np.flatnonzero(own >= 0))[:lab.scale(_TO_FIT, 600)]
    tested = np.flatnonzero(held >= 0)
    return Labelled(lab.data.x[some], own[some], lab.data.held[tested], held[tested], len(names))


def share_right(rows: Labelled, device: str) -> float:
    """Accuracy of one logistic regression a label, the surest one counting.

    Features are centred and divided by one number, so that their sizes relative to each other stay; the penalty is
    chosen on rows to fit.
    """
    import torch

    train, test = (torch.from_numpy(_dense(part)).to(device).double() for part in (rows.train, rows.test))
    mean, scale = train.mean(0), train.var(0, correction=0).mean().sqrt()
    train, test = (train - mean) / scale, (test - mean) / scale
    labels = torch.from_numpy(rows.train_labels).to(device)
    kept = max(int(_KEPT * len(labels)), 1)
    right = [_right(_fitted(train[:kept], labels[:kept], rows.count, penalty), train[kept:], labels[kept:])
             for penalty in _PENALTIES]
    best = _PENALTIES[int(np.argmax(right))]
    return _right(_fitted(train, labels, rows.count, best), test, torch.from_numpy(rows.test_labels).to(device))


def _dense(features: Any) -> NDArray[np.float32]:
    return np.asarray(features.toarray() if issparse(features) else features, np.float32)


def _fitted(x: torch.Tensor, labels: torch.Tensor, count: int, penalty: float) -> torch.Tensor:
    import torch

    return torch.stack([logistic_regression(x, (labels == label).double(), penalty) for label in range(count)])


def _right(weights: torch.Tensor, x: torch.Tensor, labels: torch.Tensor) -> float:
    said = (x @ weights[:, :-1].T + weights[:, -1]).argmax(1)
    return float((said == labels).double().mean())


def v_measure(labels: I64, clusters: I64) -> float:
    """Harmonic mean of homogeneity and completeness (Rosenberg and Hirschberg 2007), in [0, 1].

    >>> v_measure(np.array([0, 0, 1, 1]), np.array([5, 5, 3, 3])), v_measure(np.array([0, 1]), np.array([0, 0]))
    (1.0, 0.0)
    """
    _, label = np.unique(labels, return_inverse=True)
    _, cluster = np.unique(clusters, return_inverse=True)
    joint = np.zeros((label.max() + 1, cluster.max() + 1))
    np.add.at(joint, (label, cluster), 1 / len(label))
    of_labels, of_clusters, of_both = (_entropy(p) for p in (joint.sum(1), joint.sum(0), joint.ravel()))
    total = of_labels + of_clusters
    return float(2 * (total - of_both) / total) if total > 1e-12 else 1.0


def _entropy(p: NDArray[np.float64]) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())
