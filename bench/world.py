"""What a server needs on disk for a measurement, and the requests that it will get."""

import functools
import json
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from verifier.core import jwk
from verifier.core.applications import Application, Applications, Secret
from verifier.core.encoding import b64url_encode
from verifier.rotation.secret_changes import dump
from verifier.signing.private_key import PrivateKey

ISSUER, SECRET, LIFETIME_S = "https://game.example", "a-secret-of-the-benchmark", 3600
TOKENS = 10_000


class Conditions(NamedTuple):
    """What the requests and the files of a measurement depend on."""

    alg: str = "ES256"
    load: str = "good"  # or "wrong secret", "garbage", "expired"
    keys: int = 1  # and as many applications
    token_bytes: int = 500


class World(NamedTuple):
    """Keys, applications and requests on disk, and the environment that points there."""

    environment: dict[str, str]
    bodies: Path  # one a line
    profile: dict[str, str]  # the response to the first body


@functools.cache
def key(alg: str, _number: int) -> PrivateKey:
    """Generate a key pair, once for each number."""
    made: Any = {
        "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "RS256": lambda: rsa.generate_private_key(65537, 2048),
        "EdDSA": ed25519.Ed25519PrivateKey.generate,
    }[alg]()
    return PrivateKey(jwk.dump(made.public_key())["kid"], alg, made)


def token(signer: PrivateKey, application_id: str, number: int, iat: int, token_bytes: int) -> str:
    """Sign a token like those of `issuer.issue`, distinct by its number, of about so many bytes.

    The number has five digits, so that the responses to all tokens have one length.
    """
    header = {"alg": signer.alg, "kid": signer.kid, "typ": "at+jwt"}
    sub, exp = f"player-{number:05}", iat + LIFETIME_S
    claims: dict[str, Any] = {"iss": ISSUER, "aud": application_id, "sub": sub, "iat": iat, "exp": exp}
    if token_bytes > 300:
        claims |= {"jti": f"{number:022}", "client_id": application_id}
        claims |= {"email": f"{sub}@game.example", "username": f"Player {number:05}"}
    if token_bytes > 500:
        claims["permissions"] = ["x" * 40] * ((token_bytes - 500) * 3 // 4 // 43)
    parts = (b64url_encode(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims))
    signing_input = ".".join(parts)
    return f"{signing_input}.{b64url_encode(signer.sign(signing_input.encode()))}"


def prepare(folder: Path, conditions: Conditions = Conditions(), count: int = TOKENS) -> World:  # noqa: B008
    """Write keys, applications and request bodies; new for every run, because tokens expire."""
    (folder / "public").mkdir(parents=True)
    now = int(time.time())
    keys = [key(conditions.alg, number) for number in range(conditions.keys)]
    for signer in keys:
        members = jwk.dump(signer.key.public_key()) | {"iat": now - 60, "nbf": now - 60}
        (folder / "public" / f"{signer.kid}.json").write_text(json.dumps(members))
    ids = [f"application-{number:04}" for number in range(conditions.keys)]
    known = Applications(Application(name, (Secret.of(SECRET),)) for name in ids)
    (folder / "applications.json").write_bytes(dump(known))
    pem = keys[0].key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "public.pem").write_bytes(pem)
    iat = now - 2 * LIFETIME_S if conditions.load == "expired" else now
    with (folder / "bodies").open("w") as file:
        for number in range(count):
            turn = number % conditions.keys
            code = token(keys[turn], ids[turn], number, iat, conditions.token_bytes)
            if conditions.load == "garbage":
                code = code.swapcase()
            secret = "wrong" * 5 if conditions.load == "wrong secret" else SECRET
            body = {"code": code, "secretKey": secret, "applicationId": ids[turn]}
            file.write(json.dumps(body, separators=(",", ":")) + "\n")  # as JSON.stringify writes it
    profile = {"_id": "player-00000", "email": "player-00000@game.example", "username": "Player 00000"}
    return World(_environment(folder, conditions.alg, keys[0].kid, ids[0]), folder / "bodies", profile)


def _environment(folder: Path, alg: str, kid: str, application_id: str) -> dict[str, str]:
    """Settings of the verifier, and those of its peers."""
    return os.environ | {
        "VERIFIER_ISSUER": ISSUER,
        "VERIFIER_KEYS": str(folder),
        "VERIFIER_APPLICATIONS": str(folder / "applications.json"),
        "VERIFIER_MAX_LIFETIME": str(LIFETIME_S),
        "ISSUER": ISSUER,
        "ALG": alg,
        "APPLICATION_ID": application_id,
        "SECRET": SECRET,
        "KID": kid,
        "PUBLIC": str(folder / "public.pem"),
        "MAX_LIFETIME": str(LIFETIME_S),
        "NODE_ENV": "production",
        "GOMAXPROCS": "1",
    }
