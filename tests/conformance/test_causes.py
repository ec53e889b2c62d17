"""The likely cause of a failure is named, with its fix."""

import http.client
import socket
import ssl

import pytest

from verifier.conformance.causes import (
    NO_CAUSE,
    Cause,
    ResponseTooLargeError,
    explain_failure,
    likely_cause,
)
from verifier.conformance.messages import Response, Url

URL = Url.parse("https://game.example:8443/profile?key=secret")
WHERE = "game.example port 8443"
HTML_ERROR = Cause("HTML: an error page of a firewall, proxy or framework", "see its log, and allow POST with JSON")


@pytest.mark.parametrize(
    ("response", "cause"),
    [
        (
            (301, {"location": "https://x.example/?code=1"}, b""),
            Cause("redirect to https://x.example/", "use that URL: following the redirect would resend the secret"),
        ),
        (
            (399, {}, b""),
            Cause("redirect to nowhere", "use that URL: following the redirect would resend the secret"),
        ),
        (
            (502, {"via": "1.1 edge", "server": "nginx"}, b"<html>"),
            Cause("proxy: 1.1 edge responds for an endpoint that it cannot reach", "start the endpoint"),
        ),
        (
            (503, {"server": "nginx"}, b""),
            Cause("proxy: nginx responds for an endpoint that it cannot reach", "start the endpoint"),
        ),
        (
            (504, {}, b""),
            Cause("proxy: a proxy responds for an endpoint that it cannot reach", "start the endpoint"),
        ),
        (
            (404, {}, b"<html>"),
            Cause("path: nothing is served at /profile", "compare the path with the route, slash by slash"),
        ),
        (
            (405, {}, b""),
            Cause("method: /profile does not accept POST", "accept POST on this path, or use the path that does"),
        ),
        (
            (429, {}, b""),
            Cause("rate limit: too many requests", "exempt this address during the check, and escs permanently"),
        ),
        (
            (401, {}, b'{"error": "invalid_client"}'),
            Cause(
                "credentials: the endpoint has another application id or secret",
                "compare applicationId and secretKey with the escs dashboard",
            ),
        ),
        (
            (400, {}, b'{"error": "invalid_token"}'),
            Cause(
                "token: the endpoint has another issuer, key or application",
                "compare issuer, public keys and applicationId of the signer and the endpoint",
            ),
        ),
        (
            (200, {"content-type": "text/html"}, b""),
            Cause("HTML: a web page, such as a login or start page", "use the URL of the endpoint"),
        ),
        ((403, {}, b" <!doctype html>"), HTML_ERROR),
        ((500, {"content-type": "application/xhtml+xml"}, b""), HTML_ERROR),
        ((415, {}, b""), Cause("media type: application/json is not accepted", "read the body as JSON")),
        (
            (401, {}, b""),
            Cause(
                "credentials: the application id, the secret or the token is rejected",
                "compare all three with the settings of the endpoint",
            ),
        ),
        (
            (403, {}, b""),
            Cause(
                "credentials: the application id, the secret or the token is rejected",
                "compare all three with the settings of the endpoint",
            ),
        ),
        (
            (400, {}, b""),
            Cause("request: the endpoint expects other members", "read code, secretKey and applicationId"),
        ),
        (
            (422, {}, b"[" * 100_000),
            Cause("request: the endpoint expects other members", "read code, secretKey and applicationId"),
        ),
        ((500, {}, b"{"), Cause("crash: the endpoint failed", "see its log")),
        ((501, {}, b"{"), Cause("crash: the endpoint failed", "see its log")),
        (
            (200, {}, b"[]"),
            Cause("not JSON: the body is not a JSON object", "respond with a JSON object in UTF-8"),
        ),
        ((200, {}, b"{}"), Cause("members: _id is missing", "return the player id as _id")),
        ((200, {}, b'{"_id": "1"}'), NO_CAUSE),
        ((410, {}, b""), NO_CAUSE),
        ((410, {}, b"{}"), NO_CAUSE),
    ],
)
def test_the_likely_cause_is_named(response, cause):
    assert likely_cause(Response(*response), URL) == cause


def test_what_a_server_sends_is_short_and_escaped_in_a_cause():
    via = Response(502, {"via": "\x1b[31m" + "x" * 100}, b"")
    assert likely_cause(via, URL).text.startswith(r"proxy: \x1b[31m" + "x" * 72 + " responds")
    location = Response(302, {"location": "/\x9b" + "x" * 100 + "{via}?code=1"}, b"")
    assert likely_cause(location, URL).text == r"redirect to /\x9b" + "x" * 75
    path = Url.parse("https://game.example/" + "p" * 100)
    assert likely_cause(Response(404, {}, b""), path).text == "path: nothing is served at /" + "p" * 79


def verification(code: int, text: str = "") -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError()
    error.verify_code, error.verify_message = code, text
    return error


CHAIN = "install a certificate for game.example from a public CA, with its full chain"


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (
            TimeoutError(),
            Cause(
                f"timeout: no complete response from {WHERE} within 2.5 s",
                "make it respond faster, or open the firewall",
            ),
        ),
        (
            socket.gaierror(-2, "Name or service not known"),
            Cause("DNS: the name game.example does not resolve", "check its spelling, or publish a DNS record"),
        ),
        (
            UnicodeError("label too long"),
            Cause("DNS: the name game.example does not resolve", "check its spelling, or publish a DNS record"),
        ),
        (
            ConnectionRefusedError(),
            Cause(f"connection refused: nothing listens on {WHERE}", "start the server, or correct the port"),
        ),
        (verification(10), Cause("TLS: the certificate has expired", CHAIN)),
        (verification(18), Cause("TLS: the certificate is self-signed", CHAIN)),
        (verification(19), Cause("TLS: the certificate chain ends in an unknown authority", CHAIN)),
        (
            verification(20),
            Cause(
                "TLS: the certificate is from an unknown authority, or an intermediate certificate is missing", CHAIN
            ),
        ),
        (verification(62), Cause("TLS: the certificate is for another host name", CHAIN)),
        (verification(64), Cause("TLS: the certificate is for another address", CHAIN)),
        (verification(66, "EE certificate key too weak"), Cause("TLS: EE certificate key too weak", CHAIN)),
        (
            ssl.SSLEOFError(),
            Cause(f"TLS: the handshake with {WHERE} failed (SSLEOFError)", "use its https port, or enable TLS on it"),
        ),
        (
            http.client.RemoteDisconnected(),
            Cause(f"connection closed: {WHERE} sent no response", "see its log, or use https if the port expects TLS"),
        ),
        (
            ConnectionResetError(),
            Cause(f"connection closed: {WHERE} sent no response", "see its log, or use https if the port expects TLS"),
        ),
        (
            ResponseTooLargeError(1000),
            Cause(f"too large: the response from {WHERE} is over 1000 bytes", "use the URL of the endpoint itself"),
        ),
        (
            http.client.IncompleteRead(b"", 1),
            Cause(
                f"incomplete response: {WHERE} closed the connection before the end",
                "see its log and that of the proxy; compare Content-Length with the body",
            ),
        ),
        (
            http.client.LineTooLong("header"),
            Cause(f"not HTTP: {WHERE} speaks another protocol (LineTooLong)", "use the port of the endpoint"),
        ),
        (
            OSError(101, "Network is unreachable"),
            Cause(f"unreachable: {WHERE} (OSError)", "check the address, the port and the route"),
        ),
    ],
)
def test_why_there_is_no_response_is_named(error, cause):
    assert explain_failure(error, URL, 2.5) == cause


def test_no_two_causes_have_one_text():
    errors = [
        TimeoutError(),
        socket.gaierror(),
        ConnectionRefusedError(),
        ssl.SSLEOFError(),
        verification(10),
        http.client.RemoteDisconnected(),
        ResponseTooLargeError(1),
        http.client.IncompleteRead(b""),
        http.client.BadStatusLine(""),
        OSError(),
    ]
    assert len({explain_failure(error, URL, 1).text.partition(":")[0] for error in errors}) == len(errors) - 1  # TLS
