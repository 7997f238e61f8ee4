"""The fused head of a learned sparse encoder on a GPU, against plain PyTorch and torch.compile in the same run.

    python benches/bench_max_logits.py                 # forward at 128 and 256 tokens, and a whole training step
    python benches/bench_max_logits.py --sweep         # ways to cut the work

Random token vectors of all-MiniLM-L6-v2's width against 30,522 terms in bfloat16. Rounds of the ways are interleaved;
what is printed are medians. Prints a table and one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch

from sparsight.encoders.packed import PackedBert, Packing
from sparsight.kernels.gpu import max_logits as fused
from sparsight.kernels.gpu.max_logits import Blocks, MaxLogits, TokenTiles, max_logits

WIDTH, TERMS = 384, 30_522
MINILM = {"vocab_size": TERMS, "hidden_size": WIDTH, "num_hidden_layers": 6, "num_attention_heads": 12,
          "intermediate_size": 1536, "max_position_embeddings": 512}


def milliseconds(calls: Mapping[str, Callable[[], object]], rounds: int = 15) -> dict[str, float]:
    """Median time of each call, the calls taken in turns."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(2):
            call()
    for _ in range(rounds):
        for name, call in calls.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            torch.cuda.synchronize()
            taken[name].append(begin.elapsed_time(end))
    return {name: statistics.median(values) for name, values in taken.items()}


def peak_memory(call: Callable[[], object]) -> float:
    """MB that a call takes at most beyond what was there before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def measured_peak() -> float:
    """TFLOP/s of a bfloat16 product of 8192 x 8192 matrices."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / milliseconds({"product": lambda: a @ b})["product"] / 1e9


def plain(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The head as papers write it: (B, L, V) logits, activation, maximum."""
    return torch.log1p(torch.relu(hidden @ weight.T + bias)).amax(1)


def plain_max_first(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The same with the maximum before the activation."""
    return torch.log1p(torch.relu((hidden @ weight.T).amax(1) + bias))


def forward(length: int, peak: float) -> dict[str, object]:
    """Texts a second of the head alone."""
    texts = 65_536 // length
    torch.manual_seed(0)
    hidden = torch.randn(texts * length, WIDTH, device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(TERMS, WIDTH, device="cuda", dtype=torch.bfloat16) / 20
    bias = torch.full((TERMS,), -1.0, device="cuda", dtype=torch.bfloat16)
    tiles = TokenTiles(np.arange(texts + 1, dtype=np.int64) * length, WIDTH, "cuda")
    block = hidden.view(texts, length, WIDTH)
    compiled, compiled_first = torch.compile(plain), torch.compile(plain_max_first)
    with torch.inference_mode():
        calls = {"plain": lambda: plain(block, weight, bias),
                 "plain, max first": lambda: plain_max_first(block, weight, bias),
                 "torch.compile": lambda: compiled(block, weight, bias),
                 "torch.compile, max first": lambda: compiled_first(block, weight, bias),
                 "fused": lambda: max_logits(hidden, tiles, weight, bias, activation="log1p_relu")}
        error = (calls["fused"]().float() - calls["plain, max first"]().float()).abs().max().item()
        times = milliseconds(calls)
        memory = {name: peak_memory(call) for name, call in calls.items()}
    flops = 2 * texts * length * WIDTH * TERMS
    return {"tokens": length, "texts": texts, "largest_difference": error,
            **{name: {"texts_per_s": round(texts / time * 1e3), "tflops": round(flops / time / 1e9, 1),
                      "share_of_peak": round(flops / time / 1e9 / peak, 3), "peak_mb": round(memory[name])}
               for name, time in times.items()}}


def training_step(length: int = 128, texts: int = 256) -> dict[str, object]:
    """Forward and backward of the whole encoder and head, with the fused head and with (B, L, V) logits."""
    model = PackedBert(MINILM, head=True).cuda().bfloat16()
    with torch.no_grad():
        model.bias.fill_(-0.2)  # type: ignore[union-attr] # some hundred non-zeros a text
    starts = np.arange(texts + 1, dtype=np.int64) * length
    packing, tiles = Packing(starts, "cuda"), TokenTiles(starts, WIDTH, "cuda", gradients=True)
    ids = torch.randint(1000, 30_000, (texts * length,), device="cuda")
    seen: dict[str, float] = {}

    def step(head: str) -> None:
        hidden = model(ids, packing)
        if head == "fused":
            logits = MaxLogits.apply(hidden, tiles, model.word, model.bias)
        else:
            logits = (hidden.view(texts, length, WIDTH) @ model.word.T).amax(1).float() + model.bias
        weights = torch.log1p(torch.relu(logits))
        seen[head] = float((weights.detach() > 0).sum() / texts)
        weights.mean(0).square().sum().backward()
        model.zero_grad(set_to_none=True)

    calls = {name: partial(step, name) for name in ("plain, max first", "fused")}
    times = milliseconds(calls, 9)
    return {"tokens": length, "texts": texts, "non_zeros": seen,
            **{name: {"ms": round(times[name], 2), "peak_mb": round(peak_memory(call))}
               for name, call in calls.items()}}


def sweep(length: int) -> None:
    """Prints TFLOP/s of ways to cut the work, with and without the token's number in the logit."""
    texts = 65_536 // length
    hidden = torch.randn(texts * length, WIDTH, device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(TERMS, WIDTH, device="cuda", dtype=torch.bfloat16) / 20
    starts = np.arange(texts + 1, dtype=np.int64) * length
    out = torch.empty((texts, TERMS), device="cuda", dtype=torch.float32)
    for cut in (Blocks(128, 128, 64, 2, 8), Blocks(128, 128, 64, 2, 4), Blocks(128, 128, 128, 1, 8),
                Blocks(128, 128, 32, 3, 8), Blocks(128, 128, 32, 4, 4), Blocks(128, 64, 64, 3, 4),
                Blocks(128, 64, 128, 1, 4), Blocks(64, 128, 64, 2, 8), Blocks(64, 128, 128, 1, 8),
                Blocks(128, 64, 128, 2, 8)):
        tiles = TokenTiles(starts, WIDTH, "cuda", gradients=True, cut=cut)
        try:
            times = milliseconds({str(bits): partial(fused._launch, hidden, tiles, weight, None, out, token_bits=bits,
                                                     activation=0) for bits in (0, 9)}, 7)
        except Exception as error:
            print(cut, type(error).__name__, str(error)[:80])
            continue
        print(length, cut, {bits: round(2 * texts * length * WIDTH * TERMS / ms / 1e9) for bits, ms in times.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sweep", action="store_true", help="time ways to cut the work instead")
    if parser.parse_args().sweep:
        for length in (128, 200):
            sweep(length)
        return
    peak = measured_peak()
    report = {"gpu": torch.cuda.get_device_name(), "peak_tflops": round(peak), "width": WIDTH, "terms": TERMS,
              "forward": [forward(length, peak) for length in (128, 256)],
              "training_step": [training_step(), training_step(256, 128)]}
    for row in report["forward"]:  # type: ignore[attr-defined]
        print(f"{row['tokens']} tokens:", {name: value for name, value in row.items() if isinstance(value, dict)})
    print(json.dumps(report))


if __name__ == "__main__":
    main()
