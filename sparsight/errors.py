"""Every error that sparsight raises on purpose, for both doors (embedded and over gRPC).

::

    SparsightError
    ├── InvalidArgumentError (ValueError)      what the caller passed is wrong; `field` says where
    │   ├── ShapeError                         arrays of the wrong shape, dtype or layout
    │   ├── InvalidVectorError                 a sparse or dense vector breaks its contract
    │   ├── InvalidFilterError                 a filter expression does not parse or does not type-check
    │   └── InvalidQueryError                  a query asks for something that cannot be answered
    ├── NotFoundError (LookupError)
    │   ├── UnknownCollectionError
    │   ├── UnknownDocumentError
    │   ├── UnknownFieldError                  a collection has no field of that name
    │   ├── UnknownFeatureError
    │   ├── UnknownProfileError
    │   └── UnknownOperationError
    ├── AlreadyExistsError (ValueError)        a collection or field of that name exists
    ├── FailedPreconditionError (RuntimeError) right call, wrong state
    │   ├── IncompatibleModelError             another model filled this field
    │   ├── ReadOnlyError                      the collection was opened read-only
    │   └── ClosedError                        the database was closed
    ├── ConflictError (RuntimeError)           the same request id was used for another request
    ├── LockedError (RuntimeError)             another process writes to this data root
    ├── SearchStoppedError (RuntimeError)      a search was cancelled before it finished
    │   └── DeadlineError (TimeoutError)       ... because its deadline had passed
    ├── OverloadedError (RuntimeError)         refused to protect the service; try again later
    │   └── StorageFullError                   the disk is full or its reserve is reached
    ├── CorruptIndexError (RuntimeError)       a checksum or an invariant of stored data does not hold
    ├── StorageError (RuntimeError)            the operating system refused a read or a write
    ├── CheckpointError (RuntimeError)         a model's files cannot be used
    ├── UnavailableError (ConnectionError)     the server cannot be reached
    └── RemoteError (RuntimeError)             the server failed in a way it should not have

Messages say what was expected, what came and where. The same values are attributes in ``details``
(string to string), which travel over gRPC as ``google.rpc.ErrorInfo.metadata``.

One module, because both doors raise the same classes and the client may not import the engine.
"""

from __future__ import annotations

__all__ = [
    "AlreadyExistsError",
    "CheckpointError",
    "ClosedError",
    "ConflictError",
    "CorruptIndexError",
    "DeadlineError",
    "FailedPreconditionError",
    "IncompatibleModelError",
    "InvalidArgumentError",
    "InvalidFilterError",
    "InvalidQueryError",
    "InvalidVectorError",
    "LockedError",
    "NotFoundError",
    "OverloadedError",
    "ReadOnlyError",
    "RemoteError",
    "SearchStoppedError",
    "ShapeError",
    "SparsightError",
    "StorageError",
    "StorageFullError",
    "UnavailableError",
    "UnknownCollectionError",
    "UnknownDocumentError",
    "UnknownFeatureError",
    "UnknownFieldError",
    "UnknownOperationError",
    "UnknownProfileError",
]


class SparsightError(Exception):
    """Base of every error raised on purpose.

    Parameters
    ----------
    message : str
        One sentence: expected, received, place.
    field : str, optional
        Path of the offending argument, as in the API: ``documents[3].vectors["splade"].indices[7]``.
    reason : str, optional
        Stable machine-readable cause, UPPER_SNAKE_CASE. Defaults to the class name in that form.
    **details : object
        Every variable that appears in the message; stored as strings.
    """

    def __init__(self, message: str, *, field: str = "", reason: str = "", **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.reason = reason or _upper_snake(type(self).__name__.removesuffix("Error"))
        self.details = {name: str(value) for name, value in details.items()}


def _upper_snake(name: str) -> str:
    return "".join("_" + c if c.isupper() and i else c for i, c in enumerate(name)).upper()


class InvalidArgumentError(SparsightError, ValueError):
    """What the caller passed is wrong."""


class ShapeError(InvalidArgumentError):
    """An array has the wrong shape, dtype or layout."""


class InvalidVectorError(InvalidArgumentError):
    """A sparse or dense vector breaks its contract (finite, in range, unique, right dimension)."""


class InvalidFilterError(InvalidArgumentError):
    """A filter expression does not parse or does not type-check."""


class InvalidQueryError(InvalidArgumentError):
    """A query asks for something that cannot be answered."""


class NotFoundError(SparsightError, LookupError):
    """The named thing does not exist."""


class UnknownCollectionError(NotFoundError):
    """No collection of that name."""


class UnknownDocumentError(NotFoundError):
    """No document of that id."""


class UnknownFieldError(NotFoundError):
    """The collection has no field of that name."""


class UnknownFeatureError(NotFoundError):
    """The dictionary has no feature of that index."""


class UnknownProfileError(NotFoundError):
    """No steering profile of this name, or it has no such version."""


class UnknownOperationError(NotFoundError):
    """No long-running operation of that name."""


class AlreadyExistsError(SparsightError, ValueError):
    """A collection or field of that name exists already."""


class FailedPreconditionError(SparsightError, RuntimeError):
    """The call is right but the state of the system does not allow it."""


class IncompatibleModelError(FailedPreconditionError):
    """Another model (or another version of it) filled this field."""


class ReadOnlyError(FailedPreconditionError):
    """The collection was opened read-only."""


class ClosedError(FailedPreconditionError):
    """The database was closed."""


class ConflictError(SparsightError, RuntimeError):
    """The same request id was used before for a different request."""


class LockedError(SparsightError, RuntimeError):
    """Another process holds the writer's lock of this data root."""


class SearchStoppedError(SparsightError, RuntimeError):
    """A search was cancelled before it finished; it has no result."""


class DeadlineError(SearchStoppedError, TimeoutError):
    """A call's deadline passed before it finished."""


class OverloadedError(SparsightError, RuntimeError):
    """The service refused work to protect itself; the same call may succeed later."""


class StorageFullError(OverloadedError):
    """The disk is full; reads are still answered."""


class CorruptIndexError(SparsightError, RuntimeError):
    """A checksum or an invariant of stored data does not hold; ``sparsight repair`` may rebuild it."""


class StorageError(SparsightError, RuntimeError):
    """The operating system refused a read, a write or a sync."""


class CheckpointError(SparsightError, RuntimeError):
    """A model's files are missing, damaged or of an unsupported kind."""


class UnavailableError(SparsightError, ConnectionError):
    """The server cannot be reached, or is shutting down."""


class RemoteError(SparsightError, RuntimeError):
    """The server failed in a way it should not have; quote ``details["errorId"]`` when reporting it."""
