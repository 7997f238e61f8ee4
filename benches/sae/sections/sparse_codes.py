"""k-sparse codes beside those of other activations: k-sparse autoencoders (1), BatchTopK and JumpReLU (3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benches.quality.criteria import asked, row
from benches.quality.results import Row
from benches.sae.l1_relu import tuned
from benches.sae.lab import Lab, measured
from benches.sae.sections._cells import cell, control, plain
from benches.sae.sections._labels import labelled, share_right
from sparsight.encoders.sae.model import SAE
from sparsight.encoders.sae.thresholds import calibrated

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["section"]

F32 = NDArray[np.float32]
_LATENTS = 2048
_KS = (8, 16, 32, 64)
_PROBED = (2048, 32)  # N and k of the codes that a classifier reads
_ROUNDS = 20  # of penalties that are tried
_ALONE = 256  # rows that are encoded one by one
_EQUAL = 1.1  # L0 over k up to which an L1-ReLU autoencoder is compared
_FIRST, _THIRD = "k-sparse autoencoder", "BatchTopK"


def section(lab: Lab) -> list[Row]:
    """Rows "activations": FVU by active latents for three activations.

    Penalties and thresholds are sought on one half of the held-out rows; figures are of the other half.
    """
    n, ks = lab.scale(_LATENTS, 64), lab.scale(_KS, (2, 4, 8, 16))
    sought, judged = lab.data.held[::2], lab.data.held[1::2]
    topk = lab.train_many([control(lab, n, k) for k in ks], name="TopK")
    batched = lab.train_many([cell(lab, n, k, activation="batchtopk") for k in ks], name="BatchTopK")
    jumping = [calibrated(sae, sought, k) for (sae, _), k in zip(batched, ks, strict=True)]
    steps, batch = topk[0][1]["steps"], min(cell(lab, n, ks[0]).batch, len(lab.data.x))
    lab.say("seeking L1 penalties ...")
    penalised = tuned(lab.data.x, sought, n, ks, steps=steps, batch=batch, rounds=_ROUNDS, device=lab.data.device)
    models = {"TopK": [sae for sae, _ in topk], "BatchTopK": jumping, "L1-ReLU": [run.sae for run in penalised]}
    penalties = {"L1-ReLU": [run.penalty for run in penalised]}
    rows = [row("activations", activation=name, n_latents=n, k=k, steps=steps, penalty=penalty,
                **measured(sae, judged, lab.codes(sae, judged), device=lab.data.device))
            for name, saes in models.items()
            for k, sae, penalty in zip(ks, saes, penalties.get(name, [""] * len(ks)), strict=True)]  # fmt: skip
    settings = f"{n:,} latents, {steps} steps of {batch:,} rows"
    return [*rows, *_of_k_sparse(lab, models["TopK"], rows, settings), _of_labels(lab),
            *_of_thresholds(lab, jumping, rows, settings)]


def _of(rows: Sequence[Row], activation: str, key: str) -> NDArray[np.float64]:
    return np.array([of[key] for of in rows if of["activation"] == activation])


def _of_k_sparse(lab: Lab, saes: Sequence[SAE], rows: Sequence[Row], settings: str) -> list[Row]:
    ks, held = [sae.k for sae in saes], lab.data.held
    most = max(int(np.diff(lab.codes(sae, held).indptr).max()) / sae.k for sae in saes)
    shares, l0s = _of(rows, "TopK", "fvu") / _of(rows, "L1-ReLU", "fvu"), _of(rows, "L1-ReLU", "l0")
    beside = ", ".join(f"k {k}: {share:.3f} (L0 of L1 {l0:.1f})" for k, share, l0 in zip(ks, shares, l0s, strict=True))
    comparable = np.where(l0s <= _EQUAL * np.array(ks), shares, np.nan)  # one that is not makes the worst NaN: missed
    return [
        asked(1, _FIRST, "never more than k active", most, "at most", 1.0, unit="times k",
              note=f"all of {len(held):,} held-out rows, k in {ks}; {settings}"),
        asked(1, _FIRST, "FVU below that of an L1-ReLU autoencoder of equal L0, at every L0", comparable.max(),
              "at most", 1.0, unit="times", note=f"the worst of {beside}; its penalty is sought so that L0 is k or a "
                                                 f"little more; {settings} for both"),
    ]  # fmt: skip


def _of_labels(lab: Lab) -> Row:
    """Whether a linear classifier reads arXiv's categories from codes as well as from embeddings."""
    n, k = lab.scale(_PROBED, (64, 16))
    (sae, _), rows = lab.train("TopK", plain(lab, n, k)), labelled(lab)
    codes = rows.of(lab.codes(sae, rows.train), lab.codes(sae, rows.test))  # type: ignore[arg-type]
    by_codes, dense = share_right(codes, lab.data.device), share_right(rows, lab.data.device)
    return asked(1, _FIRST, f"accuracy of logistic regression on codes of {k} latents, of that on embeddings",
                 by_codes / dense, "at least", 0.97, unit="times", note=(
                     f"{by_codes:.3f} against {dense:.3f}; the {len(set(rows.test_labels.tolist()))} most frequent "
                     f"primary categories, {len(rows.train_labels):,} abstracts to fit, {len(rows.test_labels):,} "
                     f"held out; {n:,} latents"))  # fmt: skip


def _of_thresholds(lab: Lab, saes: Sequence[SAE], rows: Sequence[Row], settings: str) -> list[Row]:
    l0s, ks, held = _of(rows, "BatchTopK", "l0"), [sae.k for sae in saes], lab.data.held
    shares = _of(rows, "BatchTopK", "fvu") / _of(rows, "TopK", "fvu")
    several = ", ".join(f"k {k}: {l0:.2f}" for k, l0 in zip(ks, l0s, strict=True))
    beside = ", ".join(f"k {k}: {share:.4f}" for k, share in zip(ks, shares, strict=True))
    halves = f"thresholds from {len(held[::2]):,} held-out rows, figures of as many others"
    return [
        asked(3, _THIRD, "L0 of inference within 2 % of k", 100 * np.abs(l0s / ks - 1).max(), "at most", 2.0,
              unit="% off", note=f"{several}; {halves}; {settings}"),
        asked(3, _THIRD, "a document's code the same bits alone and in any batch",
              sum(_differing(sae, held) for sae in saes), "at most", 0, unit="documents that differ",
              note=f"{len(held):,} rows in two orders, {min(_ALONE, len(held))} of them alone; k in {ks}"),
        asked(3, _THIRD, "FVU no higher than TopK's at equal mean L0", shares.max(), "at most", 1.0, unit="times",
              note=f"the worst of {beside}; {halves}; {settings}"),
    ]  # fmt: skip


def _differing(sae: SAE, x: F32) -> int:
    """Rows whose code depends on the rows beside it."""
    whole, order = sae.encode(x), np.random.default_rng(0).permutation(len(x))
    mixed = sae.encode(x[order])
    different = {at for place, at in enumerate(order.tolist()) if not _same(whole, at, mixed, place)}
    alone = order[:_ALONE].tolist()
    return len(different | {at for at in alone if not _same(whole, at, sae.encode(x[at:at + 1]), 0)})


def _same(a: csr_matrix, i: int, b: csr_matrix, j: int) -> bool:
    """Whether row i of a and row j of b hold the same bits."""
    one, other = slice(a.indptr[i], a.indptr[i + 1]), slice(b.indptr[j], b.indptr[j + 1])
    return np.array_equal(a.indices[one], b.indices[other]) and a.data[one].tobytes() == b.data[other].tobytes()
