"""Public keys as JWK (RFC 7517): loading, encoding, algorithms and thumbprints."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from jwt.algorithms import Algorithm as PyJWTAlgorithm
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.exceptions import InvalidKeyError

from verifier.core.encoding import b64url_decode, b64url_encode
from verifier.errors import KeyFileError

MIN_RSA_BITS = 2048  # RFC 7518 §3.3
MAX_RSA_BITS = 8192  # a check takes 16 times as long as with 2048

_ECDSA = ECDSA(SHA256())
_P25519 = 2**255 - 19
_Y8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7  # of the points of order 8
_SMALL_ORDER = frozenset({0, 1, _P25519 - 1, _Y8, _P25519 - _Y8})

PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


@dataclass(frozen=True, slots=True)
class Algorithm:
    """A signature algorithm and the form of its keys."""

    name: str
    kty: str
    crv: str | None
    members: tuple[str, ...]  # of a public key (RFC 7638 §3.2): kty, crv, and the rest in base64url
    octets: int | None  # length of each of the rest, and of r and of s in a signature
    pyjwt: PyJWTAlgorithm


class _ES256(ECAlgorithm):
    """PyJWT's ES256 with a faster conversion of r and s to DER, which OpenSSL expects (saves 1.3 of 48 µs)."""

    def verify(self, msg: bytes, key: Any, sig: bytes) -> bool:
        if len(sig) != 64:
            return False
        der = encode_dss_signature(int.from_bytes(sig[:32], "big"), int.from_bytes(sig[32:], "big"))
        try:
            key.verify(der, msg, _ECDSA)
        except InvalidSignature:
            return False
        return True


ALGORITHMS = {
    "ES256": Algorithm("ES256", "EC", "P-256", ("kty", "crv", "x", "y"), 32, _ES256(ECAlgorithm.SHA256)),
    "EdDSA": Algorithm("EdDSA", "OKP", "Ed25519", ("kty", "crv", "x"), 32, OKPAlgorithm()),
    "RS256": Algorithm("RS256", "RSA", None, ("kty", "e", "n"), None, RSAAlgorithm(RSAAlgorithm.SHA256)),
}
# One algorithm under two names: RFC 9864 §2.2 calls EdDSA with an Ed25519 key "Ed25519".
ALGORITHM_NAMES = ALGORITHMS | {"Ed25519": ALGORITHMS["EdDSA"]}


def thumbprint(jwk: Mapping[str, Any]) -> str:
    """Compute the key ID of a public key that `load` accepts: 43 base64url characters (RFC 7638 §3).

    Hashes the members required for the key type with SHA-256, sorted and without white space.
    """
    algorithm = next(algorithm for algorithm in ALGORITHMS.values() if algorithm.kty == jwk["kty"])
    text = json.dumps({name: jwk[name] for name in sorted(algorithm.members)}, separators=(",", ":"))
    return b64url_encode(hashlib.sha256(text.encode()).digest())


def load(jwk: Mapping[str, Any]) -> tuple[Algorithm, Any]:
    """Load a JWK: return its algorithm and the public key object of the cryptography package.

    Rejects private members, an "alg" that does not fit the key, Ed448 and other curves, RSA keys
    that are too short (RFC 7518 §3.3), points that are not on the curve, and base64url that is not canonical.
    """
    if private := sorted(PRIVATE_MEMBERS & jwk.keys()):
        raise KeyFileError(f"private key material in a public key (found member {', '.join(private)})")
    algorithm = ALGORITHM_NAMES.get(str(jwk.get("alg")))
    if algorithm is None:
        raise KeyFileError("alg is missing or not supported (expected ES256, EdDSA or RS256)")
    if jwk.get("kty") != algorithm.kty or jwk.get("crv") != algorithm.crv:
        raise KeyFileError(f"kty and crv do not fit alg {algorithm.name} (expected {algorithm.crv or algorithm.kty})")
    for name in algorithm.members:
        if name in ("kty", "crv"):
            continue
        try:
            octets = b64url_decode(jwk[name])
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise KeyFileError(f"{name} is missing or not canonical base64url") from exc
        if algorithm.octets and len(octets) != algorithm.octets:
            raise KeyFileError(f"{name} has {len(octets)} octets (expected {algorithm.octets})")
        if not algorithm.octets and octets.startswith(b"\0"):
            raise KeyFileError(f"{name} begins with a zero octet")  # RFC 7518 §6.3.1.1: a second spelling
    try:
        key = algorithm.pyjwt.from_jwk({name: jwk[name] for name in algorithm.members})
    except (InvalidKeyError, ValueError, UnsupportedAlgorithm) as exc:
        raise KeyFileError("not a valid public key") from exc
    return algorithm_of(key), key


def algorithm_of(key: Any) -> Algorithm:
    """Return the only algorithm that a public key object is used with (RFC 8725 §3.1).

    Raises:
        KeyFileError: the key is of another type, too short or too long, or weak.
    """
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return ALGORITHMS["ES256"]
    if isinstance(key, Ed25519PublicKey):
        # Without its sign bit, a public key is y. For a point of small order anyone can sign (RFC 8032 §5.1.7, §8.9).
        if int.from_bytes(key.public_bytes_raw(), "little") % 2**255 % _P25519 in _SMALL_ORDER:
            raise KeyFileError("Ed25519 key of small order: anyone can sign for it")
        return ALGORITHMS["EdDSA"]
    if isinstance(key, RSAPublicKey):
        if not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
            expected = f"{MIN_RSA_BITS} to {MAX_RSA_BITS}"
            raise KeyFileError(f"RSA key of the wrong size (found {key.key_size} bits, expected {expected})")
        numbers = key.public_numbers()
        if numbers.n % 2 == 0 or numbers.e not in range(3, 2**32, 2):
            raise KeyFileError("RSA key with an even modulus, or an exponent that is even or over 32 bits")
        return ALGORITHMS["RS256"]
    raise KeyFileError("kind of key is not supported (expected P-256, Ed25519 or RSA)")


def dump(key: Any) -> dict[str, Any]:
    """Encode a public key object as a JWK with "alg", "use" and "kid", without dates.

    Raises:
        KeyFileError: the key is not supported.
    """
    algorithm = algorithm_of(key)
    members = algorithm.pyjwt.to_jwk(key, as_dict=True)
    jwk = {name: members[name] for name in algorithm.members}
    return jwk | {"alg": algorithm.name, "use": "sig", "kid": thumbprint(jwk)}
