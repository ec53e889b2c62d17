"""`verifier check`: passes what is right, and fails each wrong endpoint exactly where it is wrong."""

import ast
import contextlib
import json
import os
import pty
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jwt
import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.conftest import APPLICATION_ID, ISSUER, SECRET, Server, free_port, start
from tests.forge import Pair
from verifier import app, cases, conformance, exchange, tokens
from verifier.applications import Applications
from verifier.cli import cli
from verifier.encoding import json_object
from verifier.errors import InvalidRequest, InvalidToken, Refusal
from verifier.keyring import Keyring, parse_public_key
from verifier.settings import Secret

PRIVATE = ("canary-player", "canary@example.com", "canary-name")  # of the token given with --token


def pem(key: Any) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def dated(pair: Pair) -> bytes:
    return json.dumps(pair.public | {"iat": 1_700_000_000, "nbf": 1_700_000_000}).encode()


@pytest.fixture(scope="module")
def folder(pairs: dict[str, Pair], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key directory whose ES256 key is current by the real clock."""
    folder = tmp_path_factory.mktemp("conformance")
    for half in ("public", "private"):
        (folder / half).mkdir()
    for pair in pairs.values():
        later = {"nbf": 1_700_000_001} if pair.alg == "ES256" else {}
        (folder / "public" / f"{pair.kid}.json").write_text(json.dumps(json.loads(dated(pair)) | later))
        (folder / "private" / f"{pair.kid}.pem").write_bytes(pem(pair.key))
    (folder / "secret").write_text(f"{SECRET}\n")
    return folder


@pytest.fixture(scope="module")
def ours(folder: Path) -> Iterator[Server]:
    environment = {
        "VERIFIER_ISSUER": ISSUER,
        "VERIFIER_KEYS": str(folder),
        "VERIFIER_APPLICATION_ID": APPLICATION_ID,
        "VERIFIER_SECRET_KEY": SECRET,
    }
    running = start(environment, folder / "server.log")
    yield running
    running.stop()


def kit(pair: Pair, **changes: Any) -> cases.Kit:
    return cases.Kit(
        APPLICATION_ID, **{"secret": SECRET, "key": cases.Key(pair.key, pair.alg, pair.kid, ISSUER)} | changes
    )


def good_token(pair: Pair, **changes: Any) -> str:
    now = int(time.time())
    player = dict(zip(("sub", "email", "username"), PRIVATE, strict=True))
    claims = {"iss": ISSUER, "aud": APPLICATION_ID, "iat": now, "exp": now + 120} | player | changes
    key = cases.Key(pair.key, pair.alg, pair.kid, ISSUER)
    header = {"alg": pair.alg, "kid": pair.kid, "typ": "at+jwt"}
    return key.token(json.dumps(header).encode(), json.dumps(claims).encode())


def failures(url: str, kit: cases.Kit, *only: str, timeout_s: float = 5) -> dict[str, set[str]]:
    """The ids that fail, for each level."""
    found: dict[str, set[str]] = {"must": set(), "should": set()}
    target = exchange.Url.parse(url)
    for result in conformance.run(target, kit, conformance.select(only), timeout_s):
        if result.outcome == conformance.FAIL:
            found[result.level].add(result.about.id)
    return found


NOTHING: dict[str, set[str]] = {"must": set(), "should": set()}


# The real server.


@pytest.mark.parametrize("alg", ["ES256", "EdDSA", "RS256"])
def test_the_real_server_passes_with_a_key(ours, pairs, alg):
    url = exchange.Url.parse(f"http://127.0.0.1:{ours.port}/profile")
    results = list(conformance.run(url, kit(pairs[alg]), conformance.select(()), 5))
    assert [r for r in results if r.outcome == "fail"] == []
    skipped = {r.about.id for r in results if r.outcome == "skip"}
    assert skipped == (set() if alg == "ES256" else {"signature-der"})


def test_the_real_server_passes_with_one_good_token(ours, pairs):
    url = exchange.Url.parse(f"http://127.0.0.1:{ours.port}/profile")
    token = good_token(pairs["ES256"])
    results = list(conformance.run(url, kit(pairs["ES256"], key=None, token=token), conformance.select(()), 5))
    assert [r for r in results if r.outcome == "fail"] == []
    skipped = {r.problem for r in results if r.outcome == "skip"}
    assert skipped == {"needs a key to sign with (--keys or --private-key)"}
    assert sum(r.outcome == "pass" for r in results) > 50


# Endpoints that are wrong in one way.


class Endpoint(BaseHTTPRequestHandler):
    """The contract in few lines, from this project's parts; `wrong` switches one of them off."""

    server: "Web"

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionResetError):
            super().handle_one_request()

    def do_POST(self) -> None:
        web = self.server
        web.requests, web.host = web.requests + 1, self.headers["Host"]
        if web.wrong == "dies" and web.requests > 1:
            return
        if web.wrong == "dies once" and web.requests == 17:
            return
        if web.wrong == "slow":
            time.sleep(conformance.SLOW_S + 0.1)
        content, headers = b"", {"Content-Type": "application/json", "Cache-Control": "no-store"}
        try:
            status, body = 200, web.profile(self.command, self.path, self.headers, self.read_body())
        except Refusal as refusal:
            status, body = refusal.status, {"error": refusal.code, "error_description": str(refusal)}
            headers |= {name.decode(): value.decode() for name, value in refusal.headers}
        except Exception:  # noqa: BLE001
            status, body = 500, {}
        if status >= 400 and web.wrong == "200":
            status = 200
        if status >= 400 and web.wrong == "other status":
            status = {401: 403, 400: 422}.get(status, status)
        if status >= 400 and web.wrong == "html errors":
            headers["Content-Type"], content = "text/html", b"<h1>Unauthorized</h1>"
        if status >= 400 and web.wrong == "other errors":
            body = {"message": "no"}
        if web.wrong == "other code" and status == 401:
            body = {"error": "unauthorized", "error_description": "no"}
        if web.wrong == "echo" and status >= 400:
            body["error_description"] += web.seen.decode("latin-1")[:2000]
        if web.wrong == "cache":
            del headers["Cache-Control"]
        if web.wrong == "405" and status == 405:
            del headers["allow"]
        if web.wrong == "redirect" and not self.path.endswith("/"):
            status, headers["Location"] = 307, "https://game.example/profile/?a=b"
        if web.wrong == "slash" and self.path.endswith("/"):
            status, headers["Location"] = 308, "/profile"
        if web.wrong == "clock":
            self.date_time_string = lambda *_: "Sat, 01 Jan 2028 00:00:00 GMT"  # type: ignore[method-assign]
        content = content or json.dumps(web.canned if web.canned is not None else body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST

    def read_body(self) -> bytes:
        body = b""
        if self.headers.get("Transfer-Encoding") == "chunked" and self.server.wrong != "no chunks":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen = body
        return body

    def log_message(self, *args: object) -> None: ...


TIMES = {"exp", "iat", "nbf", "lifetime"}
SKIPPED_RULES = {
    "no signature": {"kid", "alg", "signature"},
    "no times": TIMES,
    "no audience": {"aud"},
    "no issuer": {"iss"},
    "no header rules": {"typ", "crit"},
    "alg from header": {"alg", "signature"},
    "jwk from header": {"kid", "alg", "signature"},
    "shared key": {"kid", "alg", "signature"},
}
SHARED_KEY = b"a key that game and endpoint share"


class Web(HTTPServer):
    """One endpoint in a thread."""

    def __init__(self, pair: Pair, wrong: str, canned: Any = None) -> None:
        super().__init__(("127.0.0.1", 0), Endpoint)
        self.pair, self.wrong, self.canned = pair, wrong, canned
        self.keyring = Keyring([parse_public_key(f"{pair.kid}.json", dated(pair))])
        self.applications = Applications().with_secret(APPLICATION_ID, Secret.of(SECRET))
        self.requests, self.host, self.seen = 0, "", b""

    @property
    def url(self) -> str:
        return f"http{'s' * isinstance(self.socket, ssl.SSLSocket)}://localhost:{self.server_port}/profile"

    def handle_error(self, request: object, client_address: object) -> None: ...

    def profile(self, method: str, path: str, headers: Any, body: bytes) -> dict[str, Any]:
        if path.rstrip("/") != "/profile" or (path.endswith("/") and self.wrong != "slash"):
            raise InvalidRequest("no such path", status=404)
        if method != "POST":
            raise InvalidRequest("the method must be POST", status=405, headers=((b"allow", b"POST"),))
        if self.wrong == "lax body":
            members = json.loads(body)
            code, secret, application_id = members["code"], members["secretKey"], members["applicationId"]
        elif self.wrong == "no secret":
            members = json_object(body) | {"secretKey": SECRET}
            code, secret, application_id = app.parse_body(json.dumps(members).encode())
        elif self.wrong == "no application":
            members = json_object(body) | {"applicationId": APPLICATION_ID}
            code, secret, application_id = app.parse_body(json.dumps(members).encode())
        else:
            app.check_headers(((name.lower().encode(), value.encode()) for name, value in headers.items()), 16_384)
            code, secret, application_id = app.parse_body(body)
        if self.wrong == "secret prefix":
            secret = SECRET if SECRET.startswith(secret) else secret
        self.applications.authenticate(application_id=application_id, secret=secret)
        if self.wrong == "opaque tokens":
            if code != "opaque":
                raise InvalidToken("unknown")
            return {"_id": PRIVATE[0], "email": PRIVATE[1]}
        token = self.verify(code, application_id)
        profile = {name: token.claims.get(claim) or None for name, claim in cases.CLAIMS.items()}
        if self.wrong == "id as number":
            profile["_id"] = int(profile["_id"]) if profile["_id"].isdigit() else profile["_id"]
        if self.wrong != "nulls":
            profile = {name: value for name, value in profile.items() if value is not None}
        if self.wrong == "no e-mail":
            profile.pop("email", None)
        if self.wrong == "all claims":
            profile |= token.claims
        return profile

    def verify(self, code: str, application_id: str) -> tokens.Token:
        if self.wrong == "no signature" and code.count(".") == 1:
            code += "."
        token = tokens.parse(code, self.keyring)
        policy = tokens.Policy(ISSUER, application_id, self.keyring, int(time.time()))
        for rule in tokens.RULES:
            if rule.name not in SKIPPED_RULES.get(self.wrong, ()):
                rule.check(token, policy)
        if self.wrong == "alg from header":
            public = self.pair.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            alg = str(token.header["alg"]).lower()
            if alg == "hs256" and cases.hs256(public)(token.signing_input, b"") != token.signature:
                raise InvalidToken("signature does not match")
            if alg not in ("none", "hs256"):
                self.require_signature(token, public_key=self.pair.key.public_key())
        if self.wrong == "shared key" and (
            token.header["alg"] != "HS256" or cases.hs256(SHARED_KEY)(token.signing_input, b"") != token.signature
        ):
            raise InvalidToken("signature does not match")
        if self.wrong == "jwk from header":
            jwk = token.header.get("jwk")
            self.require_signature(token, jwt.PyJWK(jwk, "ES256").key if jwk else self.pair.key.public_key())
        return token

    def require_signature(self, token: tokens.Token, public_key: Any) -> None:
        if not jwt.get_algorithm_by_name("ES256").verify(token.signing_input, public_key, token.signature):
            raise InvalidToken("signature does not match")


@pytest.fixture
def serve(pairs: dict[str, Pair]) -> Iterator[Callable[..., Web]]:
    """Starts an endpoint that is wrong in one way."""
    with contextlib.ExitStack() as stack:

        def serve(wrong: str = "", canned: Any = None, tls: ssl.SSLContext | None = None) -> Web:
            web = stack.enter_context(Web(pairs["ES256"], wrong, canned))
            if tls:
                web.socket = tls.wrap_socket(web.socket, server_side=True, do_handshake_on_connect=False)
            thread = threading.Thread(target=web.serve_forever, args=(0.01,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(web.shutdown)
            return web

        yield serve


FORGED = {
    *("alg-none", "alg-none-case", "hs256-secret", "hs256-empty", "hs256-public", "claims-changed", "signature-empty"),
    *("signature-missing", "signature-zero", "signature-cut", "other-key", "token-changed", "jwk-header"),
    *("jku-header", "kid-unknown", "kid-path"),
}
LATE = {"exp-recent", "exp-missing", "exp-text", "exp-milliseconds", "exp-far", "iat-future"}
UNREAD = {"type-text", "encoded", "body-large", "no-crash"}  # of those that read the body as it comes
SECRETS = {"secret-wrong", "secret-cut", "secret-missing", "secret-true", "secret-operator"}
PROFILES = {"profile-full", "profile-again", "profile-unicode", "profile-digits", "profile-extra"}


@pytest.mark.parametrize(
    ("wrong", "must", "should"),
    [
        ("", set(), set()),
        ("no signature", FORGED, {"kid-missing", "signature-der"}),
        ("alg from header", {"alg-none", "alg-none-case", "hs256-public"}, set()),
        ("jwk from header", {"jwk-header"}, {"kid-missing"}),
        ("no times", {"exp-past", "nbf-future"}, LATE),
        ("no audience", {"aud-other", "aud-longer", "aud-missing"}, set()),
        ("no issuer", {"iss-other"}, set()),
        ("no header rules", set(), {"typ-jwt", "crit"}),
        ("no secret", SECRETS, UNREAD | {"refusal-json"}),
        ("secret prefix", {"secret-cut"}, set()),
        ("no application", {"application-unknown", "application-missing"}, UNREAD),
        ("lax body", set(), UNREAD | {"secret-twice"}),
        ("no chunks", set(), {"chunked"}),
        ("nulls", {"profile-bare"}, {"profile-null"}),
        ("all claims", PROFILES | {"profile-bare"}, {"profile-null"}),
        ("no e-mail", PROFILES, set()),
        ("id as number", {"profile-digits"}, set()),
        ("200", {"refusal-2xx"}, {"refusal-status", "type-text", "encoded", "body-large", "method-get", "method-put"}),
        ("other status", set(), {"refusal-status"}),
        ("other errors", set(), {"refusal-json"}),
        ("other code", set(), {"refusal-json"}),
        ("html errors", set(), {"refusal-json", "json-type"}),
        ("405", set(), {"method-get", "method-put"}),
        ("cache", set(), {"no-store"}),
        ("echo", set(), {"no-echo"}),
        ("clock", set(), {"clock"}),
        ("slash", set(), {"other-slash", "no-redirect"}),
        ("redirect", {"profile-full"}, set()),  # and nothing after it is asked
        ("dies", {"profile-bare", "profile-unicode", "profile-digits"}, set()),  # the third in a row is the last
        ("dies once", set(), {"other-key"}),
    ],
)
def test_a_wrong_endpoint_fails_where_it_is_wrong(serve, pairs, wrong, must, should):
    assert failures(serve(wrong).url, kit(pairs["ES256"])) == {"must": must, "should": should}


def test_a_slow_endpoint_fails_fast(serve, pairs):
    assert failures(serve("slow").url, kit(pairs["ES256"]), "fast") == {"must": set(), "should": {"fast"}}


@pytest.mark.parametrize(
    ("wrong", "token", "skipped"),
    [
        ("opaque tokens", "opaque", "the token is not a JWS"),
        ("shared key", "shared", "the token is signed with a shared key"),
    ],
)
def test_tokens_of_another_kind_are_checked_as_far_as_they_go(serve, pairs, wrong, token, skipped):
    if token == "shared":
        now = int(time.time())
        claims = {"iss": ISSUER, "aud": APPLICATION_ID, "sub": "42", "iat": now, "exp": now + 60}
        token = jwt.encode(claims, SHARED_KEY, headers={"typ": "at+jwt"})
    url = exchange.Url.parse(serve(wrong).url)
    results = list(conformance.run(url, kit(pairs["ES256"], key=None, token=token), conformance.select(()), 5))
    assert [r for r in results if r.outcome == "fail"] == []
    assert skipped in {r.problem for r in results if r.outcome == "skip"}


@pytest.mark.parametrize(
    ("token", "profile", "problem"),
    [
        ({}, {"_id": PRIVATE[0], "email": PRIVATE[1], "username": PRIVATE[2]}, ""),
        ({"email": None}, {"_id": PRIVATE[0], "email": "of@the.database", "username": PRIVATE[2]}, ""),
        ({}, {"_id": "somebody", "email": PRIVATE[1], "username": PRIVATE[2]}, "_id is not the token's"),
        ({}, {"_id": PRIVATE[0], "email": PRIVATE[1], "username": ""}, "username is not a text, or empty"),
        ({}, {"_id": PRIVATE[0], "email": None, "username": PRIVATE[2]}, "email is null"),
        ({}, {"_id": PRIVATE[0], "email": PRIVATE[1]}, "username is missing"),
        (
            {},
            {"id": PRIVATE[0]},
            "_id is missing, email is missing, username is missing, id is not a member of a profile",
        ),
        ({}, ["x"], "not a JSON object"),
    ],
)
def test_a_profile_is_held_against_the_token(serve, pairs, token, profile, problem):
    url = exchange.Url.parse(serve(canned=profile).url)
    given = kit(pairs["ES256"], key=None, token=good_token(pairs["ES256"], **token))
    (result,) = conformance.run(url, given, conformance.select(["profile-full"]), 5)
    assert result.problem == problem


# Likely causes.


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        ((301, {"location": "https://x.example/?code=1"}, b""), "redirect to https://x.example/; "),
        ((502, {"via": "1.1 edge"}, b"<html>"), "proxy: 1.1 edge answers"),
        ((503, {"server": "nginx"}, b""), "proxy: nginx answers"),
        ((504, {}, b""), "proxy: something in front answers"),
        ((404, {}, b"<html>"), "path: nothing is served at /profile"),
        ((405, {}, b""), "method: "),
        ((429, {}, b""), "rate limit: "),
        ((401, {}, b'{"error": "invalid_client"}'), "credentials: other application id or secret"),
        ((400, {}, b'{"error": "invalid_token"}'), "token: "),
        ((200, {"content-type": "text/html"}, b""), "HTML: a web page"),
        ((403, {}, b" <!doctype html>"), "HTML: the page of a firewall"),
        ((415, {}, b""), "media type: "),
        ((403, {}, b""), "credentials: application id, secret or token"),
        ((422, {}, b"[" * 100_000), "request: "),
        ((500, {}, b"{"), "crash: "),
        ((200, {}, b"[]"), "not JSON: "),
        ((200, {}, b"{}"), "members: "),
        ((200, {}, b'{"_id": "1"}'), ""),
        ((410, {}, b""), ""),
    ],
)
def test_the_likely_cause_is_named(answer, cause):
    found = exchange.likely_cause(exchange.Answer(*answer), exchange.Url.parse("https://game.example/profile"))
    assert found.startswith(cause)
    assert bool(found) == bool(cause)
    assert not cause or "; " in found


def cause_of(url: str, pair: Pair, timeout_s: float = 5, **changes: Any) -> str:
    """The cause of the first failure, after which nothing else was asked."""
    target = exchange.Url.parse(url, insecure=True)
    first, *rest = conformance.run(target, kit(pair, **changes), conformance.select(()), timeout_s)
    assert first.outcome == "fail"
    assert {r.outcome for r in rest} == {"skip"}
    return first.cause


def test_a_closed_port_is_named(pairs):
    port = free_port()
    found = cause_of(f"http://127.0.0.1:{port}/profile", pairs["ES256"])
    assert found.startswith(f"connection refused: nothing listens on 127.0.0.1 port {port}; ")


@pytest.mark.parametrize("host", ["game.invalid", "a" * 64 + ".invalid"])
def test_an_unknown_name_is_named(pairs, host):
    assert cause_of(f"https://{host}/", pairs["ES256"]).startswith(f"DNS: the name {host} is not known; ")


def test_an_unreachable_network_is_named(pairs, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", fail)
    assert cause_of("http://127.0.0.1/", pairs["ES256"]) == (
        "unreachable: 127.0.0.1 port 80 (OSError); check address, port and route"
    )


@pytest.mark.parametrize(
    ("says", "cause"),
    [
        (b"", "hung up: "),
        (b"SSH-2.0-x\r\n", "not HTTP: "),
        (None, "timeout: "),  # says nothing
        ([b"HTTP/1.1 200 OK\r\n"] + [b"X: y\r\n"] * 50, "timeout: "),  # drips the header
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"] + [b"x"] * 50, "timeout: "),  # drips the body
    ],
    ids=["hangs-up", "ssh", "silent", "drips-header", "drips-body"],
)
def test_what_is_not_an_answer_is_named(pairs, says, cause):
    done = threading.Event()

    def speak(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        with peer:
            peer.recv(65_536)
            if says is None:
                done.wait(5)
            with contextlib.suppress(OSError):
                for part in says if isinstance(says, list) else [says or b""]:
                    peer.sendall(part)
                    done.wait(0.02 if isinstance(says, list) else 0)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=speak, args=(listener,))
        thread.start()
        started = time.monotonic()
        found = cause_of(f"http://127.0.0.1:{listener.getsockname()[1]}/", pairs["ES256"], timeout_s=0.3)
        assert time.monotonic() - started < 1
        done.set()
        thread.join()
    assert found.startswith(cause)


def test_an_expired_token_is_named(serve, pairs):
    old = good_token(pairs["ES256"], iat=int(time.time()) - 400, exp=int(time.time()) - 100)
    found = cause_of(serve().url, pairs["ES256"], key=None, token=old)
    assert re.match(r"time: the token expired 10[01] s ago; ", found)


@pytest.mark.parametrize("token", ["opaque", "W10.W10.W10"], ids=["opaque", "jws-of-lists"])
def test_a_refused_token_of_another_kind_is_named(serve, pairs, token):
    found = cause_of(serve().url, pairs["ES256"], key=None, token=token)
    assert found.startswith("token: another issuer, key or application there; ")


@pytest.mark.parametrize("headers", [{}, {"date": "yesterday"}])
def test_an_answer_without_a_date_has_no_clock(headers):
    assert exchange.Answer(200, headers, b"").clock_offset_s == 0


def test_clocks_that_are_apart_are_named(serve, pairs):
    found = cause_of(serve("clock").url, pairs["ES256"], key=None, token="opaque")
    assert found.startswith("time: the endpoint's clock is off (")


def test_an_answer_in_spite_of_a_broken_pipe_is_read(serve, pairs, monkeypatch):
    request = exchange.http.client.HTTPConnection.request

    def broken(self: Any, *args: Any) -> None:
        request(self, *args)
        raise BrokenPipeError

    monkeypatch.setattr(exchange.http.client.HTTPConnection, "request", broken)
    assert failures(serve().url, kit(pairs["ES256"]), "profile-bare") == NOTHING


# TLS.


def certificate(folder: Path, name: str = "localhost", days: float = 90) -> tuple[ssl.SSLContext, Path]:
    """A self-signed certificate, as what a server serves and as what a client trusts."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    usage = x509.KeyUsage(True, False, False, False, False, True, False, False, False)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=100)).not_valid_after(now + timedelta(days=days))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(usage, critical=True)
    builder = builder.add_extension(identifier, critical=False).add_extension(authority, critical=False)
    path = folder / "certificate.pem"
    path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(pem(key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, folder / "key.pem")
    return context, path


@pytest.mark.parametrize(
    ("name", "days", "trusted", "cause"),
    [
        ("localhost", 90, False, "the certificate is self-signed"),
        ("localhost", -1, True, "the certificate has expired"),
        ("another.example", 90, True, "the certificate is for another host name"),
    ],
)
def test_a_bad_certificate_is_named(serve, pairs, tmp_path, monkeypatch, name, days, trusted, cause):
    context, path = certificate(tmp_path, name, days)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
    assert cause_of(serve(tls=context).url, pairs["ES256"]).startswith(f"TLS: {cause}; ")


@pytest.mark.parametrize(("days", "should"), [(14.1, set()), (13.9, {"certificate"})])
def test_a_certificate_that_ends_soon_is_reported(serve, pairs, tmp_path, monkeypatch, days, should):
    context, path = certificate(tmp_path, days=days)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    found = failures(serve(tls=context).url, kit(pairs["ES256"]), "certificate", "profile-bare")
    assert found == {"must": set(), "should": should}


@pytest.mark.parametrize(("port", "host"), [("", "localhost"), (":443", "localhost"), (":444", "localhost:444")])
def test_the_host_header_has_the_port_where_it_is_not_the_usual(serve, pairs, tmp_path, monkeypatch, port, host):
    context, path = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    web, connect = serve(tls=context), socket.create_connection
    monkeypatch.setattr(
        socket, "create_connection", lambda _, timeout: connect(("localhost", web.server_port), timeout)
    )
    assert failures(f"https://localhost{port}/profile", kit(pairs["ES256"]), "profile-bare") == NOTHING
    assert web.host == host


def test_a_port_without_tls_is_named(serve, pairs):
    url = serve().url.replace("http:", "https:")
    assert cause_of(url, pairs["ES256"]).startswith("TLS: localhost port ")


def test_a_port_with_tls_asked_in_clear_is_named(serve, pairs, tmp_path):
    url = serve(tls=certificate(tmp_path)[0]).url.replace("https:", "http:")
    assert cause_of(url, pairs["ES256"]).startswith("hung up: ")


# URLs and what is shown.


@pytest.mark.parametrize(
    ("text", "insecure", "shown", "target", "other"),
    [
        ("https://game.example", False, "https://game.example:443/", "/", "//"),
        ("https://game.example/a?b=c", False, "https://game.example:443/a", "/a?b=c", "/a/?b=c"),
        ("http://127.9.9.9:81/a/", False, "http://127.9.9.9:81/a/", "/a/", "/a"),
        ("http://[::1]/a", False, "http://[::1]:80/a", "/a", "/a/"),
        ("http://localhost/a", False, "http://localhost:80/a", "/a", "/a/"),
        ("http://game.example/a", True, "http://game.example:80/a", "/a", "/a/"),
    ],
)
def test_a_url_is_taken_apart(text, insecure, shown, target, other):
    url = exchange.Url.parse(text, insecure=insecure)
    assert (str(url), url.target(other_slash=False), url.target(other_slash=True)) == (shown, target, other)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected https://host/path"),
        ("game.example/profile", "expected https://host/path"),
        ("ftp://game.example/", "expected https://host/path"),
        ("https:///profile", "expected https://host/path"),
        ("https://game.example/a b", "expected https://host/path"),
        ("https://game.example/\u00e9", "expected https://host/path"),
        ("https://game.example:99999/", "Port out of range"),
        ("https://user:pass@game.example/", "without a user"),
        ("https://game.example/#a", "without a #fragment"),
        ("http://game.example/", "plain http shows the secret"),
        ("http://10.0.0.1/", "plain http shows the secret"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(text, says):
    with pytest.raises(ValueError, match=says):
        exchange.Url.parse(text)


def test_shown_text_is_one_line_without_what_is_private():
    text = 'a "quo\\"ted" b &quot;&lt;S&gt; eyJhbGciOiJub25lIn0.e30. ann@example.com\x1b[31m\n%26 \ud800 \U0001f600'
    shown = exchange.scrub(text, ['quo"ted', '"<S>', "&", None, "\ud800"])
    assert shown == 'a "<withheld>" b <withheld> <token> <e-mail> <withheld> <withheld> \U0001f600'

    assert exchange.scrub("shown", []) == "shown"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not an unencrypted private key in PEM"),
        (pem(ec.generate_private_key(ec.SECP384R1())), "must be P-256, Ed25519 or RSA"),
    ],
)
def test_a_key_of_another_kind_is_refused(data, says):
    with pytest.raises(ValueError, match=says):
        cases.Key.load(data, "kid", ISSUER)


@pytest.mark.parametrize("alg", ["ES256", "EdDSA", "RS256"])
def test_the_algorithm_is_the_key_s(pairs, alg):
    assert cases.Key.load(pem(pairs[alg].key), "kid", ISSUER).alg == alg


def test_the_ids_are_unique_and_every_case_can_be_asked_for():
    ids = [about.id for about in conformance.select(())]
    assert len(ids) == len(set(ids))
    assert all(conformance.select([name])[-1].id == name for name in ids)


def test_nothing_of_this_project_s_token_code_is_imported():
    for module in (conformance, cases, exchange):
        nodes = list(ast.walk(ast.parse(Path(module.__file__).read_text())))
        names = {n.module for n in nodes if isinstance(n, ast.ImportFrom)}
        names |= {alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names}
        ours = {name for name in names if str(name).split(".")[0] == "verifier"}
        assert ours <= {"verifier.cases", "verifier.exchange"}
        assert {str(name).split(".")[0] for name in names} <= sys.stdlib_module_names | {"cryptography", "verifier"}


# The command.


@pytest.fixture
def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """`verifier check` in this process, with everything from the environment but what signs."""
    monkeypatch.setenv("VERIFIER_APPLICATION_ID", APPLICATION_ID)
    monkeypatch.setenv("VERIFIER_SECRET_KEY", SECRET)
    monkeypatch.setenv("VERIFIER_ISSUER", ISSUER)

    def check(*arguments: object, **options: Any) -> Result:
        return CliRunner().invoke(cli, ["check", *map(str, arguments)], **options)

    return check


def test_check_says_that_all_is_well(check, ours, folder):
    result = check(f"http://127.0.0.1:{ours.port}/profile", "--keys", folder, "--strict")
    must, should = result.stdout.splitlines()
    assert (result.exit_code, result.stderr) == (0, "")
    assert re.fullmatch(r"must    \d+ pass, 0 fail, 0 skipped", must)
    assert re.fullmatch(r"should  \d+ pass, 0 fail, 0 skipped", should)


def test_check_lists_the_cases_without_asking(check):
    lines = check("--list").stdout.splitlines()
    assert len(lines) == len(cases.CASES) + len(conformance.TRAITS)
    assert lines[0].split(None, 3) == ["profile", "must", "profile-full", "a good token"]
    assert len(check("--list", "--only", "http").stdout.splitlines()) == sum(c.group == "http" for c in cases.CASES)


@pytest.mark.parametrize(("only", "requests"), [(["alg-none"], 1), (["http", "crit"], 8), (["no-store", "clock"], 1)])
def test_check_asks_nothing_else(check, serve, folder, only, requests):
    web = serve()
    result = check(web.url, "--keys", folder, *(word for name in only for word in ("--only", name)))
    assert (result.exit_code, web.requests) == (0, requests)


@pytest.mark.parametrize(
    ("wrong", "options", "status"),
    [("", ["--strict"], 0), ("cache", [], 0), ("cache", ["--strict"], 1), ("nulls", [], 1), ("redirect", [], 1)],
)
def test_check_exits_with_1_for_findings(check, serve, folder, wrong, options, status):
    assert check(serve(wrong).url, "--keys", folder, *options).exit_code == status


def test_check_tells_what_failed_and_how_to_mend_it(check, serve, folder, pairs):
    result = check(serve("no secret").url, "--keys", folder, "--only", "secret-true", "--only", "kid-missing")
    kid = pairs["ES256"].kid
    assert result.stdout.splitlines() == [
        "FAIL  must    secret-true: secretKey true: accepted",
        f'      sent    POST /profile, secretKey true; token header {{"alg": "ES256", "kid": "{kid}", '
        '"typ": "at+jwt"}',
        '      came    200, application/json: {"_id": "<withheld>", "email": "<withheld>", "username": "<withheld>"}',
        f"      why     {cases.SECRET.why}",
        f"      mend    {cases.SECRET.mend}",
        "must    0 pass, 1 fail, 0 skipped",
        "should  1 pass, 0 fail, 0 skipped",
    ]


def test_check_writes_json_and_junit(check, serve, pairs, tmp_path):
    (tmp_path / "token").write_text(good_token(pairs["ES256"]))
    report = tmp_path / "report.xml"
    result = check(serve("cache").url, "--token", tmp_path / "token", "--json", "--junit", report)
    found = json.loads(result.stdout)
    failed = [case for case in found["cases"] if case["outcome"] == "fail"]
    assert [(case["id"], case["problem"]) for case in failed] == [("no-store", f"{found['asked']} answer(s)")]
    assert failed[0]["came"].endswith(f"and {found['asked'] - 5} more")
    assert found["must"]["fail"] == 0
    root = ElementTree.parse(report).getroot()  # noqa: S314
    assert [suite.get("name") for suite in root] == ["must", "should"]
    for suite in root:
        counts = found[suite.get("name")]
        assert (suite.get("failures"), suite.get("skipped")) == (str(counts["fail"]), str(counts["skip"]))
        assert (len(suite), len(suite.findall(".//failure"))) == (sum(counts.values()), counts["fail"])
    failure = root.find(".//failure")
    assert failure.get("message") == failed[0]["problem"]
    assert f"mend: {failed[0]['mend']}" in failure.text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["http://game.example/", "--token", "-"], "plain http shows the secret"),
        (["--token", "-"], "expected https://host/path"),
        (["https://game.example/", "--only", "alg-nome", "--token", "-"], "no case or group is called alg-nome"),
        (["https://game.example/"], "give --keys, --private-key and --kid, or --token"),
        (["https://game.example/", "--keys", ".", "--token", "-"], "give one of --keys, --private-key and --token"),
        (["https://game.example/", "--private-key", "{pem}"], "a key needs --issuer, and --private-key also --kid"),
        (["https://game.example/", "--private-key", "{secret}", "--kid", "x"], "not an unencrypted private key"),
        (["https://game.example/", "--token", "-", "--application-id", ""], "--application-id is missing"),
        (["https://game.example/", "--token", "-", "--only", "exp-past"], "nothing was asked"),
        (["https://game.example/", "--token", "-", "--timeout", "0"], "0.1<=x<=600"),
    ],
)
def test_a_wrong_use_of_check_exits_with_2(check, folder, pairs, arguments, says):
    files = {"pem": folder / "private" / f"{pairs['ES256'].kid}.pem", "secret": folder / "secret"}
    result = check(*(argument.format(**files) for argument in arguments), input="a-token")
    assert result.exit_code == 2
    assert says in result.stderr


def test_check_needs_the_secret(check, monkeypatch):
    monkeypatch.delenv("VERIFIER_SECRET_KEY")
    result = check("https://game.example/", "--token", "-", input="a-token")
    assert (result.exit_code, "the secret key is missing" in result.stderr) == (2, True)


def test_check_takes_key_token_and_secret_from_files_or_the_environment(check, serve, folder, pairs, monkeypatch):
    url, pair = serve().url, pairs["ES256"]
    key_file = folder / "private" / f"{pair.kid}.pem"
    assert check(url, "--private-key", key_file, "--kid", pair.kid).exit_code == 0
    monkeypatch.setenv("VERIFIER_TOKEN", good_token(pair))
    assert check(url).exit_code == 0
    monkeypatch.setenv("VERIFIER_SECRET_KEY", "another")
    assert check(url).exit_code == 1
    assert check(url, "--secret-file", folder / "secret").exit_code == 0


def test_on_a_terminal_check_asks_for_the_secret_and_shows_progress(serve, pairs):
    parent, child = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VERIFIER_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "verifier.cli", "check", serve().url, "--only", "alg-none"],
        env=environment | {"VERIFIER_APPLICATION_ID": APPLICATION_ID, "VERIFIER_TOKEN": good_token(pairs["ES256"])},
        stdin=child,
        stdout=subprocess.PIPE,
        stderr=child,
        start_new_session=True,
    )
    seen = b""
    while b"Secret key: " not in seen:
        seen += os.read(parent, 1000)
    os.write(parent, f"{SECRET}\n".encode())
    output, _ = process.communicate(timeout=10)
    seen += os.read(parent, 1000)
    os.close(parent)
    os.close(child)
    assert process.returncode == 0
    assert b"1 of 1  alg-none" in seen
    assert SECRET.encode() not in seen
    assert output.decode().splitlines()[0] == "must    1 pass, 0 fail, 0 skipped"


@pytest.mark.parametrize("wrong", ["echo", "no signature", "no secret", "200", "redirect"])
@pytest.mark.parametrize("options", [["--json"], []])
def test_check_never_shows_secret_token_or_player(check, serve, pairs, tmp_path, wrong, options):
    token = good_token(pairs["ES256"])
    (tmp_path / "token").write_text(token)
    web, report = serve(wrong), tmp_path / "report.xml"
    result = check(f"{web.url}?api-key=canary-query", "--token", tmp_path / "token", "--junit", report, *options)
    assert result.stdout
    shown = result.output + report.read_text()
    for private in (SECRET, SECRET[:-1], "canary-query", *PRIVATE, *token.split(".")):
        assert private not in shown
