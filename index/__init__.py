"""The index: collections on disk, segments, the tail, filters, generations (see ``FORMAT.md``)."""

from __future__ import annotations
