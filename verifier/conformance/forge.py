"""Valid and forged tokens, and the requests that carry them, made from scratch.

Shares no code with the rest of the package, so that a mistake there cannot hide here.
"""

import base64
import hmac
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from verifier.conformance.messages import Request, parse_object

CLAIMS = {"_id": "sub", "email": "email", "username": "username"}  # profile member -> claim
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
NEEDS_KEY = "needs a key to sign with (--keys or --private-key)"
OMIT: Any = object()  # as a change: leave this member out

Members = dict[str, Any]
Sign = Callable[[bytes, bytes], bytes]  # (signing input, signature of the valid token) -> signature


def b64(data: bytes) -> str:
    """Encode as base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(token: str) -> tuple[Members, Members, bytes]:
    """Decode header, claims and signature of a compact JWS, without verifying it.

    Raises:
        ValueError: it is not a compact JWS.
    """
    header, claims, signature = (base64.urlsafe_b64decode(part + "==") for part in token.split("."))
    return parse_object(header), parse_object(claims), signature


def with_changes(members: Members, changes: Members | None = None) -> bytes:
    """Encode as JSON after replacing these members; OMIT removes one."""
    return json.dumps({n: v for n, v in (members | (changes or {})).items() if v is not OMIT}).encode()


def make_signature(key: Any, data: bytes) -> bytes:
    """Compute a JWS signature (RFC 7518 §3)."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    return bytes(key.sign(data))


def generate_key(alg: object) -> Any:
    """Generate a private key for this algorithm; ES256 for an unknown one."""
    if alg == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65537, 2048) if alg == "RS256" else ec.generate_private_key(ec.SECP256R1())


def hs256(key: bytes) -> Sign:
    """Sign with HMAC-SHA256 and this key."""
    return lambda data, _: hmac.digest(key, data, "sha256")


def der(_: bytes, signature: bytes) -> bytes:
    """Encode an ES256 signature in DER, the default of most cryptography libraries."""
    return encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))


def flip_low_bit(token: str, index: int) -> str:
    """Invert the lowest bit of one base64url character."""
    index %= len(token)
    return token[:index] + ALPHABET[ALPHABET.find(token[index]) ^ 1] + token[index + 1 :]


class Key(NamedTuple):
    """The game's signing key."""

    key: Any
    alg: str
    kid: str
    issuer: str

    @classmethod
    def load(cls, pem: bytes, kid: str, issuer: str) -> "Key":
        """Load a private key from PEM.

        Raises:
            ValueError: it is not an unencrypted P-256, Ed25519 or RSA key.
        """
        try:
            key: Any = load_pem_private_key(pem, password=None)
        except (TypeError, ValueError, UnsupportedAlgorithm):
            raise ValueError("not an unencrypted private key in PEM") from None
        if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
            return cls(key, "ES256", kid, issuer)
        if isinstance(key, ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey):
            return cls(key, "RS256" if isinstance(key, rsa.RSAPrivateKey) else "EdDSA", kid, issuer)
        raise ValueError("the private key must be P-256, Ed25519 or RSA")

    def token(self, header: bytes, claims: bytes) -> str:
        """Sign a compact JWS over exactly these bytes."""
        text = f"{b64(header)}.{b64(claims)}"
        return f"{text}.{b64(make_signature(self.key, text.encode()))}"


@dataclass(frozen=True)
class Context:
    """The credentials of escs, and either one valid token or the game's key; builds the request of each case."""

    application_id: str
    secret: str = field(repr=False)
    token: str = field(default="", repr=False)
    key: Any = field(default=None, repr=False)  # Key or None

    @cached_property
    def player(self) -> str:
        return f"check-{self.now}"

    @property
    def now(self) -> int:
        return int(time.time())

    def missing_requirement(self, needs: str) -> str:
        """Explain why a case cannot be built from this context; "" when it can."""
        if self.key is None and needs == "key":
            return NEEDS_KEY
        try:
            alg = str(decode(self.valid_token())[0].get("alg"))
        except ValueError:
            return "the token is not a JWS" if needs else ""
        if needs == "public key" and alg.startswith("HS"):
            return "the token is signed with a shared key"
        return "the token is not signed with ES256" if needs == "ES256" and alg != "ES256" else ""

    def valid_token(self) -> str:
        """Sign a token that must be accepted, or return the one that was given."""
        if self.key is None:
            return self.token
        header = {"alg": self.key.alg, "kid": self.key.kid, "typ": "at+jwt"}
        claims = {"iss": self.key.issuer, "aud": self.application_id, "client_id": self.application_id}
        claims |= {"sub": self.player, "email": f"{self.player}@example.com", "username": f"{self.player}-name"}
        times = {"iat": self.now, "exp": self.now + 120, "jti": b64(str(time.time_ns()).encode())}
        return str(self.key.token(with_changes(header), with_changes(claims | times)))

    def request(self, token: str | None = None, **changes: Any) -> Request:
        """Build the request that escs sends, with these members of the body changed."""
        token = self.valid_token() if token is None else token
        members = {"code": token, "secretKey": self.secret, "applicationId": self.application_id}
        try:
            claims = decode(token)[1]
        except ValueError:
            claims = {}
        texts = {claim: value for claim, value in claims.items() if isinstance(value, str) and value}
        profile = {name: texts[claim] for name, claim in CLAIMS.items() if claim in texts}
        return Request(with_changes(members, changes), token, changes.get("secretKey", self.secret), profile)

    def http(self, **changes: Any) -> Request:
        """Build the request that escs sends, with another method, header or body."""
        return replace(self.request(), **changes)

    def forged(self, header: Members | None = None, sign: Sign = lambda _, old: old, **claims: Any) -> Request:
        """Change members of the valid token, and replace its signature or keep it."""
        token = self.valid_token()
        head, payload, _ = token.split(".")
        old_header, old_claims, signature = decode(token)
        head = b64(with_changes(old_header, header)) if header else head
        payload = b64(with_changes(old_claims, claims)) if claims else payload
        return self.request(f"{head}.{payload}.{b64(sign(f'{head}.{payload}'.encode(), signature))}")

    def signed(self, header: Members | None = None, **claims: Any) -> Request:
        """Change members of the valid token, and sign it with the game's key."""
        return self.forged(header, lambda data, _: make_signature(self.key.key, data), **claims)

    def signed_by_unknown_key(self, **header: Any) -> Request:
        """Sign a token for another player with a key that the game does not publish."""
        key = generate_key(header.get("alg") or decode(self.valid_token())[0].get("alg"))
        if "jwk" in header:
            numbers = key.public_key().public_numbers()
            x, y = (b64(number.to_bytes(32, "big")) for number in (numbers.x, numbers.y))
            header["jwk"] = {"kty": "EC", "crv": "P-256", "x": x, "y": y}
        return self.forged(header, lambda data, _: make_signature(key, data), sub="another-player")

    def duplicate_sub(self) -> Request:
        """Sign a token that names two players."""
        header, claims, _ = decode(self.valid_token())
        return self.request(
            self.key.token(with_changes(header), with_changes(claims)[:-1] + b', "sub": "another-player"}')
        )

    def duplicate_secret(self) -> Request:
        """Build a body with a wrong secret and the right one."""
        request = self.request()
        return replace(request, body=b'{"secretKey": "another", ' + request.body[1:])

    def public_pem(self) -> bytes:
        """Return the game's public key, which everyone may have."""
        return bytes(self.key.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
