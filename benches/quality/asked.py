"""What was asked of the sparse encoders: each figure's bound, and how it follows from the file that has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from benches.quality.results import Row

__all__ = ["HYBRID", "MODEL", "SIAMESE", "TABLE", "TARGETS", "Target"]

MODEL, SIAMESE, TABLE = "sparsight-small", "sparsight-small#siamese", "sparsight-small#table"
HYBRID = f"{SIAMESE} + all-MiniLM-L6-v2"
_OUTPUT_BYTES = 2  # a weight of the head's output in max_logits.json: bfloat16


@dataclass(frozen=True)
class Target:
    """One figure that was asked.

    Attributes
    ----------
    what : str
    asked : float or None
        The bound; None: the figure was only asked to be told.
    unit : str
    source : str
        A kind of the report's rows, a file beside it, "card", or "N threads": that run of encode_cpu.json.
    measured : callable
        The figure from the source's data; a LookupError says that the source does not have it.
    note : callable
        A remark from the same data.
    bound : "at least", "at most" or "within 5 % of"
    moonshot : float or None
        What was dreamt of.
    """

    what: str
    asked: float | None
    unit: str
    source: str
    measured: Callable[[Any], float]
    note: Callable[[Any], str] = lambda data: ""
    bound: str = "at least"
    moonshot: float | None = None


def _of_tokens(rows: Sequence[Row], tokens: int) -> Row:
    found = {row["tokens"]: row for row in rows}
    return found[tokens]


def _head(tokens: int) -> list[Target]:
    """The fused head's forward pass on texts of so many tokens."""

    def ratio(data: Any, other: str) -> float:
        row = _of_tokens(data["forward"], tokens)
        return float(row["fused"]["texts_per_s"] / row[other]["texts_per_s"])

    def rates(data: Any, other: str) -> str:
        row, first = _of_tokens(data["forward"], tokens), f"{other}, max first"
        return (f"{row['fused']['texts_per_s']:,} texts/s against {row[other]['texts_per_s']:,}; "
                f"{ratio(data, first):.2f} times the {row[first]['texts_per_s']:,} of one that takes the maximum first")

    def outputs(data: Any) -> float:
        row = _of_tokens(data["forward"], tokens)
        return float(row["fused"]["peak_mb"] * 1e6 / (row["texts"] * data["terms"] * _OUTPUT_BYTES))

    def memory(data: Any) -> str:
        row = _of_tokens(data["forward"], tokens)
        return (f"{row['fused']['peak_mb']} MB, plain PyTorch {row['plain']['peak_mb']:,} MB; every token's logits "
                f"would be {tokens} times. The bound is 1, and room for rounding to MB")

    def share(data: Any) -> float:
        return float(_of_tokens(data["forward"], tokens)["fused"]["share_of_peak"])

    name = f"fused head, {tokens} tokens"
    return [
        Target(f"{name}: speed of plain PyTorch", 3, "times", "max_logits.json", partial(ratio, other="plain"),
               partial(rates, other="plain")),
        Target(f"{name}: speed of torch.compile", 1.5, "times", "max_logits.json",
               partial(ratio, other="torch.compile"), partial(rates, other="torch.compile")),
        Target(f"{name}: share of the matrix peak", None, "of the peak", "max_logits.json", share,
               lambda data: f"peak measured with 8192 x 8192 matrices: {data['peak_tflops']} TFLOP/s"),
        Target(f"{name}: peak memory", 1.05, "times its output (B, V)", "max_logits.json", outputs, memory,
               bound="at most"),
    ]


def _step(tokens: int) -> list[Target]:
    """A training step without the fused head over one with it."""

    def ratio(data: Any, what: str) -> float:
        row = _of_tokens(data["training_step"], tokens)
        return float(row["plain, max first"][what] / row["fused"][what])

    def both(data: Any, what: str, unit: str) -> str:
        row = _of_tokens(data["training_step"], tokens)
        return f"{row['fused'][what]:,} {unit} against {row['plain, max first'][what]:,}; {row['texts']} texts"

    name = f"training step, {tokens} tokens, without over with the fused head"
    return [Target(f"{name}: {word}", None, "times", "max_logits.json", partial(ratio, what=what),
                   partial(both, what=what, unit=unit))
            for word, what, unit in (("time", "ms", "ms"), ("peak memory", "peak_mb", "MB"))]


def _cpu(threads: int) -> Target:
    def note(run: Any) -> str:
        row = run["models"]["sparsight-tiny"]
        return (f"both float32: {row['float32']:g} texts/s against {row['sentence_transformers']:g}; ours in bfloat16 "
                f"{row['bfloat16']:g} ({row['ratios']['bfloat16']:.1f} times); {run['max_tokens']} tokens")

    return Target(f"sparsight-tiny on {threads} CPU core{'s' * (threads > 1)}: speed of sentence-transformers", 1.5,
                  "times", f"{threads} threads", lambda run: run["models"]["sparsight-tiny"]["ratios"]["float32"], note)


def _csr(data: Any) -> dict[str, float]:
    rates: dict[str, float] = data["models"]["random MiniLM"]["texts_per_s"]
    return rates


def _limit(data: Any) -> str:
    """What bounds text to rows: encoder and head, one after the other on the GPU."""
    rates = _csr(data)
    series = 1 / (1 / rates["encoder"] + 1 / rates["head"])
    reached = 100 * rates["overlapped"] / series
    return (f"limited by the GPU: encoder ({rates['encoder']:,} texts/s alone) and head ({rates['head']:,}) in series "
            f"give {series:,.0f}, of which {reached:.0f} % is reached; the rest lies between "
            f"them: copies, launches. Tokenising alone: {rates['tokenising']:,}. Random weights of the 23 M shape, "
            f"{data['models']['random MiniLM']['non_zeros']:.0f} non-zeros a text")


def _same_run(system: str, on: str = "mean") -> Callable[[Any], str]:
    return lambda data: f"{system} in the same run: {data[on][system]:.3f}"


def _mean(against: str, asked: float, note: Callable[[Any], str], system: str = SIAMESE) -> Target:
    """Mean over scifact, cranfield and cacm."""
    what = "sparse + dense" if system == HYBRID else "queries by model"
    return Target(f"{MODEL}, {what}, mean of three sets: above {against}", asked, "nDCG@10", "quality",
                  lambda data: data["mean"][system], note)


TARGETS: tuple[Target, ...] = (
    Target(f"{MODEL}, queries by model: SciFact", 0.69, "nDCG@10", "quality", lambda data: data["scifact"][SIAMESE],
           _same_run("bm25", "scifact")),
    Target(f"{MODEL}, queries by table: SciFact", 0.67, "nDCG@10", "quality", lambda data: data["scifact"][TABLE],
           _same_run("bm25", "scifact")),
    Target(f"{MODEL}, queries by table: encoding one, p50 on one CPU core", 20, "µs", "speed",
           lambda data: data[TABLE]["query_p50_us"],
           lambda data: f"p99 {data[TABLE]['query_p99_us']:g}; through the model {data[SIAMESE]['query_p50_us']:,g}",
           bound="at most"),
    # BM25 with the engine's own k1 and b; the other bounds were set before the model was trained.
    _mean("BM25 (k1 1.2, b 0.75)", 0.534, lambda data: f"k1 0.9, b 0.4 in the same run: {data['mean']['bm25']:.3f}"),
    _mean("all-MiniLM-L6-v2", 0.494, _same_run("all-MiniLM-L6-v2")),
    _mean("splade-tiny", 0.490, _same_run("splade-tiny")),
    _mean("the best hybrid without it", 0.553, _same_run("splade-tiny + all-MiniLM-L6-v2"), HYBRID),
    Target(f"{MODEL}: mean non-zeros of a document in training", 135, "non-zeros", "card", lambda data: data["held"],
           lambda data: f"last 1,000 steps; the controller was told {data['target']:g}", bound="within 5 % of"),
    *_head(128), *_head(256),
    Target("text to CSR, 23 M shape, 128 tokens, one GPU", 45_000, "texts/s", "encode_gpu.json",
           lambda data: _csr(data)["overlapped"], _limit),
    *_step(128), *_step(256),
    _cpu(1), _cpu(2),
)  # fmt: skip
"""Everything asked, in the report's order."""
