"""What protects the web page: who may ask, and what a browser may do with the answers.

The page has no passwords; its only protection is that it listens on the loopback interface. Two ways lead around that.
A name that an attacker owns can be made to resolve to 127.0.0.1, and then the attacker's page shares an origin with
ours ("DNS rebinding"): hence the check of the Host header. And any page in the same browser can send requests to a
loopback address: hence the checks of Origin and Sec-Fetch-Site. What is served carries a policy under which nothing is
loaded from elsewhere, and no text can become a script.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sparsight.service.web_answers import refusal

__all__ = ["API_PREFIX", "Guard", "allowed_names"]

API_PREFIX: Final = "/api/"

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?", re.IGNORECASE)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

_POLICY = "; ".join((
    "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'", "connect-src 'self'",
    "base-uri 'none'", "form-action 'self'", "frame-ancestors 'none'",
    "require-trusted-types-for 'script'", "trusted-types 'none'",
))

_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


def allowed_names(host: str) -> tuple[frozenset[str], bool]:
    """Host names that a server listening on ``host`` answers to, and whether it answers to any IP address too.

    Beyond loopback the server cannot know all its addresses, but an address in the Host header is harmless: only a name
    can be made to point somewhere else.
    """
    names = {*_LOOPBACK, host.lower()}
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        names |= {socket.gethostname().lower()}
    return frozenset(names), not loopback


class Guard:
    """ASGI middleware: refuses foreign requests, and puts the protecting headers on every answer.

    Parameters
    ----------
    app : ASGI application
    names : iterable of str
        Names and addresses in the Host header that are ours; the port is free, so that a tunnel may change it.
    any_address : bool
        Accept every IP address there.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str] = _LOOPBACK, any_address: bool = False) -> None:
        self._app = app
        self._names = frozenset(names)
        self._any_address = any_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                # The page itself may be kept, if it is asked for again each time: else an update would not be seen.
                headers["cache-control"] = "no-store" if scope["path"].startswith(API_PREFIX) else "no-cache"
            await send(message)

        answer = self._check(scope["method"], scope["path"], Headers(scope=scope))
        await (self._app if answer is None else answer)(scope, receive, send_guarded)

    def _check(self, method: str, path: str, headers: Headers) -> ASGIApp | None:
        """The refusal of a request, None for one that may pass."""
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            return refusal(403, "FOREIGN_HOST", f"this server does not answer to the name {', '.join(hosts)!r:.80}")
        if method in ("GET", "HEAD") and not path.startswith(API_PREFIX):
            return None  # links to the page may stand anywhere
        origins = headers.getlist("origin")
        site = headers.get("sec-fetch-site", "same-origin")  # browsers send it, programs do not
        if any(_host_of(origin) != hosts[0].lower() for origin in origins) or site not in ("same-origin", "none"):
            return refusal(403, "CROSS_ORIGIN", "requests from other pages are not answered")
        return None

    def _is_ours(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match[1].strip("[]").lower()
        return name in self._names or (self._any_address and _is_address(name))


def _host_of(origin: str) -> str:
    """``host:port`` of an Origin header; "" of ``null`` and what is none."""
    try:
        parts = urlsplit(origin.lower())
    except ValueError:
        return ""
    return parts.netloc if parts.scheme in ("http", "https") else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
