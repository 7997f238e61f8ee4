"""How many texts of 128 word pieces a second become sparse rows on a GPU, and what does each stage take alone?

    python benches/bench_encode_gpu.py --model FOLDER [--texts 100000] [--rounds 3]

A SPLADE model of all-MiniLM-L6-v2's shape (6 layers of 384) with random weights and the tokenizer of FOLDER, its bias
set so that about 130 terms a text stay; then FOLDER's own model, if that is a masked language model. Texts are random
words of the vocabulary. Stages alone run on one slice; "overlapped" is `SpladeEncoder.encode`, text to `csr_matrix`,
the median of the rounds. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from sparsight.encoders.gpu_encoding import SLICE, GpuSplade
from sparsight.encoders.loading import load_encoder
from sparsight.encoders.packed import PackedBert
from sparsight.encoders.splade import SpladeEncoder
from sparsight.kernels.gpu.max_logits import max_logits
from sparsight.kernels.gpu.pruned_csr import pruned_csr

MINILM = {"model_type": "bert", "architectures": ["BertForMaskedLM"], "hidden_size": 384, "num_hidden_layers": 6,
          "num_attention_heads": 12, "intermediate_size": 1536, "max_position_embeddings": 512, "hidden_act": "gelu",
          "type_vocab_size": 2, "layer_norm_eps": 1e-12, "pad_token_id": 0}
TOKENS, NON_ZEROS = 128, 130
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder with a BERT tokenizer: splade-tiny's")
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    texts = random_texts(arguments.model, arguments.texts)
    report: dict[str, Any] = {"op": "encode", "backend": "gpu", "gpu": torch.cuda.get_device_name(),
                              "texts": len(texts), "tokens": TOKENS, "rounds": arguments.rounds, "models": {}}
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), arguments.model, texts[:256])
        report["models"]["random MiniLM"] = measure(folder, texts, arguments.rounds)
    config = json.loads((arguments.model / "config.json").read_text())
    if config.get("architectures") == ["BertForMaskedLM"]:
        report["models"][arguments.model.name] = measure(str(arguments.model), texts, arguments.rounds)
    for name, row in report["models"].items():
        print(name, "(texts/s)")
        for stage, rate in row["texts_per_s"].items():
            print(f"  {stage:<12} {rate:>12,.0f}")
    print(json.dumps(report))


def random_texts(folder: Path, count: int) -> list[str]:
    """Texts of exactly TOKENS word pieces, special tokens included."""
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    words = np.array([word for word in vocabulary if re.fullmatch("[a-z]{3,}", word)], dtype=object)
    chosen = words[np.random.default_rng(0).integers(len(words), size=(count, TOKENS - 2))]
    return [" ".join(line) for line in chosen]


def write_model(folder: Path, tokenizer: Path, sample: Sequence[str]) -> None:
    """A random MiniLM whose bias lets NON_ZEROS terms of a text through."""
    for name in _TOKENIZER:
        if (tokenizer / name).is_file():
            shutil.copy(tokenizer / name, folder)
    terms = int(json.loads((tokenizer / "config.json").read_text())["vocab_size"])
    config = MINILM | {"vocab_size": terms}
    torch.manual_seed(0)
    model = PackedBert(config, head=True)

    def save() -> None:
        save_file(model.to_transformers(), folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config))

    save()
    encoder: Any = load_encoder(str(folder), device="cuda", precision="auto")
    (batch,) = encoder._gpu._prepare(*encoder._tokens.packed(sample, TOKENS), None).batches
    with torch.inference_mode():
        packed = encoder._gpu._model_in(encoder._gpu.dtype)
        largest = max_logits(packed(*batch[:2]), batch[2], packed.word, dtype=torch.float32)
        cut = largest.flatten().kthvalue(largest.numel() - NON_ZEROS * len(sample)).values
    with torch.no_grad():
        assert model.bias is not None
        model.bias.fill_(-float(cut))
    save()


def measure(folder: str, texts: Sequence[str], rounds: int) -> dict[str, Any]:
    """Texts a second of the stages and of all, peak memory, and the difference from float32."""
    encoder = load_encoder(folder, device="cuda", precision="auto")
    exact = load_encoder(folder, device="cuda", precision="float32")
    assert isinstance(encoder, SpladeEncoder) and encoder._gpu is not None
    rates = {"tokenising": _tokenising(encoder, texts)}
    check = texts[:256]
    difference = abs(encoder.encode(check, max_tokens=TOKENS) - exact.encode(check, max_tokens=TOKENS)).max()
    rates |= stages(encoder._gpu, encoder, texts[:SLICE])
    torch.cuda.reset_peak_memory_stats()
    taken = []
    for _ in range(rounds):
        begun = time.perf_counter()
        rows = encoder.encode(texts, max_tokens=TOKENS)
        taken.append(len(texts) / (time.perf_counter() - begun))
    rates["overlapped"] = statistics.median(taken)
    return {"texts_per_s": {name: round(rate) for name, rate in rates.items()}, "rounds": [round(x) for x in taken],
            "non_zeros": round(rows.nnz / len(texts), 1), "dtype": str(encoder._gpu.dtype),
            "largest_difference_from_float32": float(difference),
            "gpu_peak_mb": round(torch.cuda.max_memory_allocated() / 1e6),
            "host_peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)}


def _tokenising(encoder: SpladeEncoder, texts: Sequence[str]) -> float:
    begun = time.perf_counter()
    pieces = sum(len(encoder._tokens.packed(texts[at:at + SLICE], TOKENS)[0]) for at in range(0, len(texts), SLICE))
    rate = len(texts) / (time.perf_counter() - begun)
    assert pieces == len(texts) * TOKENS
    return rate


@torch.inference_mode()
def stages(gpu: GpuSplade, encoder: SpladeEncoder, texts: Sequence[str]) -> dict[str, float]:
    """Texts a second of the GPU's stages alone, over a slice that lies on the device."""
    model = gpu._model_in(gpu.dtype)
    batches = gpu._prepare(*encoder._tokens.packed(texts, TOKENS), None).batches
    hidden = [model(ids, packing) for ids, packing, _ in batches]

    def head(vectors: torch.Tensor, tiles: Any) -> torch.Tensor:
        return max_logits(vectors, tiles, model.word, model.bias, activation=gpu.activation)

    weights = [head(vectors, tiles) for vectors, (_, _, tiles) in zip(hidden[:4], batches[:4], strict=True)]
    times = {
        "encoder": _seconds(lambda: [model(ids, packing) for ids, packing, _ in batches]),
        "head": _seconds(lambda: [head(x, tiles) for x, (_, _, tiles) in zip(hidden, batches, strict=True)]),
        "CSR": _seconds(lambda: [pruned_csr(x) for x in weights]) * len(texts) / sum(len(x) for x in weights)}
    return {name: len(texts) / seconds for name, seconds in times.items()}


def _seconds(call: Callable[[], object]) -> float:
    call()
    taken = []
    for _ in range(5):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        call()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


if __name__ == "__main__":
    main()
