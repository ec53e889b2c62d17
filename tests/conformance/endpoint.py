"""An endpoint that follows the contract, built from parts of this project; `wrong` breaks one rule."""

import contextlib
import json
import ssl
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.conformance.support import PRIVATE, dated
from tests.conftest import APPLICATION_ID, ISSUER, SECRET
from tests.support import forge
from tests.support.forge import Pair
from verifier.conformance.forge import CLAIMS, hs256
from verifier.conformance.invariants import SLOW_S
from verifier.core import rules
from verifier.core.applications import Applications, Secret
from verifier.core.encoding import loads_object
from verifier.core.keyring import Keyring, parse_public_key
from verifier.errors import ApiError, InvalidRequest, InvalidToken, Reason
from verifier.rotation.secret_changes import add_secret
from verifier.server.asgi import check_headers
from verifier.server.endpoints import parse_body


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
            time.sleep(SLOW_S + 0.1)
        content, headers = b"", {"Content-Type": "application/json", "Cache-Control": "no-store"}
        try:
            status, body = 200, web.profile(self.command, self.path, self.headers, self.read_body())
        except ApiError as error:
            status, body = error.status, {"error": error.code, "error_description": str(error)}
            headers |= {name.decode(): value.decode() for name, value in error.headers}
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
        self.applications = add_secret(Applications(), APPLICATION_ID, Secret.of(SECRET))
        self.requests, self.host, self.seen = 0, "", b""

    @property
    def url(self) -> str:
        return f"http{'s' * isinstance(self.socket, ssl.SSLSocket)}://localhost:{self.server_port}/profile"

    def handle_error(self, request: object, client_address: object) -> None: ...

    def profile(self, method: str, path: str, headers: Any, body: bytes) -> dict[str, Any]:
        if path.rstrip("/") != "/profile" or (path.endswith("/") and self.wrong != "slash"):
            raise InvalidRequest(Reason.NOT_FOUND)
        if method != "POST":
            raise InvalidRequest(Reason.METHOD_NOT_ALLOWED, ((b"allow", b"POST"),), methods="POST")
        if self.wrong == "lax body":
            members = json.loads(body)
            code, secret, application_id = members["code"], members["secretKey"], members["applicationId"]
        elif self.wrong == "no secret":
            members = loads_object(body) | {"secretKey": SECRET}
            code, secret, application_id = parse_body(json.dumps(members).encode())
        elif self.wrong == "no application":
            members = loads_object(body) | {"applicationId": APPLICATION_ID}
            code, secret, application_id = parse_body(json.dumps(members).encode())
        else:
            check_headers(((name.lower().encode(), value.encode()) for name, value in headers.items()), 16_384)
            code, secret, application_id = parse_body(body)
        if self.wrong == "secret prefix":
            secret = SECRET if SECRET.startswith(secret) else secret
        self.applications.authenticate(application_id=application_id, secret=secret)
        if self.wrong == "opaque tokens":
            if code != "opaque":
                raise InvalidToken(Reason.TOKEN_MALFORMED)
            return {"_id": PRIVATE[0], "email": PRIVATE[1]}
        token = self.verify(code, application_id)
        profile = {name: token.claims.get(claim) or None for name, claim in CLAIMS.items()}
        if self.wrong == "id as number":
            profile["_id"] = int(profile["_id"]) if profile["_id"].isdigit() else profile["_id"]
        if self.wrong != "nulls":
            profile = {name: value for name, value in profile.items() if value is not None}
        if self.wrong == "no e-mail":
            profile.pop("email", None)
        if self.wrong == "all claims":
            profile |= token.claims
        return profile

    def verify(self, code: str, application_id: str) -> rules.UnverifiedToken:
        if self.wrong == "no signature" and code.count(".") == 1:
            code += "."
        token = forge.parse(code, self.keyring)
        policy = rules.Policy(ISSUER, application_id, self.keyring, int(time.time()))
        for rule in rules.RULES:
            if rule.name not in SKIPPED_RULES.get(self.wrong, ()):
                rule.check(token, policy)
        if self.wrong == "alg from header":
            public = self.pair.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            alg = str(token.header["alg"]).lower()
            if alg == "hs256" and hs256(public)(token.signing_input, b"") != token.signature:
                raise InvalidToken(Reason.SIGNATURE_INVALID)
            if alg not in ("none", "hs256"):
                self.require_signature(token, public_key=self.pair.key.public_key())
        if self.wrong == "shared key" and (
            token.header["alg"] != "HS256" or hs256(SHARED_KEY)(token.signing_input, b"") != token.signature
        ):
            raise InvalidToken(Reason.SIGNATURE_INVALID)
        if self.wrong == "jwk from header":
            jwk = token.header.get("jwk")
            self.require_signature(token, jwt.PyJWK(jwk, "ES256").key if jwk else self.pair.key.public_key())
        return token

    def require_signature(self, token: rules.UnverifiedToken, public_key: Any) -> None:
        if not jwt.get_algorithm_by_name("ES256").verify(token.signing_input, public_key, token.signature):
            raise InvalidToken(Reason.SIGNATURE_INVALID)
