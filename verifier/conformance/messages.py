"""The URL, the request and the response of one HTTP interaction."""

import functools
import ipaddress
import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

JSON_TYPE = "application/json"
_HOST_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")


@dataclass(frozen=True)
class Url:
    """An http or https URL, split into the parts that a request needs."""

    https: bool
    host: str
    port: int
    path: str
    query: str

    @classmethod
    def parse(cls, text: str, *, allow_http: bool = False) -> "Url":
        """Parse an absolute URL; plain http is accepted for loopback addresses, or with `allow_http`.

        Raises:
            ValueError: it is not an http or https URL in ASCII, or it would send the secret unencrypted.
        """
        if not re.fullmatch(r"[!-~]+", text):
            raise ValueError("expected https://host/path, without spaces and in ASCII")
        if not re.match(r"[\w+.-]*:?//|https?:", text, re.IGNORECASE):
            known = cls.parse(f"https://{text}")  # refuses what is not a URL for another reason
            scheme = "http" if _is_loopback(known.host) else "https"
            raise ValueError(f"{scheme}:// is missing (expected {scheme}://{text.partition('?')[0]})")
        try:
            parts = urlsplit(text)
            host, port = parts.hostname or "", parts.port
        except ValueError as exc:
            raise ValueError(f"expected https://host/path ({exc})") from None
        if parts.scheme not in ("http", "https") or not host:
            raise ValueError("expected https://host/path, without spaces and in ASCII")
        if "@" in parts.netloc or "#" in text:
            raise ValueError("expected a URL without credentials and without a #fragment")
        if not _HOST_NAME.fullmatch(host) and _address(host) is None:
            raise ValueError("expected https://host/path (the host is neither a name nor an address)")
        if port == 0:
            raise ValueError("expected https://host/path (port 0 cannot be used)")
        if parts.scheme == "http" and not allow_http and not _is_loopback(host):
            raise ValueError(
                "plain http exposes the secret to the network; use https, or --insecure for a test network"
            )
        https = parts.scheme == "https"
        return cls(https, host, port or (443 if https else 80), parts.path or "/", parts.query)

    def __str__(self) -> str:
        """Omits the query, because it may hold credentials."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' * self.https}://{host}:{self.port}{self.path}"

    @property
    def is_public(self) -> bool:
        """Whether escs could send its requests there: https, and neither a loopback nor a private address."""
        address = _address(self.host)
        return self.https and (address.is_global if address else self.host != "localhost")

    @property
    def endpoint(self) -> str:
        """Host and port, for messages."""
        return f"{self.host} port {self.port}"

    def target(self, *, toggle_slash: bool = False) -> str:
        """Build the request target; `toggle_slash` adds or removes the trailing slash of the path."""
        path = self.path
        if toggle_slash:
            path = path.rstrip("/") or "//" if path.endswith("/") else f"{path}/"
        return f"{path}?{self.query}" if self.query else path


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return address.is_loopback if address else host == "localhost"


@dataclass(frozen=True)
class Request:
    """A request; holds the secret and the token beside the body so that `redact` can remove them from output."""

    body: bytes = field(default=b"", repr=False)
    token: str = field(default="", repr=False)
    secret: object = field(default="", repr=False)
    profile: Mapping[str, Any] = field(default_factory=dict, repr=False)  # expected in a 200 response
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": JSON_TYPE})
    toggle_slash: bool = False
    chunked: bool = False


@dataclass(frozen=True)
class Response:
    """A complete response."""

    status: int
    headers: Mapping[str, str]  # names in lower case; repeated fields joined with ", "
    body: bytes = field(repr=False)
    duration_s: float = 0.0  # from sending the request to the end of the response
    received_at: float = field(default_factory=time.time)
    certificate_days: float | None = None  # until the certificate of the server expires; None: no TLS

    @functools.cached_property
    def members(self) -> dict[str, Any] | None:
        """The JSON object in the body, or None."""
        try:
            return parse_object(self.body)
        except ValueError:
            return None

    @property
    def is_2xx(self) -> bool:
        return 200 <= self.status < 300

    @property
    def is_redirect(self) -> bool:
        return 300 <= self.status < 400

    @property
    def is_profile(self) -> bool:
        """Whether escs could sign a player in with it."""
        return self.is_2xx and self.members is not None and self.members.get("_id") is not None

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def clock_offset_s(self) -> float:
        """How far the server's clock is ahead of this one; 0 without a usable Date header."""
        try:
            # Date is truncated to seconds, by 0.5 s on average.
            return parsedate_to_datetime(self.headers["date"]).timestamp() - self.received_at + 0.5
        except (KeyError, ValueError, OverflowError):
            return 0.0


def parse_object(data: bytes) -> dict[str, Any]:
    """Parse a JSON object (RFC 8259), stricter than `json.loads`.

    Raises:
        ValueError: it is not UTF-8, not JSON or not an object, is nested too deeply, or holds NaN, a
            number beyond the range of a float, or an unpaired surrogate.
    """
    try:
        value = json.loads(data.decode(), parse_int=_parse_int)
        # Because json.loads accepts NaN and unpaired surrogates, which fail later, when they are printed.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _parse_int(digits: str) -> int:
    if math.isinf(float(digits)):
        raise ValueError
    return int(digits)
