"""Training an autoencoder on a file of vectors, from a settings file: the command's door to ``encoders.sae``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparsight.errors import InvalidArgumentError

if TYPE_CHECKING:
    from sparsight.encoders.run_folder import TrainingReport

__all__ = ["train_sae_run"]

_NEIGHBOURS = 32
_ASKED = 100_000  # rows that serve as queries where there are none


def train_sae_run(config: str | Path, vectors: str | Path, out: str | Path, *, queries: str | Path | None = None,
                  slice_seconds: float = 0.0, device: str = "auto", changes: Sequence[str] = (),
                  say: Callable[[str], None] = lambda line: None) -> TrainingReport:
    """Start the run in the folder ``out``, or go on with it.

    Parameters
    ----------
    config : path of a TOML file
        Keys: :class:`~sparsight.encoders.sae.config.SAEConfig`, and a table for each loss.
    vectors : path of an .npy file
        Float32 or float16, (B, D), usually unit rows.
    out : path
        Gets the settings, checkpoints, the log, a picture of it, and the model.
    queries : path of an .npy file, optional
        Vectors (Q, D) whose nearest rows losses that learn from rankings see; rows of ``vectors`` if left out.
    slice_seconds : float
        Stop after so long; the same call goes on. 0 is no limit.
    device : "auto", "cpu" or "cuda"
    changes : sequence of "key=value"
        Other values for settings.
    say : callable
        Gets lines of progress.

    Raises
    ------
    InvalidArgumentError, ShapeError, InvalidVectorError
        If a setting, a file or what it holds is wrong, or the device is not there.
    FailedPreconditionError
        If the folder has a run with other settings or vectors.
    """
    from sparsight.encoders.run_folder import chosen_device
    from sparsight.encoders.sae.config_file import read_sae_config
    from sparsight.encoders.sae.neighbours import nearest
    from sparsight.encoders.sae.runs import train_run

    settings, x = read_sae_config(config, changes), _vectors(vectors, "vectors")
    neighbours = None
    if settings.needs_neighbours:
        asked = _vectors(queries, "queries") if queries is not None else x[:: max(len(x) // _ASKED, 1)]
        if asked.shape[1] != x.shape[1]:
            raise InvalidArgumentError(f"expected queries of {x.shape[1]} components, got {asked.shape[1]}",
                                       field="queries")
        say(f"looking for the neighbours of {len(asked):,} queries ...")
        neighbours = nearest(asked, x, min(_NEIGHBOURS, len(x)), chosen_device(device))
    return train_run(x, settings, out, neighbours=neighbours, device=device, slice_seconds=slice_seconds, say=say)


def _vectors(path: str | Path, name: str) -> NDArray[np.float32]:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InvalidArgumentError(f"expected an .npy file of vectors, got {path}: {error}", field=name) from None
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind != "f":
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "several arrays"
        raise InvalidArgumentError(f"expected floating vectors (B, D) in {path}, got {found}", field=name)
    return np.ascontiguousarray(array, np.float32)
