"""How both clients' channels are set up: sizes, keepalive, and what gRPC may send again by itself."""

from __future__ import annotations

import json
from typing import Any

from sparsight.errors import InvalidArgumentError
from sparsight.service.limits import MAX_MESSAGE_BYTES

__all__ = ["channel_options", "check_target", "check_timeout"]

# What may be repeated after UNAVAILABLE: everything that changes nothing, and writes, which carry a request id. Not
# what starts work or makes and drops collections: a second try would answer "exists already" for a success.
_REPEATABLE = {
    "sparsight.v1.CollectionService": ("GetCollection", "ListCollections", "FlushCollection", "VerifyCollection"),
    "sparsight.v1.DocumentService": (),  # all of its methods
    "sparsight.v1.SearchService": (),
    "sparsight.v1.FeatureService": (
        "ListFeatures", "GetFeature", "FindFeatures", "FindRelatedFeatures", "FindFeatureFamilies",
        "FindFeatureClusters", "CompareDocuments", "GetFeatureMap", "ExplainFeatures"),
    "sparsight.v1.ProfileService": ("GetProfile", "ListProfiles"),
    "sparsight.v1.EncodingService": (),
    "google.longrunning.Operations": ("GetOperation", "ListOperations", "WaitOperation"),
    "grpc.health.v1.Health": (),
}


def channel_options(extra: dict[str, Any] | None = None) -> list[tuple[str, Any]]:
    """Options of a channel; ``extra`` replaces single ones.

    Pings every 60 s keep proxies from forgetting a quiet connection; our server allows them from 30 s on (gRPC's own
    servers only from 5 minutes on, and cut the connection of a client that pings more often).
    """
    names = [
        {"service": service, "method": method} if method else {"service": service}
        for service, methods in _REPEATABLE.items()
        for method in (methods or ("",))
    ]
    config = {
        "methodConfig": [
            {
                "name": names,
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "2s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
        "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
    }
    options = {
        "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
        "grpc.max_send_message_length": MAX_MESSAGE_BYTES,
        "grpc.keepalive_time_ms": 60_000,
        "grpc.keepalive_timeout_ms": 20_000,
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.http2.max_pings_without_data": 0,
        "grpc.enable_retries": 1,
        # What is larger than the buffer is sent once only; the default of 256 KiB would leave out most writes.
        "grpc.per_rpc_retry_buffer_size": MAX_MESSAGE_BYTES,
        "grpc.service_config": json.dumps(config),
    }
    return list({**options, **(extra or {})}.items())


def check_target(target: str) -> str:
    """``target`` itself, if it is a string that can name a server."""
    if not isinstance(target, str) or not target or any(c.isspace() for c in target):
        raise InvalidArgumentError(f"expected host:port, got {target!r:.80}", field="target")
    return target


def check_timeout(timeout: float | None, default: float) -> float:
    """Seconds that a request may take: ``timeout``, or the default of its kind."""
    if timeout is None:
        return default
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout >= 0:
        raise InvalidArgumentError(f"expected seconds, 0 or more, got {timeout!r:.80}", field="timeout")
    return float(timeout)
