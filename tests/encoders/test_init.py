from __future__ import annotations

import subprocess
import sys

import pytest

from sparsight import encoders


def test_import_is_light() -> None:
    heavy = ("torch", "transformers", "tokenizers", "scipy")
    code = f"import sys, sparsight.encoders; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_name_can_be_had() -> None:
    assert all(callable(getattr(encoders, name)) for name in encoders.__all__)
    with pytest.raises(AttributeError):
        encoders.nothing  # noqa: B018
