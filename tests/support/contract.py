"""The contract said a second time, naively, and an application to hold against it.

Used by the tests of hostile input and by the fuzz targets: whatever is sent, `World.judge` raises
AssertionError when the answer is not one of the contract's, echoes anything, or says 200 where
`World.oracle`, written with the standard library and cryptography alone, would not.
"""

import asyncio
import base64
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from tests.support import forge
from verifier.errors import Reason
from verifier.server import endpoints
from verifier.server.settings import Settings
from verifier.signing import keystore

NOW = 1_800_000_000
ISSUER = "https://game.example"
APPLICATION_ID = "application-1"
SECRET = "secret-of-application-1"
MAX_BODY_BYTES = 16_384
COMPLEX = "JSON nesting too deep"  # a document over the limits of `loads_object`, which `World.oracle` does not know

# Every text that a caller can get, by its status; what is filled in is a limit or names of methods.
TEXTS = {
    status: re.compile(
        "|".join(re.sub(r"\\{\w+\\}", r"[\\w .]+", re.escape(r.text)) for r in Reason if r.status == status)
    )
    for status in {reason.status for reason in Reason}
}
CODES = {reason.status: "invalid_request" for reason in Reason if reason.status < 500}


class Raw(NamedTuple):
    """An answer as it was sent."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


def check(answer: Raw, allow: str = "") -> dict[str, Any]:
    """The members of a response of /profile that keeps the contract; raises AssertionError for any other."""
    members = json.loads(answer.body)
    headers = {
        b"content-type": b"application/json",
        b"content-length": b"%d" % len(answer.body),
        b"cache-control": b"no-store",
    }
    if answer.status == 200:
        assert members.keys() <= {"_id", "email", "username"}, "members of the profile"
        assert "_id" in members, "members of the profile"
        assert all(isinstance(value, str) and value for value in members.values()), "values of the profile"
    else:
        assert members.keys() == {"error", "error_description"}, "members of the error"
        code, text = members["error"], members["error_description"]
        if answer.status == 401:
            assert code in ("invalid_client", "invalid_token"), "code"
            headers[b"www-authenticate"] = f'Bearer error="{code}", error_description="{text}"'.encode("ascii")
        else:
            assert code == CODES[answer.status], "code"
        assert (code == "invalid_client") is (text == Reason.CLIENT_REJECTED.text), "text"
        assert TEXTS[answer.status].fullmatch(text), f"not the text of a reason: {text}"
        assert re.fullmatch(r"[ !#-\[\]-~]+", text), "characters of the text (RFC 6749 §5.2)"
        if answer.status == 405:
            headers[b"allow"] = allow.encode()
        if answer.status in (408, 413):
            headers[b"connection"] = b"close"
    assert len(answer.headers) == len(headers), "a header twice, or missing"
    assert dict(answer.headers) == headers, "headers"
    return members


class World:
    """An application with three keys, and an opinion of its own about every request."""

    def __init__(self, folder: Path, pairs: dict[str, forge.Pair] | None = None) -> None:
        self.pairs = pairs or {alg: forge.Pair(alg, keystore.generate(alg)) for alg in ("ES256", "EdDSA", "RS256")}
        self.by_kid = {pair.kid: pair for pair in self.pairs.values()}
        (folder / "public").mkdir(parents=True)
        self.files = {
            f"{kid}.json": json.dumps(pair.public | {"iat": NOW - 100, "nbf": NOW - 100}).encode()
            for kid, pair in self.by_kid.items()
        }
        for name, data in self.files.items():
            (folder / "public" / name).write_bytes(data)
        self.app = endpoints.create_app(
            Settings.from_environment(
                {
                    "VERIFIER_ISSUER": ISSUER,
                    "VERIFIER_KEYS": str(folder),
                    "VERIFIER_APPLICATION_ID": APPLICATION_ID,
                    "VERIFIER_SECRET_KEY": SECRET,
                }
            )
        )
        self.loop = asyncio.new_event_loop()

    @staticmethod
    def stop_the_clock(setattr_: Callable[[Any, str, Any], None] = setattr) -> None:
        """Let the application believe that it is NOW."""
        setattr_(endpoints, "time", SimpleNamespace(time=lambda: NOW))

    def ask(
        self,
        body: bytes,
        method: str = "POST",
        path: str = "/profile",
        headers: Iterable[tuple[bytes, bytes]] = ((b"content-type", b"application/json"),),
    ) -> Raw:
        """What the application sends back."""
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": method, "path": path, "headers": headers}
        self.loop.run_until_complete(self.app(scope, receive, send))
        start, *rest = sent
        return Raw(start["status"], start["headers"], b"".join(message["body"] for message in rest))

    def judge(self, body: bytes) -> dict[str, Any]:
        """The members of the answer to this body, which must be the contract's, and 200 exactly where it is due."""
        answer = self.ask(body)
        members = check(answer)
        assert answer.status in (200, 400, 401, 413), "status"
        try:
            expected = self.oracle(body)
        except RecursionError:
            return members
        if COMPLEX not in members.get("error_description", ""):
            assert (members if answer.status == 200 else None) == expected, "the oracle says otherwise"
        return members

    def oracle(self, body: bytes) -> dict[str, str] | None:
        """The profile that this body deserves, or None; raises RecursionError when it is nested too deeply to tell."""
        try:
            assert len(body) <= MAX_BODY_BYTES
            sent = naive_json(body)
            assert (sent["applicationId"], sent["secretKey"]) == (APPLICATION_ID, SECRET)
            return self.profile(sent["code"])
        except (AssertionError, ValueError, KeyError, TypeError, AttributeError, InvalidSignature):
            return None

    def profile(self, code: str) -> dict[str, str]:
        """The profile in a token; raises for every other token."""
        parts = code.split(".")
        assert len(parts) == 3
        raw = [naive_base64url(part) for part in parts]
        header, claims = naive_json(raw[0]), naive_json(raw[1])
        assert header["typ"].lower() in ("at+jwt", "application/at+jwt")
        assert not header.keys() & {"crit", "b64", "zip"}
        pair = self.by_kid[header["kid"]]
        assert header["alg"] in ({"EdDSA", "Ed25519"} if pair.alg == "EdDSA" else {pair.alg})
        self.check_signature(pair, f"{parts[0]}.{parts[1]}".encode(), raw[2])
        assert claims["iss"] == ISSUER
        aud = claims["aud"]
        assert aud == APPLICATION_ID or (type(aud) is list and APPLICATION_ID in aud and {str} == {*map(type, aud)})
        iat, exp, nbf = claims["iat"], claims["exp"], claims.get("nbf", 0.0)
        assert {type(iat), type(exp), type(nbf)} == {float}
        assert iat <= NOW + 30 and nbf <= NOW + 30 and exp > NOW - 30  # noqa: PT018
        assert 0 < exp - iat <= 300
        assert max(iat, exp, nbf) <= 1e11
        profile = {"_id": claims["sub"]}
        assert profile["_id"]
        profile |= {name: claims[name] for name in ("email", "username") if claims.get(name) not in (None, "")}
        for name, value in profile.items():
            assert type(value) is str
            assert len(value) <= (320 if name == "email" else 255)
            value.encode("utf-8")
        return profile

    @staticmethod
    def check_signature(pair: forge.Pair, signing_input: bytes, signature: bytes) -> None:
        key = pair.key.public_key()
        if pair.alg == "EdDSA":
            key.verify(signature, signing_input)
        elif pair.alg == "ES256":
            assert len(signature) == 64
            r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
            key.verify(encode_dss_signature(r, s), signing_input, ec.ECDSA(hashes.SHA256()))
        else:
            key.verify(signature, signing_input, padding.PKCS1v15(), hashes.SHA256())


def naive_json(data: bytes) -> dict[str, Any]:
    """An object with each member once, all numbers as floats; raises ValueError or AssertionError."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        assert sorted(names) == sorted(set(names))
        return dict(pairs)

    def refuse(_: str) -> None:
        raise ValueError

    text = data.decode("utf-8")
    assert not text.startswith("\ufeff")
    value = json.loads(text, object_pairs_hook=once, parse_constant=refuse, parse_int=float)
    assert type(value) is dict
    return value


def naive_base64url(text: str) -> bytes:
    """The bytes of canonical base64url; raises AssertionError."""
    assert re.fullmatch(r"[A-Za-z0-9_-]*", text)
    assert len(text) % 4 != 1
    spare = {2: "AQgw", 3: "AEIMQUYcgkosw048"}.get(len(text) % 4)
    assert spare is None or text[-1] in spare
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def lenient_base64(text: str) -> bytes:
    """What most libraries make of base64url: padding, white space and spare bits do not matter."""
    return base64.urlsafe_b64decode(text + "==")
