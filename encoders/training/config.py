"""Everything that decides a SPLADE training run, in one file of TOML.

Sections group the settings for the reader; in `SpladeTrainingConfig` their names stand side by side::

    [model]
    backbone = "all-MiniLM-L6-v2"

    [[data.sources]]          # once per corpus; keys are those of `TextSource`
    folder = "papers"
    titles = 100_000

    [train]
    steps = 8000

What is left out has its default. What is not known, of another type or out of range is an error that names the key.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from sparsight.encoders.config_files import check_known, check_value, naming, read_toml, split_change, wrong
from sparsight.encoders.settings import ACTIVATIONS
from sparsight.encoders.training.pairs import TextSource

__all__ = ["SpladeTrainingConfig", "read_config"]

_BIG = 1_000_000_000
_SOURCE_TYPES: dict[str, tuple[type, ...]] = {
    "folder": (str,), "splits": (list,), "pairs": (int,), "titles": (int,), "sentences": (int,), "held_out": (list,),
    "keep_titles": (bool,), "short": (int, float), "weight": (int, float)}  # fmt: skip


def _setting(section: str, default: Any, least: float | None = None, most: float | None = None,
             choices: tuple[str, ...] = ()) -> Any:
    """A field of the configuration: its section, and what it may be."""
    return field(default=default, metadata={"section": section, "least": least, "most": most, "choices": choices})


@dataclass(frozen=True, slots=True)
class SpladeTrainingConfig:
    """One training run.

    Raises
    ------
    InvalidArgumentError
        If a value is of another type than its default or out of range, or if two do not go together. ``field`` is
        the key, as ``train.steps``.

    Attributes
    ----------
    backbone : str
        [model] Name or folder of the encoder that is trained on, as `sparsight.encoders.resolve` takes it.
    head : "checkpoint" or "new"
        Keep the masked-language head that the backbone came with, or start one: a transform near the identity and
        the word embeddings as decoder.
    head_bias : float
        What every term's bias starts at with a new head: how sparse the first texts are.
    activation : "log1p_relu" or "log1p_log1p_relu"
        The second logarithm is the l0 paper's (arXiv:2504.14839).
    max_document_tokens, max_query_tokens : int
        Longer texts are cut; special tokens included.

    sources : tuple of TextSource
        [data] Corpora, and what is drawn from each. At least one.

    dense_teacher, sparse_teacher : str
        [teachers] Names of the models; empty for none.
    dense_weight, sparse_weight, bm25_weight : float
        Shares in the ensemble; 0 leaves a teacher out.
    teacher_scale : float
        Best score of the ensemble (see `losses.ensemble`).
    candidates : int
        Best documents by each teacher, per query, from which a step's documents are drawn.

    mlm_steps : int
        [warmup] Steps of masked-language modelling with the sparsity penalty, before everything else.
    mlm_share : float
        Tokens that are masked in them.
    vector_steps : int
        Steps that fit the sparse teacher's vectors of documents, after those.
    warm_rate : float
        Highest learning rate of both.

    steps : int
        [train] Steps of distillation.
    mine_every : int
        Steps of distillation after which the model finds candidates of its own, which join the teachers'; 0 for never.
    batch_queries, documents_per_query : int
        Of a step: queries, and documents for each of them (the positive included).
    encoder_rate, table_rate : float
        Highest learning rates of the encoder and of the static table of query weights.
    rate_warmup : int
        Steps over which they rise.
    rate_floor : float
        What they fall to, as a share.
    weight_decay : float
        Of AdamW, for matrices.
    clip : float
        Gradients are scaled down to this Euclidean norm.
    chunk_texts : int
        Texts that the encoder takes at once (`sparsight.encoders.training.chunks`): larger batches fit into memory,
        for a second forward pass. 0 takes a step's texts together.
    kl, info_nce, margin_mse : float
        Weights of the ranking losses; 0 leaves one out.
    temperature : float
        Of `losses.info_nce`.
    siamese_share, table_share : float
        How much of the loss is of queries that go through the encoder, and of queries that are looked up in the table.

    regulariser : "flops", "flops_l0", "flops_idf" or "l1"
        [sparsity] Penalty of documents.
    document_nonzeros : float
        Mean number that a controller holds by moving the penalty's weight (`schedule.NonzeroController`).
    document_penalty : float
        Where that weight starts, after the ramp.
    query_nonzeros : float
        The same for queries through the encoder; 0 keeps ``query_penalty`` fixed instead.
    query_penalty : float
        Weight of the L1 penalty of queries.
    l0_threshold : int
        With ``flops_l0``: documents up to this size are left alone. Below ``document_nonzeros``, or the controller
        could not get there.
    ramp : int
        Steps over which the penalties' weights rise quadratically.

    seed : int
        [run] Decides everything random.
    slice_seconds : float
        The run stops after so long with a checkpoint to go on from; 0 for no limit.
    checkpoint_every : int
        Steps between checkpoints.
    prepared : str
        Folder of the prepared data, which runs may share; ``data`` in the run's folder if empty.
    output : Path
        Folder for checkpoints, log and model.
    """

    backbone: str = _setting("model", "all-MiniLM-L6-v2")
    head: str = _setting("model", "new", choices=("checkpoint", "new"))
    head_bias: float = _setting("model", -2.0, -100.0, 100.0)
    activation: str = _setting("model", "log1p_relu", choices=ACTIVATIONS)
    max_document_tokens: int = _setting("model", 192, 8, 8192)
    max_query_tokens: int = _setting("model", 48, 8, 8192)

    sources: tuple[TextSource, ...] = field(default=(), metadata={"section": "data"})

    dense_teacher: str = _setting("teachers", "all-MiniLM-L6-v2")
    sparse_teacher: str = _setting("teachers", "")
    dense_weight: float = _setting("teachers", 1.0, 0.0, 1e6)
    sparse_weight: float = _setting("teachers", 0.0, 0.0, 1e6)
    bm25_weight: float = _setting("teachers", 1.0, 0.0, 1e6)
    teacher_scale: float = _setting("teachers", 30.0, 1e-3, 1e6)
    candidates: int = _setting("teachers", 100, 2, 10_000)

    mlm_steps: int = _setting("warmup", 0, 0, _BIG)
    mlm_share: float = _setting("warmup", 0.3, 0.01, 0.99)
    vector_steps: int = _setting("warmup", 0, 0, _BIG)
    warm_rate: float = _setting("warmup", 5e-4, 0.0, 1.0)

    steps: int = _setting("train", 8000, 1, _BIG)
    mine_every: int = _setting("train", 0, 0, _BIG)
    batch_queries: int = _setting("train", 64, 1, 1 << 20)
    documents_per_query: int = _setting("train", 8, 2, 4096)
    encoder_rate: float = _setting("train", 5e-5, 0.0, 1.0)
    table_rate: float = _setting("train", 1e-3, 0.0, 1.0)
    rate_warmup: int = _setting("train", 400, 0, _BIG)
    rate_floor: float = _setting("train", 0.05, 0.0, 1.0)
    weight_decay: float = _setting("train", 0.01, 0.0, 1.0)
    clip: float = _setting("train", 1.0, 1e-6, 1e9)
    chunk_texts: int = _setting("train", 0, 0, 1 << 20)
    kl: float = _setting("train", 1.0, 0.0, 1e6)
    info_nce: float = _setting("train", 0.0, 0.0, 1e6)
    margin_mse: float = _setting("train", 0.05, 0.0, 1e6)
    temperature: float = _setting("train", 1.0, 1e-6, 1e6)
    siamese_share: float = _setting("train", 0.5, 0.0, 1.0)
    table_share: float = _setting("train", 0.5, 0.0, 1.0)

    regulariser: str = _setting("sparsity", "flops", choices=("flops", "flops_l0", "flops_idf", "l1"))
    document_nonzeros: float = _setting("sparsity", 135.0, 1.0, 1e6)
    document_penalty: float = _setting("sparsity", 5e-3, 1e-12, 1e6)
    query_nonzeros: float = _setting("sparsity", 0.0, 0.0, 1e6)
    query_penalty: float = _setting("sparsity", 5e-3, 0.0, 1e6)
    l0_threshold: int = _setting("sparsity", 100, 0, 1_000_000)
    ramp: int = _setting("sparsity", 2500, 0, _BIG)

    seed: int = _setting("run", 0, 0, 2**31 - 1)
    slice_seconds: float = _setting("run", 0.0, 0.0, 1e9)
    checkpoint_every: int = _setting("run", 500, 1, _BIG)
    prepared: str = _setting("run", "")
    output: Path = _setting("run", Path("runs/splade"))  # noqa: RUF009 (no path ever changes)

    def __post_init__(self) -> None:
        for setting in fields(self):
            if setting.name != "sources":
                limits = {name: setting.metadata[name] for name in ("least", "most", "choices")}
                check_value(f"{setting.metadata['section']}.{setting.name}", getattr(self, setting.name),
                            setting.default, **limits)
        if not self.sources:
            raise wrong("data.sources", "at least one source", "none")
        if not self.siamese_share + self.table_share > 0:
            raise wrong("train.siamese_share", "it or table_share above 0", "both 0")
        if not self.kl + self.info_nce + self.margin_mse > 0:
            raise wrong("train.kl", "it, info_nce or margin_mse above 0", "all 0")
        if self.kl + self.margin_mse > 0 and not self.dense_weight + self.sparse_weight + self.bm25_weight > 0:
            raise wrong("teachers.dense_weight", "a teacher of weight above 0 for kl and margin_mse", "none")
        for name, weight in (("dense_teacher", self.dense_weight), ("sparse_teacher", self.sparse_weight)):
            if weight > 0 and not getattr(self, name):
                raise wrong(f"teachers.{name}", f"a model, as its weight is {weight:g}", '""')
        if self.vector_steps and not self.sparse_teacher:
            raise wrong("teachers.sparse_teacher", "a model, as warmup.vector_steps is above 0", '""')
        if self.rate_warmup > self.steps:
            raise wrong("train.rate_warmup", f"at most the {self.steps} steps", self.rate_warmup)
        if self.regulariser == "flops_l0" and self.l0_threshold >= self.document_nonzeros:
            raise wrong("sparsity.l0_threshold", f"less than document_nonzeros, {self.document_nonzeros:g}",
                        self.l0_threshold)


def read_config(path: str | Path, data: str | Path | None = None, changes: Sequence[str] = ()) -> SpladeTrainingConfig:
    """Read a configuration.

    Parameters
    ----------
    path : str or Path
        The TOML file.
    data : str or Path, optional
        Folder in which the sources' folders are, where they are not absolute; the file's own if left out.
    changes : sequence of str
        "section.key=value" each, in place of what the file has: ``train.steps=100``. Values as in TOML; strings may
        go without quotation marks. Sources cannot be changed.

    Raises
    ------
    InvalidArgumentError
        If there is no such file, it is not TOML, or a key or value is wrong: the message has the file, the key, what
        was expected and what came.
    """
    path = Path(path)
    with naming(path):
        given = read_toml(path)
        for change in changes:
            _change(given, change)
        return SpladeTrainingConfig(**_settings(given, Path(data) if data is not None else path.parent))


def _change(given: dict[str, Any], change: str) -> None:
    key, value = split_change(change, "section.key=value")
    section, dot, name = key.partition(".")
    if not (dot and section and name):
        raise wrong("changes", "section.key=value", repr(change))
    if section == "data":
        raise wrong(key, "a setting of one value", "the sources")
    table = given.setdefault(section, {})
    if isinstance(table, dict):  # anything else is found wrong later
        table[name] = value


def _settings(given: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Values by the names of the dataclass's fields."""
    sections: dict[str, list[str]] = {}
    for setting in fields(SpladeTrainingConfig):
        sections.setdefault(setting.metadata["section"], []).append(setting.name)
    values: dict[str, Any] = {}
    for section, table in given.items():
        check_known(section, section, sections)
        if not isinstance(table, dict):
            raise wrong(section, "a section", repr(table))
        for name, value in table.items():
            check_known(f"{section}.{name}", name, sections[section])
            values[name] = value
    if "sources" in values:
        values["sources"] = _sources(values["sources"], folder)
    if "output" in values:
        if not isinstance(values["output"], str):
            raise wrong("run.output", "a string", repr(values["output"]))
        values["output"] = Path(values["output"])
    return values


def _sources(given: Any, folder: Path) -> tuple[TextSource, ...]:
    if not isinstance(given, list) or not all(isinstance(table, dict) for table in given):
        raise wrong("data.sources", "tables, as [[data.sources]]", repr(given))
    sources = []
    for position, table in enumerate(given):
        place = f"data.sources[{position}]"
        values: dict[str, Any] = {}
        for name, value in table.items():
            check_known(f"{place}.{name}", name, _SOURCE_TYPES)
            _check_source(f"{place}.{name}", value, _SOURCE_TYPES[name])
            values[name] = tuple(value) if isinstance(value, list) else value
        if not values.get("folder"):
            raise wrong(f"{place}.folder", "a folder", "none")
        values["folder"] = folder / values["folder"]
        sources.append(TextSource(**values))
    return tuple(sources)


def _check_source(key: str, value: Any, types: tuple[type, ...]) -> None:
    fits = isinstance(value, types) and (bool in types or not isinstance(value, bool))
    if not fits:
        raise wrong(key, " or ".join(kind.__name__ for kind in types), repr(value))
    if list in types and not all(isinstance(entry, str) for entry in value):
        raise wrong(key, "a list of strings", repr(value))
    if int in types and not (math.isfinite(value) and value >= 0):
        raise wrong(key, "a number of at least 0", value)
