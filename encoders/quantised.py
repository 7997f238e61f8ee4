"""Model weights at a byte each: matrices as int8 with a scale for each row, the rest as float16.

A matrix ``name`` (R, C) is stored as int8 ``name`` and ``name.scale`` (R,), and means ``int8 * scale[:, None]``:
symmetric, ``scale = max |row| / 127``, rounded to nearest, so that no entry is off by more than half a scale. Computing
is done in float32 after loading; only the files are small.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sparsight.encoders.layouts import read_json
from sparsight.errors import CheckpointError, InvalidVectorError

if TYPE_CHECKING:
    import torch

__all__ = ["load_int8", "quantise_rows", "save_int8"]

SCALE = ".scale"
_LARGEST = 127
_HEADS = ("decoder.weight", "lm_head.weight", "vocab_projector.weight")  # last layers that share the word embeddings


def save_int8(model_state: Mapping[str, torch.Tensor], folder: str | Path, *, smallest: int = 4096) -> Path:
    """Write ``model.safetensors`` with int8 matrices, and say so in the folder's ``sparsight.json``.

    Parameters
    ----------
    model_state : mapping of str to torch.Tensor
        ``model.state_dict()``. A tensor that shares its memory with an earlier one is stored once, as is a masked-LM
        head's last matrix that equals an embedding: ``config.json`` has to tie them (``tie_word_embeddings``).
    folder : str or Path
        Made if it is not there. ``config.json`` and the tokenizer are the caller's to write; other keys of
        ``sparsight.json`` stay.
    smallest : int
        Matrices of fewer numbers, and whatever is no matrix, are stored as float16; integers as they are.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    InvalidVectorError
        If a tensor is not finite, or too large for float16.
    CheckpointError
        If there is a ``sparsight.json`` that cannot be read.
    """
    import torch
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    own = read_json(folder / "sparsight.json", optional=True)
    stored: dict[str, torch.Tensor] = {}
    for name, tensor in _without_ties(model_state).items():
        if not tensor.is_floating_point():
            stored[name] = tensor.detach().cpu().contiguous()
        elif tensor.ndim == 2 and tensor.numel() >= smallest:
            stored[name], stored[name + SCALE] = quantise_rows(tensor)
        else:
            stored[name] = tensor.detach().cpu().to(torch.float16).contiguous()
        if not bool(torch.isfinite(stored.get(name + SCALE, stored[name])).all()):
            raise InvalidVectorError(f"{name} is not finite, or too large for float16", field=name)
    path = folder / "model.safetensors"
    save_file(stored, path.with_suffix(".new"), metadata={"format": "pt"})
    path.with_suffix(".new").replace(path)
    (folder / "sparsight.json").write_text(json.dumps(own | {"quantisation": "int8"}, indent=2) + "\n",
                                           encoding="utf-8")
    return path


def quantise_rows(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 (R, C) and scales (R,) of a matrix (R, C), float16 where that keeps them exact enough, else float32.

    Rows are rounded with the scale as it is stored. A row of zeros has scale 0.

    Examples
    --------
    >>> quantise_rows(torch.tensor([[0.0, -127.0, 63.6], [0.0, 0.0, 0.0]]))
    (tensor([[   0, -127,   64],
            [   0,    0,    0]], dtype=torch.int8), tensor([1., 0.], dtype=torch.float16))
    """
    import torch

    matrix = matrix.detach().float().cpu()
    scale = matrix.abs().amax(1) / _LARGEST
    used = scale[scale > 0]
    # float16 loses digits below 2**-14 and ends at 65504.
    if not len(used) or (float(used.min()) >= 2.0**-14 and float(used.max()) < 6e4):
        scale = scale.half()
    wide = scale.float()[:, None]
    whole = torch.round(matrix / torch.where(wide > 0, wide, 1.0)).clamp(-_LARGEST, _LARGEST).to(torch.int8)
    return whole.contiguous(), scale


def load_int8(files: Iterable[Path]) -> dict[str, torch.Tensor]:
    """Tensors of safetensors files by name, int8 matrices turned back into float32, float16 ones into float32.

    Raises
    ------
    CheckpointError
        If a file cannot be read, or scales are missing, of another shape, negative or not finite.
    """
    import torch
    from safetensors.torch import load_file

    out: dict[str, torch.Tensor] = {}
    for path in files:
        try:
            stored = load_file(path)
        except Exception as error:  # safetensors' own error derives from Exception alone
            raise CheckpointError(f"{path} cannot be read: {type(error).__name__}: {error}", path=path) from error
        for name, tensor in stored.items():
            if name.endswith(SCALE) and name.removesuffix(SCALE) in stored:
                continue
            if tensor.dtype == torch.int8:
                tensor = _widen(name, tensor, stored.get(name + SCALE), path)
            out[name] = tensor.float() if tensor.is_floating_point() else tensor
    return out


def _widen(name: str, whole: torch.Tensor, scale: torch.Tensor | None, path: Path) -> torch.Tensor:
    import torch

    if scale is None or not scale.is_floating_point() or whole.ndim != 2 or scale.shape != whole.shape[:1]:
        got = "none" if scale is None else f"{scale.dtype} {tuple(scale.shape)}"
        raise CheckpointError(f"expected scales {name}{SCALE} ({whole.shape[0] if whole.ndim else 1},) for int8 "
                              f"{tuple(whole.shape)} in {path}, got {got}", reason="WEIGHTS_DO_NOT_FIT", path=path,
                              name=name)
    if not bool((torch.isfinite(scale) & (scale >= 0)).all()):
        raise CheckpointError(f"scales {name}{SCALE} in {path} are negative or not finite", path=path, name=name)
    return whole.float() * scale.float()[:, None]


def _without_ties(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    import torch

    kept: dict[str, torch.Tensor] = {}
    seen: set[tuple[int, tuple[int, ...], tuple[int, ...]]] = set()
    embeddings = [tensor for name, tensor in state.items() if name.endswith("embeddings.weight")]
    for name, tensor in state.items():
        place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride())
        again = tensor.numel() > 0 and place in seen
        if again or (name.endswith(_HEADS) and any(
                other.shape == tensor.shape and torch.equal(other, tensor) for other in embeddings)):
            continue
        seen.add(place)
        kept[name] = tensor
    return kept
