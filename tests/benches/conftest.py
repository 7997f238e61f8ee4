"""The benches belong to the checkout and are not installed: their name alone is made importable, not the root."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

if "benches" not in sys.modules:
    benches = ModuleType("benches")
    benches.__path__ = [str(Path(__file__).parents[2] / "benches")]
    sys.modules["benches"] = benches
