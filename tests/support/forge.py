"""Tokens as an attacker, or a careless backend, would make them: any header, any claims, any bytes."""

import base64
import json
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from verifier.core import jwk, rules, tokens
from verifier.core.encoding import b64url_decode, loads_object
from verifier.core.keyring import Keyring

ABSENT: Any = object()  # as a change: leave this member out


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@dataclass(frozen=True)
class Pair:
    """A key pair made for one test run."""

    alg: str
    key: Any

    @property
    def public(self) -> dict[str, str]:
        return jwk.dump(self.key.public_key())

    @property
    def kid(self) -> str:
        return self.public["kid"]

    def sign(self, signing_input: bytes) -> bytes:
        """A JWS signature, without the package's help."""
        if isinstance(self.key, ed25519.Ed25519PrivateKey):
            return self.key.sign(signing_input)
        if isinstance(self.key, ec.EllipticCurvePrivateKey):
            r, s = decode_dss_signature(self.key.sign(signing_input, ec.ECDSA(hashes.SHA256())))
            return r.to_bytes(32, "big") + s.to_bytes(32, "big")
        return self.key.sign(signing_input, padding.PKCS1v15(), hashes.SHA256())


def changed(members: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in (members | changes).items() if value is not ABSENT}


def sign(pair: Pair, header: bytes | str, payload: bytes | str) -> str:
    """A correctly signed token over exactly these bytes."""
    parts = [b64(part.encode() if isinstance(part, str) else part) for part in (header, payload)]
    return ".".join([*parts, b64(pair.sign(".".join(parts).encode()))])


def token(pair: Pair, header: dict[str, Any], claims: dict[str, Any]) -> str:
    """A correctly signed token over these members."""
    return sign(pair, json.dumps(header), json.dumps(claims))


def parse(text: str, keyring: Keyring | None = None) -> rules.UnverifiedToken:
    """A token whose form is strictly checked, and nothing else of it."""
    segments = tokens.split_compact(text)
    names = ("header", "payload", "signature")
    header, payload, signature = (tokens.decode(b64url_decode, *pair) for pair in zip(segments, names, strict=True))
    members = tokens.decode(loads_object, header, "header")
    claims = tokens.decode(loads_object, payload, "payload")
    key = (keyring or Keyring()).find(members.get("kid"))
    return rules.UnverifiedToken(members, claims, text.rpartition(".")[0].encode("ascii"), signature, key)
