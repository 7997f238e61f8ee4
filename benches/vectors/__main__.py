"""Encode the corpora: ``python -m benches.vectors --data DIR --out DIR``. Resumable; see ``--help``."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from benches.vectors.assemble import assemble
from benches.vectors.codes import train_codes
from benches.vectors.corpora import CORPORA, read_corpus, read_queries
from benches.vectors.encode import SHARD, dense_vectors, splade_matrix, splade_shards
from benches.vectors.planes import save_planes
from sparsight.encoders.loading import load_encoder


def main() -> None:
    """Shards of SPLADE weights and of SAE codes, then the workload files made of them."""
    parser = argparse.ArgumentParser(prog="python -m benches.vectors", description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the corpora, BEIR layout")
    parser.add_argument("--out", type=Path, required=True, help="where shards and workloads go")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sae-seconds", type=float, default=60.0, help="training time of each autoencoder")
    parser.add_argument("--only", choices=["encode", "assemble"], help="one half of the work")
    args = parser.parse_args()
    if args.only != "assemble":
        encode(args.data, args.out / "shards", args.device, args.sae_seconds)
    if args.only != "encode":
        assemble(args.data, args.out)


def encode(data: Path, folder: Path, device: str, sae_seconds: float) -> None:
    """All shards into ``folder``; those that are there are kept."""
    queries = [query.text for query in read_queries(data)]
    texts = [text for name in CORPORA for text in read_corpus(data, name)]
    print(f"{len(texts):,} documents, {len(queries):,} queries", flush=True)
    splade_shards(texts, folder, device)
    if not (path := folder / "splade-queries.npz").exists():
        save_planes(path, splade_matrix(load_encoder("splade-tiny", device=device), queries))  # type: ignore[arg-type]
    sizes = {latents: folder / f"sae{latents}-queries.npz" for latents in (16_384, 65_536)}
    if all(path.exists() for path in sizes.values()):
        return
    documents = dense_vectors(texts, device)
    questions = dense_vectors(queries, device)
    np.save(folder / "dense-queries.npy", questions.astype(np.float16))
    for latents, path in sizes.items():
        codes, query_codes = train_codes(documents, questions, latents, device, sae_seconds)
        for start in range(0, len(texts), SHARD * 5):
            save_planes(folder / f"sae{latents}-{start // (SHARD * 5):03d}.npz", codes[start:start + SHARD * 5])
        save_planes(path, query_codes)


if __name__ == "__main__":
    main()
