"""Do autoencoders over different embedders find the same features (14)?

The second embedder is made of a model that others trained, for another task: the vectors of ``splade-tiny`` over word
pieces, reduced to as many dimensions as the first has by a truncated singular value decomposition (latent semantic
analysis, Deerwester et al. 1990). They agree with arXiv's categories nearly as well as the first (of the ten nearest of
4,000 abstracts 0.43 against 0.48 have the same category), better than the mean of the model's hidden states (0.38).
Where there is no network the model's files are found in the folder that ``SPARSIGHT_CACHE`` names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benches.quality.criteria import asked, row
from benches.quality.results import Row
from benches.sae.lab import Lab
from sparsight.encoders.loading import load_encoder
from sparsight.encoders.sae.config import SAEConfig
from sparsight.encoders.sae.labels import label_features
from sparsight.encoders.sae.space_similarity import space_similarity
from sparsight.encoders.sae.training import train_many
from sparsight.encoders.sae.universality import label_transfer, pair_by_activation

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["section"]

F32 = NDArray[np.float32]
SECOND = "splade-tiny"
_TEXTS = 30_000
_LATENTS, _K, _EPOCHS, _BATCH = 4096, 16, 30, 1024
_MAX_TOKENS = 256
_PASSES = 4  # of the randomised decomposition
_PAIRED = 0.1  # least correlation, as Lan et al. have it


def section(lab: Lab) -> list[Row]:
    """A row "universality" of the pairs of features."""
    rows = np.sort(np.random.default_rng(0).permutation(len(lab.data.x))[:lab.scale(_TEXTS, 400)])
    texts = [lab.data.texts[at] for at in rows.tolist()]
    first = lab.data.x[rows]
    lab.say(f"embedding {len(texts):,} texts by {SECOND} ...")
    sparse = load_encoder(SECOND, device=lab.data.device).encode(texts, max_tokens=_MAX_TOKENS)
    second = _reduced(sparse, first.shape[1], lab.data.device)
    config = SAEConfig(n_latents=lab.scale(_LATENTS, 96), k=lab.scale(_K, 4), epochs=lab.scale(_EPOCHS, 2),
                       batch=lab.scale(_BATCH, 64), held_out=0.0)
    a, b = (train_many(of, [config], device=lab.data.device)[0][0] for of in (first, second))
    codes_a, codes_b = lab.codes(a, first), lab.codes(b, second)
    pairs = pair_by_activation(codes_a, codes_b, least=lab.scale(_PAIRED, 0.0))
    alike = space_similarity(a.W_dec[pairs.a], b.W_dec[pairs.b], variance=lab.scale(0.99, 0.5), device=lab.data.device)
    said = label_transfer(label_features(codes_a, texts), label_features(codes_b, texts), pairs)
    found = row("universality", second=SECOND, texts=len(texts), n_latents=a.n_latents, k=a.k, pairs=len(pairs.a),
                correlation=float(np.median(pairs.correlation)), svcca=alike.svcca,
                svcca_by_chance=alike.svcca_by_chance, svcca_sigmas=alike.svcca_sigmas, rsa=alike.rsa,
                rsa_by_chance=alike.rsa_by_chance, rsa_sigmas=alike.rsa_sigmas, labels=said.pairs,
                first_word=said.first, first_word_by_chance=said.first_by_chance, any_word=said.any,
                any_word_by_chance=said.any_by_chance)
    return [found, *_criteria(found)]


def _reduced(x: csr_matrix, width: int, device: str) -> F32:
    """Unit rows of the ``width`` widest directions of sparse rows, (B, V), without centring; by random projections.

    Halko, Martinsson, Tropp 2011, "Finding structure with randomness". Rows become dense on the device: 4 GB for 30,000
    texts.
    """
    import torch

    rows = torch.from_numpy(x.toarray()).to(device)
    rank = min(width, *rows.shape)
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(rows.shape[1], min(rank + rank // 8 + 1, *rows.shape), generator=generator).to(device)
    for _ in range(_PASSES):
        basis = torch.linalg.qr(rows.T @ torch.linalg.qr(rows @ basis).Q).Q
    u, s, _ = torch.linalg.svd(rows @ basis, full_matrices=False)
    reduced = torch.zeros(len(rows), width, device=device)
    reduced[:, :rank] = u[:, :rank] * s[:rank]
    return np.ascontiguousarray(torch.nn.functional.normalize(reduced, dim=1).cpu().numpy())


def _criteria(found: Row) -> list[Row]:
    name = "Universal feature spaces"
    settings = (f"{found['pairs']} pairs of {found['n_latents']:,} latents by correlation on {found['texts']:,} texts, "
                f"median {found['correlation']:.2f}; the report's embedder, and {found['second']} with its vectors "
                "reduced by SVD")
    return [
        asked(14, name, "SVCCA of paired decoder rows above random pairing", found["svcca_sigmas"], "at least", 10.0,
              unit="sigmas", note=f"{found['svcca']:.3f} against {found['svcca_by_chance']:.3f}; RSA "
                                  f"{found['rsa']:.3f}, {found['rsa_sigmas']:.0f} sigmas; {settings}"),
        asked(14, name, "pairs whose labels have the same first word, above chance", 100 * (
              found["first_word"] - found["first_word_by_chance"]), "at least", 0.0, unit="points", note=(
                  f"{found['first_word']:.1%} against {found['first_word_by_chance']:.1%}, any word in common "
                  f"{found['any_word']:.1%} against {found['any_word_by_chance']:.1%}; {settings}"))]  # fmt: skip
