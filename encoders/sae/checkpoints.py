"""Read sparse autoencoders that others trained, from safetensors, into :class:`SAE`.

Sources take ``a = (x - b_pre) W_enc^T + b_enc``, keep the k largest (TopK) or those above a threshold (JumpReLU, and
BatchTopK once it is trained), clip at 0 and decode with ``z W_dec + b_dec``. Two things are folded, which leaves what a
latent contributes as it is: ``b_enc - W_enc b_pre`` is the new ``b_enc``, and the length ``s_i`` of row i of ``W_dec``
multiplies row i of ``W_enc``, ``b_enc`` and the threshold. Activations become ``s_i`` times the source's. Thresholds
and equal lengths choose the same latents; unequal lengths under TopK do not: the k largest ``s_i a_i`` need not be the
k largest ``a_i``.

Options that change numbers are followed or refused, by key and value. sparsify, CSR and saerch have few, so an unknown
key is refused too; most of SAELens's and dictionary_learning's only record the training, and those are not looked at.

References
----------
Keys, options and what they do were read in SAELens 6.9 to 6.54 (``saes/topk_sae.py``, ``saes/jumprelu_sae.py``,
``pretrained_sae_loaders.py``), EleutherAI sparsify 1.3.3 (``sparse_coder.py``), sentence-transformers 6.2.0
(``sparse_auto_encoder.py``), dictionary_learning 0.1.0 (``trainers/``, ``dictionary.py``), saerch (``topk_sae.py``) and
openai/sparse_autoencoder (``model.py``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from sparsight.encoders.known_models import PRETRAINED_SAES
from sparsight.encoders.layouts import parse_json, read_json
from sparsight.encoders.sae.model import SAE
from sparsight.errors import CheckpointError, InvalidArgumentError

if TYPE_CHECKING:
    import torch

__all__ = ["SAE_LAYOUTS", "read_sae"]

F32 = NDArray[np.float32]

SAE_LAYOUTS: Mapping[str, str] = {
    "sparsight": "sae.json and sae.safetensors, as SAE.save writes them",
    "saelens": "cfg.json and sae_weights.safetensors (SAELens), architecture topk, jumprelu or standard",
    "sparsify": "cfg.json and sae.safetensors (EleutherAI sparsify), activation topk",
    "csr": "modules.json that ends with a SparseAutoEncoder (sentence-transformers), or that module's own folder",
    "dictionary_learning": "config.json with a trainer, and the tensors of its ae.pt in one .safetensors",
    "saerch": "one other .safetensors with saerch's names, and at most one .json beside it, which names k",
}
"""Layouts of folders that :func:`read_sae` takes, by name, and the files that each is recognised by."""

_EVEN = 4e-3  # decoder rows whose lengths differ by less, relatively, are even: bfloat16 rounds by 2^-9 each way
_PICKLED = frozenset({".bin", ".ckpt", ".pkl", ".pt", ".pth"})
_SAELENS = ("topk of architecture topk", "topk of architecture standard", "relu of architecture jumprelu",
            "relu of architecture standard")
_SPARSIFY = frozenset({"activation", "d_in", "expansion_factor", "k", "multi_topk", "normalize_decoder", "num_latents",
                       "signed", "skip_connection", "transcode"})
_CSR = frozenset({"dead_threshold", "hidden_dim", "input_dim", "k", "k_aux", "normalize"})
_DICTIONARIES = ("AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder")
_SAERCH = frozenset({"auxk", "d_model", "dead_steps_threshold", "k", "multik", "n_dirs", "normalize"})


def read_sae(folder: str | Path, *, k: int = 0, uneven_norms: Literal["refuse", "fold"] = "refuse") -> SAE:
    """An autoencoder from a folder in one of :data:`SAE_LAYOUTS`.

    Parameters
    ----------
    folder : str or Path
        Or the name of one that the package brings along: "sparsight-minilm-sae". Weights of any floating dtype are
        taken as float32; pickled ones are not read.
    k : int
        Active latents, on average where there are thresholds; 0 takes the source's. SAELens has none for JumpReLU and
        ReLU, where it has to be given.
    uneven_norms : "refuse" or "fold"
        What to do if lengths of decoder rows differ by more than 4e-3, relatively, and TopK selects without regard to
        them. "fold" takes the k largest ``s_i a_i`` where the source takes the k largest ``a_i``. The training of CSR
        does not keep its rows equal, so trained ones will mostly need "fold".

    Returns
    -------
    SAE
        With thresholds for JumpReLU and BatchTopK, and of 0 for a plain ReLU. For a sentence-transformers folder, its
        input is what the modules before the SparseAutoEncoder give. Labels and statistics come from our own folders
        only; ``describe_latents`` adds the latter.

    Raises
    ------
    CheckpointError
        If the folder has none or several of the layouts, a file is missing, damaged or pickled, a tensor is missing,
        unexpected, not finite or of another shape, or a decoder row is 0. With reason BAD_CONFIG if a number is missing
        from its description, UNSUPPORTED_ACTIVATION if it chooses latents in another way, UNSUPPORTED_OPTION if it does
        what SAE cannot, UNEVEN_NORMS as above.
    InvalidArgumentError
        If ``k`` is negative or above the number of latents, or ``uneven_norms`` is unknown.
    """
    if k < 0:
        raise InvalidArgumentError(f"expected k of at least 0, got {k}", field="k")
    if uneven_norms not in ("refuse", "fold"):
        raise InvalidArgumentError(f"expected 'refuse' or 'fold', got {uneven_norms!r}", field="uneven_norms")
    folder = PRETRAINED_SAES.get(str(folder)) or Path(folder)
    layout = _recognise(folder)
    if layout == "sparsight":
        sae = SAE.load(folder)
        return replace(sae, k=k) if k else sae
    try:
        return _READERS[layout](folder, k, uneven_norms == "fold")
    except InvalidArgumentError as error:
        if k and error.field == "k":
            raise
        raise CheckpointError(f"the autoencoder in {folder} cannot be used: {error}", folder=folder) from error


def _recognise(folder: Path) -> str:
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {folder}", reason="MODEL_NOT_FOUND", folder=folder)
    names = {path.name for path in folder.iterdir() if path.is_file()}
    signs = {"sparsight": {"sae.json"}, "saelens": {"sae_weights.safetensors"},
             "sparsify": {"cfg.json", "sae.safetensors"}, "csr": {"modules.json"}}
    found = [layout for layout, files in signs.items() if files <= names]
    weights = [name for name in names if name.endswith(".safetensors")]
    if not found and len(weights) == 1:
        config = read_json(folder / "config.json", optional=True)
        return "csr" if "hidden_dim" in config else "dictionary_learning" if "trainer" in config else "saerch"
    if len(found) != 1:
        raise CheckpointError(f"expected in {folder} one of: {'; '.join(SAE_LAYOUTS.values())}; got "
                              f"{' and '.join(found) or 'none'}{_pickled(folder)}",
                              reason="UNKNOWN_LAYOUT" if weights else "NO_SAFETENSORS", folder=folder)
    return found[0]


def _fold(path: Path, k: int, W_enc: F32, b_enc: F32, W_dec: F32, b_dec: F32, threshold: F32 | float | None = None, *,
          centred: bool = True, any_norms: bool) -> SAE:
    """The model of W_* (N, D) from the file ``path``; with ``centred``, the source takes ``b_dec`` from its input."""
    norms = np.sqrt(np.einsum("nd,nd->n", W_dec, W_dec, dtype=np.float64))
    low, high = norms.min(initial=np.inf), norms.max(initial=0.0)
    if low == 0:
        raise CheckpointError(f"decoder row {norms.argmin()} in {path} has length 0", path=path, row=norms.argmin())
    if high > low * (1 + _EVEN) and threshold is None and not any_norms:
        raise CheckpointError(f"lengths of decoder rows in {path} go from {low:.6g} to {high:.6g}, expected equal "
                              "ones: with rows of length 1 other latents could be among the k largest, which "
                              "uneven_norms='fold' accepts", reason="UNEVEN_NORMS", path=path, low=low, high=high)
    bias = b_enc - np.einsum("nd,d->n", W_enc, b_dec, dtype=np.float64) * centred
    scale = norms.astype(np.float32)[:, None]
    jumps = {} if threshold is None else {"threshold": (threshold * norms).astype(np.float32)}
    return SAE(k=k, W_enc=W_enc * scale, b_enc=(bias * norms).astype(np.float32), W_dec=W_dec / scale,
               b_dec=b_dec.copy(), **jumps)  # no view of the file


def _read_saelens(folder: Path, k: int, fold: bool) -> SAE:
    """SAELens. Up to 5.x TopK was an ``activation_fn(_str)`` of the architectures "standard" and "topk".

    BatchTopK, plain or Matryoshka, is saved as a JumpReLU with equal thresholds; its k is among what the metadata keep
    of the training.
    """
    path, weights = folder / "cfg.json", folder / "sae_weights.safetensors"
    config = read_json(path)
    architecture = config.get("architecture", "standard")
    activation = config.get("activation_fn_str", config.get("activation_fn")) or (
        "topk" if architecture == "topk" else "relu")
    _expect({"activation": f"{activation} of architecture {architecture}"}, path, activation=_SAELENS)
    options = _object(config, "activation_fn_kwargs")
    options = {name: value for name, value in options.items() if value not in (None, False)}
    _expect(options, path, {"k"})
    _expect(config, path, normalize_activations=("none", None, False), reshape_activations=("none", None),
            apply_b_dec_to_input=(True, False), rescale_acts_by_decoder_norm=(False, True))
    d, n = _whole(config, "d_in", path), _whole(config, "d_sae", path)
    shapes = {"W_enc": (d, n), "b_enc": (n,), "W_dec": (n, d), "b_dec": (d,)}
    if architecture == "jumprelu":
        shapes["threshold"] = (n,)
    w_enc, b_enc, w_dec, b_dec, *threshold = _pick(_load(weights), weights, shapes)
    trained = _object(_object(config, "metadata"), "training_architecture_details")
    return _fold(weights, k or _whole(trained | config | options, "k", path), w_enc.T, b_enc, w_dec, b_dec,
                 None if activation == "topk" else threshold[0] if threshold else 0.0,
                 centred=config.get("apply_b_dec_to_input", True),
                 any_norms=fold or config.get("rescale_acts_by_decoder_norm", False))


def _read_sparsify(folder: Path, k: int, fold: bool) -> SAE:
    """EleutherAI sparsify. ``multi_topk`` and ``normalize_decoder`` concern its training alone."""
    path, weights = folder / "cfg.json", folder / "sae.safetensors"
    config = read_json(path)
    no = (False,)
    _expect(config, path, _SPARSIFY, activation=("topk",), signed=no, skip_connection=no, transcode=no)
    d = _whole(config, "d_in", path)
    if not config.get("num_latents"):  # 0 where the factor decides
        config["num_latents"] = d * _whole(config, "expansion_factor", path)
    n = _whole(config, "num_latents", path)
    w_enc, b_enc, w_dec, b_dec = _pick(
        _load(weights), weights, {"encoder.weight": (n, d), "encoder.bias": (n,), "W_dec": (n, d), "b_dec": (d,)})
    return _fold(weights, k or _whole(config, "k", path), w_enc, b_enc, w_dec, b_dec, any_norms=fold)


def _read_csr(folder: Path, k: int, fold: bool) -> SAE:
    """sentence-transformers' SparseAutoEncoder, whose decoder is the encoder's transpose.

    A model's ``max_active_dims`` goes before its module's k, as in SparseEncoder.encode.
    """
    whole = (folder / "modules.json").is_file()
    module, model = _csr_module(folder) if whole else folder, folder / "config_sentence_transformers.json"
    path, weights = module / "config.json", module / "model.safetensors"
    config, limits = read_json(path), read_json(model, optional=True) if whole else {}
    _expect(config, path, _CSR, normalize=(False,))
    d, n = _whole(config, "input_dim", path), _whole(config, "hidden_dim", path)
    if not k and limits.get("max_active_dims") is not None:
        k = _whole(limits, "max_active_dims", model)
    stored = _load(weights)
    stored.pop("stats_last_nonzero", None)
    if "encoder.weight" not in stored and "decoder.linear.weight" in stored:
        # The two are one tensor, of which safetensors keeps the name that is first in the alphabet.
        stored["encoder.weight"] = stored.pop("decoder.linear.weight")
    w, b_enc, b_pre = _pick(stored, weights, {"encoder.weight": (n, d), "latent_bias": (n,), "pre_bias": (d,)})
    return _fold(weights, k or _whole(config, "k", path), w, b_enc, w, b_pre, any_norms=fold)


def _csr_module(folder: Path) -> Path:
    path = folder / "modules.json"
    try:
        modules = [(str(entry["type"]).rsplit(".", 1)[-1], folder / str(entry["path"])) for entry in parse_json(path)]
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not a list of modules: {error!r}", reason="BAD_CONFIG", path=path) from error
    kinds = [kind for kind, _ in modules]
    if "SparseAutoEncoder" in kinds[:-1] or kinds[-1:] != ["SparseAutoEncoder"]:
        raise CheckpointError(f"expected one SparseAutoEncoder, as the last module, in {path}, got {kinds}",
                              reason="UNSUPPORTED_MODULES", path=path)
    if not modules[-1][1].resolve().is_relative_to(folder.resolve()):
        raise CheckpointError(f"a module of {path} lies outside the model's folder", path=path)
    return modules[-1][1]


def _read_dictionary(folder: Path, k: int, fold: bool) -> SAE:
    """dictionary_learning, whose ``ae.pt`` somebody saved anew: it is pickled, and not read.

    TopK keeps a threshold as well, for another mode than its own. Only JumpReLU leaves ``b_dec`` in its input.
    """
    path, (weights,) = folder / "config.json", folder.glob("*.safetensors")
    trainer, stored = _object(read_json(path), "trainer"), _load(weights)
    kind = trainer.get("dict_class")
    _expect({"activation": kind}, path, activation=_DICTIONARIES)
    d, n = _whole(trainer, "activation_dim", path), _whole(trainer, "dict_size", path)
    linear, jumps = kind in ("AutoEncoderTopK", "BatchTopKSAE"), kind == "JumpReluAutoEncoder"
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.weight": (n, d), "encoder.bias": (n,), "decoder.weight": (d, n), "b_dec": (d,)} if linear else {
        "W_enc": (d, n), "b_enc": (n,), "W_dec": (n, d), "b_dec": (d,)}
    if kind != "AutoEncoderTopK":
        shapes["threshold"] = (n,) if jumps else ()
    for name in {"k", "group_sizes", "threshold"} - shapes.keys():
        stored.pop(name, None)
    w_enc, b_enc, w_dec, b_dec, *threshold = _pick(stored, weights, shapes)
    w_enc, w_dec = (w_enc, w_dec.T) if linear else (w_enc.T, w_dec)
    return _fold(weights, k or _whole(trainer, "target_l0" if jumps else "k", path), w_enc, b_enc, w_dec, b_dec,
                 *threshold, centred=not jumps, any_norms=fold)


def _read_saerch(folder: Path, k: int, fold: bool) -> SAE:
    """saerch. openai/sparse_autoencoder has the same names, but normalises inputs; its statistics give it away."""
    (weights,) = folder.glob("*.safetensors")
    path, *more = sorted(folder.glob("*.json")) or [folder / "config.json"]
    if more:
        raise CheckpointError(f"expected one .json in {folder}, got {path.name} and {more[0].name}",
                              reason="UNKNOWN_LAYOUT", folder=folder)
    config, stored = read_json(path, optional=True), _load(weights)
    _expect(config, path, _SAERCH, normalize=(False,))
    n, d = (*stored["encoder.weight"].shape, -1, -1)[:2] if "encoder.weight" in stored else (-1, -1)
    n, d = config.get("n_dirs", n), config.get("d_model", d)
    w_enc, b_enc, w_dec, b_pre = _pick(stored, weights, {
        "encoder.weight": (n, d), "latent_bias": (n,), "decoder.weight": (d, n), "pre_bias": (d,)})
    return _fold(weights, k or _whole(config, "k", path), w_enc, b_enc, w_dec.T, b_pre, any_norms=fold)


_READERS = {"saelens": _read_saelens, "sparsify": _read_sparsify, "csr": _read_csr,
            "dictionary_learning": _read_dictionary, "saerch": _read_saerch}


def _load(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import safe_open

    if not path.is_file():
        raise CheckpointError(f"there is no {path}{_pickled(path.parent)}", reason="NO_SAFETENSORS", path=path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors' own error derives from Exception alone
        raise CheckpointError(f"{path} cannot be read: {type(error).__name__}: {error}", path=path) from error


def _pick(stored: Mapping[str, torch.Tensor], path: Path, shapes: Mapping[str, tuple[int, ...]]) -> list[F32]:
    """These tensors and no others, float32, in this order."""
    extra = ", ".join(sorted(stored.keys() - shapes.keys()))
    if extra:
        raise CheckpointError(f"expected only {', '.join(shapes)} in {path}, got {extra} too",
                              reason="WEIGHTS_DO_NOT_FIT", path=path, name=extra)
    arrays = []
    for name, shape in shapes.items():
        tensor = stored.get(name)
        if tensor is None or tensor.shape != shape or not tensor.is_floating_point():
            got = "none" if tensor is None else f"{tensor.dtype} {tuple(tensor.shape)}"
            raise CheckpointError(f"expected {name} floating {shape} in {path}, got {got}",
                                  reason="WEIGHTS_DO_NOT_FIT", path=path, name=name, expected=shape, received=got)
        arrays.append(tensor.float().numpy())
        if not np.isfinite(arrays[-1]).all():
            raise CheckpointError(f"{name} in {path} is not finite", path=path, name=name)
    return arrays


def _object(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The object under a key of a description, or {}: whoever needs something of it will miss that by name."""
    value = config.get(key)
    return value if isinstance(value, dict) else {}


def _whole(config: Mapping[str, Any], key: str, path: Path) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        hint = " (k= gives another)" if key in ("k", "target_l0") else ""
        raise CheckpointError(f"expected a whole number above 0 as {key} in {path}, got {value!r}{hint}",
                              reason="BAD_CONFIG", path=path, key=key)
    return value


def _expect(config: Mapping[str, Any], path: Path, known: Collection[str] = (), **supported: Collection[Any]) -> None:
    """Refuse keys that are not ``known``, if those are given, and values that are not supported."""
    for key, value in config.items():
        if (known and key not in known) or value not in supported.get(key, (value,)):
            values = " or ".join(map(repr, supported.get(key, ()))) or f"only {', '.join(sorted(known))}"
            raise CheckpointError(f"{key} is {value!r} in {path}, expected {values}", path=path, key=key, value=value,
                                  reason="UNSUPPORTED_" + ("ACTIVATION" if key == "activation" else "OPTION"))


def _pickled(folder: Path) -> str:
    names = sorted(path.name for path in folder.glob("*") if path.suffix in _PICKLED)
    return f"; pickled files are not read: {', '.join(names)}" if names else ""
