"""Everything that decides the training of a sparse autoencoder, with defaults by the size of the data."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from sparsight.encoders.config_files import check_value, wrong
from sparsight.encoders.sae.losses import AuxK, Distill, Loss, Mutual, Nested, Reconstruction

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sparsight.errors import InvalidArgumentError

__all__ = ["SAEConfig", "default_epochs", "default_n_latents"]

_AUTO_FLOPS = 3e12  # work that ``epochs=0`` aims at: about half a minute on two cores
_CHOICES = {"activation": ("topk", "batchtopk", "jumprelu"), "dictionary": ("free", "archetypal"),
            "tie": ("init", "hard", "aligned"), "preprocess": ("center", "whiten"),
            "start": ("rows", "centroids", "random")}
_LIMITS: Mapping[str, tuple[float, float]] = {
    "n_latents": (0, 1 << 20), "k": (1, 1024), "epochs": (0, 100_000), "seed": (0, 2**63 - 1),
    "centroids_seed": (0, 2**63 - 1), "batch": (0, 1 << 20),
    "learning_rate": (0.0, 1.0), "warm_up": (0.0, 1.0), "cool_down": (0.0, 1.0), "anneal_from": (1.0, 1e3),
    "anneal_until": (0.0, 1.0), "nested_ks": (1, 1024), "held_out": (0.0, 0.5), "support": (1, 1024),
    "relaxation": (0.0, 10.0), "gradient_weight": (0.0, 1e3), "neighbour_share": (0.0, 1.0),
    "pursuit": (0.0, 1.0)}  # fmt: skip


@dataclass(frozen=True, slots=True)
class SAEConfig:
    """How an autoencoder is trained. With 0 the data decides ``n_latents``, ``epochs``, ``batch``, ``learning_rate``.

    Attributes
    ----------
    n_latents : int
        Size of the dictionary; 0 takes :func:`default_n_latents`.
    k : int
        Latents active in a row: exactly ("topk"), or on average ("batchtopk", "jumprelu").
    activation : "topk", "batchtopk" or "jumprelu"
        See :mod:`sparsight.encoders.sae.choice`.
    dictionary : "free" or "archetypal"
        Rows of the decoder as they come, or near convex mixes of the data's centroids; see
        :mod:`sparsight.encoders.sae.dictionary`.
    tie : "init", "hard" or "aligned"
        The encoder starts as the decoder, is the decoder, or has ``<e_i, w_i> = 1`` for every latent.
    start : "centroids", "rows" or "random"
        What decoder rows start as: spherical centroids of the data, rows of it, or random directions. From centroids,
        which do not depend on ``seed``, trainings of other seeds find the same features.
    centroids_seed : int
        Of the clustering that centroids come from; apart from ``seed``, so that runs of other seeds share them.
    preprocess : "center" or "whiten"
        What is done to the inputs; folded into the saved weights.
    support, relaxation : int, float
        Of an archetypal dictionary: centroids that a latent mixes, and how far it may leave their mix.
    losses : tuple of Loss
        Summed; see :mod:`sparsight.encoders.sae.losses`.
    gradient_weight : float
        Latents are chosen by ``a (1 + weight |w . g|)`` while training, ``g`` being the gradient of a retrieval loss
        (Gradient SAE); needs neighbours.
    pursuit : float
        Share of the steps, the last ones, in which codes are found by pursuit in place of the encoder: the dictionary
        learns from the best codes that it has, and the encoder learns to predict them (PSD, Kavukcuoglu et al. 2010).
        TopK only.
    neighbour_share : float
        Share of a step's rows that are neighbours of queries, where a loss learns from queries.
    epochs : int
        Passes over the rows; 0 takes :func:`default_epochs`.
    batch : int
        Rows in a step; 0 takes 512 below 50,000 rows and 4096 above.
    learning_rate : float
        Adam's largest; 0 takes 3e-3.
    warm_up, cool_down : float
        Shares of the steps over which the rate rises from zero, and falls back to it.
    anneal_from, anneal_until : float
        k starts at this multiple of its final value (1 is no annealing), and falls over this share of the steps.
    nested_ks : tuple of int
        With numbers, a step's k is one of them, drawn anew for each, more often if it is there more often: one
        dictionary for codes of several sizes, in the time that one size takes. TopK only, without annealing; ``k`` is
        the largest of them.
    seed : int
        Decides everything random. Equal seeds and data give equal bits on one machine and device.
    held_out : float
        Share of the rows that are not trained on (20,000 at most); the report's figures are theirs.

    Raises
    ------
    InvalidArgumentError
        If a value is of another type than its default, none of the choices or out of range, or if two do not go
        together; ``field`` is ``config.NAME``.
    """

    n_latents: int = 0
    k: int = 32
    activation: str = "topk"
    dictionary: str = "free"
    tie: str = "init"
    start: str = "centroids"
    centroids_seed: int = 0
    preprocess: str = "center"
    support: int = 32
    relaxation: float = 0.5
    losses: tuple[Loss, ...] = (Reconstruction(), AuxK())
    gradient_weight: float = 0.0
    pursuit: float = 0.0
    neighbour_share: float = 0.5
    epochs: int = 0
    batch: int = 0
    learning_rate: float = 0.0
    warm_up: float = 0.0
    cool_down: float = 0.3
    anneal_from: float = 1.0
    anneal_until: float = 0.7
    nested_ks: tuple[int, ...] = ()
    seed: int = 0
    held_out: float = 0.1

    def __post_init__(self) -> None:
        for item in fields(self):
            if item.name != "losses":
                least, most = _LIMITS.get(item.name, (None, None))
                object.__setattr__(self, item.name, check_value(
                    item.name, getattr(self, item.name), item.default, least=least, most=most,
                    choices=_CHOICES.get(item.name, ()), field=f"config.{item.name}"))
        if self.n_latents and self.k > self.n_latents:
            raise _wrong("k", f"at most n_latents, {self.n_latents}", self.k)
        if self.pursuit and self.activation != "topk":
            raise _wrong("pursuit", f"0 with activation {self.activation!r}", self.pursuit)
        if self.nested_ks and self.activation != "topk":
            raise _wrong("nested_ks", f"none with activation {self.activation!r}", self.nested_ks)
        if self.nested_ks and self.anneal_from > 1:
            raise _wrong("nested_ks", "none with anneal_from above 1", self.nested_ks)
        if self.nested_ks and max(self.nested_ks) != self.k:
            raise _wrong("nested_ks", f"numbers of which the largest is k, {self.k}", self.nested_ks)
        self._check_losses()

    def _check_losses(self) -> None:
        if not isinstance(self.losses, tuple) or not all(isinstance(loss, Loss) for loss in self.losses):
            raise _wrong("losses", "a tuple of losses", self.losses)
        if all(isinstance(loss, AuxK | Mutual) for loss in self.losses):  # without dead latents or peers they are 0
            raise _wrong("losses", "at least one beside AuxK and Mutual", self.losses)
        for loss in self.losses:
            sizes = loss.ks if isinstance(loss, Nested | Distill) else ()
            if sizes and self.activation != "topk":  # a code that has no k has no k' largest of them
                raise _wrong("losses", f"no ks in {loss.kind()} with activation {self.activation!r}", sizes)
            widths = loss.widths if isinstance(loss, Nested) else ()
            if self.n_latents and max(widths, default=0) > self.n_latents:
                raise _wrong("losses", f"widths in {loss.kind()} of at most n_latents, {self.n_latents}", widths)

    @property
    def needs_neighbours(self) -> bool:
        """Whether something learns from queries and the rows nearest to them."""
        return bool(self.gradient_weight) or any(loss.needs for loss in self.losses)

    def filled(self, rows: int, width: int) -> SAEConfig:
        """The same with what the data decides: of ``rows`` embeddings of ``width`` components."""
        n_latents = self.n_latents or default_n_latents(rows, self.k)
        return replace(
            self, n_latents=n_latents, k=min(self.k, n_latents), batch=self.batch or (512 if rows < 50_000 else 4096),
            epochs=self.epochs or default_epochs(rows, n_latents, width), learning_rate=self.learning_rate or 3e-3)

    def described(self) -> dict[str, Any]:
        """All settings as plain values, a loss as its name and settings."""
        out: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(self)}
        out["nested_ks"] = list(self.nested_ks)
        out["losses"] = [{"kind": loss.kind(), **{item.name: getattr(loss, item.name) for item in fields(loss)}}
                         for loss in self.losses]
        return out


def default_n_latents(rows: int, k: int) -> int:
    """Dictionary size for a corpus: the largest power of two up to ``rows * k / 100``, within [256, 16384].

    A latent then fires on about a hundred texts on average, enough to mean something and to be named.

    Examples
    --------
    >>> default_n_latents(5183, 32), default_n_latents(100, 32), default_n_latents(10**6, 32)
    (1024, 256, 16384)
    """
    wanted = max(rows * k // 100, 1)
    return min(max(1 << (wanted.bit_length() - 1), 256), 16384)


def default_epochs(rows: int, n_latents: int, d_in: int) -> int:
    """Epochs for about half a minute of work on two cores, at least 10 and at most 150."""
    return int(min(max(_AUTO_FLOPS // (14 * rows * n_latents * d_in), 10), 150))


def _wrong(name: str, expected: str, received: object) -> InvalidArgumentError:
    return wrong(name, expected, repr(received), field=f"config.{name}")
