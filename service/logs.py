"""The server's own log: one JSON object a line on standard error; ids, methods, codes and times, never texts."""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Any, TextIO

import structlog

__all__ = ["describe", "make_logger"]


def make_logger(level: str = "info", stream: TextIO | None = None) -> Any:
    """A structlog logger of JSON lines; it leaves the process' own logging configuration alone.

    Parameters
    ----------
    level : str
        "debug", "info" (every call), "warning" (only what went wrong) or "error".
    stream : text file, optional
        Standard error if none is given.
    """
    return structlog.wrap_logger(
        structlog.PrintLogger(stream or sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
    )


def describe(error: BaseException) -> dict[str, Any]:
    """An unexpected exception for the log: its type, and the frames that led to where it was raised.

    Not its message: messages of foreign exceptions often repeat the value they stumbled over, which may be a text.
    """
    frames = traceback.extract_tb(error.__traceback__)
    return {
        "exception": f"{type(error).__module__}.{type(error).__qualname__}",
        "traceback": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }
