"""One request to any Game API URL: how it is sent, and the likely cause when no good answer comes."""

import functools
import html
import http.client
import ipaddress
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlsplit

MAX_ANSWER_BYTES = 65_536
JSON = "application/json"


class NoAnswer(Exception):
    """Nothing that is HTTP came back; `str()` is the likely cause."""


@dataclass(frozen=True)
class Url:
    """A Game API URL taken apart."""

    https: bool
    host: str
    port: int
    path: str
    query: str

    @classmethod
    def parse(cls, text: str, *, insecure: bool = False) -> "Url":
        """Raises ValueError for what is not a URL, or would send the secret in clear over a network."""
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https") or not parts.hostname or not re.fullmatch(r"[!-~]+", text):
            raise ValueError("expected https://host/path, without spaces and in ASCII")
        if "@" in parts.netloc or "#" in text:
            raise ValueError("expected a URL without a user and without a #fragment")
        if parts.scheme == "http" and not insecure and not _is_loopback(parts.hostname):
            raise ValueError("plain http shows the secret to the network; use https, or --insecure for a test network")
        https = parts.scheme == "https"
        return cls(https, parts.hostname, parts.port or (443 if https else 80), parts.path or "/", parts.query)

    def __str__(self) -> str:
        """Without the query, which may hold anything."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' * self.https}://{host}:{self.port}{self.path}"

    def target(self, *, other_slash: bool) -> str:
        """What the request line names; with `other_slash` the trailing slash is added or taken away."""
        path = self.path
        if other_slash:
            path = path.rstrip("/") or "//" if path.endswith("/") else f"{path}/"
        return f"{path}?{self.query}" if self.query else path


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True)
class Request:
    """What is sent. The secret and the token are in it a second time so that they can be hidden from what is shown."""

    body: bytes = field(repr=False)
    token: str = field(default="", repr=False)
    secret: object = field(default="", repr=False)
    profile: Mapping[str, Any] = field(default_factory=dict, repr=False)  # what a 200 has to say
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": JSON})
    other_slash: bool = False
    chunked: bool = False


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes = field(repr=False)
    seconds: float = 0.0  # from the request to the end of the answer
    tls: tuple[str, float] | None = None  # version, and days until the certificate ends

    @functools.cached_property
    def members(self) -> dict[str, Any] | None:
        """The JSON object in the body, or None."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None

    @property
    def is_2xx(self) -> bool:
        return 200 <= self.status < 300

    @property
    def signs_in(self) -> bool:
        """Whether escs would take it for a player."""
        return self.is_2xx and self.members is not None and self.members.get("_id") is not None

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def clock_offset_s(self) -> float:
        """How far its clock is ahead of this one; 0 where it does not say."""
        try:
            return parsedate_to_datetime(self.headers["date"]).timestamp() - time.time() + 0.5  # Date has whole seconds
        except (KeyError, ValueError):
            return 0.0


def send(url: Url, request: Request, *, timeout_s: float, tls: ssl.SSLContext | None) -> Answer:
    """The answer to a request on a connection of its own, redirects not followed; raises NoAnswer.

    `timeout_s` is for connecting, and then for everything else together: an answer that
    drips in does not prolong it. Reads at most MAX_ANSWER_BYTES of the body.
    """
    late = threading.Event()
    # Of the right kind, because the Host header leaves out the kind's own port.
    kind = functools.partial(http.client.HTTPSConnection, context=tls) if tls else http.client.HTTPConnection
    connection = kind(url.host, url.port)
    try:
        sock = socket.create_connection((url.host, url.port), timeout_s)
        if tls:
            sock = tls.wrap_socket(sock, server_hostname=url.host, do_handshake_on_connect=False)
        connection.sock = sock

        def hang_up() -> None:
            late.set()
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

        timer = threading.Timer(timeout_s, hang_up)
        timer.start()
        try:
            answer = _exchange(connection, url, request)
        finally:
            timer.cancel()
            timer.join()
        if late.is_set():
            raise TimeoutError
        return answer
    except (OSError, http.client.HTTPException, UnicodeError) as exc:
        raise NoAnswer(_why(TimeoutError() if late.is_set() else exc, url, timeout_s)) from exc
    finally:
        connection.close()


def _exchange(connection: http.client.HTTPConnection, url: Url, request: Request) -> Answer:
    facts = None
    if isinstance(connection.sock, ssl.SSLSocket):
        connection.sock.do_handshake()
        ends = ssl.cert_time_to_seconds(str((connection.sock.getpeercert() or {})["notAfter"]))
        facts = (str(connection.sock.version()), (ends - time.time()) / 86_400)
    started = time.monotonic()
    headers = {"Accept": JSON, "User-Agent": "verifier-check", "Connection": "close"} | dict(request.headers)
    body = [request.body] if request.chunked else request.body
    # Some answer before they have read the body, and hang up; the answer may still be there.
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.request(request.method, url.target(other_slash=request.other_slash), body, headers)
    response = connection.getresponse()
    with response:
        content = response.read(MAX_ANSWER_BYTES)
    names = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, names, content, time.monotonic() - started, facts)


_CERTIFICATE = {  # X509_V_ERR_* of OpenSSL
    10: "the certificate has expired",
    18: "the certificate is self-signed",
    19: "the certificate is from an authority that is not known here",
    20: "the certificate is from an authority that is not known here, or an intermediate one is missing",
    62: "the certificate is for another host name",
    64: "the certificate is for another address",
}


def _why(exc: Exception, url: Url, timeout_s: float) -> str:
    where = f"{url.host} port {url.port}"
    if isinstance(exc, TimeoutError):
        return f"timeout: no whole answer from {where} within {timeout_s:g} s; make it faster, or open the firewall"
    if isinstance(exc, socket.gaierror | UnicodeError):
        return f"DNS: the name {url.host} is not known; check its spelling, or publish it"
    if isinstance(exc, ConnectionRefusedError):
        return f"connection refused: nothing listens on {where}; start the server, or name its port"
    if isinstance(exc, ssl.SSLCertVerificationError):
        text = _CERTIFICATE.get(exc.verify_code, exc.verify_message)
        return f"TLS: {text}; install a certificate for {url.host} from a public authority, with its whole chain"
    if isinstance(exc, ssl.SSLError):
        return f"TLS: {where} does not answer with TLS ({exc.reason}); name its https port, or set TLS up"
    if isinstance(exc, http.client.RemoteDisconnected | ConnectionResetError):
        return f"hung up: {where} closed the connection without an answer; see its log, or use https if it speaks that"
    if isinstance(exc, http.client.HTTPException):
        return f"not HTTP: {where} speaks another protocol ({type(exc).__name__}); name the port of the endpoint"
    return f"unreachable: {where} ({type(exc).__name__}); check address, port and route"


def _says(code: str) -> Callable[[Answer], bool]:
    return lambda answer: (answer.members or {}).get("error") == code


def _is_html(answer: Answer) -> bool:
    return "html" in answer.media_type or answer.body.lstrip()[:1] == b"<"


# The first that fits; after "; " what to do about it.
_CAUSES: tuple[tuple[Callable[[Answer], bool], str], ...] = (
    (lambda a: 300 <= a.status < 400, "redirect to {location}; use that as the URL: following would resend the secret"),
    (lambda a: a.status in (502, 503, 504), "proxy: {via} answers for an endpoint that it cannot reach; start it"),
    (lambda a: a.status == 404, "path: nothing is served at {path}; compare it with the route, slash by slash"),
    (lambda a: a.status == 405, "method: {path} does not take POST; compare it with the route"),
    (
        lambda a: a.status == 429,
        "rate limit: too many requests; let this address pass while it checks, and escs always",
    ),
    (_says("invalid_client"), "credentials: other application id or secret there; compare them with the dashboard"),
    (_says("invalid_token"), "token: another issuer, key or application there; compare them, and read the answer"),
    (lambda a: _is_html(a) and a.is_2xx, "HTML: a web page, a login or a site's start page; name the endpoint's URL"),
    (_is_html, "HTML: the page of a firewall, proxy or framework; see its log, and let POST with JSON pass"),
    (lambda a: a.status == 415, "media type: application/json is not taken; read the body as JSON"),
    (lambda a: a.status in (401, 403), "credentials: application id, secret or token are not taken; compare them"),
    (lambda a: a.status in (400, 422), "request: other members are expected; read code, secretKey and applicationId"),
    (lambda a: a.status >= 500, "crash: the endpoint failed; see its log"),
    (lambda a: a.is_2xx and a.members is None, "not JSON: the body is not a JSON object; answer one"),
    (lambda a: a.is_2xx and not a.signs_in, "members: there is no _id; name the player id so"),
)


def likely_cause(answer: Answer, url: Url) -> str:
    """Why a good request was not answered with a profile, "; " and what to do; or ""."""
    names = {
        "location": answer.headers.get("location", "nowhere").partition("?")[0][:80],
        "via": (answer.headers.get("via") or answer.headers.get("server") or "something in front")[:80],
        "path": url.path[:80],
    }
    return next((text.format(**names) for fits, text in _CAUSES if fits(answer)), "")


def scrub(text: str, private: Iterable[object]) -> str:
    """What may be shown of somebody else's text: one line, without these values, tokens and e-mail addresses."""
    values = {str(value) for value in private if value}
    forms = {
        form for v in values for form in (v, json.dumps(v)[1:-1], html.escape(v), quote(v, safe="", errors="replace"))
    }
    if forms:
        text = re.sub("|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True)), "<withheld>", text)
    text = re.sub(r"eyJ[\w.-]{8,}", "<token>", text)
    text = re.sub(r"""[^\s"'<>:;,()]{1,64}@[^\s"'<>:;,()]{1,255}""", "<e-mail>", text)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
