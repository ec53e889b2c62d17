"""The likely cause when a valid request gets no usable response, and what to do about it."""

import http.client
import socket
import ssl
from collections.abc import Callable
from typing import NamedTuple

from verifier.conformance.messages import Response, Url
from verifier.conformance.redaction import redact


class Cause(NamedTuple):
    """What went wrong, and how to fix it."""

    text: str
    fix: str
    reason: str = ""  # where the endpoint's own text is known


NO_CAUSE = Cause("", "")


class ResponseTooLargeError(http.client.HTTPException):
    """The response has more bytes than the client accepts."""


_CERTIFICATE = {  # X509_V_ERR_* of OpenSSL
    10: "the certificate has expired",
    18: "the certificate is self-signed",
    19: "the certificate chain ends in an unknown authority",
    20: "the certificate is from an unknown authority, or an intermediate certificate is missing",
    62: "the certificate is for another host name",
    64: "the certificate is for another address",
}


def explain_failure(exc: Exception, url: Url, timeout_s: float) -> Cause:
    """Explain why a request got no complete HTTP response."""
    where = url.endpoint
    if isinstance(exc, TimeoutError):
        text = f"timeout: no complete response from {where} within {timeout_s:g} s"
        return Cause(text, "make it respond faster, or open the firewall")
    if isinstance(exc, socket.gaierror | UnicodeError):
        return Cause(f"DNS: the name {url.host} does not resolve", "check its spelling, or publish a DNS record")
    if isinstance(exc, ConnectionRefusedError):
        text = f"connection refused: nothing listens on {where}"
        return Cause(text, "start the server, or correct the port")
    if isinstance(exc, ssl.SSLCertVerificationError):
        text = _CERTIFICATE.get(exc.verify_code, exc.verify_message)
        return Cause(f"TLS: {text}", f"install a certificate for {url.host} from a public CA, with its full chain")
    if isinstance(exc, ssl.SSLError):
        reason = getattr(exc, "reason", None) or type(exc).__name__
        text = f"TLS: the handshake with {where} failed ({reason})"
        return Cause(text, "use its https port, or enable TLS on it")
    if isinstance(exc, http.client.RemoteDisconnected | ConnectionResetError):
        text = f"connection closed: {where} sent no response"
        return Cause(text, "see its log, or use https if the port expects TLS")
    if isinstance(exc, ResponseTooLargeError):
        return Cause(f"too large: the response from {where} is over {exc} bytes", "use the URL of the endpoint itself")
    if isinstance(exc, http.client.IncompleteRead):
        text = f"incomplete response: {where} closed the connection before the end"
        return Cause(text, "see its log and that of the proxy; compare Content-Length with the body")
    if isinstance(exc, http.client.HTTPException):
        text = f"not HTTP: {where} speaks another protocol ({type(exc).__name__})"
        return Cause(text, "use the port of the endpoint")
    return Cause(f"unreachable: {where} ({type(exc).__name__})", "check the address, the port and the route")


def _status(*statuses: int) -> Callable[[Response], bool]:
    return lambda response: response.status in statuses


def _error(code: str) -> Callable[[Response], bool]:
    return lambda response: (response.members or {}).get("error") == code


def _is_html(response: Response) -> bool:
    return "html" in response.media_type or response.body.lstrip()[:1] == b"<"


# The first that matches.
_CAUSES: tuple[tuple[Callable[[Response], bool], str, str], ...] = (
    (lambda r: r.is_redirect, "redirect to {location}", "use that URL: following the redirect would resend the secret"),
    (_status(502, 503, 504), "proxy: {via} responds for an endpoint that it cannot reach", "start the endpoint"),
    (_status(404), "path: nothing is served at {path}", "compare the path with the route, slash by slash"),
    (_status(405), "method: {path} does not accept POST", "accept POST on this path, or use the path that does"),
    (_status(429), "rate limit: too many requests", "exempt this address during the check, and escs permanently"),
    (
        _error("invalid_client"),
        "credentials: the endpoint has another application id or secret",
        "compare applicationId and secretKey with the escs dashboard",
    ),
    (
        _error("invalid_token"),
        "token: the endpoint has another issuer, key or application",
        "compare issuer, public keys and applicationId of the signer and the endpoint",
    ),
    (
        lambda r: _is_html(r) and r.is_2xx,
        "HTML: a web page, such as a login or start page",
        "use the URL of the endpoint",
    ),
    (_is_html, "HTML: an error page of a firewall, proxy or framework", "see its log, and allow POST with JSON"),
    (_status(415), "media type: application/json is not accepted", "read the body as JSON"),
    (
        _status(401, 403),
        "credentials: the application id, the secret or the token is rejected",
        "compare all three with the settings of the endpoint",
    ),
    (_status(400, 422), "request: the endpoint expects other members", "read code, secretKey and applicationId"),
    (lambda r: r.status >= 500, "crash: the endpoint failed", "see its log"),
    (
        lambda r: r.is_2xx and r.members is None,
        "not JSON: the body is not a JSON object",
        "respond with a JSON object in UTF-8",
    ),
    (lambda r: r.is_2xx and not r.is_profile, "members: _id is missing", "return the player id as _id"),
)


def likely_cause(response: Response, url: Url, hide: Callable[[str], str] = redact) -> Cause:
    """Explain why the response to a valid request is not a profile; NO_CAUSE where it is one, or nothing is known.

    `hide` makes text of the endpoint safe to show.
    """
    names = {
        "location": _location(response, hide),
        "via": hide(response.headers.get("via") or response.headers.get("server") or "a proxy")[:80],
        "path": url.path[:80],
    }
    text, fix = next(((text, fix) for matches, text, fix in _CAUSES if matches(response)), ("", ""))
    return Cause(text.format(**names), fix)


def explain_no_json(response: Response, url: Url) -> Cause:
    """Explain why the response to a GET request is not a JSON object."""
    if response.is_redirect:
        return Cause(f"redirect: {url.endpoint} redirects to {_location(response)}", "use that URL")
    kind = "HTML" if _is_html(response) else "not JSON"
    text = f"{kind}: {url.endpoint} has no JSON object at {url.path[:80]} (status {response.status})"
    return Cause(
        text, "use the host, the port and the path of the service itself, with the prefix under which it is mounted"
    )


def _location(response: Response, hide: Callable[[str], str] = redact) -> str:
    """Where a redirect leads, without the query, because it may hold credentials."""
    return hide(response.headers.get("location", "nowhere").partition("?")[0])[:80]
